"""Validation images: held out of the training split before anything is trained, for choices to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset

from decoct.data.source import dataset_fingerprint, record_beside
from decoct.files import shown

__all__ = ["check_same_images", "check_share", "held_out_count", "held_out_of", "split_off_validation"]

SEED = 0


def split_off_validation(images: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """The images to train on, and those held out: a share of each class, rounded, at least one and never all.

    Which images they are depends on the labels alone, so that every run of the same images holds out the same.

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
        count = held_out_count(len(rows), fraction)
        held_out[np.random.default_rng([SEED, label]).permutation(rows)[:count]] = True
    return images.select(np.flatnonzero(~held_out)), images.select(np.flatnonzero(held_out))


def held_out_count(images: int, fraction: float) -> int:
    """How many of a class's images are held out: at least one where it has two, never all; none at a fraction of 0."""
    return min(max(round(fraction * images), 1), images - 1) if fraction and images else 0


def held_out_of(network: str) -> float | None:
    """The share of the training split that was held out of a network's training; None if its folder does not say.

    Args:
        network: Folder or Hub id.

    Raises:
        ValueError: If it says something else than a share.
    """
    record = record_beside(network, "training.json")
    if record is None:
        return None
    config = record.get("config")
    share = record.get("validation_fraction", config.get("validation_fraction") if isinstance(config, dict) else None)
    if share is not None and (not isinstance(share, int | float) or not 0 <= share < 1):
        raise ValueError(f"validation_fraction in training.json of {network} must be in [0, 1). Got {shown(share)}.")
    return float(share or 0.0)


def check_share(network: str, role: str, share: float | None) -> None:
    """Raises ValueError if a network has seen images that are held out now, or others were held out of its training.

    Args:
        network: Folder or Hub id; one that does not say is taken at its word.
        role: What the network is for, for the message.
        share: That is held out now; 0 and None: nothing, and any network will do.
    """
    trained = held_out_of(network)
    if share and trained is not None and trained != share:
        raise ValueError(
            f"{role} must be trained with --validation_fraction {share:g}, as the teacher, so that it has not seen the "
            f"images held out. Got {network}, trained with {trained:g}."
        )


def check_same_images(network: str, images: Dataset, share: float | None) -> None:
    """Raises ValueError if images are held out, and a network was trained on others than these: of other images
    others are held out.

    Args:
        network: Folder or Hub id; one that does not say is taken at its word.
        images: The training split without what is held out.
        share: That is held out.
    """
    if not share:
        return
    folder = Path(network)
    files = ((folder, "run.json"), (folder.parent, "run.json"), (folder, "training.json"))
    record = next((each for place, name in files if (each := record_beside(place, name)) is not None), None)
    if record is not None and record.get("data", "") not in ("", found := dataset_fingerprint(images)):
        raise ValueError(
            f"The images to distil must be those that {network} was trained on, since {share:g} of those are held out. "
            f"Got images with fingerprint {found} in place of {record['data']}: give the dataset and the --train_split "
            "of the training."
        )
