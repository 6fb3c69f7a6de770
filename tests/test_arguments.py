"""What every script does around its stage: plan or run, what is printed, publishing, words, exit codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from decoct.arguments import Stage, run_stage
from decoct.config import CompareConfig, DistillConfig, VerifyConfig


@pytest.fixture
def script(monkeypatch) -> Callable[..., list[Any]]:
    """`script(words, config_class, **parts)` runs a script with a stage that notes what is called."""

    def run(
        words: list[str], config_class: type = DistillConfig, positional: str | None = None, **parts: Any
    ) -> list[Any]:
        called: list[Any] = []

        def note(name: str) -> Callable[[Any], dict[str, Any]]:
            return lambda config: called.append((name, config)) or {"images": 4000}

        stage = Stage(**{"run": note("run"), "plan": note("plan"), "printed": lambda result: "done", **parts})
        monkeypatch.setattr("sys.argv", ["scripts/stage.py", *words])
        run_stage(config_class, lambda config: stage, "Text.", positional)
        return called

    return run


def test_a_run_is_printed_and_plans_nothing(script, capsys):
    ((name, config),) = script(["--ipc", "2"])
    assert (name, config.ipc) == ("run", [2])
    assert capsys.readouterr().out == "done\n"


def test_a_dry_run_shows_the_plan_and_runs_and_publishes_nothing(script, capsys, monkeypatch):
    monkeypatch.setattr("decoct.hub.publish.require_publishing", lambda config: pytest.fail("publishes"))
    ((name, _),) = script(["--dry_run", "--push_to_hub", "user/name"])
    assert name == "plan"
    assert capsys.readouterr().out == "images  4,000\n"


def test_what_keeps_a_result_from_being_published_is_found_before_the_work(script, capsys, monkeypatch):
    def refuse(config: DistillConfig) -> None:
        raise ValueError("HF_TOKEN must be set.")

    monkeypatch.setattr("decoct.hub.publish.require_publishing", refuse)
    with pytest.raises(SystemExit) as stop:
        script(["--push_to_hub", "user/name"], run=lambda config: pytest.fail("runs"))
    assert stop.value.code == 1
    assert capsys.readouterr().err == "stage.py: error: HF_TOKEN must be set.\n"


def test_a_result_is_published_after_it_is_printed(script, capsys, monkeypatch):
    monkeypatch.setattr("decoct.hub.publish.require_publishing", lambda config: None)
    monkeypatch.setattr("decoct.hub.publish.publish_run", lambda config, folder: f"{config.push_to_hub} has {folder}")
    script(["--push_to_hub", "user/name", "--output_dir", "runs/it"])
    assert capsys.readouterr().out == "done\nuser/name has runs/it\n"


def test_other_processes_print_and_publish_nothing(script, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("decoct.hub.publish.require_publishing", lambda config: None)
    monkeypatch.setattr("decoct.hub.publish.publish_run", lambda config, folder: pytest.fail("publishes"))
    script(["--push_to_hub", "user/name"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["a", "b", "--output_dir", "c"],
        ["--output_dir", "c", "a", "b"],
        ["a", "--output_dir", "c", "b"],
        ["--runs", "a", "b", "--output_dir", "c"],
    ],
)
def test_words_that_belong_to_no_option_are_values_of_one(script, words):
    ((_, config),) = script(words, CompareConfig, "runs", plan=None)
    assert (config.runs, config.output_dir) == (["a", "b"], "c")


def test_a_word_is_stronger_than_a_preset(script, tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("verify: {source: theirs}", "utf-8")
    ((_, config),) = script(["--preset", str(preset), "mine"], VerifyConfig, "source", plan=None)
    assert config.source == "mine"


@pytest.mark.parametrize(
    ("words", "config_class", "positional", "unknown"),
    [
        (["a", "--runs", "b"], CompareConfig, "runs", "a"),
        (["-a", "b"], CompareConfig, "runs", "-a"),
        (["a", "b"], VerifyConfig, "source", "b"),
        (["a"], DistillConfig, None, "a"),
    ],
)
def test_words_that_are_values_of_nothing_are_refused(script, capsys, words, config_class, positional, unknown):
    with pytest.raises(SystemExit) as stop:
        script(words, config_class, positional, plan=None)
    assert stop.value.code == 2
    assert f"unknown argument '{unknown}'" in capsys.readouterr().err


def test_a_result_that_is_no_success_is_printed_and_ends_with_exit_code_1(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script(["folder"], VerifyConfig, "source", plan=None, ok=lambda result: False)
    assert stop.value.code == 1
    assert capsys.readouterr().out == "done\n"
