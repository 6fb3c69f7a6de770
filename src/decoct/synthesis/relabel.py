"""Soft labels from a teacher, of tiles, of fixed views and of mixed views (labels `tiles`, `views` and `mixed`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decoct.data.crops import crop_and_resize, random_resized_boxes
from decoct.data.mixed_views import MixedViews, mixed_pixels
from decoct.data.mosaic import unpack
from decoct.models.throughput import Forward

__all__ = ["draw_views", "in_batches", "mixed_logits", "tile_logits", "tiles_of", "view_crops", "view_logits"]


def in_batches(forward: Forward, pixels: Tensor, batch_size: int) -> Tensor:
    """`forward` over chunks of at most `batch_size` images, concatenated, float32."""
    return torch.cat([forward(chunk).float() for chunk in pixels.split(batch_size)])


def tile_logits(forward: Forward, images: Tensor, tiles_per_image: int, batch_size: int) -> Tensor:
    """Logits `(images, k, classes)` of every tile, resized to the image's side (InfoUtil, Alg. 1).

    Args:
        images: `(images, channels, side, side)` in [0, 1].
    """
    tiles = tiles_of(images, tiles_per_image).flatten(0, 1)
    return in_batches(forward, tiles, batch_size).unflatten(0, (len(images), tiles_per_image))


def tiles_of(images: Tensor, tiles_per_image: int) -> Tensor:
    """Every tile, resized to the image's side: `(images, k, channels, side, side)`."""
    tiles = unpack(images, tiles_per_image).flatten(0, 1)
    if tiles_per_image > 1:
        tiles = F.interpolate(tiles, images.shape[-2:], mode="bilinear", align_corners=False)
    return tiles.unflatten(0, (len(images), tiles_per_image))


def draw_views(generator: np.random.Generator, views: int, smallest_area: float) -> np.ndarray:
    """Boxes `(views, 5)` float16 of one image: top, left, height, width in shares of the side, and flip (0 or 1)."""
    drawn = random_resized_boxes(generator, views, (smallest_area, 1.0)).numpy()
    flips = generator.random((views, 1)) < 0.5
    boxes = np.concatenate([drawn, flips], axis=1).astype(np.float16)
    # Rounding to float16 must not push a box out of the image.
    boxes[:, :2] = np.clip(boxes[:, :2], 0, np.float16(1) - boxes[:, 2:4])
    return boxes


def view_crops(images: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
    """The views `(views, channels, side, side)`: cropped, resized to the image's side, flipped where asked.

    Args:
        images: `(images, channels, side, side)` in [0, 1].
        rows: `(views,)` int64, the image of each view.
        boxes: `(views, 5)`, as `draw_views` makes them.
    """
    side = images.shape[-1]
    boxes = boxes.to(images.device, torch.float32)
    crops = crop_and_resize(images, rows, boxes[:, :4] * side, side)
    return torch.where(boxes[:, 4].view(-1, 1, 1, 1) > 0.5, crops.flip(-1), crops)


def view_logits(forward: Forward, images: Tensor, boxes: Tensor, batch_size: int) -> Tensor:
    """Logits `(images, M, classes)` of every view; `boxes` is `(images, M, 5)`. Views are made a batch at a time."""
    count, views = boxes.shape[:2]
    rows = torch.arange(count, device=images.device).repeat_interleave(views)
    flat = boxes.flatten(0, 1)
    logits = [
        forward(view_crops(images, rows[start : start + batch_size], flat[start : start + batch_size])).float()
        for start in range(0, len(rows), batch_size)
    ]
    return torch.cat(logits).unflatten(0, (count, views))


def mixed_logits(
    forward: Forward,
    images: Tensor,
    views_of: Callable[[Tensor, Tensor], MixedViews],
    rows: range,
    slots: int,
    device: torch.device,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All mixed views of some images, image by image: the number of each view's image, and its logits on the CPU.

    A batch is `(views,)` and `(views, classes)`, of at most `batch_size` views; only one is in memory at a time.

    Args:
        images: Of the whole set, `(n, channels, side, side)` uint8, which may lie on disk: partners can be any of them.
        views_of: Numbers of images and slots to their views.
        device: Where views are made and go forward.
    """
    for places in torch.arange(rows.start * slots, rows.stop * slots).split(batch_size):
        members = places // slots
        views = views_of(members, places % slots).to(device)
        yield members, forward(mixed_pixels(images, members, views)).float().cpu()
