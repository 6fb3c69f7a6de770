"""Validation images: held out of the training split before anything is trained, for choices to look at."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

__all__ = ["split_off_validation"]

SEED = 0


def split_off_validation(images: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """The images to train on, and those held out: a share of each class, rounded, at least one and never all.

    Which images they are depends on the labels alone, so that every run of a dataset holds out the same.

    Args:
        images: From `load_images`.
        fraction: Share to hold out, in (0, 1).

    Raises:
        ValueError: If a class has a single image; it is named.
    """
    labels = images.with_format("numpy")["label"][:]
    held_out = np.zeros(len(images), dtype=bool)
    for label, name in enumerate(images.features["label"].names):
        rows = np.flatnonzero(labels == label)
        if len(rows) == 1:
            raise ValueError(
                f"validation_fraction must be 0 where a class has one image. Got {fraction}, and class {name!r}."
            )
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        if len(rows):
            held_out[np.random.default_rng([SEED, label]).permutation(rows)[:count]] = True
    return images.select(np.flatnonzero(~held_out)), images.select(np.flatnonzero(held_out))
