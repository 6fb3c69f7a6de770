"""Crops against a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from decoct.data.crops import crop_and_resize, random_resized_boxes


@pytest.mark.parametrize("size", [5, 12, 20])
def test_whole_pixel_boxes_equal_slicing_and_interpolating(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 2, 12, 16, generator=generator)
    boxes = torch.tensor([[0, 0, 12, 16], [3, 5, 6, 6], [2, 0, 1, 7], [11, 15, 1, 1], [4, 8, 8, 8]])
    rows = torch.tensor([0, 2, 1, 1, 0])
    crops = crop_and_resize(pixels, rows, boxes.float(), size)
    assert crops.shape == (5, 2, size, size)
    for crop, row, (top, left, height, width) in zip(crops, rows, boxes.tolist(), strict=True):
        piece = pixels[row : row + 1, :, top : top + height, left : left + width]
        naive = F.interpolate(piece, size=(size, size), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(crop, naive, atol=2e-5, rtol=0)


def test_whole_image_at_its_own_size_is_unchanged() -> None:
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    crops = crop_and_resize(pixels, torch.tensor([1, 0]), torch.tensor([[0.0, 0, 8, 8]] * 2), 8)
    torch.testing.assert_close(crops, pixels[[1, 0]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [3, 8, 31])
def test_nothing_outside_a_fractional_box_leaks_in(size: int) -> None:
    random = np.random.default_rng(2)
    for _ in range(50):
        height, width = random.uniform(1, 9, 2)
        top, left = random.uniform(0, 10 - height), random.uniform(0, 10 - width)
        # Pixels that the box touches are 0, all others 1.
        pixels = torch.ones(1, 1, 10, 10)
        pixels[..., math.floor(top) : math.ceil(top + height), math.floor(left) : math.ceil(left + width)] = 0
        crop = crop_and_resize(pixels, torch.tensor([0]), torch.tensor([[top, left, height, width]]), size)
        assert crop.abs().max() < 1e-4, (top, left, height, width)


def test_fractional_boxes_sample_where_they_lie() -> None:
    """On a linear ramp bilinear sampling is exact, so the crop shows its own coordinates, clamped half a pixel in."""
    ramp = torch.arange(16.0).expand(16, 16).clone()
    pixels = torch.stack([ramp, ramp.T])[None]
    top, left, height, width, size = 2.25, 4.5, 6.5, 9.75, 7
    crop = crop_and_resize(pixels, torch.tensor([0]), torch.tensor([[top, left, height, width]]), size)[0]
    for i in range(size):
        x = min(max(left + (i + 0.5) / size * width - 0.5, left), left + width - 1)
        y = min(max(top + (i + 0.5) / size * height - 0.5, top), top + height - 1)
        assert crop[0, 0, i].item() == pytest.approx(x, abs=1e-4)
        assert crop[1, i, 0].item() == pytest.approx(y, abs=1e-4)


def test_a_batch_equals_single_crops() -> None:
    pixels = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(3))
    boxes = torch.tensor([[0.3, 1.7, 5.1, 6.2], [2.0, 2.0, 4.0, 4.0], [1.5, 0.5, 7.5, 8.5], [0.0, 0.0, 9.0, 9.0]])
    together = crop_and_resize(pixels, torch.arange(4), boxes, 6)
    for row in range(4):
        alone = crop_and_resize(pixels[row : row + 1], torch.tensor([0]), boxes[row : row + 1], 6)
        torch.testing.assert_close(together[row], alone[0], atol=1e-6, rtol=0)


def test_random_boxes_stay_inside_and_in_range() -> None:
    top, left, height, width = random_resized_boxes(np.random.default_rng(0), 5000, (0.08, 1.0)).double().numpy().T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 1 + 1e-6).all() and (left + width <= 1 + 1e-6).all()
    area, ratio = height * width, width / height
    assert area.min() >= 0.08 - 1e-6 and area.max() <= 1
    assert ratio.min() >= 3 / 4 - 1e-6 and ratio.max() <= 4 / 3 + 1e-6
    assert 0.45 < area.mean() < 0.6 and area.min() < 0.09 and area.max() > 0.85


def test_random_boxes_of_fixed_scale_and_ratio() -> None:
    boxes = random_resized_boxes(np.random.default_rng(0), 3, (0.25, 0.25), (1.0, 1.0))
    assert torch.equal(boxes[:, 2:], torch.full((3, 2), 0.5))


def test_random_boxes_that_never_fit_are_the_whole_image() -> None:
    boxes = random_resized_boxes(np.random.default_rng(0), 2, (1.0, 1.0), (2.0, 2.0))
    assert boxes.tolist() == [[0.0, 0.0, 1.0, 1.0]] * 2


def test_random_boxes_follow_the_generator() -> None:
    draws = [random_resized_boxes(np.random.default_rng(seed), 4, (0.1, 1.0)) for seed in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
