"""Work in shards: nothing is computed twice, nothing unfinished is taken for finished."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator
from datasets import Dataset, are_progress_bars_disabled

from decoct.run.shards import MOST_SHARDS, ShardsMissing, Share, rows_per_shard, run_shards


class Work:
    """Squares of the rows, and which shards were computed."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[tuple[int, int]] = []
        self.stop_at = stop_at

    def __call__(self, start: int, end: int) -> Dataset:
        if start == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((start, end))
        return Dataset.from_dict({"square": [row**2 for row in range(start, end)]})


def run(folder: Path, work: Work, rows: int = 10, size: int = 4) -> list[int]:
    paths = run_shards(folder, "squares", rows, size, Accelerator(), work)
    return [value for path in paths for value in pq.read_table(path)["square"].to_pylist()]


@pytest.mark.parametrize("size", [1, 3, 4, 10, 99])
def test_all_rows_in_order(tmp_path, size):
    work = Work()
    assert run(tmp_path / "new" / "shards", work, size=size) == [row**2 for row in range(10)]
    assert [start for start, _ in work.calls] == list(range(0, 10, size))
    assert work.calls[-1][1] == 10


def test_existing_shards_are_not_computed_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Work(stop_at=8))
    rest = Work()
    assert run(tmp_path, rest) == [row**2 for row in range(10)]
    assert rest.calls == [(8, 10)]
    again = Work()
    assert run(tmp_path, again) == [row**2 for row in range(10)]
    assert again.calls == []


def test_a_shard_cut_off_while_it_was_written_is_ignored(tmp_path):
    run(tmp_path, Work())
    path = sorted(tmp_path.glob("*.parquet"))[1]
    content = path.read_bytes()
    path.rename(path.with_name(path.name + ".123.tmp"))
    path.with_name(path.name + ".123.tmp").write_bytes(content[:50])
    work = Work()
    assert run(tmp_path, work) == [row**2 for row in range(10)]
    assert work.calls == [(4, 8)]


def test_shards_of_another_number_are_not_mixed_in(tmp_path):
    run(tmp_path, Work(), rows=6)
    work = Work()
    assert run(tmp_path, work, rows=10) == [row**2 for row in range(10)]
    assert len(work.calls) == 3


def test_progress_bars_of_datasets_are_as_before(tmp_path):
    before = are_progress_bars_disabled()
    run(tmp_path, Work())
    assert are_progress_bars_disabled() == before
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "other", Work(stop_at=0))
    assert are_progress_bars_disabled() == before


def test_ranks_compute_their_own_shards_and_say_what_is_missing(tmp_path):
    def rank(number: int, wait: float = 0.0) -> Work:
        work, share = Work(), Share(number, 3, wait)
        try:
            run_shards(tmp_path, "squares", 10, 1, Accelerator(), work, share)
        except ShardsMissing as missing:
            assert (missing.name, missing.of) == ("squares", 10)
            assert missing.missing == 10 - len(list(tmp_path.iterdir()))
        return work

    assert [[start for start, _ in rank(number).calls] for number in (1, 0)] == [[1, 4, 7], [0, 3, 6, 9]]
    with pytest.raises(ShardsMissing, match="3 of 10 shards of squares are missing"):
        run_shards(tmp_path, "squares", 10, 1, Accelerator(), Work(), Share(0, 3, 0.05))
    late = threading.Timer(0.2, rank, [2])
    late.start()
    assert len(run_shards(tmp_path, "squares", 10, 1, Accelerator(), Work(), Share(0, 3, 60))) == 10
    late.join()


def test_the_next_shard_is_read_while_one_is_computed(tmp_path):
    reading, computed = threading.Event(), []

    def read(start: int, end: int) -> range:
        if start:
            reading.set()
        return range(start, end)

    def compute(start: int, end: int, rows: range) -> Dataset:
        assert end == 10 or reading.wait(10)  # the last one has none after it
        reading.clear()
        computed.append(rows)
        return Dataset.from_dict({"square": [row**2 for row in rows]})

    run_shards(tmp_path, "squares", 10, 4, Accelerator(), compute, read=read)
    assert computed == [range(0, 4), range(4, 8), range(8, 10)]


def test_shards_are_thousands_and_not_tens_of_thousands():
    assert rows_per_shard(300 * 1000, 100) == 100
    rows = 300 * 21_841
    assert rows_per_shard(rows, 100) == 1639
    assert -(-rows // rows_per_shard(rows, 100)) <= MOST_SHARDS
