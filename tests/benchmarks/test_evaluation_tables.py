"""The tables of ablation, `strong_kd`, training speed and the Hub, and the script that reproduces all tables."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .loading import load


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return load("evaluation_tables")


@pytest.fixture(scope="module")
def reproduce() -> ModuleType:
    return load("reproduce")


def ablated(setting: str, seed: int, accuracy: float, **factors: Any) -> dict[str, Any]:
    return {
        **{"setting": setting, "scoring": None, "order": None, "attribution": None, "noise": None, "cropping": "whole"},
        **{"label_teacher": "converged", "labels": "online", "ipc": 10, "student": "convnet4", "seed": seed},
        **{"accuracy": accuracy, "tile_accuracy": 0.9, "candidates_per_class": 100, "coalitions": 128, "tiles": 4},
        **{"crop_fraction": 0.5, "scoring_teacher": "teacher", "dataset": "imagenette", "method": "random"},
        **{"protocol": "rded_kd", "overrides": {"epochs": 100}, "epoch": "last", "teacher": "teacher"},
        **{"teacher_accuracy": 0.81, "seconds": 1.0, "device": "cpu", "versions": {}},
        **factors,
    }


def strong(accuracy: float, **changes: Any) -> dict[str, Any]:
    return {
        **{"dataset": "sample", "ipc": 10, "labels": "online", "student": "convnet3", "method": "infoutil"},
        **{"batch_size": 25, "ema_decay": 0.99, "epochs": 1000, "rrc_scale": 0.08, "learning_rate": 0.001},
        **{"accuracy": accuracy, "seconds": 40.0, "mixed_precision": "bf16", "protocol": "strong_kd"},
        "teacher_accuracy": 0.82,
        **changes,
    }


def hub_costs(publish: float, peak: float) -> dict[str, Any]:
    steps = {"publish": (publish, peak), "verify": (2.0, 300.0), "load": (3.0, 200.0)}
    measured = {step: {"seconds": [1, seconds, 9], "peak_mb": [1, 1, mb]} for step, (seconds, mb) in steps.items()}
    measured["load"]["rows_per_second"] = [1, 12_345.6, 99_999]
    return {
        **{"images": 500, "image_size": 32, "bytes": 1_520_000, "tile_labels_share_of_images": 0.0098, "repeats": 3},
        "steps_min_median_max": measured,
    }


RDED = {"scoring": "loss", "order": "lowest", "cropping": "random"}
NORM = {"scoring": "grad_norm", "order": "highest", "cropping": "random"}


@pytest.fixture
def root(tmp_path) -> Path:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    records = [ablated("random", seed, 0.60 + seed / 100) for seed in range(3)]
    records += [ablated("rded", seed, 0.50 + seed / 100, **RDED) for seed in range(3)]
    records += [ablated("grad_norm-random_crops-highest", seed, 0.40, **NORM) for seed in range(3)]
    (results / "ablation_imagenette.json").write_text(json.dumps(records))
    swept = [strong(0.7), strong(0.8), strong(0.9, ema_decay=0.0), strong(0.6, method="random")]
    swept += [strong(0.7 + seed / 50, dataset="cifar10", batch_size=10, ipc=1) for seed in range(3)]
    swept += [strong(0.5, dataset="cifar10", method="random")]
    (results / "strong_kd.json").write_text(json.dumps(swept))
    (results / "hub.json").write_text(json.dumps({"cifar10": hub_costs(4.04, 487.6)}))
    markers = {
        "README.md": ["claims", "hub", "strong"],
        "benchmarks/README.md": ["ablation", "strong_kd", "throughput", "downstream"],
    }
    for file, names in markers.items():
        (tmp_path / file).write_text("\n".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->" for name in names))
    return tmp_path


def test_sections_say_what_the_records_say(tables, root):
    assert tables.main(["--root", str(root)]) == 0
    readme, benchmarks = (root / name for name in ("README.md", "benchmarks/README.md"))
    assert "61.0 ± 1.0 (3)" in readme.read_text()
    assert (
        "**Grad-norm scoring beats loss scoring** (holds in 0, does not hold in 1, undecided in 0" in readme.read_text()
    )
    hub = "| cifar10: 500 images of 32 px | 1.5 | 1.0 % | 4.0 | 2.0 | 3.0 | 12,346 | 488 | 3 |"
    assert hub in readme.read_text()
    text = benchmarks.read_text()
    assert "#### Table 6: scoring and cropping, convnet4" in text
    assert not any(line.startswith("# ") for line in text.splitlines())
    assert text.index("| 25 | 0 | 1000 | 0.08 | 0.001 | 90.0 (1) |") < text.index("75.0 ± 7.1 (2)")
    assert "sample, IPC 10, random, labels" in text  # a set of its own, with a table of its own
    assert tables.NO_RECORDS in text  # no throughput yet


def test_cifar10_under_strong_kd_has_a_table_of_its_own(tables, root):
    text = tables.strong_cifar10_section(root / "benchmarks" / "results")
    assert "| random images | – | 50.0 (1) |\n| InfoUtil | 72.0 ± 2.0 (3) | – |" in text
    assert "1000 epochs in batches of 10 at IPC 1; 1000 epochs in batches of 25 at IPC 10" in text
    path = root / "benchmarks" / "results" / "strong_kd.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), strong(0.5, dataset="cifar10", ipc=1, epochs=300)]))
    with pytest.raises(ValueError, match="Students of IPC 1 must all be trained in the same way"):
        tables.strong_cifar10_section(root / "benchmarks" / "results")


def test_check_writes_nothing_and_says_what_is_out_of_date(tables, root, capsys):
    before = (root / "README.md").read_text()
    assert tables.main(["--root", str(root), "--check"]) == 1
    assert "claims" in capsys.readouterr().out
    assert (root / "README.md").read_text() == before
    tables.main(["--root", str(root)])
    assert tables.main(["--root", str(root), "--check"]) == 0


def test_the_committed_tables_are_what_the_records_say(tables):
    assert tables.main(["--check"]) == 0


def test_every_command_of_the_reproduction_is_valid(reproduce, tmp_path, monkeypatch):
    """The scripts' own parsers accept the words: an option that was renamed would stop a run of days."""
    from decoct.arguments import parse_config
    from decoct.config import AblateConfig, DistillConfig, EstimatorConfig, PriorConfig, TeacherConfig

    classes = {"train_teacher": TeacherConfig, "train_prior": PriorConfig, "train_estimator": EstimatorConfig}
    classes |= {"distill": DistillConfig, "ablate": AblateConfig}
    seen = set()
    for group in reproduce.GROUPS:
        for step in reproduce.steps(group, "sample" if group == "sample" else "data", tmp_path):
            assert (reproduce.ROOT / step.script).is_file()
            name = Path(step.script).stem
            seen.add(name)
            if step.script.startswith("scripts/"):
                config = parse_config(classes[name], list(step.arguments))
                assert str(config.output_dir).startswith(str(tmp_path))
    assert seen == {*classes, "beta_sweep", "cifar10", "strong_kd", "hub"}


