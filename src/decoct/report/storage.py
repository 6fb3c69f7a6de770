"""How many bytes a distilled set takes, column by column, as its parquet files say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from decoct.report.shown import ipc_files

__all__ = ["Storage", "column_bytes", "storage_of"]

LABEL_COLUMNS = ("label", "tile_logits", "view_logits", "view_boxes")


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


def column_bytes(files: Sequence[Path]) -> tuple[int, dict[str, int]]:
    """Rows of parquet files, and the compressed bytes of each top-level column."""
    rows, sizes = 0, {}  # type: int, dict[str, int]
    for path in files:
        metadata = pq.read_metadata(path)
        rows += metadata.num_rows
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                name = column.path_in_schema.split(".")[0]
                sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    return rows, sizes
