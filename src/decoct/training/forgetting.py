"""Forgetting events: how often a training image is classified rightly and then, at its next presentation, wrongly.

Toneva et al., *An Empirical Study of Example Forgetting during Deep Neural Network Learning*, ICLR 2019,
arXiv 1812.05159, section 3. They are counted from the forward passes that training makes anyway.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from torch import Tensor

from decoct.data.source import dataset_fingerprint
from decoct.run.files import write_tensors

__all__ = [
    "FORGETTING_FILE",
    "ForgettingEvents",
    "check_forgetting_events",
    "forgetting_scores",
    "write_forgetting_events",
]

FORGETTING_FILE = "forgetting.safetensors"


class ForgettingEvents:
    """Counts the forgetting events of each image; `accelerator.register_for_checkpointing` saves and restores it.

    An image that a step does not present keeps its count and its last outcome.

    Args:
        images: Number of training images.
        device: Where the outcomes are, so that counting waits for no transfer.

    Attributes:
        events: Forgetting events of each image, `(images,)` int32.
        learned: Whether it was ever classified rightly, `(images,)` bool.
        right: Whether it was at its last presentation, `(images,)` bool; False before the first.
    """

    def __init__(self, images: int, device: torch.device | str = "cpu") -> None:
        self.events = torch.zeros(images, dtype=torch.int32, device=device)
        self.learned = torch.zeros(images, dtype=torch.bool, device=device)
        self.right = torch.zeros(images, dtype=torch.bool, device=device)

    def update(self, rows: Tensor, right: Tensor) -> None:
        """Takes in the outcomes of one step.

        Args:
            rows: Images that were presented, `(batch,)` int64, all different.
            right: Whether each was classified rightly, `(batch,)` bool.
        """
        self.events[rows] += (self.right[rows] & ~right).int()
        self.learned[rows] |= right
        self.right[rows] = right

    def state_dict(self) -> dict[str, Tensor]:
        """All counts, for a checkpoint."""
        return {"events": self.events, "learned": self.learned, "right": self.right}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        for name, values in self.state_dict().items():
            values.copy_(state[name])


def write_forgetting_events(folder: Path, counted: ForgettingEvents, images: Dataset, epochs: int) -> None:
    """Writes `forgetting.safetensors`: `source_index`, `events` and `learned`, one entry per training image.

    Args:
        images: The training images, from `load_images`; the file names their fingerprint.
        epochs: Presentations of an image, at most.
    """
    source = torch.from_numpy(np.array(images.with_format("numpy")["source_index"][:], dtype=np.int64))
    tensors = {"source_index": source, "events": counted.events.cpu(), "learned": counted.learned.cpu()}
    # One entry alone: safetensors writes several in an order that changes from run to run.
    training = {"data": dataset_fingerprint(images), "epochs": epochs}
    write_tensors(folder / FORGETTING_FILE, tensors, {"training": json.dumps(training)})


def check_forgetting_events(teacher: str, images: Dataset) -> None:
    """Checks that a teacher's folder holds the forgetting events of these very images.

    Args:
        teacher: The teacher's folder.
        images: The whole split that is distilled, from `load_images`.

    Raises:
        ValueError: If it holds none, or those of other images.
    """
    events, training = _read(teacher)
    trained_on, given = training["data"], dataset_fingerprint(images)
    if trained_on != given:
        raise ValueError(
            "The images that are distilled must be those that the teacher was trained on, for utility 'forgetting'. "
            f"Got {len(images)} images with fingerprint {given}, and events of {len(events['events'])} images "
            f"with fingerprint {trained_on} in {teacher}. Give the teacher's --dataset and --train_split, or train a "
            "teacher on these images with scripts/train_teacher.py."
        )


def forgetting_scores(teacher: str, order: str | None = "highest") -> np.ndarray:
    """The forgetting events of each training image, by its source index.

    Images that were never classified rightly have nothing to forget, and come last whether the highest or the lowest
    scores are taken first. Toneva et al. sort them as forgotten infinitely often, so that they stay in the large part
    of a dataset that is not pruned; of the few images per class of a distilled one they would take every place, and
    they are the mislabelled and the atypical. As a baseline the method stands for images that are learned and forgotten
    again; the coreset library DeepCore (Guo et al., DEXA 2022, arXiv 2204.08499), too, counts no event for the others.

    Args:
        teacher: The teacher's folder.
        order: Which scores are taken first, as `DistillConfig.utility_order`.

    Returns:
        `(largest source index + 1,)` float32: the count; for images never learned -1 where the highest scores are
        taken first, else the number of epochs, which is above any count. NaN where the split has no readable image.

    Raises:
        ValueError: If the folder holds no forgetting events.
    """
    counted, training = _read(teacher)
    scores = np.full(counted["source_index"].max() + 1, np.nan, dtype=np.float32)
    never = -1 if order == "highest" else training["epochs"]
    scores[counted["source_index"]] = np.where(counted["learned"], counted["events"], never)
    return scores


def _read(teacher: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays that `write_forgetting_events` wrote, and what the training was."""
    path = Path(teacher) / FORGETTING_FILE
    if not path.is_file():
        raise ValueError(
            "teacher must be a folder with the forgetting events of its training, for utility 'forgetting'. "
            f"Got {teacher!r}, which has no {FORGETTING_FILE}: train it again with scripts/train_teacher.py "
            "(`decoct train-teacher`), which counts them."
        )
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["training"])
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} must be as training left it. It is damaged ({error}): train the teacher again."
        ) from error
