"""Which images can be read, and their modes and sizes: by one pass over all of them, or of each when it is read."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
from datasets.fingerprint import Hasher
from PIL import Image

from decoct.data.pixels import UnusableImage

__all__ = [
    "DECODE_ERRORS",
    "CheckedImage",
    "checked_when_read",
    "inspect_image",
    "inspect_images",
    "named_rows",
    "reason_of",
    "to_eight_bits",
]

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
GREY = ("1", "L", "LA")
PROBED = 64  # images whose headers say what the others are taken to be
SHOWN = 5
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


@dataclass
class CheckedImage(datasets.Image):
    """A column of images of 8 bits a channel that are checked when they are read.

    Args:
        size: Width and height that each must have; None: any.
    """

    size: tuple[int, int] | None = None

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """The image in `mode`.

        Raises:
            UnusableImage: If it cannot be read, has more bits or another size; the message names its file.
        """
        if not isinstance(value, dict):
            return value  # it is an image already
        place = f" ({value['path']})" if value.get("path") else ""
        try:
            image = datasets.Image().decode_example(value, token_per_repo_id)
        except DECODE_ERRORS as error:
            raise UnusableImage(f"{reason_of(error)}{place}") from error
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            raise UnusableImage(
                f"it has mode {image.mode} where others have 8 bits; --bit_depth says which are used{place}"
            )
        if self.size is not None and image.size != self.size:
            sizes = [f"{width}x{height}" for width, height in (image.size, self.size)]
            raise UnusableImage(f"it is {sizes[0]} where others are {sizes[1]}; --image_size makes them alike{place}")
        return image if image.mode == self.mode else image.convert(self.mode)


def checked_when_read(images: datasets.Dataset, any_size: bool, any_mode: bool) -> datasets.Dataset | None:
    """The images, in RGB, checked when they are read; None where it takes a look at all to say what they are.

    The headers of a few, evenly spread, tell: one image in colour makes a dataset RGB, whatever the others are. Of
    images with 16 bits all have to be seen, and of grey ones, unless what reads them makes them grey or RGB itself.

    Args:
        images: Dataset with the one column `image`, undecoded (`datasets.Image(decode=False)`).
        any_size: Images need not be square and of one size.
        any_mode: It does not matter whether all are grey.
    """
    rows = np.unique(np.linspace(0, len(images) - 1, PROBED).astype(int))
    headers = [header for header in map(header_of, images.select(rows)["image"]) if header is not None]
    if not headers:
        return None
    modes, sizes = {mode for mode, _ in headers}, {size for _, size in headers}
    wide = any(mode in ("I", "F") or mode.startswith("I;16") for mode in modes)
    if wide or (not any_mode and modes <= set(GREY)):
        return None
    if any_size:
        return images.cast_column("image", CheckedImage(mode="RGB"))
    size = sizes.pop()
    if sizes or size[0] != size[1]:
        return None
    return images.cast_column("image", CheckedImage(mode="RGB", size=size))


def header_of(value: dict[str, Any] | None) -> tuple[str, tuple[int, int]] | None:
    """Mode and size of an image, without decoding it; None if it has no header that can be read."""
    if value is None:
        return None
    try:
        with Image.open(io.BytesIO(value["bytes"]) if value["bytes"] is not None else Path(value["path"])) as image:
            return image.mode, image.size
    except DECODE_ERRORS:
        return None


@contextlib.contextmanager
def named_rows(images: datasets.Dataset, rows: Sequence[int]) -> Iterator[None]:
    """Raises ValueError with the rows at fault where an image that is read inside the block cannot be used.

    Args:
        rows: Of the images, those that are read inside.
    """
    try:
        yield
    except UnusableImage:
        feature = images.features["image"]
        undecoded = images.with_format(None).select(rows).cast_column("image", datasets.Image(decode=False))
        reasons: dict[int, str] = {}
        for row, value in enumerate(undecoded["image"]):
            try:
                if value is None:
                    raise UnusableImage("the row has no image")
                feature.decode_example(value)
            except UnusableImage as error:
                reasons[undecoded[row].get("source_index", row)] = str(error)
        shown = "\n".join(f"  row {row}: {reason}" for row, reason in list(reasons.items())[:SHOWN])
        rest = f"\n  … and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        raise ValueError(
            f"{len(reasons)} of {len(rows)} images that were read cannot be used:\n{shown}{rest}\nRepair them, or "
            "leave them out with --skip_unreadable, which looks at all images first."
        ) from None


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
    columns = zip(*pool.map(inspect_image, values), strict=True)
    return {name: list(column) for name, column in zip(FEATURES, columns, strict=True)}


def inspect_image(value: dict[str, Any] | None) -> tuple[str | None, int | None, int | None, int | None, str | None]:
    """One row of `inspect_images`."""
    if value is None:
        return None, None, None, None, "the row has no image"
    try:
        image = datasets.Image().decode_example(value)
    except DECODE_ERRORS as error:
        return None, None, None, None, reason_of(error)
    highest = int(np.asarray(image).max()) if image.mode.startswith("I;16") else None
    return image.mode, image.width, image.height, highest, None


def reason_of(error: Exception) -> str:
    """What Pillow says of a damaged file, without addresses in memory."""
    return f"{type(error).__name__}: " + re.sub(r" <_io\.\w+ object at \w+>", "", str(error))


def _upper_byte(value: dict[str, Any], bit_depth: int) -> dict[str, Any]:
    image = datasets.Image().decode_example(value)
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(image) >> (bit_depth - 8)).astype(np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}
