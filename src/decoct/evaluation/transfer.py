"""Task `transfer`: pre-training on a distilled set, then fine-tuning on another dataset (IGDS, App. G, Table 9)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors import safe_open
from tqdm.auto import tqdm

from decoct.config import EvaluateConfig, config_hash
from decoct.data.loading import check_label_names, eval_split_name, load_images
from decoct.data.source import dataset_fingerprint
from decoct.data.tensors import PixelDataset
from decoct.evaluation.random_baseline import SOURCE_FIELDS
from decoct.evaluation.run import Evaluation
from decoct.evaluation.units import Setting, Unit
from decoct.methods import method_name
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.results.records import setting_of
from decoct.results.statistics import accuracies_of, place_of, verdict
from decoct.results.tables import accuracy_cell, text_table
from decoct.run.files import write_tensors
from decoct.training.finetuning import MOMENTUM, WEIGHT_DECAY, fine_tune, replace_head

__all__ = ["TransferEvaluation", "format_transfer"]


@dataclass(frozen=True)
class FineTuned(Unit):
    """One fine-tuned student; one that was not pre-trained has of its setting the architecture alone."""

    pretrained: bool = True

    @property
    def title(self) -> str:
        return super().title if self.pretrained else f"{self.setting.student}, no pre-training"

    def to_dict(self) -> dict[str, Any]:
        setting = dataclasses.asdict(self.setting) if self.pretrained else None
        return {"student": self.setting.student, "seed": self.seed, "setting": setting, "random": self.random}


class TransferEvaluation(Evaluation[FineTuned]):
    """Students pre-trained on a distilled set and fine-tuned on `target_dataset`, where they are measured.

    Pre-training follows `protocols` (`igds_transfer` is the paper's). The head is then replaced by a new one for the
    target's classes and the whole network is fine-tuned on the target's training split, whose images are resized and
    converted to the distilled set's size and channels (see `fine_tune`). Beside it stands the same student with the
    same seed and the same head, fine-tuned without pre-training (`scratch`): the difference is what pre-training
    brought; and one that was pre-trained on random images: the difference is what distilling brought. The source's test
    images are not read, so that the teacher's accuracy is not measured.

    Pre-trained weights (`pretrained-*.safetensors`) are saved, too: calls with other targets find them, and calls with
    other distilled sets of that folder the students without pre-training.
    """

    @property
    def source(self) -> dict[str, Any]:
        """As the configuration says or, where it names no dataset, as the manifest does."""
        own, made = super().source, self.manifest["config"]
        if self.config.dataset != EvaluateConfig.dataset or made.get("dataset") is None:
            return own
        return {**own, **{name: made[name] for name in SOURCE_FIELDS if name in made}}

    @cached_property
    def target_eval_split(self) -> str:
        """Name of the target's split that measures."""
        config = self.config
        return eval_split_name(
            str(config.target_dataset), config.target_config, config.target_eval_split, config.target_label_column
        )

    @cached_property
    def target(self) -> dict[str, Dataset]:
        """The splits of the target that students are fine-tuned and measured on: `train` and `eval`."""
        config, name = self.config, str(self.config.target_dataset)
        return {
            kind: load_images(
                name,
                split,
                config_name=config.target_config,
                label_column=config.target_label_column,
                image_size=self.spec.image_size,
                skip_unreadable=config.skip_unreadable,
                bit_depth=config.bit_depth,
            )
            for kind, split in (("train", config.target_train_split), ("eval", self.target_eval_split))
        }

    @cached_property
    def target_pixels(self) -> dict[str, PixelDataset]:
        """The pixels of the target's splits."""
        size, channels = self.spec.image_size, self.spec.channels
        return {kind: PixelDataset(images, size, channels) for kind, images in self.target.items()}

    @property
    def target_names(self) -> list[str]:
        """The target's classes."""
        return self.target["train"].features["label"].names

    @property
    def teacher_images(self) -> None:
        """None: the source's test images are not read."""

    def check_data(self) -> None:
        names = self.target["eval"].features["label"].names
        check_label_names(self.target_names, names, "its training split", str(self.config.target_dataset))

    # Students

    @cached_property
    def units(self) -> list[FineTuned]:
        return list(dict.fromkeys([*super().units, *(unit for each in self.settings for unit in self.scratch(each))]))

    def units_of(self, setting: Setting, random: bool = False) -> list[FineTuned]:
        return [FineTuned(setting, seed, random) for seed in self.seeds]

    def scratch(self, setting: Setting) -> list[FineTuned]:
        """The students of its architecture without pre-training, which settings share."""
        first = next(each for each in self.settings if each.student == setting.student)
        return [FineTuned(first, seed, pretrained=False) for seed in self.seeds]

    @cached_property
    def finetuning(self) -> dict[str, Any]:
        """How students are fine-tuned, as records state it."""
        return {
            "steps": self.config.finetune_steps,
            "batch_size": min(self.config.finetune_batch_size, len(self.target["train"])),
            "learning_rate": self.config.finetune_learning_rate,
            "schedule": "cosine",
            "optimizer": "sgd",
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "images": len(self.target["train"]),
        }

    @cached_property
    def target_fingerprints(self) -> list[str]:
        """Fingerprints of the target's splits."""
        return [dataset_fingerprint(images) for images in self.target.values()]

    def name(self, unit: FineTuned) -> str:
        source = self._pretraining(unit.setting, self.fingerprint_of(unit)) if unit.pretrained else None
        identity = {**self._identity(source), "student": unit.setting.student, "seed": unit.seed}
        return f"transfer-{config_hash(identity)}.json"

    def record_identity(self, setting: Setting, images: list[str]) -> dict[str, Any]:
        only = images[0] if len(images) == 1 else images
        return {**self._identity(self._pretraining(setting, only)), "seeds": self.seeds}

    def _identity(self, source: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "task": "transfer",
            "source": source,
            "spec": {**self.spec.to_dict(), "label_names": self.target_names},
            "data": self.target_fingerprints,
            "finetune": self.finetuning,
            "mixed_precision": self.config.mixed_precision,
        }

    def _pretraining(self, setting: Setting, images: str | list[str]) -> dict[str, Any]:
        return {**self.identity(setting, images), "setting": dataclasses.asdict(setting)}

    def weights_file(self, unit: FineTuned) -> Path:
        """Where a student's weights are saved after pre-training, which no target has a part in."""
        identity = {**self._pretraining(unit.setting, self.fingerprint_of(unit)), "seed": unit.seed}
        return self.beside(unit.random, f"pretrained-{config_hash(identity)}.safetensors")

    def extent(self, unit: FineTuned) -> int:
        tuning = self.finetuning["steps"] * self.finetuning["batch_size"]
        finished = self.is_drawn(unit) and self.weights_file(unit).is_file()
        return tuning if finished or not unit.pretrained else tuning + super().extent(unit)

    def pretrain(self, unit: FineTuned, accelerator: Accelerator) -> tuple[Classifier, float]:
        """The student trained on the images of its setting, now or by an earlier call, and the seconds it took."""
        student, file = build_classifier(unit.setting.student, self.spec, unit.seed), self.weights_file(unit)
        if file.is_file():
            with safe_open(file, framework="pt") as saved:
                student.model.load_state_dict({name: saved.get_tensor(name) for name in saved.keys()})
                return student, float(saved.metadata()["seconds"])
        title = f"Pre-training: {unit.title}, seed {unit.seed}"
        seconds = self.fit(student, self.images_of(unit), unit, self.teacher(unit.setting), accelerator, title)
        weights = {name: tensor.cpu().contiguous() for name, tensor in student.model.state_dict().items()}
        write_tensors(file, weights, {"seconds": str(seconds)})
        return student, seconds

    def train_and_measure(self, unit: FineTuned, accelerator: Accelerator) -> dict[str, Any]:
        config, architecture, before = self.config, unit.setting.student, 0.0
        if unit.pretrained:
            pretrained, before = self.pretrain(unit, accelerator)
            student = replace_head(pretrained, architecture, self.target_names, unit.seed)
        else:
            spec = dataclasses.replace(self.spec, label_names=tuple(self.target_names))
            student = build_classifier(architecture, spec, unit.seed)
        if config.compile:
            student.compile()
        title = f"Fine-tuning: {unit.title}, seed {unit.seed}"
        began = time.perf_counter()
        with tqdm(total=config.finetune_steps, desc=title, disable=not accelerator.is_main_process) as progress:
            fine_tune(
                student,
                self.target_pixels["train"],
                steps=config.finetune_steps,
                batch_size=config.finetune_batch_size,
                learning_rate=config.finetune_learning_rate,
                seed=unit.seed,
                device=accelerator.device,
                mixed_precision=config.mixed_precision,
                num_workers=config.num_workers,
                progress=progress,
            )
        seconds = before + time.perf_counter() - began
        return {
            "target_dataset": config.target_dataset,
            "accuracy": self.measure(student, self.target_pixels["eval"], accelerator.device),
            "seconds": seconds,
        }

    # Records

    def fields(self, setting: Setting, device: torch.device) -> dict[str, Any]:
        scratch = self.results(self.scratch(setting))
        drawn = [] if self.notes[setting] else self.results(self.units_of(setting, random=True))
        compared = [*self.results(self.units_of(setting)), *scratch, *drawn]
        return {
            "target_dataset": self.config.target_dataset,
            "target_eval_split": self.target_eval_split,
            "finetune": self.finetuning,
            "scratch": accuracies_of(scratch, self.seeds),
            "device": ", ".join(sorted({result["device"] for result in compared})),
        }


def format_transfer(records: Sequence[dict[str, Any]]) -> str:
    """Records as plain text: one table per source dataset, protocol, label mode and way of fine-tuning, and in words
    whether pre-training on each set beats pre-training on random images.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        tuning = record["finetune"]
        way = f"{tuning['steps']:,} steps of {tuning['batch_size']} images at {tuning['learning_rate']}"
        groups.setdefault((*setting_of(record), way), []).append(record)
    tables = [_table(group, members) for group, members in sorted(groups.items())]
    return "\n\n".join([*tables, "\n".join(f"{place_of(record)}: {verdict(record)}" for record in records)])


HEADER = ("target", "student", "method", "k", "IPC", "pre-trained %", "seeds", "random %", "from scratch %", "gain")


def _table(group: tuple[Any, ...], records: Sequence[dict[str, Any]]) -> str:
    dataset, protocol, labels, epoch, way = group
    order = ("target_dataset", "student", "ipc", "method", "tiles")
    rows = []
    for record in sorted(records, key=lambda record: tuple(record[name] for name in order)):
        seeds, baseline = len(record["seeds"]), record.get("baseline")
        rows.append(
            (
                record["target_dataset"],
                record["student"],
                method_name(record["method"]),
                str(record["tiles"]),
                str(record["ipc"]),
                _cell(record, seeds),
                str(seeds),
                "-" if baseline is None else _cell(baseline, seeds),
                _cell(record["scratch"], seeds),
                f"{100 * (record['accuracy_mean'] - record['scratch']['accuracy_mean']):+.1f}",
            )
        )
    title = f"Pre-trained on {dataset} by {protocol}, {labels} labels, {epoch} epoch; fine-tuned for {way}"
    note = "random: pre-trained on random images; gain: over no pre-training, in points."
    return f"{text_table([HEADER, *rows], title)}\n{note}"


def _cell(accuracies: dict[str, Any], seeds: int) -> str:
    """Of a part of a record; `scratch` has no seeds of its own."""
    return accuracy_cell(accuracies["accuracy_mean"], accuracies["accuracy_std"], seeds)
