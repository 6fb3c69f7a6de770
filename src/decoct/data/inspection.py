"""One decoding pass over a dataset: which rows can be read, and the mode and size of each image."""

from __future__ import annotations

import io
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import PIL
from datasets.fingerprint import Hasher
from PIL import Image

__all__ = ["inspect_images", "to_eight_bits"]

# What Pillow's decoders raise for damaged files.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
BATCH_SIZE = 256
FEATURES = datasets.Features(
    {
        "mode": datasets.Value("string"),
        "width": datasets.Value("int32"),
        "height": datasets.Value("int32"),
        "highest": datasets.Value("int32"),
        "error": datasets.Value("string"),
    }
)


def inspect_images(images: datasets.Dataset) -> datasets.Dataset:
    """Mode, width, height, highest value (of 16-bit grey) and decoding error (null if readable) of every image.

    One pass in batches: memory does not grow with the dataset, and pixels are not kept. The result is cached beside a
    dataset that lies on disk, so later stages do not decode again.

    Args:
        images: Dataset with the one column `image`, undecoded (`datasets.Image(decode=False)`).
    """
    fingerprint = Hasher.hash(["decoct inspection with highest values", images._fingerprint, PIL.__version__])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return images.map(
            lambda batch: _inspect_batch(batch["image"], pool),
            batched=True,
            batch_size=BATCH_SIZE,
            remove_columns=["image"],
            features=FEATURES,
            new_fingerprint=fingerprint,
            desc="Inspecting images",
        )


def to_eight_bits(images: datasets.Dataset, rows: list[int], bit_depth: int) -> datasets.Dataset:
    """The same undecoded images, those at `rows` rewritten from 16-bit grey to 8-bit PNG: the upper 8 of its bits.

    Pillow's own conversion clips at 255 instead of scaling, which would turn most 16-bit images white.
    """
    wide = set(rows)

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        values = batch["image"]
        return {
            "image": [
                _upper_byte(value, bit_depth) if row in wide else value
                for value, row in zip(values, indices, strict=True)
            ]
        }

    return images.map(
        convert,
        batched=True,
        batch_size=BATCH_SIZE,
        with_indices=True,
        features=images.features,
        new_fingerprint=Hasher.hash(["decoct 16 to 8 bits", images._fingerprint, rows, bit_depth]),
        desc="Converting 16-bit images",
    )


def _inspect_batch(values: list[dict[str, Any]], pool: ThreadPoolExecutor) -> dict[str, list[Any]]:
    columns = zip(*pool.map(_inspect_image, values), strict=True)
    return {name: list(column) for name, column in zip(FEATURES, columns, strict=True)}


def _inspect_image(value: dict[str, Any] | None) -> tuple[str | None, int | None, int | None, int | None, str | None]:
    if value is None:
        return None, None, None, None, "the row has no image"
    try:
        image = datasets.Image().decode_example(value)
    except DECODE_ERRORS as error:
        reason = re.sub(r" <_io\.\w+ object at \w+>", "", str(error))
        return None, None, None, None, f"{type(error).__name__}: {reason}"
    highest = int(np.asarray(image).max()) if image.mode.startswith("I;16") else None
    return image.mode, image.width, image.height, highest, None


def _upper_byte(value: dict[str, Any], bit_depth: int) -> dict[str, Any]:
    image = datasets.Image().decode_example(value)
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(image) >> (bit_depth - 8)).astype(np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}
