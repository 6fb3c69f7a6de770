"""From heat maps to crop boxes: pooled windows with noise, and RDED's random crops.

Boxes are int64 rows (top, left, height, width) in pixels of a square image, and never leave it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = ["distinct_boxes", "pad_to", "pool_heatmap", "random_boxes", "window_boxes", "window_side"]

Generator: TypeAlias = np.random.Generator | torch.Generator


def pool_heatmap(heatmap: Tensor, crop_fraction: float) -> Tensor:
    """The heat map's mean in each window (InfoUtil, section 3.2.1 and App. B.1).

    A window that covers a part of a patch has that part of it in its mean. Windows of whole patches lie a patch apart,
    which is average pooling with stride 1; others lie evenly, at most a patch apart.

    Args:
        heatmap: `(batch, grid, grid)`.
        crop_fraction: Side of the window as a share of the image's, in (0, 1].

    Returns:
        `(batch, cells, cells)`; a 4x4 map and a half-side window give 3x3.

    Raises:
        ValueError: If `crop_fraction` is not in (0, 1].
    """
    grid_size = heatmap.shape[-1]
    starts = window_starts(grid_size, crop_fraction)[:, None]
    patches = torch.arange(grid_size, dtype=torch.float64)
    end = starts + crop_fraction * grid_size
    covered = (torch.minimum(end, patches + 1) - torch.maximum(starts, patches)).clamp(min=0)
    weights = (covered / covered.sum(1, keepdim=True)).to(heatmap)
    return weights @ heatmap @ weights.T


def window_starts(grid_size: int, crop_fraction: float) -> Tensor:
    """Where windows start along a side of the image, in patches, float64."""
    if not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction must be in (0, 1]. Got {crop_fraction}.")
    room = grid_size * (1 - crop_fraction)
    return torch.linspace(0, room, math.ceil(room - 1e-6) + 1, dtype=torch.float64)


def window_boxes(
    heatmap: Tensor,
    image_size: int,
    crop_fraction: float,
    crops: int,
    noise_scale: float,
    generators: Sequence[Generator],
    crop_center: Literal["pooled", "patch"] = "pooled",
) -> Tensor:
    """Windows at the maxima of the noisy heat maps, the last one at the clean map's (InfoUtil, App. B.1).

    The noise is N(0, sigma^2), sigma = `noise_scale` times the standard deviation of the image's pooled map (division
    by the number of cells). A window has the side `crop_fraction * image_size` and is clipped into the image.

    Args:
        heatmap: `(batch, grid, grid)`.
        image_size: Side of the image, in pixels.
        crop_fraction: Side of a window as a share of the image's, in (0, 1].
        crops: Crops per image, at least 1.
        noise_scale: Alpha in the paper.
        generators: One per image; an image's boxes depend on its own generator alone.
        crop_center: `pooled` centres on the best cell of the pooled map, `patch` on the best single patch.

    Returns:
        `(batch, crops, 4)` int64, on the CPU.

    Raises:
        ValueError: If `crop_fraction` or `crop_center` is out of range, or generators and images differ in number.
    """
    if crop_center not in ("pooled", "patch"):
        raise ValueError(f"crop_center must be one of ['pooled', 'patch']. Got {crop_center!r}.")
    if len(generators) != len(heatmap):
        raise ValueError(f"generators must be one per image, {len(heatmap)}. Got {len(generators)}.")
    heatmap = heatmap.detach().to("cpu", torch.float32)
    grid_size = heatmap.shape[-1]
    pooled = pool_heatmap(heatmap, crop_fraction)
    sigma = noise_scale * pooled.flatten(1).std(dim=1, correction=0)
    field, starts, span = pooled, window_starts(grid_size, crop_fraction), crop_fraction * grid_size
    if crop_center == "patch":
        field, starts, span = heatmap, torch.arange(grid_size, dtype=torch.float64), 1
    cells = field.shape[-1]
    noise = torch.stack([standard_normal(generator, (crops - 1, cells**2)) for generator in generators])
    clean = field.flatten(1)[:, None]
    best = torch.cat([clean + sigma[:, None, None] * noise, clean], dim=1).argmax(dim=2)
    side = window_side(image_size, crop_fraction)
    patch = image_size / grid_size
    centre = starts[torch.stack([best // cells, best % cells], dim=-1)] * patch + span * patch / 2
    corner = torch.floor(centre - side / 2 + 0.5).long().clamp(0, image_size - side)
    return torch.cat([corner, torch.full_like(corner, side)], dim=-1)


def random_boxes(image_size: int, crops: int, generator: Generator) -> Tensor:
    """Random square crops, `(crops, 4)` int64: area uniform in 8 to 100 % of the image's, as RDED draws them.

    RDED (Sun et al., 2024) uses `RandomResizedCrop` with its default scale and an aspect ratio of 1.
    """
    area, top, left = uniform(generator, (crops, 3)).T
    side = torch.floor(torch.sqrt(0.08 + 0.92 * area) * image_size + 0.5).long().clamp(1, image_size)
    room = image_size - side + 1
    return torch.stack([(top * room).long(), (left * room).long(), side, side], dim=1)


def distinct_boxes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of `boxes` `(crops, 4)`, and for each crop the row that holds its box, `(crops,)`."""
    unique, inverse = torch.unique(boxes, dim=0, return_inverse=True)
    return unique, inverse


def pad_to(pixels: Tensor, size: int, value: Sequence[float]) -> Tensor:
    """Pixels of shape `(batch, channels, size, size)`: the images in the centre, `value` per channel around them.

    RDED scores its crops so; with the channel means as `value`, the border is 0 after normalisation.

    Raises:
        ValueError: If the images are larger than `size`.
    """
    batch, channels, height, width = pixels.shape
    if max(height, width) > size:
        raise ValueError(f"size must be at least the images' {height}x{width}. Got {size}.")
    padded = pixels.new_tensor(value).view(1, -1, 1, 1).repeat(batch, 1, size, size)
    top, left = (size - height) // 2, (size - width) // 2
    padded[:, :, top : top + height, left : left + width] = pixels
    return padded


def window_side(image_size: int, crop_fraction: float) -> int:
    """Side of a window in whole pixels, at least 1; halves round up."""
    return max(1, math.floor(crop_fraction * image_size + 0.5))


def standard_normal(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Draws of N(0, 1) from a NumPy or torch generator, float32."""
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator)
    return torch.from_numpy(generator.standard_normal(shape)).float()


def uniform(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Draws of U(0, 1) from a NumPy or torch generator, float64."""
    if isinstance(generator, torch.Generator):
        return torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.from_numpy(generator.random(shape))
