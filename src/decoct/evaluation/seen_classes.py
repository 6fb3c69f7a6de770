"""Classes that arrive one after the other: their order, and images, labels and logits of those seen so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from decoct.data.tensors import PixelDataset
from decoct.distilled.dataset import DistilledSet
from decoct.models.classifier import Classifier
from decoct.run.seeding import numpy_generator

__all__ = ["SeenImages", "SeenLogits", "class_order", "select_classes", "stages"]


def class_order(seed: int, order: int, classes: int) -> list[int]:
    """The order-th random order of the classes."""
    return numpy_generator(seed, "class-order", order).permutation(classes).tolist()


def stages(order: Sequence[int], steps: int) -> list[list[int]]:
    """The classes seen after each step, in the order they came; if uneven, the first steps bring one class more.

    Raises:
        ValueError: If there are more steps than classes.
    """
    if not 1 <= steps <= len(order):
        raise ValueError(f"steps must be in [1, {len(order)}], the number of classes. Got {steps}.")
    ends = np.cumsum([len(group) for group in np.array_split(np.arange(len(order)), steps)])
    return [list(order[:end]) for end in ends]


def select_classes(distilled: DistilledSet, classes: Sequence[int]) -> DistilledSet:
    """The images of some classes, which are numbered anew: `classes[i]` becomes label i.

    Images stay in their order. Stored logits keep the columns of these classes, so that their softmax is the
    teacher's probability given that the class is one of them.

    Raises:
        ValueError: If a class occurs twice or is not in the set.
    """
    names = distilled.manifest["label_names"]
    if len(set(classes)) != len(classes) or not set(classes) <= set(range(len(names))):
        raise ValueError(f"classes must be different ones below {len(names)}. Got {list(classes)}.")
    columns = torch.tensor(classes)
    matches = distilled.labels[:, None] == columns
    rows = matches.any(dim=1)

    def restricted(logits: Tensor | None) -> Tensor | None:
        return None if logits is None else logits[rows][:, :, columns]

    return dataclasses.replace(
        distilled,
        images=distilled.images[rows],
        labels=matches[rows].int().argmax(dim=1),
        tile_logits=restricted(distilled.tile_logits),
        view_logits=restricted(distilled.view_logits),
        view_boxes=None if distilled.view_boxes is None else distilled.view_boxes[rows],
        manifest={**distilled.manifest, "label_names": [names[label] for label in classes]},
    )


class SeenLogits(nn.Module):
    """A teacher that knows only some classes: its logits of these, in their order."""

    def __init__(self, teacher: Classifier, classes: Sequence[int]) -> None:
        super().__init__()
        self.teacher = teacher
        self.columns = list(classes)
        self.name = teacher.name
        names = tuple(teacher.spec.label_names[label] for label in classes)
        self.spec = dataclasses.replace(teacher.spec, label_names=names)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of shape `(batch, len(classes))` for pixels in [0, 1]."""
        return self.teacher(pixels)[:, self.columns]


class SeenImages(Dataset[tuple[Tensor, int]]):
    """The images of some classes, which are numbered anew: `classes[i]` becomes label i."""

    def __init__(self, pixels: PixelDataset, classes: Sequence[int]) -> None:
        self._pixels = pixels
        self._rows = torch.isin(pixels.labels, torch.tensor(classes)).nonzero()[:, 0].tolist()
        self._new = {label: position for position, label in enumerate(classes)}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several items at once; a `DataLoader` calls this for a batch."""
        items = self._pixels.__getitems__([self._rows[index] for index in indices])
        return [(pixels, self._new[label]) for pixels, label in items]
