"""What the report shows of the source, which is at hand only while distilling: real images, and their bytes."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from PIL import Image

from decoct.data.loading import source_rows
from decoct.data.pixels import to_pixels
from decoct.pages.shown import shown_classes, shown_images

__all__ = ["Sources", "collect_sources", "data_uri", "encoded_bytes"]

SMALL = 64  # px; images up to this side stay lossless
THUMBNAIL = 160  # px; larger ones are reduced to this side
JPEG_QUALITY = 82
ROWS_READ = 1000


@dataclass(frozen=True)
class Sources:
    """Real images of a run, as the report shows and keeps them.

    Args:
        images: Images of the source.
        bytes: Bytes of their files or encoded values; None if they cannot be told.
        crops: By source index, the images that shown crops come from, as data URIs.
        real: By class, the images that are shown beside generated ones, as data URIs.
    """

    images: int
    bytes: int | None
    crops: dict[int, str] = field(default_factory=dict)
    real: dict[int, list[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, which `from_json` reads."""
        crops = {str(index): uri for index, uri in self.crops.items()}
        real = {str(label): uris for label, uris in self.real.items()}
        return {"images": self.images, "bytes": self.bytes, "crops": crops, "real": real}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Sources:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        size = values["bytes"]
        return cls(
            images=int(values["images"]),
            bytes=None if size is None else int(size),
            crops={int(index): str(uri) for index, uri in values["crops"].items()},
            real={int(label): [str(uri) for uri in uris] for label, uris in values["real"].items()},
        )


def collect_sources(folder: Path, manifest: dict[str, Any], images: Dataset) -> Sources:
    """The real images that the report of a run shows.

    Args:
        folder: Run folder; the images of its IPCs must lie there.
        manifest: Of the run.
        images: The whole source, from `load_images`.
    """
    side, channels = manifest["image_size"], manifest["channels"]

    def encoded(rows: np.ndarray) -> list[str]:
        pixels = to_pixels(images.select(rows)["image"][:], side, channels)
        return [data_uri(Image.fromarray(each.squeeze(0).numpy() if channels == 1 else each.permute(1, 2, 0).numpy()))
                for each in pixels]  # fmt: skip

    shown = shown_images(folder, manifest)
    used = {tile["source_index"] for row in shown for tile in row["tiles"] if "source_index" in tile}
    rows = np.flatnonzero(np.isin(np.asarray(images["source_index"][:]), sorted(used)))
    crops = dict(zip(images.select(rows)["source_index"][:], encoded(rows), strict=True)) if len(rows) else {}
    real = {}
    if manifest["config"]["method"] == "igds":
        labels = np.asarray(images["label"][:])
        for label in range(shown_classes(manifest)):
            count = sum(row["label"] == label for row in shown)
            real[label] = encoded(np.flatnonzero(labels == label)[:count])
    count = source_rows(images)
    return Sources(count, encoded_bytes(images) if count == len(images) else None, crops, real)


def encoded_bytes(images: Dataset) -> int | None:
    """Bytes of all images as they are stored: encoded values, or files; None if a file is not there to be measured."""
    total = 0
    for batch in images.select_columns(["image"]).with_format("arrow").iter(ROWS_READ):
        column = batch["image"].combine_chunks()
        values, paths = column.field("bytes"), column.field("path")
        total += pc.sum(pc.binary_length(values)).as_py() or 0
        for path in pc.filter(paths, pc.is_null(values)).to_pylist():
            try:
                total += os.stat(path).st_size
            except (OSError, TypeError):  # inside an archive, or no path at all
                return None
    return total


def data_uri(image: Image.Image) -> str:
    """An image as a data URI: PNG if it is small, else a reduced JPEG."""
    buffer, kind = io.BytesIO(), "png"
    if max(image.size) <= SMALL:
        image.save(buffer, "PNG", optimize=True)
    else:
        kind, image = "jpeg", image.convert("L" if image.mode == "L" else "RGB")
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
