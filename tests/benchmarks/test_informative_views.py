"""What of a heat map a mixed view shows, against sums over its pixels."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from decoct.data.mixed_views import MixedViews, mixed_views

from .loading import load

SIDE = 12  # three pixels a cell of the heat map


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("informative_views")


@pytest.fixture(scope="module")
def heatmaps() -> Tensor:
    values = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values / values.sum((1, 2), keepdim=True)


@pytest.fixture(scope="module")
def views() -> MixedViews:
    images, slots = torch.arange(5)[:, None], torch.arange(20)
    return mixed_views(images, slots, seed=3, count=5, side=SIDE, smallest_area=0.1)


def pixels_of(heatmaps: Tensor) -> Tensor:
    """The heat map spread evenly over the pixels of its cells."""
    return heatmaps.repeat_interleave(3, 1).repeat_interleave(3, 2) / 9


def test_mass_and_density_are_sums_over_the_pixels_of_the_crop(benchmark, heatmaps, views):
    mass, density, area = (benchmark.scores_of(arm, heatmaps, views, SIDE) for arm in ("mass", "density", "area"))
    pixels = pixels_of(heatmaps)
    for image in range(5):
        for slot in range(20):
            top, left, height, width = views.boxes[image, slot].tolist()
            expected = pixels[image, top : top + height, left : left + width].sum()
            assert mass[image, slot] == pytest.approx(float(expected))
            assert area[image, slot] == height * width
    torch.testing.assert_close(density, mass / area)


@pytest.mark.parametrize("flipped", [False, True])
def test_visible_is_what_the_square_leaves_of_the_whole_image(benchmark, heatmaps, flipped):
    whole = torch.tensor([[[0, 0, SIDE, SIDE]]])
    views = MixedViews(
        whole,
        torch.tensor([[flipped]]),
        torch.tensor([[1]]),
        whole,
        torch.tensor([[False]]),
        torch.tensor([[[2, 7, 1, 5]]]),
    )
    pixels = pixels_of(heatmaps)[0]
    shown = pixels.flip(-1) if flipped else pixels
    found = benchmark.scores_of("visible", heatmaps[:1], views, SIDE)
    assert float(found) == pytest.approx(1 - float(shown[2:7, 1:5].sum()))


def test_visible_of_a_crop_is_a_share_of_what_the_crop_shows(benchmark, heatmaps, views):
    visible = benchmark.scores_of("visible", heatmaps, views, SIDE)
    assert bool((visible >= -1e-9).all() and (visible <= 1 + 1e-9).all())
    hidden = (views.cuts[..., 1] <= views.cuts[..., 0]) | (views.cuts[..., 3] <= views.cuts[..., 2])
    assert bool((visible[hidden] == 1).all())
