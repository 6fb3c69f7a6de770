"""The command line: help, presets, errors, and the launcher."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
import yaml

from decoct.arguments import parse_config, read_preset, run
from decoct.cli import COMMANDS, CONFIGS, launch_command, main
from decoct.config import (
    BetaStudyConfig,
    DistillConfig,
    EstimatorConfig,
    EvaluateConfig,
    InformationConfig,
    PriorConfig,
    TeacherConfig,
)
from decoct.config.options import Group
from decoct.methods import METHODS
from decoct.run.supervision import supervise

PRESETS = ("demo", "cifar10", "imagenette", "imagenette_dit", "imagenette_text", "infoutil_paper")
SCRIPTS = Path(__file__).parents[1] / "scripts"


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


@pytest.fixture
def preset(tmp_path):
    def write(content: object) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("train_teacher", ["--save_epochs", "--learning_rate"]),
        ("distill", ["--method", "--utility_order", "--ipc", "--prior_classes", "--guidance_scale", "--scheduler"]),
        ("evaluate", ["--students", "--protocol", "--labels"]),
        ("train_estimator", ["--encoder", "--queue_size", "--kl_weight", "--q_mode"]),
        ("train_prior", ["--conditional", "--no_conditional", "--channels", "--label_dropout"]),
        ("information", ["--estimator", "--distilled", "--temperature"]),
        ("beta_study", ["--targets", "--sharpness", "--labels", "--ipc"]),
    ],
)
def test_script_help_all_shows_pasteable_commands_and_every_option(script, options):
    result = command(str(SCRIPTS / f"{script}.py"), "--help_all")
    assert result.returncode == 0, result.stderr
    assert f"    accelerate launch scripts/{script}.py --" in result.stdout
    assert all(option in result.stdout for option in [*options, "--preset", "--dry_run", "--dataset"])
    assert "(default: None)" not in result.stdout


def test_decoct_help_lists_the_commands_and_imports_nothing_heavy():
    code = (
        "import sys, decoct.cli\ntry: decoct.cli.main(['--help'])\nexcept SystemExit: pass\nprint(sorted(sys.modules))"
    )
    result = command("-c", code)
    assert result.returncode == 0, result.stderr
    assert all(f"  {name}" in result.stdout for name in COMMANDS)
    assert not {"'torch'", "'transformers'", "'accelerate'"} & set(result.stdout.replace(",", " ").split())


def test_import_decoct_does_not_import_torch():
    result = command("-c", "import decoct, sys; print('torch' in sys.modules, decoct.ImageSpec.__name__)")
    assert result.stdout.split() == ["False", "ImageSpec"], result.stderr


@pytest.fixture
def help_of(capsys):
    """`help_of(config_class, option)`: what `--help` or `--help_all` prints."""

    def text(config_class: type, option: str = "--help") -> str:
        with pytest.raises(SystemExit) as stop:
            parse_config(config_class, [option], "What it does.")
        assert stop.value.code == 0
        return capsys.readouterr().out

    return text


def entries(text: str) -> dict[str, str]:
    """What the help says of each option, by its name."""
    parts = re.split(r"^  --(\w+)", text.partition("all commands:")[0], flags=re.M)
    return {name: " ".join(entry.split()) for name, entry in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("config_class", CONFIGS.values())
def test_help_shows_the_first_options_and_help_all_every_one_by_group(help_of, config_class):
    first, everything = help_of(config_class), help_of(config_class, "--help_all")
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    assert entries(everything).keys() == fields.keys()
    some = entries(first).keys()
    assert some == set(getattr(config_class, "SHOWN_FIRST", fields))
    assert len(some) <= 10
    left = len(fields) - len(some)
    assert (f"{left} more options: --help_all" in first) == (left > 0)
    groups = [name for name in get_args(Group) if f"\n{name}:\n" in everything]
    assert set(groups) == {field.metadata["group"] for field in fields.values()}
    assert re.findall(r"^(\w+):$", everything, re.M) == groups


@pytest.mark.parametrize("config_class", CONFIGS.values())
def test_every_default_is_visible(help_of, config_class):
    for name, entry in entries(help_of(config_class, "--help_all")).items():
        assert "(default: " in entry or "Default: " in entry or "at least one" in entry, name


def test_defaults_are_shown_as_they_are_written_on_the_command_line(help_of):
    assert "(default: 1 10 50)" in entries(help_of(BetaStudyConfig))["ipc"]
    distill = entries(help_of(DistillConfig, "--help_all"))
    assert distill["softplus"].startswith(", --no_softplus ")
    assert "Default: kernel_shap (infoutil), whole (igds, k_center" in distill["attribution"]


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["distill", "--techer", "runs/teacher"], "'--techer'. The nearest option is '--teacher'."),
        (["evaluate", "--no_basline"], "'--no_basline'. The nearest option is '--no_baseline'."),
        (["distill", "--proceses", "2"], "'--proceses'. The nearest option is '--processes'."),
        (["verify", "runs/it", "--revison=v1"], "'--revison'. The nearest option is '--revision'."),
    ],
)
def test_a_misspelt_option_is_answered_before_anything_is_launched(capsys, monkeypatch, words, nearest):
    monkeypatch.setattr("decoct.cli.supervise", lambda *command: pytest.fail("launches"))
    monkeypatch.setattr("decoct.cli.launch_command", lambda *command: pytest.fail("launches"))
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"decoct {words[0]}: error: unknown option {nearest}\n"


def test_options_may_be_written_with_hyphens():
    assert parse_config(DistillConfig, ["--candidates-per-class=7", "--dry-run"]).candidates_per_class == 7


def test_decoct_without_a_command_shows_help_and_an_unknown_one_is_an_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    assert "commands:" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["distil"])
    assert stop.value.code == 2
    assert "'distil'" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "option"), [("train-teacher", "--save_epochs"), ("beta-study", "--targets")])
def test_decoct_command_help_is_the_scripts_help(name, option):
    result = command("-m", "decoct.cli", name, "--help")
    assert result.returncode == 0, result.stderr
    assert option in result.stdout


def test_every_command_has_its_script():
    assert all((SCRIPTS / f"{name.replace('-', '_')}.py").is_file() for name in COMMANDS)
    assert CONFIGS.keys() == {*COMMANDS, "whole"}  # of `decoct distill DATASET`


def test_command_line_overrides_preset_overrides_default(preset):
    path = preset(
        {"teacher": {"epochs": 7, "learning_rate": "5e-4", "flip": False, "save_epochs": [2, 4], "seed": None}}
    )
    config = parse_config(TeacherConfig, ["--preset", path, "--epochs", "9"])
    assert (config.epochs, config.learning_rate, config.flip, config.save_epochs) == (9, 5e-4, False, [2, 4])
    assert (config.batch_size, config.seed) == (TeacherConfig().batch_size, 0)


def test_no_and_yes_in_a_preset_are_what_they_say(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("teacher:\n  mixed_precision: no\n  flip: no\n  private: yes\n")
    config = parse_config(TeacherConfig, ["--preset", str(file), "--push_to_hub", "user/teacher"])
    assert (config.mixed_precision, config.flip, config.private) == ("no", False, True)


def test_flags_need_no_value():
    config = parse_config(DistillConfig, ["--dry_run", "--overwrite", "--ipc", "10", "1"])
    assert (config.dry_run, config.overwrite, config.ipc) == (True, True, [1, 10])


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("config_class", [TeacherConfig, DistillConfig, EvaluateConfig])
def test_shipped_presets_are_valid(name, config_class):
    assert isinstance(parse_config(config_class, ["--preset", name]), config_class)


@pytest.mark.parametrize("name", ["cifar10", "imagenette", "demo"])
@pytest.mark.parametrize("method", ["rded", "random", "herding"])
def test_presets_leave_a_baseline_its_own_settings(name, method):
    config = parse_config(DistillConfig, ["--preset", name, "--method", method])
    defaults = METHODS[config.method].defaults
    assert {key: getattr(config, key) for key in defaults} == defaults


@pytest.mark.parametrize("config_class", [BetaStudyConfig, EstimatorConfig, InformationConfig, PriorConfig])
def test_the_commands_of_igds_have_valid_defaults_and_refuse_bad_values(config_class, capsys):
    assert isinstance(parse_config(config_class, []), config_class)
    with pytest.raises(SystemExit) as stop:
        parse_config(config_class, ["--seed", "many"])
    assert stop.value.code == 2
    assert "'many'" in capsys.readouterr().err


def test_igds_takes_its_settings_from_the_command_line():
    words = "--method igds --beta 0.2 --prior_classes 3 1 0 --no_softplus --scheduler ddim --sampling_steps 20".split()
    config = parse_config(DistillConfig, words)
    assert (config.beta, config.prior_classes, config.softplus) == (0.2, [3, 1, 0], False)
    assert (config.scheduler, config.sampling_steps) == ("ddim", 20)
    assert parse_config(DistillConfig, ["--method", "igds"]).beta is None


def test_the_papers_preset_is_the_papers_setting():
    config = parse_config(DistillConfig, ["--preset", "infoutil_paper"])
    assert (config.attribution, config.crop_fraction, config.utility, config.utility_order) == (
        "kernel_shap",
        0.5,
        "grad_norm",
        "highest",
    )
    assert (config.crops_per_image, config.noise_scale, config.label_teacher) == (5, 2.0, ["by_ipc"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_number_of_a_preset_has_its_source(name):
    lines = (SCRIPTS.parent / "presets" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if ":" in line and not line.lstrip().startswith("#")]
    numbers = {line.strip() for line in settings if any(c.isdigit() for c in line.split(":", 1)[1].split("#")[0])}
    named = {line for line in numbers if line.split(":")[0] in ("image_size", "dataset", "dataset_config", "students")}
    assert not {line for line in numbers - named if "# source: " not in line}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"teacher": {"epoch": 3}}, ["mine.yaml", "'epoch'", "'epochs'"]),
        ({"distill": {}}, ["mine.yaml", "teacher", "distill"]),
        ("teacher: [", ["mine.yaml", "valid YAML"]),
        ("text", ["mine.yaml", "section `teacher:`"]),
        ({"teacher": {"epochs": "many"}}, ["epochs", "'many'"]),
        ({"teacher": {"epochs": 0}}, ["epochs must be at least 1. Got 0."]),
    ],
)
def test_a_bad_preset_names_the_file_and_the_remedy(preset, capsys, content, words):
    with pytest.raises(SystemExit) as stop:
        parse_config(TeacherConfig, ["--preset", preset(content)])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)


@pytest.mark.parametrize("name", ["cifar", "missing.yaml"])
def test_a_missing_preset_lists_the_ones_there_are(name):
    with pytest.raises(FileNotFoundError, match=r"\['cifar10', 'demo', .*\].*Got '" + name):
        read_preset(name, "teacher", ["epochs"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crop_fraction", "2"], "crop_fraction must be in (0, 1]. Got 2.0."),
        (["--crop_fractoin", "1"], "'--crop_fractoin'. The nearest option is '--crop_fraction'."),
        (["--method", "sre2l"], "'sre2l'"),
        (["--util", "loss"], "'--util'"),
        (["--method", "igds", "--guidance_scale", "-1"], "guidance_scale must be at least 0. Got -1.0."),
        (["--method", "igds", "--scheduler", "euler"], "'euler'"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_code_2(arguments, message):
    result = command(str(SCRIPTS / "distill.py"), *arguments)
    assert result.returncode == 2
    assert "distill.py: error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_of_a_run_is_one_line_and_exit_code_1(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/distill.py"])
    monkeypatch.delenv("DECOCT_TRACEBACK", raising=False)

    def fail() -> None:
        raise ValueError("teacher must have the dataset's label names. Got ['cat'].")

    with pytest.raises(SystemExit) as stop:
        run(fail)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "distill.py: error: teacher must have the dataset's label names. Got ['cat'].\n"
    monkeypatch.setenv("DECOCT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="label names"):
        run(fail)


def test_ctrl_c_is_one_line_that_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/distill.py"])

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run(interrupted)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "\ndistill.py: interrupted; a long run continues with the same command.\n"


def test_the_script_evaluate_does_not_hide_the_library_evaluate(tmp_path):
    (tmp_path / "evaluate.py").write_text(
        "from decoct.arguments import run\n"
        "def main():\n    import importlib.util\n    print(importlib.util.find_spec('evaluate').origin)\n"
        "if __name__ == '__main__':\n    run(main)\n"
    )
    result = command(str(tmp_path / "evaluate.py"))
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).parent.name == "evaluate"


@dataclass
class World:
    size: int
    threads: int
    arguments: list[str]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_launcher_starts_that_many_processes(tmp_path, processes):
    (tmp_path / "world.py").write_text(
        "import json, os, sys, torch\nfrom accelerate import Accelerator\n"
        "accelerator = Accelerator()\n"
        "record = {'size': accelerator.num_processes, 'threads': torch.get_num_threads(), 'arguments': sys.argv[1:]}\n"
        f"open(os.path.join({str(tmp_path)!r}, f'{{accelerator.process_index}}.json'), 'w').write(json.dumps(record))\n"
        "accelerator.end_training()\n"
    )
    words, environments = launch_command(str(tmp_path / "world.py"), ["--ipc", "1", "10"], processes)
    environments = [{**each, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} for each in environments]
    assert supervise(words, environments, "") == 0
    worlds = [World(**json.loads(path.read_text())) for path in sorted(tmp_path.glob("*.json"))]
    assert worlds == [World(processes, 1, ["--ipc", "1", "10"])] * processes


def test_more_processes_than_gpus_is_an_error(monkeypatch):
    monkeypatch.setattr("decoct.cli.gpu_count", lambda: 2)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    with pytest.raises(ValueError, match="--processes must be at most 2"):
        launch_command("script.py", [], 4)
    _, environments = launch_command("script.py", [], 2)
    assert [each["RANK"] for each in environments] == ["0", "1"]
    assert all("ACCELERATE_USE_CPU" not in each for each in environments)
    with pytest.raises(ValueError, match="at least 1"):
        launch_command("script.py", [], 0)
