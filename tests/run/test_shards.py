"""Work in shards: nothing is computed twice, nothing unfinished is taken for finished."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator
from datasets import Dataset, are_progress_bars_disabled

from decoct.run.shards import run_shards


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
