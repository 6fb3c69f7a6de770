"""Parquet that is small on disk and huge in memory: refused before it is read as a whole.

A file of some kilobytes may stand for gigabytes: by its compression, by a long value in a dictionary that many rows
name, or by runs of equal values. Images are compressed already, so that parquet files of them hardly expand.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["check_expansion"]

EXPANSION = 100
SLACK = 64 * 2**20  # bytes that any file may take when it is read
ROWS = 32  # read at a time


def check_expansion(path: Path) -> None:
    """Raises ValueError for a parquet file that would take far more memory than it has bytes; it reads little of it."""
    size, metadata = path.stat().st_size, pq.read_metadata(path)
    room = EXPANSION * size + SLACK
    chunks = [
        metadata.row_group(group).column(number)
        for group in range(metadata.num_row_groups)
        for number in range(metadata.num_columns)
    ]
    binary = [chunk for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"]
    needed = max(sum(chunk.total_uncompressed_size for chunk in chunks), 8 * sum(chunk.num_values for chunk in chunks))
    # Where each row names the longest value that there can be.
    if needed <= room and sum(chunk.num_values * chunk.total_uncompressed_size for chunk in binary) > room:
        needed = _bytes_of_values(path, sorted({chunk.path_in_schema for chunk in binary}), room)
    if needed > room:
        raise ValueError(
            f"{path} must expand to at most {room:,} bytes. Got more in a file of {size:,} bytes, by compression or "
            "repeated values: write it again with each image once."
        )


def _bytes_of_values(path: Path, columns: list[str], most: int) -> int:
    """Bytes of all values of binary and text columns, counted until they are more than that."""
    count = 0
    # As dictionaries, values that rows repeat are there once.
    with pq.ParquetFile(path, read_dictionary=columns, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=columns):
            count += sum(map(_binary_bytes, batch.columns))
            if count > most:
                break
    return count


def _binary_bytes(values: pa.Array) -> int:
    """Bytes of the binary and text values in an array, those in its fields and lists too."""
    if pa.types.is_struct(values.type):
        return sum(_binary_bytes(values.field(number)) for number in range(values.type.num_fields))
    if pa.types.is_dictionary(values.type):
        lengths = pc.take(pc.binary_length(values.dictionary), values.indices)
    elif pa.types.is_nested(values.type):
        return _binary_bytes(values.flatten()) if hasattr(values, "flatten") else 0
    else:
        lengths = pc.binary_length(values)
    return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0)
