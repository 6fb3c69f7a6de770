"""Candidates that are drawn from a stream: the same wherever they are drawn, and nothing else is kept."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from worlds import COLOURS, coloured, draw_no_pictures, encoded, labelled, write_teacher

from decoct.config import DataConfig, DistillConfig
from decoct.data.loading import source_rows
from decoct.synthesis.distill import distill
from decoct.synthesis.streaming import load_streamed, row_keys

LABELS = [row % 3 for row in range(60)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The same rows in three parquet files, in one, and in two WebDataset shards."""
    folder, rows = tmp_path_factory.mktemp("streams"), encoded(coloured(LABELS))
    images = labelled(rows, LABELS)
    for name, files in (("three", 3), ("one", 1)):
        (folder / name).mkdir()
        for part in range(files):
            path = folder / name / f"train-{part:05d}-of-{files:05d}.parquet"
            images.shard(files, part, contiguous=True).to_parquet(path)
    (folder / "tars").mkdir()
    for part in range(2):
        with tarfile.open(folder / "tars" / f"train-{part}.tar", "w") as tar:
            for row in range(30 * part, 30 * part + 30):
                for end, content in (("png", rows[row]["bytes"]), ("cls", str(LABELS[row]).encode())):
                    entry = tarfile.TarInfo(f"{row:03d}.{end}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return folder


def drawn_from(folder: Path, per_class: int, seed: int, **options: Any) -> datasets.Dataset:
    return load_streamed(DataConfig(dataset=str(folder), seed=seed, **options), "train", per_class, 16, 3)


def expected(seed: int, count: int) -> list[int]:
    keys = row_keys(seed, np.arange(60))
    return [
        row for label in range(3) for row in sorted(sorted(range(label, 60, 3), key=lambda each: keys[each])[:count])
    ]


def test_keys_are_those_of_every_machine():
    assert [hex(key) for key in row_keys(0, np.arange(2)).tolist()] == ["0xac68631bbf0e85ca", "0xfcfb996b009cd1a0"]
    keys = row_keys(1, np.arange(100_000)) / 2**64
    assert abs(keys.mean() - 0.5) < 0.01 and len(np.unique(keys)) == 100_000


def test_the_rows_with_the_smallest_keys_of_each_class_are_kept(shards):
    drawn = {name: drawn_from(shards / name, 4, seed=5) for name in ("three", "one")}
    columns = {"image_column": "png", "label_column": "cls"}
    drawn["tars"] = drawn_from(shards / "tars", 4, seed=5, **columns)
    for images in drawn.values():
        assert images["source_index"][:] == expected(5, 4)
        assert images["label"][:] == [label for label in range(3) for _ in range(4)]
        pixels = np.stack([np.asarray(each) for each in images.cast_column("image", datasets.Image())["image"]])
        assert (pixels.transpose(0, 3, 1, 2) == coloured(LABELS).numpy()[expected(5, 4)]).all()
    assert drawn_from(shards / "one", 4, seed=6)["source_index"][:] == expected(6, 4)
    assert drawn_from(shards / "one", 99, seed=5)["source_index"][:] == expected(5, 99)


def test_another_image_is_taken_for_one_that_cannot_be_read(shards, tmp_path):
    damaged = expected(5, 4)[1]
    rows = encoded(coloured(LABELS))
    rows[damaged] = {"bytes": b"none", "path": None}
    labelled(rows, LABELS).to_parquet(tmp_path / "train.parquet")
    drawn = drawn_from(tmp_path, 4, seed=5, skip_unreadable=True)["source_index"][:]
    assert drawn[:4] == sorted({*expected(5, 5)[:5]} - {damaged}) and drawn[4:] == expected(5, 4)[4:]


def test_distilling_a_stream(shards, tmp_path, monkeypatch):
    draw_no_pictures(monkeypatch, report=True)
    teacher = write_teacher(tmp_path / "teacher")["name"]
    shared = {"teacher": teacher, "allow_weak_teacher": True, "ipc": [1], "candidates_per_class": 3, "slots": 0}
    shared |= {"batch_size": 8, "streaming": True}
    stored: list[str] = []
    prepare = datasets.DatasetBuilder.download_and_prepare

    def noted(self, *arguments, **options):
        stored.append(str(self.config.data_files))
        return prepare(self, *arguments, **options)

    monkeypatch.setattr(datasets.DatasetBuilder, "download_and_prepare", noted)
    distill(DistillConfig(**shared, dataset=str(shards / "three"), output_dir=str(tmp_path / "run")))
    assert stored and not any(str(shards) in files for files in stored), "what is drawn alone is kept"
    images = load_streamed(DistillConfig(**shared, dataset=str(shards / "three")), "train", 3, 16, 3)
    assert len(images) == 9 and source_rows(images) == 60, "the report tells the size of the source"
    made = datasets.Dataset.from_parquet(str(next(tmp_path.glob("run/data/ipc_1/*.parquet"))), keep_in_memory=True)
    assert {tile["source_index"] for tiles in made["tiles"] for tile in tiles} <= set(expected(0, 3))
    assert made.features["label"].names == list(COLOURS)
    for options in ({"candidates_per_class": 0}, {"validation_fraction": 0.1}):
        with pytest.raises(ValueError, match="for --streaming"):
            DistillConfig(**{**shared, **options})
    with pytest.raises(ValueError, match="must be on the Hub, parquet or WebDataset"):
        photos = tmp_path / "photos" / "train" / "red"
        photos.mkdir(parents=True)
        (photos / "1.png").write_bytes(encoded(coloured([0]))[0]["bytes"])
        drawn_from(tmp_path / "photos", 4, seed=0)
    with pytest.raises(ValueError, match="must be on the Hub, parquet or WebDataset"):
        (photos / "train.csv").write_text("file,label\n1.png,red\n")
        drawn_from(photos / "train.csv", 4, seed=0)
