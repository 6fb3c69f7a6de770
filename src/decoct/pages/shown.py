"""What the report reads from the run's parquet files: the images that it shows, and the bytes of every column."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoct.distilled.parquet import column_bytes, ipc_files, open_parquet
from decoct.distilled.schema import SLOT_COLUMNS

__all__ = ["Storage", "shown_classes", "shown_images", "shown_ipc", "storage_of"]

MAX_CLASSES = 20
IMAGES_PER_CLASS = 2
GENERATED_PER_CLASS = 4  # without source images and heat maps, they need less room
LABEL_COLUMNS = ("label", "tile_logits", "view_logits", "view_boxes", *SLOT_COLUMNS)


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


def shown_images(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The first images of the first classes, class by class, as rows: `number` in the class, `image` (bytes), `label`,
    `tiles` and `tile_logits` (None if they are not stored).
    """
    classes, per_class = shown_classes(manifest), shown_count(manifest)
    counts, rows = [0] * classes, []
    for path in ipc_files(folder, shown_ipc(manifest)):
        with open_parquet(path) as file:
            present = [name for name in ("image", "label", "tiles", "tile_logits") if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=present, batch_size=100):
                if min(counts) >= per_class:
                    break
                for row in batch.to_pylist():
                    label = row["label"]
                    if label < classes and counts[label] < per_class:
                        counts[label] += 1
                        rows.append({"tiles": [], "tile_logits": None, **row, "number": counts[label]})
    return sorted(rows, key=lambda row: (row["label"], row["number"]))


@dataclass(frozen=True)
class Storage:
    """Bytes of one IPC: its columns as they are compressed, and its files.

    Args:
        ipc: Images per class.
        rows: Images.
        images: Bytes of the images.
        labels: Bytes of the class labels and of each kind of soft labels, by column.
        provenance: Bytes of where the tiles come from.
        total: Bytes of the files, which also hold a schema and indices.
    """

    ipc: int
    rows: int
    images: int
    labels: dict[str, int]
    provenance: int
    total: int

    @property
    def mixed_views(self) -> int:
        """Bytes of the labels of mixed views."""
        return sum(self.labels[name] for name in SLOT_COLUMNS)

    @property
    def all_labels(self) -> int:
        """Bytes of all labels."""
        return sum(self.labels.values())


def storage_of(folder: Path, manifest: dict[str, Any]) -> list[Storage]:
    """Bytes of each IPC of a run folder, the smallest first."""
    found = []
    for ipc in sorted(manifest["ipcs"]):
        files = ipc_files(folder, ipc)
        rows, columns = column_bytes(files)
        labels = {name: columns.get(name, 0) for name in LABEL_COLUMNS}
        total = sum(path.stat().st_size for path in files)
        found.append(Storage(ipc, rows, columns.get("image", 0), labels, columns.get("tiles", 0), total))
    return found
