"""Measuring what a network must know about its images."""

from __future__ import annotations

import datasets
import numpy as np
from datasets.utils import tqdm

from decoct.data.pixels import to_pixels
from decoct.data.spec import ImageSpec

__all__ = ["measure_spec"]

MEASURED_IMAGES = 10_000
BATCH_SIZE = 64  # images decoded at full size at a time


def measure_spec(images: datasets.Dataset, image_size: int | None = None) -> ImageSpec:
    """Size, channels, per-channel mean and standard deviation, and label names of a dataset from `load_images`.

    Mean and standard deviation are over pixels in [0, 1] of at most 10,000 images, evenly spread over the rows. They
    are exact: each channel's 256 values are counted. A constant channel gets one grey level (1/255) as its deviation.

    Args:
        images: Dataset with columns `image` and `label`.
        image_size: Side in pixels. Default: that of the first image.

    Raises:
        ValueError: If `image_size` is None and the first image is not square.
    """
    channels = 1 if images.features["image"].mode == "L" else 3
    if image_size is None:
        width, height = images[0]["image"].size
        if width != height:
            raise ValueError(f"Images must be square, or --image_size must be given. Got {width}x{height} (row 0).")
        image_size = width
    total = min(len(images), MEASURED_IMAGES)
    rows = np.arange(total) * len(images) // total
    counts = np.zeros((channels, 256), dtype=np.int64)
    column = images.select_columns(["image"]).with_format(None)
    for start in tqdm(range(0, total, BATCH_SIZE), desc="Measuring mean and std", unit="batch"):
        batch = column[rows[start : start + BATCH_SIZE].tolist()]["image"]
        pixels = to_pixels(batch, image_size, channels).numpy()
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    std = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1))
    return ImageSpec(
        image_size=image_size,
        channels=channels,
        mean=tuple(mean.tolist()),
        std=tuple(std.clip(min=1 / 255).tolist()),
        label_names=tuple(images.features["label"].names),
    )
