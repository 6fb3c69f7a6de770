"""Batched augmentation of distilled images: tile shuffling, random-resized crops, flips and CutMix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from decoct.data.crops import crop_and_resize

__all__ = [
    "crop_and_flip",
    "cutmix",
    "cutmix_box",
    "shuffle_tiles",
    "tile_orders",
    "tile_shares",
]


def tile_orders(generator: np.random.Generator, count: int, tiles_per_image: int) -> Tensor:
    """Random orders of each image's tiles: its rows and its columns of tiles are permuted (RDED, validation/utils.py).

    Returns:
        `(count, tiles)` int64; entry j is the tile that comes to place j, places counted row by row.
    """
    side = math.isqrt(tiles_per_image)
    grid = np.tile(np.arange(side), (count, 1))
    rows, columns = generator.permuted(grid, axis=1), generator.permuted(grid, axis=1)
    return torch.from_numpy((rows[:, :, None] * side + columns[:, None, :]).reshape(count, side * side))


def shuffle_tiles(pixels: Tensor, orders: Tensor) -> Tensor:
    """Images with their tiles rearranged.

    Args:
        pixels: `(batch, channels, side, side)`, mosaics of g x g tiles.
        orders: `(batch, g * g)` int64, from `tile_orders`.

    Raises:
        ValueError: If the side is not a multiple of g.
    """
    batch, channels, side, _ = pixels.shape
    grid = math.isqrt(orders.shape[1])
    if side % grid:
        raise ValueError(f"The side of a mosaic must be a multiple of {grid}, its tiles a row. Got {side} pixels.")
    tile = side // grid
    tiles = pixels.view(batch, channels, grid, tile, grid, tile).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = tiles[torch.arange(batch, device=pixels.device)[:, None], orders]
    return moved.unflatten(1, (grid, grid)).permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, side, side)


def tile_shares(boxes: Tensor, tiles_per_image: int) -> Tensor:
    """Share of each box that each tile covers.

    Args:
        boxes: `(batch, 4)` top, left, height, width in shares of the side.
        tiles_per_image: A square number, g * g.

    Returns:
        `(batch, tiles)`, tiles row by row; rows sum to 1.
    """
    grid = math.isqrt(tiles_per_image)
    edges = torch.arange(grid + 1, device=boxes.device, dtype=boxes.dtype) / grid

    def overlap(start: Tensor, length: Tensor) -> Tensor:
        low = torch.maximum(start[:, None], edges[:-1])
        high = torch.minimum((start + length)[:, None], edges[1:])
        return (high - low).clamp_min(0) / length[:, None]

    rows, columns = overlap(boxes[:, 0], boxes[:, 2]), overlap(boxes[:, 1], boxes[:, 3])
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def crop_and_flip(pixels: Tensor, boxes: Tensor | None, flips: Tensor) -> Tensor:
    """One view of each image: its box, resized to the image's size, then mirrored where asked.

    Args:
        pixels: `(batch, channels, side, side)`, floating point.
        boxes: `(batch, 4)` top, left, height, width in shares of the side; None keeps whole images.
        flips: `(batch,)` bool.
    """
    if boxes is not None:
        side = pixels.shape[-1]
        pixels = crop_and_resize(pixels, torch.arange(len(pixels), device=pixels.device), boxes * side, side)
    return torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)


def cutmix_box(generator: np.random.Generator, side: int, alpha: float) -> tuple[int, int, int, int]:
    """A CutMix box (top, bottom, left, right) in pixels, bottom and right exclusive (RDED, validation/utils.py).

    Its area before clipping is 1 - lambda of the image's, lambda from Beta(alpha, alpha); its centre is uniform.
    """
    length = int(side * math.sqrt(1 - generator.beta(alpha, alpha)))
    row, column = int(generator.integers(side)), int(generator.integers(side))
    top, left = max(row - length // 2, 0), max(column - length // 2, 0)
    return top, min(row + length // 2, side), left, min(column + length // 2, side)


def cutmix(pixels: Tensor, partners: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, float]:
    """Images with one box taken from their partner (Yun et al., ICCV 2019), and the share of the image that stays.

    Args:
        pixels: `(batch, channels, side, side)`.
        partners: `(batch,)` int64, the row each image takes the box from.
        box: Top, bottom, left, right in pixels.
    """
    top, bottom, left, right = box
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels[partners, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (pixels.shape[-1] * pixels.shape[-2])
