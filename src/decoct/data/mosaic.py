"""Cutting tiles and packing them into images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["compose", "cut_tiles", "tile_ranks", "unpack"]


def cut_tiles(pixels: Tensor, rows: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Tiles `(tiles, channels, side, side)` uint8, as they are stored and as they are scored: boxes of images, resized.

    A box of the tile's own size is copied; otherwise bilinear, antialiased.

    Args:
        pixels: `(images, channels, height, width)` uint8.
        rows: `(tiles,)` int64, the image of each tile.
        boxes: `(tiles, 4)` int64, top, left, height, width in pixels.
        side: Of a tile, in pixels.
    """
    tiles = pixels.new_empty(len(rows), pixels.shape[1], side, side)
    for height, width in boxes[:, 2:].unique(dim=0).tolist():
        members = (boxes[:, 2:] == boxes.new_tensor([height, width])).all(1).nonzero().flatten()
        places = zip(rows[members].tolist(), boxes[members, :2].tolist(), strict=True)
        crops = torch.stack([pixels[row, :, top : top + height, left : left + width] for row, (top, left) in places])
        if (height, width) != (side, side):
            size = (side, side)
            resized = F.interpolate(crops.float(), size, mode="bilinear", align_corners=False, antialias=True)
            crops = resized.round().clamp(0, 255).to(torch.uint8)
        tiles[members] = crops
    return tiles


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
