"""Work cut into shards on disk: each is written under a temporary name and renamed, so a kill loses at most one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm.auto import tqdm

from decoct.run.files import written_whole

__all__ = ["quiet_datasets", "run_shards", "write_parquet"]


@contextlib.contextmanager
def quiet_datasets() -> Iterator[None]:
    """No progress bars of `datasets` inside the block, where a bar over the shards is shown already."""
    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()


def write_parquet(table: pa.Table, path: Path) -> None:
    """Writes a parquet file whole or not at all."""
    with written_whole(path) as temporary:
        pq.write_table(table, temporary)


def run_shards(
    folder: Path,
    name: str,
    rows: int,
    shard_size: int,
    accelerator: Accelerator,
    compute: Callable[[int, int], Dataset],
) -> list[Path]:
    """Computes what is missing of `rows` rows, this process every n-th shard, and waits for the others.

    Args:
        folder: Where the shards are kept; existing ones are not computed again.
        name: What the rows are; part of the file names and the progress bar.
        compute: `(first row, end) -> Dataset` of one shard. It must depend on nothing but its rows.

    Returns:
        The paths of all shards, in row order.
    """
    starts = range(0, rows, shard_size)
    paths = [folder / f"{name}-{index:05d}-of-{len(starts):05d}.parquet" for index in range(len(starts))]
    mine = list(enumerate(starts))[accelerator.process_index :: accelerator.num_processes]
    with quiet_datasets():
        for index, start in tqdm(mine, desc=name, unit="shard", disable=not accelerator.is_main_process):
            if not paths[index].is_file():
                end = min(start + shard_size, rows)
                write_parquet(compute(start, end).with_format("arrow")[:], paths[index])
    accelerator.wait_for_everyone()
    return paths
