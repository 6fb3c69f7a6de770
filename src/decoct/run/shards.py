"""Work cut into shards on disk: each is written under a temporary name and renamed, so a kill loses at most one.

Machines share the work of a run by its folder alone: each computes its own shards, and looks whether those of the
others are there.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm.auto import tqdm

from decoct.run.files import written_whole

__all__ = ["ALL", "ShardsMissing", "Share", "quiet_datasets", "rows_per_shard", "run_shards", "write_parquet"]

MOST_SHARDS = 4000  # of one kind: file systems of clusters are slow with more files
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Share:
    """What one of several machines computes of a run: every `ranks`-th shard, from `rank` on.

    Args:
        wait: Seconds to wait for the others' shards.
    """

    rank: int = 0
    ranks: int = 1
    wait: float = 0.0


ALL = Share()


class ShardsMissing(Exception):
    """Shards of other machines that the next ones depend on are not there.

    Args:
        name: What the rows are.
        missing: How many of the shards are not there.
        of: Their number.
    """

    def __init__(self, name: str, missing: int, of: int) -> None:
        super().__init__(f"{missing} of {of} shards of {name} are missing")
        self.name, self.missing, self.of = name, missing, of


def rows_per_shard(rows: int, asked: int) -> int:
    """Rows of a shard: as asked, or more where there would be more than 4,000 of them."""
    return max(asked, math.ceil(rows / MOST_SHARDS))


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
    compute: Callable[..., Dataset],
    share: Share = ALL,
    read: Callable[[int, int], Any] | None = None,
) -> list[Path]:
    """Computes what is missing of `rows` rows, this process every n-th shard, and waits for the others.

    Args:
        folder: Where the shards are kept; existing ones are not computed again.
        name: What the rows are; part of the file names and the progress bar.
        compute: `(first row, end) -> Dataset` of one shard, after what `read` has read. It must depend on nothing but
            its rows.
        share: Of this machine.
        read: `(first row, end) -> anything`: reads what `compute` needs, of the next shard while one is computed.

    Returns:
        The paths of all shards, in row order.

    Raises:
        ShardsMissing: If shards of other machines are not there after the seconds to wait.
    """
    starts = range(0, rows, shard_size)
    paths = [folder / f"{name}-{index:05d}-of-{len(starts):05d}.parquet" for index in range(len(starts))]
    first = share.rank * accelerator.num_processes + accelerator.process_index
    mine = range(first, len(starts), share.ranks * accelerator.num_processes)
    missing = [index for index in mine if not paths[index].is_file()]
    bounds = [(starts[index], min(starts[index] + shard_size, rows)) for index in missing]
    progress = tqdm(
        total=len(mine),
        initial=len(mine) - len(missing),
        desc=name,
        unit="shard",
        disable=not accelerator.is_main_process,
    )
    with quiet_datasets(), progress:
        for index, parts, values in zip(missing, bounds, _read_ahead(bounds, read), strict=True):
            write_parquet(compute(*parts, *values).with_format("arrow")[:], paths[index])
            progress.update()
    accelerator.wait_for_everyone()
    if share.ranks > 1:
        _wait_for(paths, name, share.wait, accelerator)
    return paths


def _read_ahead(bounds: Sequence[tuple[int, int]], read: Callable[[int, int], Any] | None) -> Iterator[list[Any]]:
    """What was read of each shard, the next one being read meanwhile; nothing without `read`."""
    if read is None:
        yield from ([] for _ in bounds)
        return
    with ThreadPoolExecutor(1) as reader:
        following: Future[Any] | None = None
        for number, part in enumerate(bounds):
            values = reader.submit(read, *part).result() if following is None else following.result()
            following = reader.submit(read, *bounds[number + 1]) if number + 1 < len(bounds) else None
            yield [values]


def _wait_for(paths: Sequence[Path], name: str, seconds: float, accelerator: Accelerator) -> None:
    """Raises `ShardsMissing`, in all processes of this machine alike, if shards are not there in time."""
    end = time.monotonic() + seconds
    found = [0]
    while accelerator.is_main_process:
        found = [sum(not path.is_file() for path in paths)]
        if not found[0] or time.monotonic() >= end:
            break
        time.sleep(min(POLL_SECONDS, max(end - time.monotonic(), 0)))
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if found[0]:
        raise ShardsMissing(name, found[0], len(paths))
