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
    """A dry run's plan as plain text.

    Args:
        plan: Rows with `ipc`, `student`, `labels`, `students` (still to train), `done`, `images_seen` by each student,
            `seconds` for each and, if they have them, `protocol` and `random` (trained on random images).
    """
    lines = [f"{_title(row)}: {row['students']} students to train ({row['done']} done), {_cost(row)}" for row in plan]
    total = sum(row["students"] * row["seconds"] for row in plan)
    return "\n".join([*lines, f"In all about {total:,.0f} s on one process, without measuring accuracy."])


def _title(row: dict[str, Any]) -> str:
    words = [f"IPC {row['ipc']}", row["student"]]
    words += [row["protocol"]] if "protocol" in row else []
    return ", ".join([*words, f"{row['labels']} labels", *(["random images"] if row.get("random") else [])])


def _cost(row: dict[str, Any]) -> str:
    return f"{row['images_seen']:,} images seen by each, about {row['seconds']:,.0f} s each"


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
        on_epoch_end=lambda *_: ends.append(time.perf_counter()),
    )
    return (ends[1] - ends[0]) / size
