"""Tile labels and view labels, against loops over single crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from worlds import spec_of

from decoct.data.mosaic import unpack
from decoct.models.zoo import build_classifier
from decoct.run.seeding import numpy_generator
from decoct.synthesis.relabel import draw_views, in_batches, tile_logits, view_crops, view_logits


@pytest.fixture(scope="module")
def forward():
    teacher = build_classifier("convnet3_w8", spec_of()).eval()

    @torch.no_grad()
    def logits(pixels: torch.Tensor) -> torch.Tensor:
        return teacher(pixels)

    return logits


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_tile_logits_are_the_teachers_on_each_resized_tile(forward, images, count, batch_size):
    logits = tile_logits(forward, images, count, batch_size)
    assert logits.shape == (3, count, 3)
    tiles = unpack(images, count)
    for image in range(3):
        for tile in range(count):
            resized = F.interpolate(tiles[image, tile][None], (16, 16), mode="bilinear", align_corners=False)
            assert torch.allclose(logits[image, tile], forward(resized)[0], atol=1e-5)


@pytest.mark.parametrize("area", [0.08, 0.5, 1.0])
def test_views_lie_inside_the_image(area):
    boxes = draw_views(numpy_generator(0, "views", 1, 2), 300, area)
    assert boxes.shape == (300, 5)
    assert boxes.dtype == np.float16
    top, left, height, width, flip = boxes.astype(np.float64).T
    assert min(top.min(), left.min()) >= 0
    assert min(height.min(), width.min()) > 0
    assert max((top + height).max(), (left + width).max()) <= 1
    assert set(flip) == {0.0, 1.0}
    assert (height * width).min() >= area * 0.99
    assert abs(np.log(width / height)).max() <= np.log(4 / 3) + 0.01


def test_views_follow_from_the_items_generator():
    first, again, other = (draw_views(numpy_generator(0, "views", 1, item), 4, 0.08) for item in (2, 2, 3))
    assert (first == again).all()
    assert (first != other).any()
    assert draw_views(numpy_generator(0, "views", 1, 2), 0, 0.08).shape == (0, 5)


def views(count: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([draw_views(numpy_generator(0, "views", row), count, 0.08) for row in range(3)]))


def test_a_view_of_whole_pixels_is_the_crop(images):
    boxes = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 1, 1, 1], [0.25, 0.5, 0.5, 0.5, 0], [0.25, 0.5, 0.5, 0.5, 1]])
    crops = view_crops(images, torch.tensor([0, 1, 2, 2]), boxes.half())
    assert torch.allclose(crops[0], images[0], atol=1e-6)
    assert torch.allclose(crops[1], images[1].flip(-1), atol=1e-6)
    expected = F.interpolate(images[2:, :, 4:12, 8:16], (16, 16), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(crops[2], expected, atol=1e-5)
    assert torch.allclose(crops[3], expected.flip(-1), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_view_logits_are_the_teachers_crop_by_crop(forward, images, batch_size):
    boxes = views(5)
    logits = view_logits(forward, images, boxes, batch_size)
    assert logits.shape == (3, 5, 3)
    for image in range(3):
        for view in range(5):
            crop = view_crops(images[image][None], torch.tensor([0]), boxes[image, view][None])
            assert torch.allclose(logits[image, view], forward(crop)[0], atol=1e-5)


def test_batches_change_nothing(forward, images):
    assert torch.allclose(in_batches(forward, images, 2), forward(images), atol=1e-5)
    sizes = []
    in_batches(lambda pixels: sizes.append(len(pixels)) or pixels.mean((1, 2, 3)), images, 2)
    assert sizes == [2, 1]
