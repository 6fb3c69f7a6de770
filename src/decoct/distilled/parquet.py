"""The parquet files of a distilled set: which they are, and how they are read without holding them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

__all__ = ["column_bytes", "ipc_files", "open_parquet"]


def ipc_files(folder: Path, ipc: int) -> list[Path]:
    """The files of one IPC in a run folder, in order."""
    return sorted(folder.glob(f"data/ipc_{ipc}/*.parquet"))


def open_parquet(path: Path) -> pq.ParquetFile:
    """A file to read batch by batch; with `pre_buffer`, all row groups read so far would stay in memory."""
    return pq.ParquetFile(path, pre_buffer=False)


def column_bytes(files: Iterable[Path]) -> tuple[int, dict[str, int]]:
    """Rows of files, and the compressed bytes of each top-level column."""
    rows, sizes = 0, Counter[str]()
    for path in files:
        metadata = pq.read_metadata(path)
        rows += metadata.num_rows
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                sizes[column.path_in_schema.split(".")[0]] += column.total_compressed_size
    return rows, dict(sizes)
