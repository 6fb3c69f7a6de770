"""A small run of the benchmark of publishing and loading: what it makes, counts and records."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from decoct.hub.verify import verify_folder

from .loading import load


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("hub")


@pytest.fixture(scope="module")
def noise(benchmark, tmp_path_factory) -> Path:
    """Three classes with two mosaics of four tiles each, and three views."""
    folder = tmp_path_factory.mktemp("hub-benchmark") / "noise"
    benchmark.make_noise(folder, classes=3, ipc=2, side=16, tiles=4, views=3)
    return folder


def test_the_noise_is_a_distilled_set(noise):
    report = verify_folder(noise)
    assert report.ok and report.images == 6, str(report)


def test_images_of_noise_differ_and_depend_on_their_number_alone(benchmark):
    first, again, other = (benchmark.smooth_noise(number, 32) for number in (0, 0, 1))
    assert first.shape == (3, 32, 32) and first.equal(again) and not first.equal(other)


def test_sizes_are_those_of_the_files(benchmark, noise):
    sizes = benchmark.sizes(noise, 2)
    (path,) = noise.glob("data/ipc_2/*.parquet")
    columns = sizes["column_bytes"]
    assert set(columns) == {"image", "label", "tile_logits", "view_logits", "view_boxes", "tiles"}
    assert sum(columns.values()) < path.stat().st_size
    stored = sum(len(image["bytes"]) for image in pq.read_table(path)["image"].to_pylist())
    assert columns["image"] == pytest.approx(stored, rel=0.5)
    assert sizes["tile_labels_share_of_images"] == pytest.approx(columns["tile_logits"] / columns["image"], abs=1e-4)
    named = json.loads((noise / "manifest.json").read_text())["files"]
    assert sizes["bytes"] == sum((noise / name).stat().st_size for name in (*named, "manifest.json"))


def test_publishing_and_loading_are_measured(benchmark, noise, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "STEPS", ("publish", "load"))  # verifying is measured likewise
    output = tmp_path / "hub.json"
    output.write_text('{"earlier": {}}')
    benchmark.main(["--folder", str(noise), "--repeats", "1", "--name", "tiny", "--output", str(output)])
    results = json.loads(output.read_text())
    steps = results["tiny"]["steps_min_median_max"]
    assert set(results) == {"earlier", "tiny"} and results["tiny"]["images"] == 6
    for step in ("publish", "load"):
        assert steps[step]["seconds"][1] > 0 and steps[step]["peak_mb"][1] >= steps[step]["start_mb"][1]
    assert steps["load"]["rows_per_second"][0] > 0
    assert steps["load"]["load_dataset_again_seconds"][1] < steps["load"]["seconds"][1]
