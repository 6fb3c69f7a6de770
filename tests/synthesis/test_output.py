"""How a run's shards become the parquet files of its folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from decoct.run.shards import write_parquet
from decoct.synthesis import output
from decoct.synthesis.output import merge_shards

FEATURES = Features({"image": Value("binary"), "label": Value("int64"), "correct": List(Value("bool"))})


def write_shards(folder: Path, sizes: list[int]) -> list[Path]:
    """A shard for each size, with one incompressible image of so many bytes, of which the first is labelled right."""
    paths = []
    for number, size in enumerate(sizes):
        content = b"".join((number * 2**20 + place).to_bytes(4) for place in range(size // 4))
        row = {"image": [content], "label": [number], "correct": [[number == 0]]}
        paths.append(folder / f"shard-{number}.parquet")
        write_parquet(Dataset.from_dict(row, features=FEATURES).with_format("arrow")[:], paths[-1])
    return paths


def test_files_are_limited_in_bytes_and_keep_all_rows_in_order(tmp_path, monkeypatch):
    shards = write_shards(tmp_path, [40_000, 40_000, 300_000, 4_000, 4_000])
    sizes = [path.stat().st_size for path in shards]
    monkeypatch.setattr(output, "BYTES_PER_FILE", sizes[0] + sizes[1])
    accuracy = merge_shards(shards, tmp_path / "data", FEATURES)
    files = sorted((tmp_path / "data").iterdir())
    assert [path.name for path in files] == [f"train-0000{number}-of-00003.parquet" for number in range(3)]
    # A shard larger than the limit is a file of its own.
    assert [pq.read_table(path)["label"].to_pylist() for path in files] == [[0, 1], [2], [3, 4]]
    assert [pq.read_metadata(path).num_row_groups for path in files] == [2, 1, 2]
    assert pq.read_schema(files[0]).names == ["image", "label"]
    assert accuracy == 0.2
