"""Cutting boxes out of image batches, and drawing random boxes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_and_resize", "random_resized_box"]


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


def random_resized_box(
    generator: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> tuple[float, float, float, float]:
    """One random-resized-crop box (top, left, height, width) in shares of a square image's side.

    Area uniform in `scale`, aspect ratio log-uniform in `ratio`; ten tries, then the largest centred box, as
    torchvision's `RandomResizedCrop` draws them.
    """
    for _ in range(10):
        area = generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if width <= 1 and height <= 1:
            return generator.uniform(0, 1 - height), generator.uniform(0, 1 - width), height, width
    return 0.0, 0.0, 1.0, 1.0
