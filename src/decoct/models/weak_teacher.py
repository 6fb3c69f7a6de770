"""Whether a teacher knows the classes at all: one that guesses makes scores and labels of noise, without an error."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import datasets
import numpy as np
import torch

from decoct.data.tensors import PixelDataset
from decoct.models.accuracy import accuracy
from decoct.models.chance import weakness
from decoct.models.classifier import Classifier

__all__ = ["check_teachers", "sample_accuracy"]

logger = logging.getLogger(__name__)

SAMPLE = 1000  # images


def sample_accuracy(
    teacher: Classifier, images: datasets.Dataset, device: torch.device | str, mixed_precision: str
) -> tuple[float, int]:
    """Accuracy on about 1,000 images, as many of each class, evenly spread over its rows; and how many they were."""
    labels = np.asarray(images["label"][:])
    present = np.unique(labels)
    each = max(1, SAMPLE // len(present))
    chosen = present if len(present) <= SAMPLE else present[np.linspace(0, len(present) - 1, SAMPLE).astype(int)]
    rows = []
    for label in chosen:
        members = np.flatnonzero(labels == label)
        rows.append(members[np.unique(np.linspace(0, len(members) - 1, min(each, len(members))).astype(int))])
    picked = images.select(np.concatenate(rows))
    pixels = PixelDataset(picked, teacher.spec.image_size, teacher.spec.channels)
    found = accuracy(teacher.to(device), pixels, batch_size=64, device=device, mixed_precision=mixed_precision)
    return found, len(picked)


def check_teachers(
    teachers: Sequence[Classifier],
    images: datasets.Dataset,
    device: torch.device | str,
    mixed_precision: str,
    allow: bool,
) -> list[float]:
    """The accuracy of teachers on a sample of the images to distil; of the same networks once.

    Args:
        images: With the teachers' label names.
        allow: Warn of a teacher below `expected_accuracy`.

    Raises:
        ValueError: If one is below and that is not allowed.
    """
    accuracies = []
    for teacher in {each.fingerprint(): each for each in teachers}.values():
        found, count = sample_accuracy(teacher, images, device, mixed_precision)
        accuracies.append(found)
        whose, what = f"The teacher {teacher.name}", f"{count:,} training images"
        if fault := weakness(found, teacher.spec.num_classes, whose, what):
            if not allow:
                raise ValueError(f"{fault} Take another teacher, or go on with --allow_weak_teacher.")
            logger.warning(fault)
    return accuracies
