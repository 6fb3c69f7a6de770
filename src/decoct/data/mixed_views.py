"""Mixed views of a set's images: which crop, flip and CutMix partner each has, as a pure function of three numbers.

A stored soft label describes one view of one image. Where that view is needs no bytes: slot m of image i of a set of n
images is computed from (seed, i, m) by integers alone, so that it is the same in any version of any language.

    fmix(x)          x ^= x >> 16; x *= 0x85EBCA6B; x ^= x >> 13; x *= 0xC2B2AE35; x ^= x >> 16   (MurmurHash3, 32 bits)
    bits(i, m, d)    x = fmix(seed + 0x9E3779B9); x = fmix(x ^ i); x = fmix(x ^ m); x = fmix(x ^ d); x >> 8
    below(k, d)      (bits(i, m, d) * k) >> 24, a whole number in [0, k)

All arithmetic is modulo 2^32 but for the product of `below`, which needs 64 bits. With S the side in pixels, A the
smallest area in pixels and `isqrt` the whole square root, the draws d = 0, 1, … are

    0  area     A + below(S S - A + 1)
    1  ratio    (p, q) = RATIOS[below(7)];  height = isqrt(area p / q), width = isqrt(area q / p), both in [1, S]
    2  top      below(S - height + 1)
    3  left     below(S - width + 1)
    4  flip     below(2)
    5  partner  (i + 1 + below(n - 1)) mod n, or i itself in a set of one image
    6  cut      c = isqrt(below(S S)), the side of the square that shows the partner, uniform in its area
    7  row      y = below(S); the square's rows are those from max(0, y - c / 2) up to min(S, y - c / 2 + c)
    8  column   likewise

where / is whole division. The view is the crop of image i, resized to S x S (bilinear, corners not aligned) and flipped
if asked, in which the square shows the same pixels of the partner's view of slot m, before its own partner is pasted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoct.data.crops import crop_and_resize

__all__ = ["MixedViews", "mixed_pixels", "mixed_views"]

# Height over width: the range 3/4 to 4/3 of random-resized crops, in steps that are about even.
RATIOS = np.array([(3, 4), (5, 6), (11, 12), (1, 1), (12, 11), (6, 5), (4, 3)], dtype=np.int64)


class MixedViews(NamedTuple):
    """The mixed views of a set, int64 and bool.

    Args:
        boxes: `(n, slots, 4)`, top, left, height and width of each crop in pixels.
        flips: `(n, slots)`.
        partners: `(n, slots)`, the image that is pasted.
        cuts: `(n, slots, 4)`, first and end row, first and end column of the pasted square.
    """

    boxes: Tensor
    flips: Tensor
    partners: Tensor
    cuts: Tensor


def mixed_views(seed: int, count: int, slots: int, side: int, smallest_area: float) -> MixedViews:
    """All mixed views of a set.

    Args:
        seed: Its lower 32 bits count.
        count: Images of the set.
        slots: Views of each.
        side: Of the images, in pixels.
        smallest_area: Of a crop, as a share of the image's, in (0, 1].
    """
    image, slot = np.meshgrid(np.arange(count, dtype=np.uint32), np.arange(slots, dtype=np.uint32), indexing="ij")

    def below(limit: np.ndarray | int, draw: int) -> np.ndarray:
        bits = _fmix(np.uint32((seed + 0x9E3779B9) & 0xFFFFFFFF))
        for part in (image, slot, np.uint32(draw)):
            bits = _fmix(bits ^ part)
        return ((bits >> np.uint32(8)).astype(np.int64) * np.asarray(limit, dtype=np.int64)) >> 24

    least = max(1, math.floor(smallest_area * side * side))
    area = least + below(side * side - least + 1, 0)
    up, down = np.moveaxis(RATIOS[below(len(RATIOS), 1)], -1, 0)
    height = np.clip(_isqrt(area * up // down), 1, side)
    width = np.clip(_isqrt(area * down // up), 1, side)
    boxes = np.stack([below(side - height + 1, 2), below(side - width + 1, 3), height, width], axis=-1)
    own = image.astype(np.int64)
    partners = (own + 1 + below(count - 1, 5)) % count if count > 1 else own
    cut = _isqrt(below(side * side, 6))
    cuts = []
    for draw in (7, 8):
        first = below(side, draw) - cut // 2
        cuts += [np.maximum(0, first), np.minimum(side, first + cut)]
    flips = below(2, 4) == 1
    return MixedViews(*map(torch.from_numpy, (boxes, flips, partners, np.stack(cuts, axis=-1))))


def mixed_pixels(images: Tensor, views: MixedViews, rows: Tensor, slots: Tensor) -> Tensor:
    """The pixels `(batch, channels, side, side)` of one mixed view of each row.

    Args:
        images: Of the whole set, `(n, channels, side, side)`, floating point or uint8 (then divided by 255).
        views: Of the whole set, on any device.
        rows: `(batch,)` int64, images.
        slots: `(batch,)` int64, the view of each.
    """
    side, device = images.shape[-1], images.device
    boxes, flips, partners, cuts = (each.to(rows.device)[rows, slots] for each in views)
    others, other_flips = views.boxes.to(rows.device)[partners, slots], views.flips.to(rows.device)[partners, slots]

    def crop(members: Tensor, where: Tensor, turned: Tensor) -> Tensor:
        pixels = images[members.to(device)]
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        crops = crop_and_resize(pixels, torch.arange(len(members), device=device), where.to(device).float(), side)
        return torch.where(turned.to(device).view(-1, 1, 1, 1), crops.flip(-1), crops)

    places = torch.arange(side, device=device)
    first, end, left, right = (each[:, None].to(device) for each in cuts.unbind(-1))
    inside = ((places >= first) & (places < end))[:, :, None] & ((places >= left) & (places < right))[:, None, :]
    return torch.where(inside[:, None], crop(partners, others, other_flips), crop(rows, boxes, flips))


def _fmix(values: np.ndarray | np.uint32) -> np.ndarray:
    """MurmurHash3's finaliser, 32 bits."""
    bits: np.ndarray = np.atleast_1d(np.asarray(values, dtype=np.uint32))  # arrays wrap around, scalars would warn
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = np.multiply(bits ^ (bits >> np.uint32(shift)), np.uint32(factor), dtype=np.uint32)
    return bits


def _isqrt(values: np.ndarray) -> np.ndarray:
    """Whole square roots of whole numbers below 2^52, exactly."""
    roots = np.sqrt(values.astype(np.float64)).astype(np.int64)
    roots -= roots * roots > values
    return roots + ((roots + 1) * (roots + 1) <= values)