def test_dry_run_shows_the_commands_and_runs_none(reproduce, capsys, monkeypatch):
    monkeypatch.setattr(reproduce.subprocess, "run", lambda *args, **kwargs: pytest.fail("a command was run"))
    reproduce.main(["--imagenette", "data", "--only", "imagenette", "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split()[1]).stem for line in lines[:2]] == ["train_teacher", "ablate"]
    assert Path(lines[-1].split()[1]).stem == "evaluation_tables"
    with pytest.raises(SystemExit):
        reproduce.main(["--only", "cifar10", "--dry_run"])


def test_records_are_kept_without_local_paths(reproduce, tmp_path):
    teacher = tmp_path / "my-teacher"
    teacher.mkdir()
    source, target = tmp_path / "ablation.json", tmp_path / "kept.json"
    source.write_text(json.dumps([{"teacher": str(teacher), "dataset": "user/name", "accuracy": 0.5}]))
    reproduce.keep_records(source, target)
    assert json.loads(target.read_text()) == [{"teacher": "my-teacher", "dataset": "user/name", "accuracy": 0.5}]


def test_earlier_records_are_set_aside_and_never_overwritten(reproduce, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    (tmp_path / "cifar10.json").write_text("[1]")
    reproduce.set_aside(["cifar10"])
    assert (tmp_path / "earlier" / "cifar10.json").read_text() == "[1]"
    (tmp_path / "cifar10.json").write_text("[2]")
    with pytest.raises(SystemExit, match="from an earlier time"):
        reproduce.set_aside(["cifar10"])
    assert (tmp_path / "cifar10.json").read_text() == "[2]"
