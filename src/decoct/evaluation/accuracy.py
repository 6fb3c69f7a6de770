"""Task `accuracy`: students trained on a distilled set and measured on real images of the same classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from decoct.config import config_hash
from decoct.evaluation.run import Evaluation
from decoct.evaluation.units import Setting, Unit
from decoct.models.classifier import Classifier
from decoct.models.zoo import architecture_of, build_classifier
from decoct.results.ranking import dd_ranking
from decoct.results.statistics import place_of, verdict
from decoct.results.tables import decimals, format_table

__all__ = ["AccuracyEvaluation", "format_accuracy"]

# `epoch="best"` takes the best of every tenth epoch and the last one.
BEST_EVERY = 10


class AccuracyEvaluation(Evaluation[Unit]):
    """Students of every (IPC, student, protocol, label mode, seed); the seeds share a record.

    With `ranking`, hard labels have records of their own wherever the protocol is defined for them, for the metrics of
    DD-Ranking. `seconds` is the mean training time of a student.
    """

    @property
    def label_modes(self) -> list[str]:
        return [*self.config.labels, *(["hard"] if self.config.ranking else [])]  # HLR compares with hard labels

    def units_of(self, setting: Setting, random: bool = False) -> list[Unit]:
        return [Unit(setting, seed, random) for seed in self.seeds]

    def name(self, unit: Unit) -> str:
        identity = {**self._identity(unit.setting, self.fingerprint_of(unit)), "seed": unit.seed}
        return f"{config_hash(identity)}.json"

    def record_identity(self, setting: Setting, images: list[str]) -> dict[str, Any]:
        return {**self._identity(setting, images), "seeds": self.seeds}

    def _identity(self, setting: Setting, images: str | list[str]) -> dict[str, Any]:
        trained = {**dataclasses.asdict(setting), **self.identity(setting, images)}
        return {**trained, "data": self.split.fingerprint, "epoch": self.config.epoch}

    def train_and_measure(self, unit: Unit, accelerator: Accelerator) -> dict[str, Any]:
        setting, best, measured = unit.setting, self.config.epoch == "best", []
        epochs = self.epochs(setting, self.spec.num_classes)

        def after_epoch(done: int, network: nn.Module) -> None:
            if done == epochs or (best and done % BEST_EVERY == 0):
                measured.append(self.measure(network, self.split.pixels, accelerator.device))

        student = build_classifier(setting.student, self.spec, unit.seed)
        images, teacher, words = self.images_of(unit), self.teacher(setting), f"{unit.title}, seed {unit.seed}"
        seconds = self.fit(student, images, unit, teacher, accelerator, words, after_epoch)
        return {"accuracy": max(measured) if best else measured[-1], "seconds": seconds}

    def fields(self, setting: Setting, device: torch.device) -> dict[str, Any]:
        ranking = self._ranking(setting, device) if self.config.ranking else None
        return {"eval_split": self.split.name, "dd_ranking": ranking}

    def _ranking(self, setting: Setting, device: torch.device) -> dict[str, Any]:
        """DD-Ranking's metrics of a setting."""
        note, hard = self.notes[setting], dataclasses.replace(setting, labels="hard")
        return dd_ranking(
            own=self.measured(setting)["accuracy_mean"],
            random=None if note else self.measured(setting, random=True)["accuracy_mean"],
            hard=self.measured(hard)["accuracy_mean"] if hard in self.settings else None,
            real=self._real_accuracy(setting.student, device),
            student=setting.student,
            protocol=setting.protocol,
            baseline_note=note,
        )

    def _real_accuracy(self, student: str, device: torch.device) -> float | None:
        """Accuracy of a student trained on all real images with hard labels: given, or the teacher's if it is one."""
        given, teacher = self.config.real_accuracies(), self.teachers.converged()
        # Protocols with instance norm name the student that was asked for anew.
        named = next((name for name in (student, student.replace("_instance", "")) if name in given), None)
        if named is not None or isinstance(teacher, str) or not is_student(teacher, student):
            return None if named is None else given[named]
        return self.teacher_accuracy(teacher, device)


def is_student(teacher: Classifier, student: str) -> bool:
    """Whether a teacher is such a student trained on all real images; one that knows more classes was on more."""
    return teacher.classes is None and architecture_of(teacher) == student


def format_accuracy(records: Sequence[dict[str, Any]]) -> str:
    """The tables of records, then in words whether each set beats random images, and its DD-Ranking metrics."""
    lines = []
    for record in records:
        lines.append(f"{place_of(record)}: {verdict(record)}")
        if (ranking := record["dd_ranking"]) is not None:
            values = [f"{name.upper()} {decimals(ranking[name])}" for name in ("hlr", "ior", "lrs")]
            note = f" ({ranking['note']})" if ranking["note"] else ""
            lines.append(f"  DD-Ranking: {', '.join(values)}{note}")
    return "\n".join([format_table(records), "", *lines])
