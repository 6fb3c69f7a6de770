"""The steps of `make demo` and its closing summary; each step is a script in a process of its own."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from decoct import __version__
from decoct.arguments import parse_config
from decoct.cli import launch_command
from decoct.config import (
    DistillConfig,
    EvaluateConfig,
    RunConfig,
    SampleConfig,
    TeacherConfig,
    config_hash,
    to_dict,
)
from decoct.files import read_json, read_object
from decoct.results.tables import record_cell
from decoct.run.folder import write_json
from decoct.run.supervision import PARENT

__all__ = ["METHODS", "Step", "demo_plan", "demo_steps", "demo_summary", "run_steps"]

METHODS = ("infoutil", "igds", "rded", "random")
# What each is, in a line.
SAID = {
    "infoutil": "keeps real images with small gradients of the teacher's loss, as unlike one another as can be",
    "igds": "samples new ones from the embedded diffusion prior, guided by the embedded estimator",
    "rded": "keeps crops of real images, those with the smallest loss of the teacher",
    "random": "keeps real images drawn at random, which the others are to be compared with",
}
# Bars of single files would hide those of the steps.
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class Step:
    """One script with its arguments.

    Args:
        title: What it does.
        script: Name of the script.
        arguments: Its arguments.
        config: What they resolve to.
        result: File that it ends with.
        inputs: Fingerprints of images and networks that the configuration names and does not hold.
    """

    title: str
    script: str
    arguments: list[str]
    config: RunConfig
    result: Path
    inputs: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Twelve hex digits of the configuration, the inputs and the version."""
        return config_hash(
            {**to_dict(self.config), "overwrite": False, "version": __version__, "inputs": list(self.inputs)}
        )


def demo_plan(folder: Path) -> str:
    """What the demo will do, and about how long it takes."""
    return (
        "The whole chain on the embedded sample, real images of Fashion-MNIST: 4,000 to learn from, 1,000 to test on.\n"
        "  1. train a teacher on all 4,000\n"
        "  2. distil them into 10 and into 100 images, by\n"
        + "".join(f"       {name:<10}{SAID[name]}\n" for name in METHODS)
        + "  3. draw samples with less and with more contextual information, side by side\n"
        "  4. train a new network on each distilled set, and test it\n"
        f"5 to 15 minutes on 2 cores, by their age. Everything goes to {folder.resolve()}; the same command continues."
    )


def demo_steps(folder: Path, overwrite: bool = False) -> list[Step]:
    """Teacher, distilled sets of each method, samples over beta, and students, all with the preset `demo`.

    Args:
        folder: Where everything is written.
        overwrite: Passed to the scripts: start again where a folder holds another configuration's run.
    """
    again = ["--overwrite"] if overwrite else []
    teacher = folder / "teacher"

    def step(title: str, script: str, config_class: type[RunConfig], result: Path, *arguments: str) -> Step:
        words = ["--preset", "demo", *arguments]
        return Step(title, script, words, parse_config(config_class, words), result)

    return [
        step(
            "teacher", "train_teacher", TeacherConfig, teacher / "training.json", "--output_dir", str(teacher), *again
        ),
        *(
            step(
                *(f"distil by {method}", "distill", DistillConfig, folder / method / "manifest.json"),
                *("--method", method, "--teacher", str(teacher), "--output_dir", str(folder / method), *again),
            )
            for method in METHODS
        ),
        step(
            *("samples over beta", "sample", SampleConfig, folder / "samples" / "samples.json"),
            *("--output_dir", str(folder / "samples"), *again),
        ),
        *(
            step(
                *(f"students of {method}", "evaluate", EvaluateConfig, folder / method / "results.json"),
                *("--distilled", str(folder / method)),
            )
            for method in METHODS
        ),
    ]


def run_steps(steps: list[Step], folder: Path) -> None:
    """Runs the steps that are not done, with their progress; those before the first undone one are left out.

    Raises:
        ChildProcessError: If a step fails.
    """
    file = folder / "steps.json"
    done: dict[str, str] = read_object(file) if file.is_file() else {}
    folder.mkdir(parents=True, exist_ok=True)
    began, current = time.perf_counter(), True
    for number, step in enumerate(steps, start=1):
        # A step builds on those before it, so one that was run anew makes all later ones run.
        current = current and done.get(step.title) == step.fingerprint() and step.result.is_file()
        heading = f"[{number}/{len(steps)}] {step.title}"
        if current:
            _say(f"{heading}: done before")
            continue
        _say(f"\n{heading} ({time.perf_counter() - began:.0f} s so far)")
        for later in steps[number - 1 :]:
            done.pop(later.title, None)
        write_json(file, done)  # before the step: a kill while it runs must not leave later ones done
        _launch(step)
        done[step.title] = step.fingerprint()
        write_json(file, done)


def demo_summary(folder: Path) -> str:
    """One table, methods by images per class, with how it was measured and where everything is."""
    records: list[dict[str, Any]] = [record for name in METHODS for record in read_json(folder / name / "results.json")]
    ipcs = sorted({record["ipc"] for record in records})
    accuracy = {(record["method"], record["ipc"]): record_cell(record) for record in records}
    rows = [["method", *(f"IPC {ipc}, %" for ipc in ipcs)]]
    rows += [[method, *(accuracy[method, ipc] for ipc in ipcs)] for method in METHODS]
    rows.insert(1, ["-" * 8] * len(rows[0]))
    one = records[-1]
    overrides = ", ".join(f"{name}={value}" for name, value in one["overrides"].items()) or "none"
    return "\n".join(
        [
            "Accuracy on 1,000 real test images, after training on the distilled images alone",
            *("  " + "".join(f"{cell:<14}" for cell in row).rstrip() for row in rows),
            *(f"  {name:<12}{SAID[name]}" for name in METHODS),
            f"  teacher, which has seen all 4,000 images: {100 * one['teacher_accuracy']:.1f} %",
            f"Protocol {one['protocol']}, last epoch; overrides: {overrides}; label mode "
            f"{one['labels']}; student {one['student']}.",
            f"Students of a set: {len(one['seeds'])}, mean and deviation. A look, not a measurement: one draw each.",
            "The training is short, where images matter most; in longer ones random images come level at IPC 10",
            "(docs/results.md, Which images).",
            "",
            *(f"{f'{method}:':<11}{(folder / method / 'preview.png').resolve()}" for method in METHODS),
            f"{'over beta:':<11}{(folder / 'samples' / 'samples.png').resolve()}",
            f"{'folders:':<11}{', '.join(str((folder / name).resolve()) for name in ('teacher', *METHODS, 'samples'))}",
        ]
    )


def _launch(step: Step) -> None:
    """Runs a script to its end. The tables of single evaluations are left out: the summary has them all."""
    with as_file(files("decoct.scripts") / f"{step.script}.py") as script:
        command, (environment,) = launch_command(str(script), step.arguments, 1)
        output = subprocess.DEVNULL if step.script == "evaluate" else None
        code = subprocess.run(command, env={**environment, **QUIET, PARENT: str(os.getpid())}, stdout=output).returncode
    if code:
        raise ChildProcessError(f"the step '{step.title}' must end without an error. Got exit code {code}; see above.")


def _say(text: str) -> None:
    """Writes a line now, so that it stays before a script's own output."""
    os.write(1, f"{text}\n".encode())
