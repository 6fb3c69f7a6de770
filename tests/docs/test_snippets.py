"""Every command and snippet of the README and the documentation, with local data in place of what lies on the Hub.

All commands are parsed by the parsers that they are for. The README's chain of commands is run in this process, and so
is the Python of all pages but for blocks that a page marks by `<!-- not run: why -->`, which are compiled. To be quick,
training is cut short by the options in `SHORT`, and sampling takes two steps; all else is run as it stands.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import glob
import io
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from decoct.arguments import parse_config
from decoct.cli import COMMANDS, CONFIGS
from decoct.config import EvaluateConfig

from .reading import PAGES, ROOT, blocks, commands, words_of

WRITTEN = [
    pytest.param(words_of(command), id=f"{page.relative_to(ROOT)}: {' '.join(command.split())[:70]}")
    for page in PAGES
    for block in blocks(page, "bash")
    for command in commands(block.text)
]
INDENTED = [
    pytest.param(words_of(command), id=f"{script.name}: {' '.join(command.split())[:70]}")
    for folder in ("scripts", "examples")
    for script in sorted((ROOT / folder).glob("*.py"))
    for command in commands(ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "")
    if command.split()[0] in ("accelerate", "decoct", "python", "uv", "hf") and "--" in command
]
SHORT = {
    "train-teacher": "--model convnet3_w16 --epochs 4 --batch_size 16".split(),
    "distill": "--slots 8 --allow_weak_teacher".split(),
    "evaluate": "--students convnet3_w16 --seeds 1 --epochs 2 --no_ranking".split(),
}


def script_of(words: list[str]) -> tuple[Path, list[str]]:
    """The script that a command runs, and its arguments."""
    if words[0] == "decoct":
        arguments = words[2:]
        if "--processes" in arguments:
            place = arguments.index("--processes")
            assert arguments[place + 1].isdigit()
            del arguments[place : place + 2]
        assert words[1] in COMMANDS, f"decoct has no command {words[1]!r}"
        whole = words[1] == "distill" and arguments and not arguments[0].startswith("-")
        return ROOT / "scripts" / ("whole.py" if whole else f"{words[1].replace('-', '_')}.py"), arguments
    place = next(index for index, word in enumerate(words) if word.endswith(".py"))
    return ROOT / words[place], words[place + 1 :]


def positional_of(script: Path) -> str | None:
    """The option that words without one are values of, as the script says."""
    found = re.search(r'positional="(\w+)"', script.read_text("utf-8"))
    return found[1] if found else None


@pytest.mark.parametrize("words", [*WRITTEN, *INDENTED])
def test_every_command_is_one_and_has_the_options_that_are_shown(words):
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert words[1] in targets and all("=" in word for word in words[2:])
        return
    if words[0] in ("pip", "bash") or words[:3] == ["hf", "auth", "login"]:
        assert words[0] != "bash" or (ROOT / words[1]).is_file()
        return
    assert words[0] in ("decoct", "accelerate", "python", "uv", "hf"), f"no way to check {words}"
    script, arguments = script_of(words)
    assert script.is_file()
    if config_class := CONFIGS.get(script.stem.replace("_", "-")):
        config = parse_config(config_class, arguments, positional=positional_of(script))
        assert isinstance(config, config_class)
        if isinstance(config, EvaluateConfig) and config.distilled.startswith("user/"):
            assert config.output_dir and "--dataset" in arguments, "a set on the Hub is measured into a folder here"
    else:  # argparse by hand
        known = re.findall(r'add_argument\(\s*"(--\w+)"', script.read_text("utf-8"))
        assert {word for word in arguments if word.startswith("--")} <= set(known)


@pytest.fixture(scope="session")
def stand_in(sample_part, tiny_pipeline):
    """`stand_in(text)`: the text with local data in place of the Hub's."""
    names = {
        "uoft-cs/cifar10": str(sample_part),
        "google/ddpm-cifar10-32": "runs/prior",
        "user/igds-cifar10": str(tiny_pipeline),
        "user/cifar10-infoutil": "runs/cifar10",
    }
    return lambda text: functools.reduce(lambda done, name: done.replace(name, names[name]), names, text)


@pytest.fixture(scope="session")
def reader(once, stand_in, image_folder, tiny_prior, tiny_estimator):
    """A reader's folder after the README's commands, with what they printed; tests must not change it."""

    def make(folder: Path) -> None:
        for name, source in {"prior": tiny_prior, "estimator": tiny_estimator}.items():
            shutil.copytree(source, folder / "runs" / name)
        (folder / "pipelines").symlink_to(ROOT / "pipelines")
        (folder / "photos").symlink_to(image_folder)
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.chdir(folder)
            patch.setenv("DECOCT_TRACEBACK", "1")
            for block in blocks(ROOT / "README.md", "bash"):
                for command in commands(block.text):
                    run(command, stand_in, patch)
        (folder / "printed.txt").write_text(printed.getvalue())

    return once("reader", make)


def run(command: str, stand_in: Callable[[str], str], patch: pytest.MonkeyPatch) -> None:
    """Runs a command of decoct in this process, but for a push that is no dry run."""
    words = words_of(command)
    pushes = "--push_to_hub" in words
    whole = words[1] == "distill" and not words[2].startswith("-")  # starts processes, see test_whole.py
    if words[0] != "decoct" or ((pushes or whole) and "--dry_run" not in words):
        return
    # What is asked for on the Hub is a name there; what is read from it lies here.
    script, arguments = script_of(words if pushes else words_of(stand_in(command)))
    arguments = [path for word in arguments for path in (sorted(glob.glob(word)) if "*" in word else [word])]
    patch.setattr(sys, "argv", [str(script), *arguments, *SHORT.get(script.stem.replace("_", "-"), [])])
    patch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(script), run_name="__main__")


def test_the_readmes_commands_run_one_after_the_other_as_they_stand(reader):
    printed = (reader / "printed.txt").read_text()
    assert (reader / "runs" / "cifar10" / "report.html").is_file()
    assert "random images" in printed and "user/cifar10-infoutil" in printed
    assert (reader / "runs" / "comparison" / "compare.md").is_file()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, reader, stand_in, tmp_path, monkeypatch):
    shutil.copytree(reader, tmp_path / "reader", symlinks=True)
    monkeypatch.chdir(tmp_path / "reader")
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        text = re.sub(r"(sampling_steps|num_inference_steps)=\d+", r"\1=2", stand_in(block.text))
        code = compile(text, str(block), "exec")
        if block.reason is None:
            exec(code, names)
