"""Cutting tiles and packing them into images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["compose", "cut_tile", "tile_ranks", "unpack"]


def cut_tile(pixels: Tensor, box: tuple[int, int, int, int], side: int) -> Tensor:
    """One tile `(channels, side, side)` uint8: the box (top, left, height, width) of a uint8 image, resized.

    A box of the tile's own size is copied; otherwise bilinear, antialiased.
    """
    top, left, height, width = box
    crop = pixels[:, top : top + height, left : left + width]
    if (height, width) == (side, side):
        return crop.clone()
    resized = F.interpolate(crop[None].float(), (side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def tile_ranks(images: int, tiles_per_image: int, strided: bool = False) -> Tensor:
    """Which ranks image j shows, `(images, tiles_per_image)`, ranks counting from 0.

    In order (InfoUtil, Alg. 1) image j takes ranks jk … jk+k-1; strided (RDED) it takes j, n+j, 2n+j, 3n+j.
    """
    ranks = torch.arange(images * tiles_per_image)
    return ranks.view(tiles_per_image, images).T if strided else ranks.view(images, tiles_per_image)


def compose(tiles: Tensor) -> Tensor:
    """Mosaics `(images, channels, side, side)` of tiles `(images, k, channels, tile, tile)`, row by row.

    Raises:
        ValueError: If k is not a square number.
    """
    images, count, channels, tile, _ = tiles.shape
    rows = _rows(count)
    grid = tiles.view(images, rows, rows, channels, tile, tile)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(images, channels, rows * tile, rows * tile)


def unpack(images: Tensor, tiles_per_image: int) -> Tensor:
    """The inverse of `compose`: tiles `(images, k, channels, tile, tile)`."""
    count, channels, side, _ = images.shape
    rows = _rows(tiles_per_image)
    if side % rows:
        raise ValueError(f"the image's side must be a multiple of {rows}. Got {side}.")
    tile = side // rows
    grid = images.reshape(count, channels, rows, tile, rows, tile)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(count, tiles_per_image, channels, tile, tile)


def _rows(tiles_per_image: int) -> int:
    rows = math.isqrt(tiles_per_image)
    if rows * rows != tiles_per_image:
        raise ValueError(f"tiles_per_image must be a square number. Got {tiles_per_image}.")
    return rows
