"""What an evaluation would cost."""

from __future__ import annotations

import time
from typing import Any

import torch

from decoct.evaluation.distilled import DistilledSet
from decoct.evaluation.protocols import Protocol, batch_size
from decoct.models.classifier import Classifier
from decoct.training.student import train_student

__all__ = ["format_plan", "seconds_per_image"]


def format_plan(plan: list[dict[str, Any]]) -> str:
    """A dry run's plan as plain text."""
    lines = [
        f"IPC {row['ipc']}, {row['student']}, {row['labels']} labels: {row['students']} students to train "
        f"({row['done']} done), {row['images_seen']:,} images seen by each, about {row['seconds']:,.0f} s each"
        for row in plan
    ]
    total = sum(row["students"] * row["seconds"] for row in plan)
    return "\n".join([*lines, f"In all about {total:,.0f} s on one process, without measuring accuracy."])


def seconds_per_image(
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
        on_epoch_end=lambda epoch, loss: ends.append(time.perf_counter()),
    )
    return (ends[1] - ends[0]) / size
