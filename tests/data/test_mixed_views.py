"""The geometry of mixed views is what its module says, computed here once more with Python's own whole numbers."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from decoct.data.mixed_views import MixedViews, mixed_pixels, mixed_views, views_digest

MASK = 0xFFFFFFFF
KNOWN = [[0, 0, 32, 30], True, 9, [23, 32, 13, 30]]
RATIOS = [(3, 4), (5, 6), (11, 12), (1, 1), (12, 11), (6, 5), (4, 3)]


def fmix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x85EBCA6B & MASK
    x ^= x >> 13
    x = x * 0xC2B2AE35 & MASK
    return x ^ x >> 16


def every_view(seed: int, count: int, slots: int, side: int, smallest: float) -> MixedViews:
    """`(count, slots)` views."""
    images = torch.arange(count)[:, None]
    return mixed_views(images, torch.arange(slots), seed=seed, count=count, side=side, smallest_area=smallest)


def expected(seed: int, image: int, slot: int, count: int, side: int, smallest: float) -> list:
    def below(limit: int, draw: int) -> int:
        bits = fmix(seed + 0x9E3779B9 & MASK)
        for part in (image, slot, draw):
            bits = fmix(bits ^ part)
        return (bits >> 8) * limit >> 24

    least = max(1, math.floor(smallest * (side * side)))
    area = least + below(side * side - least + 1, 0)
    up, down = RATIOS[below(7, 1)]
    height, width = max(1, min(side, math.isqrt(area * up // down))), max(1, min(side, math.isqrt(area * down // up)))
    box = [below(side - height + 1, 2), below(side - width + 1, 3), height, width]
    partner = (image + 1 + below(count - 1, 5)) % count if count > 1 else image
    cut = math.isqrt(below(side * side, 6))
    row, column = below(side, 7) - cut // 2, below(side, 8) - cut // 2
    square = [max(0, row), min(side, row + cut), max(0, column), min(side, column + cut)]
    return [box, bool(below(2, 4)), partner, square]


@pytest.mark.parametrize(
    ("seed", "count", "slots", "side", "smallest"),
    [
        (0, 5, 7, 32, 0.08),
        (2**40 + 3, 30, 4, 224, 0.25),
        (7, 1, 6, 28, 1.0),
        (1, 2, 50, 9, 0.01),
        (2**32 - 1, 3, 40, 1024, 0.57),
        (-5, 3, 5, 1, 0.5),
    ],
)
def test_every_view_is_that_of_plain_whole_numbers(seed, count, slots, side, smallest):
    views = every_view(seed, count, slots, side, smallest)
    for image in range(count):
        for slot in range(slots):
            ours = [each[image, slot].tolist() for each in (views.boxes, views.flips, views.partners, views.cuts)]
            plain = expected(seed & MASK, image, slot, count, side, smallest)
            assert ours == plain
            partner = expected(seed & MASK, plain[2], slot, count, side, smallest)
            assert [views.partner_boxes[image, slot].tolist(), views.partner_flips[image, slot].item()] == partner[:2]


def test_known_values():
    """Written down once, so that no change of the generator goes unnoticed: stored labels depend on it."""
    views = every_view(seed=0, count=10, slots=3, side=32, smallest=0.08)
    assert [each[3, 1].tolist() for each in (views.boxes, views.flips, views.partners, views.cuts)] == KNOWN


def test_views_are_spread_as_they_should_be():
    views = every_view(seed=5, count=200, slots=100, side=32, smallest=0.08)
    areas = (views.boxes[..., 2] * views.boxes[..., 3]).float() / 1024
    assert areas.min() >= 0.06 and areas.max() == 1 and 0.5 < areas.mean() < 0.57
    ends = views.boxes[..., :2] + views.boxes[..., 2:]
    assert views.boxes[..., :2].min() == 0 and ends.max() == 32
    assert 0.48 < views.flips.float().mean() < 0.52
    assert (views.partners != torch.arange(200)[:, None]).all() and len(views.partners.unique()) == 200
    cut = (views.cuts[..., 1] - views.cuts[..., 0]) * (views.cuts[..., 3] - views.cuts[..., 2])
    assert 0.3 < cut.float().mean() / 1024 < 0.42, "a square that is uniform in area, less what lies outside"
    assert not (every_view(6, 200, 100, 32, 0.08).boxes == views.boxes).all()


def test_draws_of_images_slots_and_kinds_are_unrelated():
    """No two of them move together, and none does with that of the next image or slot."""
    count, slots, side = 400, 60, 64
    views = every_view(9, count, slots, side, 0.08)
    free = (views.boxes[..., :2] + 0.5).double() / (side - views.boxes[..., 2:] + 1)  # 0.5 in the mean at any size
    area = views.boxes[..., 2:].double().prod(-1)
    ratio = (views.boxes[..., 2].double() / views.boxes[..., 3]).log()
    middle = (views.cuts[..., 0] + views.cuts[..., 1], views.cuts[..., 2] + views.cuts[..., 3])
    step = (views.partners - torch.arange(count)[:, None]) % count
    kinds = [area, ratio, *free.unbind(-1), views.flips, step, *middle]
    here = torch.stack([each.double()[:-1, :-1].flatten() for each in kinds])
    below = torch.stack([each.double()[1:, :-1].flatten() for each in kinds])
    beside = torch.stack([each.double()[:-1, 1:].flatten() for each in kinds])
    among = torch.corrcoef(torch.cat([here, below, beside]))
    among.fill_diagonal_(0)
    assert among.abs().max() < 0.03, "5 standard deviations of 23,541 pairs"


def test_a_view_does_not_depend_on_what_else_is_asked_for():
    whole = every_view(1, 20, 50, 32, 0.1)
    images, slots = torch.tensor([3, 0, 19, 3]), torch.tensor([49, 7, 0, 2])
    some = mixed_views(images, slots, seed=1, count=20, side=32, smallest_area=0.1)
    assert all(torch.equal(a, b[images, slots]) for a, b in zip(some, whole, strict=True))
    assert all(torch.equal(a, b[2:]) for a, b in zip(some.select(torch.tensor([2, 3])), some, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_are_those_of_a_plain_loop(dtype):
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (6, 3, 16, 16), dtype=np.uint8))
    views = every_view(3, 6, 4, 16, 0.1)
    rows, slots = torch.tensor([0, 5, 2, 2]), torch.tensor([3, 0, 1, 2])

    def view(row: int, slot: int) -> torch.Tensor:
        top, left, height, width = views.boxes[row, slot].tolist()
        crop = images[row : row + 1, :, top : top + height, left : left + width].float() / 255
        resized = F.interpolate(crop, (16, 16), mode="bilinear", align_corners=False)[0]
        return resized.flip(-1) if views.flips[row, slot] else resized

    for batch, ours in ((slice(None), 4), (slice(1, 3), 2)):
        given = images if dtype == torch.uint8 else images.float() / 255
        chosen = mixed_views(rows[batch], slots[batch], seed=3, count=6, side=16, smallest_area=0.1)
        pixels = mixed_pixels(given, rows[batch], chosen)
        assert len(pixels) == ours
        for made, row, slot in zip(pixels, rows[batch].tolist(), slots[batch].tolist(), strict=True):
            plain = view(row, slot)
            first, end, left, right = views.cuts[row, slot].tolist()
            plain[:, first:end, left:right] = view(int(views.partners[row, slot]), slot)[:, first:end, left:right]
            assert torch.allclose(made, plain, atol=1e-5)


def test_the_documented_implementation_is_ours():
    """The code of the page, run as it stands there."""
    page = (Path(__file__).parents[2] / "docs" / "mixed-labels.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    made: dict = {}
    exec(code, made)
    for seed, count, slots, side, smallest in ((5, 6, 5, 32, 0.08), (2**31, 1, 3, 28, 1.0), (9, 3, 9, 65, 0.3)):
        views = every_view(seed, count, slots, side, smallest)
        for image, slot in itertools.product(range(count), range(slots)):
            box, *rest = made["mixed_view"](seed, image, slot, count, side, smallest)
            ours = [each[image, slot].tolist() for each in (views.boxes, views.flips, views.partners, views.cuts)]
            assert ours == [list(box), *rest]


def test_the_digest_is_that_of_plain_numbers():
    numbers = []
    for image, slot in itertools.product(range(3), range(16)):
        box, flip, partner, square = expected(7, image, slot, 3, 32, 0.08)
        numbers += [*box, int(flip), partner, *square]
    plain = hashlib.sha256(struct.pack(f"<{len(numbers)}q", *numbers)).hexdigest()[:16]
    digest = {"seed": 7, "count": 3, "slots": 20, "side": 32, "smallest_area": 0.08}
    assert views_digest(**digest) == plain
    assert views_digest(**{**digest, "seed": 8}) != plain != views_digest(**{**digest, "smallest_area": 0.09})
