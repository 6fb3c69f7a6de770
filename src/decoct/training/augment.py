"""Batched augmentation of distilled images: tile shuffling, random-resized crops, flips, colours and CutMix."""

from __future__ import annotations

import math
from functools import lru_cache

import kornia.augmentation as K
import numpy as np
import torch
from kornia.augmentation.auto import RandAugment
from kornia.color import rgb_to_grayscale
from torch import Tensor, nn

from decoct.data.crops import crop_and_resize

__all__ = [
    "add_lighting",
    "color_jitter_choices",
    "crop_and_flip",
    "cutmix",
    "cutmix_box",
    "jitter_colors",
    "padded_crops",
    "rand_augment",
    "shuffle_tiles",
    "tile_orders",
    "tile_shares",
]

# Principal components of the colours of ImageNet (Krizhevsky et al., 2012; the values of MiniMax, data.py, and of most
# code since): standard deviations, and one direction in each column, red, green and blue in its rows.
COLOR_DEVIATIONS = (0.2175, 0.0188, 0.0045)
COLOR_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


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


def color_jitter_choices(generator: np.random.Generator, count: int, strength: float) -> tuple[Tensor, Tensor]:
    """Random changes of colour of `count` images (IDC and MiniMax, misc/utils.py).

    Returns:
        Shares of brightness, contrast and saturation, `(count, 3)` float32, uniform in [-strength, strength]; and the
        order they come in, `(count, 3)` int64 with 0, 1 and 2 in each row.
    """
    shares = torch.from_numpy(generator.uniform(-strength, strength, (count, 3))).float()
    return shares, torch.from_numpy(generator.permuted(np.tile(np.arange(3), (count, 1)), axis=1))


def jitter_colors(pixels: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
    """Images moved by a share towards black (0, brightness), their mean grey (1, contrast) and grey (2, saturation).

    Values are not clamped, as in IDC and MiniMax; negative shares move away. Grey images have no saturation to change.

    Args:
        pixels: `(batch, channels, side, side)`, floating point.
        shares: `(batch, 3)`, by change.
        orders: `(batch, 3)` int64, the change that comes first, second and third.
    """
    shares, orders = shares[:, :, None, None, None], orders[:, :, None, None, None]
    for change in orders.unbind(dim=1):
        grey = rgb_to_grayscale(pixels) if pixels.shape[1] == 3 else pixels
        target = torch.where(change == 2, grey, torch.where(change == 1, grey.mean(dim=(2, 3), keepdim=True), 0.0))
        pixels = pixels.lerp(target.expand_as(pixels), shares.gather(1, change[:, None])[:, 0])
    return pixels


def padded_crops(side: int, padding: int | None = None, flip: bool = True) -> nn.Module:
    """Random crops of the padded image, and horizontal flips, by torch's global generator.

    Args:
        side: Of the images and their crops.
        padding: In pixels; 0: no crops. Default: an eighth of the side.
    """
    padding = side // 8 if padding is None else padding
    layers: list[nn.Module] = []
    if padding:
        layers.append(K.RandomCrop((side, side), padding=padding, cropping_mode="slice"))
    if flip:
        layers.append(K.RandomHorizontalFlip())
    return K.ImageSequential(*layers)


def rand_augment(pixels: Tensor, operations: int, magnitude: int) -> Tensor:
    """Images after a few random operations, by torch's global generator (RandAugment, Cubuk et al., 2020).

    All images of a batch have the same operations, and signs of their own.

    Args:
        pixels: `(batch, channels, side, side)` in [0, 1], grey or RGB.
        operations: How many of Kornia's fifteen, each at most once.
        magnitude: Of each, above 0 and below 30.
    """
    changed = rand_augmentation(operations, magnitude)(pixels.expand(-1, 3, -1, -1))
    return changed if pixels.shape[1] == 3 else rgb_to_grayscale(changed)


@lru_cache(maxsize=8)
def rand_augmentation(operations: int, magnitude: int) -> RandAugment:
    """Kornia's module, which takes long to make."""
    return RandAugment(operations, magnitude)


def add_lighting(pixels: Tensor, strengths: Tensor) -> Tensor:
    """RGB images with one colour added to all pixels, along ImageNet's principal colours; others stay as they are.

    Args:
        pixels: `(batch, channels, side, side)`, floating point; values are not clamped.
        strengths: `(batch, 3)`, multiples of each principal colour's standard deviation.
    """
    if pixels.shape[1] != 3:
        return pixels
    colors = (strengths * strengths.new_tensor(COLOR_DEVIATIONS)) @ strengths.new_tensor(COLOR_DIRECTIONS).T
    return pixels + colors[:, :, None, None]


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
