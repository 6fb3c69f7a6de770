"""Small runs of the benchmarks of student training: what they record, and that a second run makes nothing again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .loading import load


@pytest.fixture(scope="module")
def distilled(once, sample_part, trained_teacher) -> Path:
    def make(folder: Path) -> None:
        from decoct.config import DistillConfig
        from decoct.synthesis.distill import distill

        options = {"dataset": str(sample_part), "teacher": str(trained_teacher), "output_dir": str(folder)}
        distill(DistillConfig(method="random", ipc=[2], slots=0, **options))

    return once("random-of-the-sweep", make)


def test_throughput_compares_the_two_loops(sample_part, tmp_path, capsys):
    words = ["--dataset", str(sample_part), "--model", "convnet3_w8", "--images", "8", "--epochs", "1"]
    load("student_throughput").main([*words, "--repeats", "2", "--device", "cpu", "--output_dir", str(tmp_path)])
    (result,) = json.loads((tmp_path / "student_throughput.json").read_text()).values()
    speeds, ratio = result["images_per_second"], result["ratio"]
    assert set(speeds) == {"decoct", "plain"} and 0 < speeds["plain"]["min"] <= speeds["plain"]["max"]
    assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert ratio["of_medians"] == pytest.approx(speeds["decoct"]["median"] / speeds["plain"]["median"], rel=5e-3)
    assert (result["images"], result["batch_size"], result["protocol"], result["labels"]) == (8, 8, "rded_kd", "online")


def test_the_plain_loop_mixes_each_image_with_a_partner():
    throughput = load("student_throughput")
    pixels = torch.arange(6.0)[:, None, None, None].expand(6, 3, 16, 16)
    mixed = [throughput.mixed(pixels, 1.0) for _ in range(20)]
    assert all(set(image.unique().tolist()) <= set(range(6)) for batch in mixed for image in batch)
    assert any(len(image.unique()) == 2 for batch in mixed for image in batch)
    assert torch.equal(pixels[:, 0, 0, 0], torch.arange(6.0))


def test_steps_of_muon_are_timed_beside_pytorchs(tmp_path, capsys):
    load("muon").main(
        ["--students", "convnet3_w8", "--batch_size", "2", "--repeats", "2", "--output_dir", str(tmp_path)]
    )
    result = json.loads((tmp_path / "muon.json").read_text())["convnet3_w8"]
    seconds, ratio = result["seconds"], result["ratio"]
    assert set(seconds) == {"decoct", "PyTorch"} and 0 < seconds["PyTorch"]["min"] <= seconds["PyTorch"]["max"]
    assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    assert (result["kernels"], result["largest"]) == (3, [8, 72])
    assert result["error"]["decoct"] < 1e-3 < result["error"]["PyTorch"]


GRID = """
# Claim: settings of the protocol `rded_kd`, one changed at a time around a short training.
records: settings.json
protocol: rded_kd
distil: {seed: 0}
sets:
  random: {method: random}
training:
  as it is: {}
  2 epochs: {epochs: 2}
  "{option} {value:g}":
    epochs: 2
    one_at_a_time:
      batch_factor: [0.5, 2.0]
      ema_decay: [0.9]
      learning_rate_factor: [2.0]
      steps: [3]
      hard_weight: [0.5]
"""


def test_the_sweep_varies_one_setting_at_a_time(tmp_path):
    grids, file = load("grids"), tmp_path / "settings.yaml"
    file.write_text(GRID)
    grid = grids.read(grids.parser().parse_args([str(file)]))
    own, centre, *varied = (variant.options for variant in grid.training)
    assert own == {} and centre == {"epochs": 2} and len(varied) == 6
    assert all(options["epochs"] == 2 and len(options) == 2 for options in varied)


def test_the_sweep_resumes_and_every_record_has_its_settings(distilled, sample_part, tmp_path, capsys):
    grids, output = load("grids"), tmp_path / "settings.json"
    names = ["as it is", "2 epochs", "batch factor 0.5", "ema decay 0.9", "learning rate factor 2"]
    file = tmp_path / "short.yaml"
    file.write_text(GRID)
    words = [str(file), "--distilled", str(distilled), "--dataset", str(sample_part), "--ipc", "2"]
    words += ["--students", "convnet3_w8", "--output", str(output), "--runs", str(tmp_path / "runs")]
    words += ["--set", "evaluate.mixed_precision=no", "--training", *names[1:]]
    grids.main([*words, "--part", "0/2"])
    first = json.loads(output.read_text())
    assert len(first) == 2
    grids.main(words)
    records = json.loads(output.read_text())
    assert records[:2] == first and len(records) == 4
    settings = {(r["batch_size"], r["ema_decay"], r["epochs"], r["rrc_scale"], r["learning_rate"]) for r in records}
    assert settings == {
        (8, 0.0, 2, None, 0.001),
        (8, 0.9, 2, None, 0.001),
        (7, 0.0, 2, None, 0.001),
        (8, 0.0, 2, None, 0.002),
    }
    for record in records:
        assert 0 <= record["accuracy_mean"] <= 1 and record["accuracies"] == [record["accuracy_mean"]]
        assert record["settings"]["ema_decay"] == record["ema_decay"] and record["training"] in names
        assert (record["ipc"], record["labels"], record["method"], record["epoch"]) == (2, "online", "random", "last")
    table = capsys.readouterr().out.split("seconds\n")[-1]
    assert table.count("(1)") == 4 and str(tmp_path) not in output.read_text()
