"""Small runs of the benchmarks of IGDS: what they record, and that a second run makes nothing again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from .loading import load


@pytest.fixture(scope="module")
def grids() -> ModuleType:
    return load("grids")


@pytest.fixture
def sweep_words(sample_part, trained_teacher, tiny_prior, tiny_estimator, tmp_path) -> list[str]:
    networks = ["--teacher", str(trained_teacher), "--prior", str(tiny_prior), "--estimator", str(tiny_estimator)]
    folders = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "sweep.json")]
    small = ["--students", "convnet3_w8", "--ipc", "2", "--vary", "beta", "0", "0.5"]
    options = ["distil.sampling_steps=2", "distil.views=1", "evaluate.epochs=1"]
    options += ["distil.mixed_precision='no'", "evaluate.mixed_precision='no'"]
    return ["beta_sweep", "--dataset", str(sample_part), *networks, *folders, *small, "--set", *options]


def records_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def test_guidance_compares_with_the_prior_alone(tiny_prior, tiny_estimator, tmp_path, capsys, monkeypatch):
    guidance, output = load("guidance"), tmp_path / "guidance.json"
    words = ["--prior", str(tiny_prior), "--estimator", str(tiny_estimator), "--steps", "2", "--batch", "2"]
    words += ["--guide_on", "x0_pred", "--device", "cpu", "--threads", "1", "--output", str(output)]

    def in_this_process(script: str, words: list[str]) -> dict[str, float]:  # a fresh one imports for seconds
        guidance.main(words)
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(guidance, "in_fresh_process", in_this_process)
    guidance.main([*words, "--repetitions", "2", "--every", "1", "2"])
    assert capsys.readouterr().out.count(" times (") == 2
    record, other = records_of(output)
    assert (record["every"], other["every"], other["guidance_scale"]) == (1, 2, 0.4)
    assert record["unguided_objective"] == other["unguided_objective"] < record["objective"] != other["objective"]
    assert len(record["ratios"]) == len(record["guided_seconds"]) == len(record["unguided_seconds"]) == 2
    assert min(record["ratios"]) <= record["ratio"] <= max(record["ratios"])
    for variant in ("unguided_memory", "guided_memory"):
        assert record[variant]["peak_mb"] >= record[variant]["loaded_mb"] > 0
    assert record["guide_on"] == "x0_pred" and record["prior"] == tiny_prior.name

    guidance.main([*words, "--repetitions", "1"])
    again, _ = records_of(output)
    assert len(again["ratios"]) == 1


def test_the_random_prior_is_that_of_the_paper():
    guidance = load("guidance")
    assert guidance.random_prior("ddpm").unet.num_parameters() == pytest.approx(35.7e6, rel=0.01)


def test_at_one_image_per_class_one_beta_is_measured(grids):
    words = ["beta_sweep", "--vary", "beta", "0", "0.1", "--vary", "guidance_scale", "2"]
    grid = grids.read(grids.parser().parse_args(words))
    for ipc, betas in ((1, [0.0]), (2, [0.0, 0.1])):
        sets = [variant for variant in grid.sets if variant.min_ipc <= ipc <= (variant.max_ipc or ipc)]
        assert [variant.name for variant in sets[:2]] == ["random", "guidance off"]
        assert [variant.options["beta"] for variant in sets[2:]] == betas
        assert {variant.options["guidance_scale"] for variant in sets[2:]} == {2}
        assert [variant.name for variant in sets[2:]] == [f"beta {beta:g}, scale 2, sample" for beta in betas]


def test_beta_sweep_records_resumes_and_draws(grids, sweep_words, tmp_path, capsys):
    output = tmp_path / "sweep.json"
    grids.main([*sweep_words, "--labels", "hard"])
    records = {record["setting"]: record for record in records_of(output)}
    assert list(records) == ["random", "guidance off", "beta 0, scale 1, sample", "beta 0.5, scale 1, sample"]
    for record in records.values():
        assert 0 <= record["accuracy_mean"] <= 1 and 0 <= record["tile_accuracy"] <= 1
        assert record["prototype"] < 0 < record["contextual"]
        assert (record["labels"], record["seed"], record["ipc"], record["epochs"]) == ("hard", 0, 2, 1)
        assert (record["tiles"], record["scheduler"], record["sampling_steps"]) == (1, "ddim", 2)
        assert set(record["fingerprints"]) == {"teacher", "prior", "estimator"}
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    assert str(tmp_path) not in output.read_text()

    sets = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("sets/*/manifest.json")}
    assert len(sets) == 4
    capsys.readouterr()
    grids.main([*sweep_words, "--labels", "hard", "--part", "0/2"])
    assert "seed 0:" not in capsys.readouterr().out and len(records_of(output)) == 4
    grids.main([*sweep_words, "--labels", "hard", "views", "--dry_run"])
    assert capsys.readouterr().out.startswith("4 students, 4 done, 0 sets,")
    grids.main([*sweep_words, "--labels", "views"])
    assert len(records_of(output)) == 8
    assert {path: path.stat().st_mtime_ns for path in sets} == sets


def test_networks_that_a_grid_needs_are_asked_for(grids, sweep_words, tmp_path):
    place = sweep_words.index("--estimator")
    with pytest.raises(ValueError, match="estimator must be given"):
        grids.main([*sweep_words[:place], *sweep_words[place + 2 :]])
    with pytest.raises(ValueError, match="sets must be among.*Got \\['nothing'\\]"):
        grids.main([*sweep_words, "--only", "nothing"])
    with pytest.raises(ValueError, match="vary must name options.*Got \\['views'\\]"):
        grids.main([*sweep_words, "--vary", "views", "1"])
    with pytest.raises(ValueError, match="set must be"):
        grids.main([*sweep_words, "--set", "epochs=1"])
    assert not list(tmp_path.iterdir())


def test_estimators_are_trained_once_per_setting(sample_part, tmp_path, capsys):
    estimator, output = load("estimator"), tmp_path / "estimator.json"
    words = ["--dataset", str(sample_part), "--encoder", "resnet10_w4", "--projection_dim", "16", "--epochs", "1"]
    words += ["--batch_size", "32", "--queue_size", "64", "--mixed_precision", "no", "--output", str(output)]
    words += ["--runs", str(tmp_path / "runs"), "--kl_weights", "0", "1"]
    estimator.main(words)
    records = records_of(output)
    assert [(each["kl_weight"], each["q_mode"]) for each in records] == [(0, None), (1, "two_view"), (1, "class_mean")]
    for record in records:
        assert 0 < record["linear_accuracy"] <= 1 and 0 < record["knn_accuracy"] <= 1
        assert record["prototype"] < record["label_entropy"] and record["contextual"] > 0
    assert (tmp_path / "estimator.png").stat().st_size > 5000
    capsys.readouterr()
    estimator.main(words)
    assert capsys.readouterr().out == "" and records_of(output) == records


def test_the_distance_of_features_is_that_of_gaussians():
    quality = load("prior_quality")
    first = np.random.default_rng(0).normal(size=(500, 3))
    assert quality.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert quality.frechet_distance(first, first + [1, 2, 0]) == pytest.approx(5)
    variances = first.var(axis=0, ddof=1)  # twice as wide: the covariances commute
    assert quality.frechet_distance(first, 2 * first) == pytest.approx(
        variances.sum() + (first.mean(axis=0) ** 2).sum()
    )
