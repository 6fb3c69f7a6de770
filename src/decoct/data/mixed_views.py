"""Mixed views of a set's images: which crop, flip and CutMix partner each has, as a pure function of three numbers.

A stored soft label describes one view of one image. Where that view is needs no bytes: slot m of image i of a set of n
images, in the set's order, is computed from (seed, i, m) by whole numbers alone, so that it is the same in any version
of any language.

    fmix(x)          x ^= x >> 16; x *= 0x85EBCA6B; x ^= x >> 13; x *= 0xC2B2AE35; x ^= x >> 16   (MurmurHash3, 32 bits)
    bits(i, m, d)    x = fmix(seed + 0x9E3779B9); x = fmix(x ^ i); x = fmix(x ^ m); x = fmix(x ^ d); x >> 8
    below(k, d)      (bits(i, m, d) * k) >> 24, a whole number in [0, k), for k up to 2^24

All arithmetic is modulo 2^32 but for the product of `below`, which needs 64 bits. S is the side in pixels, `isqrt` the
whole square root and A = max(1, floor(a * (S S))) the smallest area in pixels, where a is its share of the image as a
float64: this product is the only number that is not whole. The draws d = 0, 1, … are

    0  area     A + below(S S - A + 1)
    1  ratio    p / q = number below(7) of 3/4, 5/6, 11/12, 1/1, 12/11, 6/5, 4/3, counted from 0
                height = isqrt((area p) / q), width = isqrt((area q) / p), at least 1 and at most S
    2  top      below(S - height + 1)
    3  left     below(S - width + 1)
    4  flip     below(2)
    5  partner  (i + 1 + below(n - 1)) mod n, which is i itself in a set of one image
    6  cut      c = isqrt(below(S S)), the side of the square that shows the partner, uniform in its area
    7  row      y = below(S); the square's rows are those from max(0, y - c / 2) up to min(S, y - c / 2 + c)
    8  column   likewise

where / is whole division. The view is the crop of image i, resized to S x S and flipped if asked, in which the square
shows the same pixels of the partner's view of slot m, before its own partner is pasted. Resizing is bilinear without
antialiasing, corners not aligned, and sees nothing outside the crop: `F.interpolate` of the crop alone.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoct.data.crops import crop_and_resize

__all__ = ["MixedViews", "mixed_pixels", "mixed_views", "views_digest"]

# Height over width: the range 3/4 to 4/3 of random-resized crops, in steps that are about even.
RATIOS = np.array([(3, 4), (5, 6), (11, 12), (1, 1), (12, 11), (6, 5), (4, 3)], dtype=np.int64)
DRAWS = 9


class MixedViews(NamedTuple):
    """Some mixed views; `...` is the shape of the numbers of images and slots that they were asked for by.

    Args:
        boxes: `(..., 4)` int64, top, left, height and width of each crop in pixels.
        flips: `(...)` bool.
        partners: `(...)` int64, the image that is pasted.
        partner_boxes: `(..., 4)` int64, its crop.
        partner_flips: `(...)` bool.
        cuts: `(..., 4)` int64, first and end row, first and end column of the square that is pasted.
    """

    boxes: Tensor
    flips: Tensor
    partners: Tensor
    partner_boxes: Tensor
    partner_flips: Tensor
    cuts: Tensor

    def to(self, device: torch.device) -> MixedViews:
        """The same on a device."""
        return MixedViews(*(each.to(device) for each in self))

    def select(self, rows: Tensor) -> MixedViews:
        """Those of some rows."""
        return MixedViews(*(each[rows] for each in self))


def mixed_views(images: Tensor, slots: Tensor, *, seed: int, count: int, side: int, smallest_area: float) -> MixedViews:
    """The mixed views of some images and slots, on the CPU. Nothing is kept: memory is that of the views asked for.

    Args:
        images: Numbers of images, int64.
        slots: Number of a view of each, int64 of a shape that broadcasts with theirs.
        seed: Its lower 32 bits count.
        count: Images of the whole set.
        side: Of the images, in pixels, at most 4,096.
        smallest_area: Of a crop before its sides are rounded down, as a share of the image's, in (0, 1].
    """
    own, slot = np.broadcast_arrays(images.numpy(), slots.numpy())
    draws = _Draws(seed, own, slot)
    boxes, flips = _crops(draws, side, smallest_area)
    partners = (own + 1 + draws.below(count - 1, 5)) % count
    partner_boxes, partner_flips = _crops(_Draws(seed, partners, slot), side, smallest_area)
    cut = _isqrt(draws.below(side * side, 6))
    edges = []
    for draw in (7, 8):
        first = draws.below(side, draw) - cut // 2
        edges += [np.maximum(0, first), np.minimum(side, first + cut)]
    cuts = np.stack(edges, axis=-1)
    return MixedViews(*map(torch.from_numpy, (boxes, flips, partners, partner_boxes, partner_flips, cuts)))


def views_digest(*, seed: int, count: int, slots: int, side: int, smallest_area: float) -> str:
    """Sixteen hex digits of the views of a set's first images, by which another reader can tell that it has them right.

    Of at most 16 images and 16 slots each, image by image: sha256 over top, left, height, width, flip, partner and the
    four edges of the square, as little-endian 64-bit whole numbers.
    """
    images = torch.arange(min(count, 16))[:, None]
    views = mixed_views(
        images, torch.arange(min(slots, 16)), seed=seed, count=count, side=side, smallest_area=smallest_area
    )
    parts = [views.boxes, views.flips[..., None], views.partners[..., None], views.cuts]
    numbers = np.concatenate([part.numpy().astype("<i8") for part in parts], axis=-1)
    return hashlib.sha256(numbers.tobytes()).hexdigest()[:16]


def mixed_pixels(images: Tensor, rows: Tensor, views: MixedViews) -> Tensor:
    """The pixels `(batch, channels, side, side)` of a mixed view of each row, made where the views are.

    Args:
        images: Of the whole set, `(n, channels, side, side)`, floating point or uint8 (then divided by 255). Only those
            of the batch are moved to the views' device.
        rows: `(batch,)` int64, images.
        views: `(batch,)`, one of each.
    """
    side, device = images.shape[-1], views.flips.device

    def crop(members: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
        pixels = images[members.to(images.device)].to(device)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        crops = crop_and_resize(pixels, torch.arange(len(members), device=device), boxes, side)
        return torch.where(flips.view(-1, 1, 1, 1), crops.flip(-1), crops)

    places = torch.arange(side, device=device)
    first, end, left, right = (each[:, None] for each in views.cuts.unbind(-1))
    inside = ((places >= first) & (places < end))[:, :, None] & ((places >= left) & (places < right))[:, None, :]
    pasted = crop(views.partners, views.partner_boxes, views.partner_flips)
    return torch.where(inside[:, None], pasted, crop(rows, views.boxes, views.flips))


class _Draws:
    """The draws of some images and slots."""

    def __init__(self, seed: int, images: np.ndarray, slots: np.ndarray) -> None:
        bits = _fmix(np.array([(seed + 0x9E3779B9) & 0xFFFFFFFF], dtype=np.uint32))
        for part in (images, slots):
            bits = _fmix(bits ^ part.astype(np.uint32))
        self._bits = _fmix(bits[..., None] ^ np.arange(DRAWS, dtype=np.uint32)) >> np.uint32(8)

    def below(self, limit: np.ndarray | int, draw: int) -> np.ndarray:
        """Whole numbers from 0 up to below a limit, int64."""
        return (self._bits[..., draw].astype(np.int64) * limit) >> 24


def _crops(draws: _Draws, side: int, smallest_area: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes `(..., 4)` and flips `(...)`."""
    least = max(1, math.floor(smallest_area * (side * side)))
    area = least + draws.below(side * side - least + 1, 0)
    up, down = np.moveaxis(RATIOS[draws.below(len(RATIOS), 1)], -1, 0)
    height = np.clip(_isqrt(area * up // down), 1, side)
    width = np.clip(_isqrt(area * down // up), 1, side)
    top, left = draws.below(side - height + 1, 2), draws.below(side - width + 1, 3)
    return np.stack([top, left, height, width], axis=-1), draws.below(2, 4) == 1


def _fmix(bits: np.ndarray) -> np.ndarray:
    """MurmurHash3's finaliser, 32 bits; arrays of uint32 wrap around."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))


def _isqrt(values: np.ndarray) -> np.ndarray:
    """Whole square roots of whole numbers below 2^52, exactly."""
    roots = np.sqrt(values.astype(np.float64)).astype(np.int64)
    roots -= roots * roots > values
    return roots + ((roots + 1) * (roots + 1) <= values)
