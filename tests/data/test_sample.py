"""The embedded sample: complete, small, licensed, and what its script builds."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import decoct.data
from decoct.data import class_counts, eval_split_name, load_images

SAMPLE = Path(decoct.data.__file__).parent / "sample"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_sample.py"
NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


@pytest.mark.parametrize(("split", "per_class"), [("train", 400), ("test", 100)])
def test_counts_names_and_size(split: str, per_class: int) -> None:
    images = load_images("sample", split)
    assert images.features["label"].names == NAMES
    assert class_counts(images) == [per_class] * 10
    assert images.features["image"].mode == "L"
    assert images[0]["image"].size == (28, 28) and images[0]["image"].getbbox() is not None


def test_eval_split() -> None:
    assert eval_split_name("sample") == "test"


def test_train_and_test_share_no_image() -> None:
    train, test = (
        {np.asarray(image).tobytes() for image in load_images("sample", split)["image"]} for split in ("train", "test")
    )
    assert len(train) == 4000 and not train & test


def test_small_and_licensed() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 3_000_000
    licence = (SAMPLE / "LICENSE").read_text()
    assert "Zalando SE" in licence and "Permission is hereby granted, free of charge" in licence


def test_readme_names_the_files_as_they_are() -> None:
    readme = (SAMPLE / "README.md").read_text()
    for path in SAMPLE.glob("*.parquet"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme
        assert f"{path.stat().st_size:,}" in readme


def write_source(folder: Path, invert: bool = False, train: tuple[str, ...] = ("train",)) -> None:
    """Files in the package's format that hold just the sample's images; `train` are the splits of the first."""
    for splits, prefix in ((train, "train"), (("test",), "t10k")):
        parts = [load_images("sample", split) for split in splits]
        pixels = np.stack([np.asarray(image) for images in parts for image in images["image"]])
        labels = np.concatenate([np.asarray(images["label"][:], dtype=np.uint8) for images in parts])
        pixels = 255 - pixels if invert else pixels
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes(), 1))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes(), 1))


@pytest.mark.parametrize("invert", [False, True])
def test_check_compares_a_rebuild_with_the_files(tmp_path: Path, invert: bool) -> None:
    write_source(tmp_path, invert)
    command = [sys.executable, str(SCRIPT), "--check", "--source", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == (1 if invert else 0), run.stderr
    assert run.stdout.count("DIFFERENT") == (2 if invert else 0)
    assert run.stdout.count("identical") + run.stdout.count("same pixels") == (0 if invert else 2)


def test_validation_images_are_those_that_follow_the_samples(tmp_path: Path) -> None:
    write_source(tmp_path, train=("train", "test"))
    command = [sys.executable, str(SCRIPT), "--source", str(tmp_path), "--validation", str(tmp_path / "built")]
    subprocess.run(command, capture_output=True, check=True)
    assert sorted(path.name for path in (tmp_path / "built").iterdir()) == ["train.parquet", "validation.parquet"]
    for built, shipped in (("train", "train"), ("validation", "test")):
        found, expected = load_images(str(tmp_path / "built"), built), load_images("sample", shipped)
        assert found["label"][:] == expected["label"][:]
        assert all(map(np.array_equal, found["image"], expected["image"]))
