"""The script that reproduces all tables."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from decoct.evaluation.grid import agrees, known_of

from .loading import load
from .test_grids import cells, committed


@pytest.fixture(scope="module")
def reproduce() -> ModuleType:
    return load("reproduce")


def test_every_command_of_the_reproduction_is_valid(reproduce, tmp_path, monkeypatch):
    """The scripts' own parsers accept the words: an option that was renamed would stop a run of days."""
    from decoct.arguments import parse_config
    from decoct.config import AblateConfig, DistillConfig, EstimatorConfig, PriorConfig, TeacherConfig

    classes = {"train_teacher": TeacherConfig, "train_prior": PriorConfig, "train_estimator": EstimatorConfig}
    classes |= {"distill": DistillConfig, "ablate": AblateConfig}
    grids, seen = load("grids"), set()
    for group, steps in reproduce.STEPS.items():
        for step in steps("sample" if group == "sample" else "data", tmp_path):
            assert (reproduce.ROOT / step.script).is_file()
            name = Path(step.script).stem
            seen.add(name)
            if step.script.startswith("scripts/"):
                config = parse_config(classes[name], list(step.arguments))
                assert str(config.output_dir).startswith(str(tmp_path))
            elif name == "grids":
                args = grids.parser().parse_args(step.arguments)
                assert grids.read(args).sets and str(args.runs).startswith(str(tmp_path))
    assert seen == {*classes, "grids", "hub"}


def test_a_fresh_clone_has_the_self_contained_records(reproduce):
    """They are not made again by a teacher that is trained anew."""
    grids, found = load("grids"), [known_of(record) for record in committed("self_contained")]
    runs = [step for step in reproduce.self_contained_steps("data/cifar10", Path("runs")) if "grids" in step.script]
    wanted = [cell for step in runs for cell in cells(grids, step.arguments, "data/cifar10")]
    assert len(wanted) == len(found) == 26
    assert all(any(agrees(record, cell.identity) for record in found) for cell in wanted)


def test_dry_run_shows_the_commands_and_runs_none(reproduce, capsys, monkeypatch):
    monkeypatch.setattr(reproduce.subprocess, "run", lambda *args, **kwargs: pytest.fail("a command was run"))
    reproduce.main(["--imagenette", "data", "--only", "imagenette", "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split()[1]).stem for line in lines[:2]] == ["train_teacher", "ablate"]
    assert Path(lines[-1].split()[1]).stem == "readme"
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
