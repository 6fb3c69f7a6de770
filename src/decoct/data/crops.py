"""Cutting boxes out of image batches, and drawing random boxes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_and_resize", "random_resized_boxes"]


def crop_and_resize(pixels: Tensor, rows: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Bilinear crops of an image batch, each resized to `size`, as `F.interpolate` does crop by crop.

    Args:
        pixels: `(batch, channels, height, width)`, floating point.
        rows: `(crops,)` int64, the image of each crop.
        boxes: `(crops, 4)` float, top, left, height, width in pixels; fractions of a pixel are allowed.
        size: Side of the result, in pixels.

    Returns:
        `(crops, channels, size, size)`. Nothing outside a box leaks into its crop.
    """
    height, width = pixels.shape[-2:]
    steps = (torch.arange(size, device=pixels.device, dtype=torch.float32) + 0.5) / size
    boxes = boxes.to(device=pixels.device, dtype=torch.float32)

    def coordinates(start: Tensor, length: Tensor, total: int) -> Tensor:
        position = start[:, None] + steps * length[:, None] - 0.5
        position = torch.maximum(position, start[:, None])
        position = torch.minimum(position, (start + length - 1).clamp_min(start)[:, None])
        return (position + 0.5) * 2 / total - 1

    y = coordinates(boxes[:, 0], boxes[:, 2], height)
    x = coordinates(boxes[:, 1], boxes[:, 3], width)
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    return F.grid_sample(
        pixels[rows], grid.to(pixels.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )


def random_resized_boxes(
    generator: np.random.Generator, count: int, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Tensor:
    """`count` random-resized-crop boxes of a square image.

    Area uniform in `scale`, aspect ratio log-uniform in `ratio`; ten tries, then the whole image, as torchvision's
    `RandomResizedCrop` draws them.

    Returns:
        `(count, 4)` float32: top, left, height, width in shares of the side.
    """
    area = generator.uniform(*scale, size=(count, 10))
    aspect = np.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1]), size=(count, 10)))
    place = generator.uniform(size=(count, 2))
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = (width <= 1) & (height <= 1)
    first = (np.arange(count), fits.argmax(axis=1))
    found = fits.any(axis=1)
    height, width = np.where(found, height[first], 1.0), np.where(found, width[first], 1.0)
    boxes = np.stack([place[:, 0] * (1 - height), place[:, 1] * (1 - width), height, width], axis=1)
    return torch.from_numpy(boxes.astype(np.float32))
