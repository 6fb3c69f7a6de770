"""What students cost before any is trained: the rows of a dry run, with seconds from a timing of two steps."""

from __future__ import annotations

import time
from typing import Any

import torch

from decoct.distilled.dataset import DistilledSet
from decoct.evaluation.run import Evaluation
from decoct.evaluation.units import Setting, Unit
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.training.protocols import Protocol, batch_size
from decoct.training.student import train_student

__all__ = ["plan_students", "student_seconds_per_image"]


def plan_students(evaluation: Evaluation[Any], device: torch.device) -> list[dict[str, Any]]:
    """The students of each title, those to train and those done, and what training takes; nothing is written.

    `images_seen` and `seconds` are those of all students to train; the seconds come from a timing of two steps on
    the distilled images.
    """
    groups: dict[str, list[Unit]] = {}
    for unit in evaluation.units:
        groups.setdefault(unit.title, []).append(unit)
    rows = []
    for title, units in groups.items():
        missing = [unit for unit in units if not evaluation.is_done(unit)]
        seen = sum(map(evaluation.extent, missing))
        rows.append(
            {
                "title": title,
                "students": len(missing),
                "done": len(units) - len(missing),
                "images_seen": seen,
                "seconds": seen * _seconds_of(evaluation, units[0].setting, device) if missing else 0.0,
            }
        )
    return rows


def _seconds_of(evaluation: Evaluation[Any], setting: Setting, device: torch.device) -> float:
    """Seconds that training a setting's student takes per image."""
    return student_seconds_per_image(
        build_classifier(setting.student, evaluation.spec),
        evaluation.sets[setting.ipc],
        evaluation.protocols[setting.protocol],
        setting.labels,
        evaluation.teacher(setting),
        device,
        evaluation.config.mixed_precision,
    )


def student_seconds_per_image(
    student: Classifier,
    distilled: DistilledSet,
    protocol: Protocol,
    labels: str,
    teacher: Classifier | None,
    device: torch.device,
    mixed_precision: str,
) -> float:
    """Seconds that training takes per image, from the second of two steps of a full batch."""
    size = batch_size(protocol, distilled.ipc, distilled.spec.num_classes, len(distilled))
    ends: list[float] = []
    train_student(
        student,
        distilled.head(size),
        protocol,
        labels,
        teacher,
        device=device,
        mixed_precision=mixed_precision,
        epochs=2,
        on_epoch_end=lambda *_: ends.append(time.perf_counter()),
    )
    return (ends[1] - ends[0]) / size
