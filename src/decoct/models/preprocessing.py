"""What the image processor of a checkpoint does to pixels, found by asking it.

Processors of transformers differ in many fields: `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`,
`do_flip_channel_order`, `rescale_offset`, `include_top` and more. A network needs all of them as it was trained, so
nothing is read from them: the processor is given images of one colour, and what it makes of them says it all.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

__all__ = ["PixelTransform", "pixel_transform", "processor_side"]

LEVELS = (0, 51, 128, 204, 255)
TOLERANCE = 1e-4  # of the range of a channel


class PixelTransform(NamedTuple):
    """A processor as `((pixels - mean) / std)[order]` of RGB pixels in [0, 1], by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: tuple[int, ...]


@np.errstate(invalid="ignore")  # a standard deviation of 0 is refused in words
def pixel_transform(processor: Any, where: str) -> PixelTransform:
    """The transform of a processor; how it resizes and crops is decoct's own matter and does not count.

    Args:
        processor: An image processor of transformers.
        where: The checkpoint, for the message.

    Raises:
        ValueError: If it does something else to pixels than to scale, shift and reorder channels.
    """
    dark = _colour(processor, (0, 0, 0), where)
    bright = [_colour(processor, tuple(255 * (channel == lit) for channel in range(3)), where) for lit in range(3)]
    gains = np.stack(bright, axis=1) - dark[:, None]  # of each output channel by each input channel
    order = np.abs(gains).argmax(axis=1)
    slope = gains[np.arange(3), order]
    others = np.abs(gains).sum(axis=1) - np.abs(slope)
    usable = np.isfinite(gains).all() and (slope > 0).all() and sorted(order) == [0, 1, 2]
    straight = usable and all(
        np.allclose(_colour(processor, (level,) * 3, where), dark + slope * level / 255, atol=TOLERANCE * slope.max())
        for level in LEVELS
    )
    if not straight or (others > TOLERANCE * slope).any():
        raise ValueError(_refusal(where, "scale, shift and reorder channels, by a positive finite factor"))
    mean, std = np.empty(3), np.empty(3)
    mean[order], std[order] = 0.0 - dark / slope, 1 / slope
    return PixelTransform(*_as_written(processor, mean, std), tuple(int(channel) for channel in order))


def processor_side(processor: Any) -> int:
    """The side an image processor crops or resizes to."""
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    sizes = json.loads(json.dumps(dict(crop or getattr(processor, "size", None) or {})))
    side = sizes.get("height") or sizes.get("shortest_edge")
    if not side:
        raise ValueError(f"preprocessor_config.json must name the image size. Got size {sizes}.")
    return int(side)


def _colour(processor: Any, colour: tuple[int, ...], where: str) -> np.ndarray:
    """What becomes of an image of one colour: one value per output channel, float64; a padded border does not count."""
    side, expected = processor_side(processor), "turn an image of one colour into three channels of one value each"
    image = Image.new("RGB", (side, side), colour)
    try:
        made = np.asarray(processor(images=image, return_tensors="np")["pixel_values"], dtype=np.float64)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{_refusal(where, expected)} ({error})") from error
    if made.ndim != 4 or made.shape[:2] != (1, 3):
        raise ValueError(_refusal(where, expected))
    height, width = made.shape[2:]
    middle = made[0, :, height // 4 : height - height // 4, width // 4 : width - width // 4]
    if np.ptp(middle, axis=(1, 2)).max() > TOLERANCE * max(1.0, float(np.abs(middle).max())):
        raise ValueError(_refusal(where, expected))
    return middle[:, 0, 0]


def _as_written(processor: Any, mean: np.ndarray, std: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation as the processor's fields have them, where these are what it does, but for rounding."""
    fields = [getattr(processor, name, None) for name in ("image_mean", "image_std")]
    found = tuple(map(float, mean)), tuple(map(float, std))
    if any(not isinstance(field, list | tuple) or len(field) != 3 for field in fields):
        return found
    written = tuple(map(float, fields[0])), tuple(map(float, fields[1]))  # type: ignore[arg-type]
    return written if np.allclose(written, found, atol=TOLERANCE) else found


def _refusal(where: str, expected: str) -> str:
    return (
        f"The image processor of {where} must {expected}. Got one that does more (see its preprocessor_config.json), "
        "which a network here would not get: take another checkpoint, or train a teacher with scripts/train_teacher.py."
    )
