"""The parquet files of a distilled set: which they are, whether they are safe to read, and how not to hold them.

A file of some kilobytes may stand for gigabytes: by its compression, by a long value in a dictionary that many rows
name, or by runs of equal values. `check_footer` and `check_images` refuse it before it is read as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from decoct.files import shown

__all__ = ["check_data", "check_footer", "check_images", "column_bytes", "ipc_files", "open_parquet"]

CODECS = (
    "SNAPPY",
    "UNCOMPRESSED",
)  # decoct writes Snappy, whose bytes cannot stand for more than EXPANSION times as many
EXPANSION = 24
SLACK = 64 * 2**20  # bytes that any file may take when it is read
ROWS = 32  # read at a time


def ipc_files(folder: Path, ipc: int) -> list[Path]:
    """The files of one IPC in a run folder, in order."""
    return sorted(folder.glob(f"data/ipc_{ipc}/*.parquet"))


def open_parquet(path: Path) -> pq.ParquetFile:
    """A file to read batch by batch; with `pre_buffer`, all row groups read so far would stay in memory."""
    return pq.ParquetFile(path, pre_buffer=False)


def check_footer(path: Path, most_rows: int) -> None:
    """Raises ValueError for a file that says of itself that it would take far more memory than it has bytes.

    Args:
        most_rows: Images that belong into it.
    """
    metadata, room = pq.read_metadata(path), EXPANSION * path.stat().st_size + SLACK
    if metadata.num_rows > most_rows:
        raise ValueError(f"{path.name} must have at most {most_rows:,} rows. Got {metadata.num_rows:,}.")
    size = values = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.compression not in CODECS:
                raise ValueError(
                    f"{path.name} must be compressed by Snappy, as decoct writes it. Got {column.compression}, which "
                    "may expand without bound."
                )
            size += column.total_uncompressed_size
            values += column.num_values
    if max(size, 8 * values) > room:
        raise ValueError(
            f"{path.name} must expand to at most {room:,} bytes. Got {size:,} bytes and {values:,} values in a file of "
            f"{path.stat().st_size:,} bytes."
        )


def check_images(path: Path) -> None:
    """Raises ValueError if the images of a file, which its rows may repeat, have far more bytes than the file."""
    room = EXPANSION * path.stat().st_size + SLACK
    with open_parquet(path) as file:
        for batch in (
            file.iter_batches(batch_size=ROWS, columns=["image"]) if "image" in file.schema_arrow.names else ()
        ):
            images = batch.column("image")
            values = images.field("bytes") if pa.types.is_struct(images.type) else images
            room -= pc.sum(pc.binary_length(values)).as_py() or 0
            if room < 0:
                raise ValueError(f"{path.name} must not repeat its images. Got more bytes than the file can hold.")


def check_data(folder: Path, ipc: int, classes: int, source: str | Path) -> None:
    """Raises ValueError where an IPC has no files, or one that cannot be read, fills the memory, or lacks columns.

    Args:
        source: What the folder is called.
    """
    paths = ipc_files(folder, ipc)
    if not paths:
        raise ValueError(f"{source} must hold data/ipc_{ipc}/*.parquet. Got none: distil or download it again.")
    for path in paths:
        try:
            check_footer(path, ipc * classes)
            check_images(path)
            names = pq.read_schema(path).names
            if missing := [name for name in ("image", "label") if name not in names]:
                raise ValueError(f"no column {' and no column '.join(missing)}.")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(
                f"data/ipc_{ipc}/{path.name} of {source} must be parquet that can be read. "
                f"Got: {shown(str(error))} `decoct verify` tells more."
            ) from error


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
