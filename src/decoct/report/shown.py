"""Which distilled images the report shows, read from the run's parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

__all__ = ["ipc_files", "shown_classes", "shown_images", "shown_ipc"]

MAX_CLASSES = 20
IMAGES_PER_CLASS = 2
GENERATED_PER_CLASS = 4  # without source images and heat maps, they need less room


def shown_classes(manifest: dict[str, Any]) -> int:
    """How many classes are shown: the first ones, so that the page of 1,000 classes stays small."""
    return min(len(manifest["label_names"]), MAX_CLASSES)


def shown_count(manifest: dict[str, Any]) -> int:
    """How many images of a class are shown, if there are as many."""
    return GENERATED_PER_CLASS if manifest["config"]["method"] == "igds" else IMAGES_PER_CLASS


def shown_ipc(manifest: dict[str, Any]) -> int:
    """The IPC whose images are shown: the smallest with enough of them, else the largest."""
    ipcs = sorted(manifest["ipcs"])
    return next((ipc for ipc in ipcs if ipc >= shown_count(manifest)), ipcs[-1])


def ipc_files(folder: Path, ipc: int) -> list[Path]:
    """The parquet files of an IPC, in order."""
    return sorted(folder.glob(f"data/ipc_{ipc}/*.parquet"))


def shown_images(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The first images of the first classes, class by class, as rows: `number` in the class, `image` (bytes), `label`,
    `tiles` and `tile_logits` (None if they are not stored).
    """
    classes, per_class = shown_classes(manifest), shown_count(manifest)
    counts: dict[int, int] = {}
    rows = []
    for path in ipc_files(folder, shown_ipc(manifest)):
        file = pq.ParquetFile(path, pre_buffer=False)  # else all row groups read so far stay in memory
        present = [name for name in ("image", "label", "tiles", "tile_logits") if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=present, batch_size=100):
            if min((counts.get(label, 0) for label in range(classes)), default=0) >= per_class:
                break
            for row in batch.to_pylist():
                label = row["label"]
                if label < classes and counts.get(label, 0) < per_class:
                    counts[label] = counts.get(label, 0) + 1
                    rows.append({"tiles": [], "tile_logits": None, **row, "number": counts[label]})
    return sorted(rows, key=lambda row: (row["label"], row["number"]))
