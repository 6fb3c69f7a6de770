"""Images as uint8 tensors for a `DataLoader`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from datasets.utils import tqdm
from torch import Tensor

from decoct.data.inspection import named_rows
from decoct.data.pixels import to_pixels

__all__ = ["PixelDataset"]

HELD_BYTES = 2 * 1024**3
BATCH_SIZE = 64  # images decoded at full size at a time


class PixelDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Pixels (uint8, `channels x image_size x image_size`) and label of each image.

    Sets of up to 2 GiB of pixels are decoded once, at construction, and held; larger ones are decoded when read.

    Args:
        images: Dataset with columns `image` and `label`, as `load_images` returns it.
        image_size: Side in pixels; other images are resized and centre-cropped.
        channels: 1 (grey) or 3 (RGB).
    """

    def __init__(self, images: datasets.Dataset, image_size: int, channels: int) -> None:
        self.image_size, self.channels = image_size, channels
        self._images, self._source = images.select_columns(["image"]).with_format(None), images
        labels = images.select_columns(["label"]).with_format("numpy")[:]["label"]
        self._labels = torch.as_tensor(labels, dtype=torch.int64)
        self._held: Tensor | None = None
        if len(images) * channels * image_size**2 <= HELD_BYTES:
            held = np.empty((len(images), channels, image_size, image_size), dtype=np.uint8)
            for start in tqdm(range(0, len(images), BATCH_SIZE), desc="Decoding images", unit="batch"):
                rows = range(start, min(start + BATCH_SIZE, len(images)))
                held[start : rows.stop] = self._decode(rows).numpy()
            self._held = torch.from_numpy(held)

    @property
    def labels(self) -> Tensor:
        """Labels of shape `(images,)`, int64."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several items at once; a `DataLoader` calls this for a batch."""
        rows = [int(index) for index in indices]
        pixels = self._held[rows] if self._held is not None else self._decode(rows)
        return list(zip(pixels, self._labels[rows].tolist(), strict=True))

    def _decode(self, rows: Sequence[int]) -> Tensor:
        with named_rows(self._source, rows):
            return to_pixels(self._images[list(rows)]["image"], self.image_size, self.channels)
