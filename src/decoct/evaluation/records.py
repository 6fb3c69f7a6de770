"""From the saved accuracies of students to the records of results.json."""

from __future__ import annotations

import logging
from typing import Any

import torch

from decoct.config import config_hash
from decoct.data.tensors import PixelDataset
from decoct.evaluation.run import Evaluation
from decoct.evaluation.teachers import architecture_of
from decoct.evaluation.units import Setting, Unit, overrides_of
from decoct.models.classifier import Classifier
from decoct.results.ranking import dd_ranking
from decoct.results.statistics import mean_and_std
from decoct.run.folder import read_json, write_json
from decoct.training.protocols import own_settings

__all__ = ["make_records"]

logger = logging.getLogger(__name__)


def make_records(run: Evaluation, device: torch.device) -> list[dict[str, Any]]:
    """One record per setting, once all units are saved; teachers are measured on the way.

    Accuracies are fractions. `baseline` is what students of random images reach, `dd_ranking` the metrics of
    DD-Ranking; where either is None, it is turned off or `baseline_note` says why.
    """
    config = run.config
    for unknown in sorted({str(teacher) for ipc in run.ipcs if isinstance(teacher := run.teachers.current(ipc), str)}):
        logger.warning("The teacher's accuracy is left out: %s.", unknown)
    records = []
    for setting in run.settings:
        protocol, teacher = run.protocols[setting.protocol], run.teachers.current(setting.ipc)
        own, note = measured(run, setting), run.notes[setting]
        baseline = None if note else measured(run, setting, random=True)
        results = [read_json(run.unit_file(Unit(setting, seed))) for seed in run.seeds]
        records.append(
            {
                "task": config.task,
                "dataset": config.dataset,
                "method": run.manifest["config"]["method"],
                "ipc": setting.ipc,
                "tiles": run.sets[setting.ipc].tiles_per_image,
                "student": setting.student,
                "protocol": setting.protocol,
                "protocol_settings": own_settings(protocol),
                "labels": setting.labels,
                "teacher": run.teachers.name(setting.ipc),
                "teacher_model": architecture_of(teacher) if isinstance(teacher, Classifier) else None,
                "teacher_accuracy": teacher_accuracy(run, teacher, device),
                "epoch": config.epoch,
                **{key: value for key, value in own.items() if key != "config_hash"},
                "seconds": round(sum(result["seconds"] for result in results) / len(results), 2),
                "device": ", ".join(sorted({result["device"] for result in results})),
                "versions": results[-1]["versions"],
                "overrides": overrides_of(config, protocol, setting),
                "config_hash": own["config_hash"],
                "baseline": baseline,
                "baseline_note": note,
                "dd_ranking": ranking(run, setting, own, baseline, device) if config.ranking else None,
            }
        )
    return records


def measured(run: Evaluation, setting: Setting, random: bool = False) -> dict[str, Any]:
    """Accuracies of a setting's students, and the hash of all that they depend on."""
    units = [Unit(setting, seed, random) for seed in run.seeds]
    accuracies = [read_json(run.unit_file(unit))["accuracy"] for unit in units]
    mean, std = mean_and_std(accuracies)
    images = list(dict.fromkeys(run.fingerprint_of(unit) for unit in units))
    return {
        "accuracy_mean": mean,
        "accuracy_std": std,
        "accuracies": accuracies,
        "seeds": run.seeds,
        "config_hash": config_hash({**run.identity(setting), "distilled": images, "seeds": run.seeds}),
    }


def ranking(
    run: Evaluation, setting: Setting, own: dict[str, Any], baseline: dict[str, Any] | None, device: torch.device
) -> dict[str, Any]:
    """DD-Ranking's metrics of a setting."""
    hard = Setting(setting.ipc, setting.student, setting.protocol, "hard")
    return dd_ranking(
        own=own["accuracy_mean"],
        random=None if baseline is None else baseline["accuracy_mean"],
        hard=measured(run, hard)["accuracy_mean"] if hard in run.settings else None,
        real=real_accuracy(run, setting.student, device),
        student=setting.student,
        protocol=setting.protocol,
        baseline_note=run.notes[setting],
    )


def real_accuracy(run: Evaluation, student: str, device: torch.device) -> float | None:
    """Accuracy of a student trained on all real images with hard labels, if it is given or is the teacher's own."""
    given, teacher = run.config.real_accuracies(), run.teachers.converged()
    if student in given or isinstance(teacher, str) or architecture_of(teacher) != student:
        return given.get(student)
    return teacher_accuracy(run, teacher, device)


def teacher_accuracy(run: Evaluation, teacher: Classifier | str, device: torch.device) -> float | None:
    """A teacher's accuracy on the evaluation split, measured once; None if the teacher is out of reach."""
    if isinstance(teacher, str):
        return None
    identity = {
        "teacher": run.teachers.fingerprint(teacher),
        "data": run.data_fingerprint,
        "mixed_precision": run.config.mixed_precision,
    }
    file = run.folder / "evaluation" / f"teacher-{config_hash(identity)}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        teacher.to(device)
        same = (teacher.spec.image_size, teacher.spec.channels) == (run.spec.image_size, run.spec.channels)
        pixels = run.pixels if same else PixelDataset(run.images, teacher.spec.image_size, teacher.spec.channels)
        write_json(file, {"teacher": teacher.name, "accuracy": run.measure(teacher, pixels, device)})
    return read_json(file)["accuracy"]
