"""PIL images to uint8 pixels of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import torch

__all__ = ["UnusableImage", "to_pixels"]


class UnusableImage(ValueError):
    """An image that cannot be read, or is not what it must be; the message says why."""


def to_pixels(images: Sequence[Image.Image], image_size: int, channels: int) -> torch.Tensor:
    """Pixels of shape `(batch, channels, image_size, image_size)`, uint8.

    Images of another size are resized so that the shorter side fits, then centre-cropped; grey becomes RGB, or RGB
    grey, as `channels` asks.

    Raises:
        UnusableImage: If a row has no image, or it was decoded to something else than a PIL image.
    """
    import torch

    mode = "L" if channels == 1 else "RGB"
    rows = []
    for image in images:
        if image is None:
            raise UnusableImage("the row has no image")
        if not isinstance(image, Image.Image):
            raise UnusableImage(
                f"the row has no picture but a {type(image).__name__}: take the dataset `.with_format(None)`"
            )
        image = image if image.mode == mode else image.convert(mode)
        if image.size != (image_size, image_size):
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
        rows.append(np.asarray(image).reshape(image_size, image_size, channels))
    # NumPy's copy: torch's would wake all its threads for a small batch.
    return torch.from_numpy(np.ascontiguousarray(np.stack(rows).transpose(0, 3, 1, 2)))
