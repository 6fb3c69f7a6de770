"""Grids of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from decoct.config import PriorConfig
from decoct.data.spec import ImageSpec
from decoct.igds.grids import sample_grid, save_grid
from decoct.training.prior import build_unet

GAP = 2


def cells(path, rows: int, columns: int, side: int) -> np.ndarray:
    """The images of a grid, `(rows, columns, side, side)` or with channels last, after a look at the white gaps."""
    picture = np.asarray(Image.open(path))
    pitch = side + GAP
    assert picture.shape[:2] == (rows * pitch + GAP, columns * pitch + GAP)
    white = np.ones(picture.shape[:2], bool)
    found = []
    for row in range(rows):
        for column in range(columns):
            top, left = GAP + row * pitch, GAP + column * pitch
            white[top : top + side, left : left + side] = False
            found.append(picture[top : top + side, left : left + side])
    assert (picture[white] == 255).all()
    return np.stack(found).reshape(rows, columns, *found[0].shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_in_its_place(tmp_path, channels):
    images = torch.randint(0, 256, (2, 3, channels, 5, 5), dtype=torch.uint8)
    save_grid(tmp_path / "new" / "grid.png", images)
    shown = cells(tmp_path / "new" / "grid.png", 2, 3, 5)
    expected = images[:, :, 0] if channels == 1 else images.movedim(2, -1)
    assert np.array_equal(shown, expected.numpy())


@pytest.mark.parametrize(("conditional", "classes", "rows"), [(True, 3, 3), (True, 11, 10), (False, 3, 3)])
def test_a_grid_of_samples_has_a_row_per_class_and_follows_from_its_seed(tmp_path, conditional, classes, rows):
    spec = ImageSpec(8, 1, (0.5,), (0.5,), tuple(f"class {label}" for label in range(classes)))
    unet = build_unet(PriorConfig(channels=[8, 8], attention=False, conditional=conditional), spec).eval()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        sample_grid(tmp_path / f"{name}.png", unet, DDPMScheduler(), spec, steps=2, seed=seed)
    first, again, other = (cells(tmp_path / f"{name}.png", rows, 10, 8) for name in ("first", "again", "other"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first.reshape(rows * 10, -1), axis=0)) == rows * 10, "no two samples are alike"
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
