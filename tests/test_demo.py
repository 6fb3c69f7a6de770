"""What `make demo` runs, resumes and shows; the scripts themselves are replaced by ones that write their result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from worlds import accuracy_record

from decoct.config import DistillConfig, EvaluateConfig, TeacherConfig
from decoct.demo import METHODS, SAID, demo_plan, demo_steps, demo_summary, run_steps

WRITE = (
    "import pathlib, sys\n"
    "path = pathlib.Path(sys.argv[1])\n"
    "path.parent.mkdir(parents=True, exist_ok=True)\n"
    "path.write_text('{}')"
)
STUDENTS = {"student": "convnet3_w64", "teacher_accuracy": 0.871}


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Titles of the steps that were run, in order."""
    titles: list[str] = []
    by_arguments = {tuple(step.arguments): step for step in [*demo_steps(tmp_path), *demo_steps(tmp_path, True)]}

    def launch_command(script, arguments, processes):
        step = by_arguments[tuple(arguments)]
        assert Path(script).is_file()
        assert processes == 1
        titles.append(step.title)
        return [sys.executable, "-c", WRITE, str(step.result)], [{}]

    monkeypatch.setattr("decoct.demo.launch_command", launch_command)
    return titles


def write_results(folder: Path) -> None:
    for position, method in enumerate(METHODS):
        records = [
            accuracy_record(0.5 + position / 10 + ipc / 1000, method=method, ipc=ipc, labels="views", **STUDENTS)
            for ipc in (1, 10)
        ]
        (folder / method).mkdir(parents=True)
        (folder / method / "results.json").write_text(json.dumps(records))


def test_all_methods_get_the_same_teacher_settings_and_protocol(tmp_path):
    steps = demo_steps(tmp_path)
    distilling = [step.config for step in steps if isinstance(step.config, DistillConfig)]
    evaluating = [step.config for step in steps if isinstance(step.config, EvaluateConfig)]
    assert isinstance(steps[0].config, TeacherConfig)
    assert [config.method for config in distilling] == list(METHODS)
    for configs in (distilling, evaluating):
        shared = ("teacher", "ipc", "candidates_per_class", "views", "labels", "max_steps", "seeds", "students", "seed")
        values = [{name: getattr(config, name, None) for name in shared} for config in configs]
        assert values == [values[0]] * len(METHODS)
    for step in demo_steps(tmp_path, overwrite=True):
        assert ("--overwrite" in step.arguments) == (step.script != "evaluate")


def test_a_second_run_does_nothing_and_a_lost_result_is_made_again_with_what_follows(tmp_path, launched):
    steps = demo_steps(tmp_path)
    run_steps(steps, tmp_path)
    assert launched == [step.title for step in steps]
    run_steps(steps, tmp_path)
    run_steps(demo_steps(tmp_path, overwrite=True), tmp_path)
    assert len(launched) == len(steps)
    steps[3].result.unlink()
    run_steps(steps, tmp_path)
    assert launched[len(steps) :] == [step.title for step in steps[3:]]


def test_steps_after_one_that_was_killed_are_not_done(tmp_path, launched, monkeypatch):
    steps = demo_steps(tmp_path)
    run_steps(steps, tmp_path)
    steps[3].result.unlink()
    with monkeypatch.context() as killed, pytest.raises(ChildProcessError):
        killed.setattr("decoct.demo.launch_command", lambda *arguments: ([sys.executable, "-c", "exit(3)"], [{}]))
        run_steps(steps, tmp_path)
    steps[3].result.write_text("{}")  # as a step leaves it that is killed after its result
    run_steps(steps, tmp_path)
    assert launched[len(steps) :] == [step.title for step in steps[3:]]


def test_a_failed_step_stops_the_demo_and_is_named(tmp_path, monkeypatch):
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr("decoct.demo.launch_command", lambda *arguments: (command, [{}]))
    with pytest.raises(ChildProcessError, match="'teacher' must end without an error. Got exit code 3"):
        run_steps(demo_steps(tmp_path), tmp_path)


def test_summary_says_how_it_was_measured_and_where_the_pictures_are(tmp_path):
    write_results(tmp_path)
    text = demo_summary(tmp_path)
    rows = [line.split() for line in text.splitlines()]
    assert ["infoutil", "50.1", "51.0"] in rows
    assert ["igds", "60.1", "61.0"] in rows
    assert ["random", "80.1", "81.0"] in rows
    for words in ("87.1 %", "rded_kd", "overrides: none", "label mode views", "of a set: 1,", "measurement"):
        assert words in text
    assert all(str((tmp_path / method / "preview.png").resolve()) in text for method in METHODS)
    for said in (text, demo_plan(tmp_path)):  # what each method is, in a line of its own
        assert all(
            any(line.split()[0] == method for line in said.splitlines() if SAID[method] in line) for method in METHODS
        )
    assert str(tmp_path) in demo_plan(tmp_path)
