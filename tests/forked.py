"""Scripts in processes of their own, forked from one that has imported the libraries and done nothing else.

A script that is started anew imports torch and its kin for seconds, which is most of a tiny run. What runs here is
otherwise as `decoct` starts it: real processes that find each other, with streams and signals of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from decoct.run.supervision import local_processes

__all__ = ["launch", "start"]

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "diffusers", "safetensors.torch", "pyarrow.parquet")
OWN = ("training.teacher", "training.prior", "training.estimator", "synthesis.distill", "evaluation.evaluate")
OUTPUT, ERRORS = "stdout.log", "stderr.log"


def start(
    script: Path | str, arguments: Sequence[object], cwd: Path, logs: Path, processes: int = 1
) -> list[BaseProcess]:
    """Starts a script in so many processes; what they say goes to `logs`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, *(f"decoct.{module}" for module in OWN), "forked"])
    words = list(map(str, arguments))
    environments = local_processes({**os.environ, "ACCELERATE_USE_CPU": "true"}, processes)
    started = [
        context.Process(target=run, args=(str(script), words, str(cwd), environment, str(logs)))
        for environment in environments
    ]
    for process in started:
        process.start()
    return started


def launch(
    script: Path | str, *arguments: object, cwd: Path, logs: Path, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end; the exit status is that of the first process that failed."""
    started = start(script, arguments, cwd, logs, processes)
    for process in started:
        process.join(240)
        if process.exitcode is None:
            for each in started:
                each.kill()
    status = next((process.exitcode for process in started if process.exitcode), 0)
    output, errors = ((logs / name).read_text() if (logs / name).exists() else "" for name in (OUTPUT, ERRORS))
    return subprocess.CompletedProcess([str(script), *map(str, arguments)], status or 0, output, errors)


def run(script: str, words: list[str], cwd: str, environment: Mapping[str, str], logs: str) -> None:
    """What a forked process does."""
    for number, name in ((1, OUTPUT), (2, ERRORS)):
        file = os.open(Path(logs, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = [script, *words]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
