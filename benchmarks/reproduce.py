"""Reproduces every accuracy table of the README, from nothing but the data.

    python benchmarks/reproduce.py --cifar10 uoft-cs/cifar10 --imagenette frgfm/imagenette
    python benchmarks/reproduce.py --cifar10 ... --imagenette ... --dry_run    # the commands, run none
    python benchmarks/reproduce.py --cifar10 ... --only cifar10                # one group of tables

Trains the teachers, the prior and the estimator, distils, trains the students, and writes the tables. Records that lie
in `benchmarks/results/` are not made again, nor are finished trainings in `--runs`, so the command resumes and, on a
fresh clone, only shows the tables; `--results FOLDER` starts from an empty folder. All of it takes about two days on
one CPU core; the CIFAR-10 tables take most of them.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ("0", "1", "2")


@dataclass(frozen=True)
class Step:
    """One command of a group of tables; `script` is relative to the repository."""

    group: str
    script: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, str(ROOT / self.script), *self.arguments]


def steps(cifar10: str | None, imagenette: str | None, runs: Path) -> list[Step]:
    """All commands in order; groups whose data is not given are left out."""
    planned = [*sample_steps(runs)]
    if cifar10 is not None:
        planned += cifar10_steps(cifar10, runs)
    if imagenette is not None:
        planned += imagenette_steps(imagenette, runs)
    tables = [Step("tables", f"benchmarks/{name}.py", ()) for name in ("tables", "igds_tables")]
    return [*planned, *tables]


def sample_steps(runs: Path) -> list[Step]:
    """IGDS on the embedded sample, with the embedded prior and estimator."""
    teacher = str(runs / "sample-teacher")
    sweep = ("--dataset", "sample", "--teacher", teacher, "--prior", "sample", "--estimator", "sample")
    sweep = (*sweep, "--student", "convnet3_w64", "--guidance_scales", "0.2", "--label_modes", "views", "hard")
    study = ("--dataset", "sample", "--estimator", "sample", "--students", "convnet3_w64", "--ipc", "1", "10", "50")
    return [
        Step("sample", "scripts/train_teacher.py", ("--preset", "demo", "--output_dir", teacher)),
        Step("sample", "benchmarks/beta_sweep.py", (*sweep, "--ipc", "1", "--betas", "0", "--seeds", *SEEDS)),
        Step("sample", "benchmarks/beta_sweep.py", (*sweep, "--ipc", "10", "--betas", "0", "1", "3", "10", "--seeds", *SEEDS)),
        Step("sample", "benchmarks/beta_sweep.py", (*sweep, "--ipc", "50", "--betas", "0", "3", "10", "--seeds", "0")),
        Step(
            "sample",
            "scripts/beta_study.py",
            (*study, "--targets", "4", "--sharpness", "100", "--rrc_scale", "0.08", "--mixed_precision", "bf16")
            + ("--output_dir", str(runs / "beta-study")),
        ),
    ]
