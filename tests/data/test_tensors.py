"""Pixels for a `DataLoader`: held or decoded when read, in this process or in a worker."""

from __future__ import annotations

import datasets
import pytest
import torch
from PIL import Image
from worlds import labelled

from decoct.data import PixelDataset, load_images


def uniform_images(labels: list[int]) -> datasets.Dataset:
    """Image i has the value i everywhere."""
    pictures = [Image.new("RGB", (8, 8), (value,) * 3) for value in range(len(labels))]
    return load_images(labelled(pictures, labels))


def test_pixel_dataset_held_and_lazy_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    images = uniform_images([0, 1, 1, 0, 1])
    held = PixelDataset(images, 8, 3)
    monkeypatch.setattr("decoct.data.tensors.HELD_BYTES", 0)
    lazy = PixelDataset(images, 8, 3)
    assert held.labels.tolist() == [0, 1, 1, 0, 1] and held.labels.dtype == torch.int64
    for first, second in zip(held.__getitems__([4, 0]), lazy.__getitems__([4, 0]), strict=True):
        assert torch.equal(first[0], second[0]) and first[1] == second[1]
    pixels, label = lazy[2]
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 8, 8) and pixels.unique().tolist() == [2] and label == 1


def test_pixel_dataset_in_a_worker_process() -> None:
    images = uniform_images([0, 1, 1, 0])
    loader = torch.utils.data.DataLoader(PixelDataset(images, 4, 1), batch_size=3, num_workers=1)
    batches = list(loader)
    assert [batch[0].shape for batch in batches] == [(3, 1, 4, 4), (1, 1, 4, 4)]
    assert torch.cat([batch[1] for batch in batches]).tolist() == [0, 1, 1, 0]
    assert torch.cat([batch[0] for batch in batches])[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
