"""A result does not depend on the number of processes, nor on being killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from decoct.arguments import parse_config
from decoct.config import DistillConfig, TeacherConfig
from decoct.run_folder import read_json

DRIVER = """
import json, os, sys
from accelerate import Accelerator
from decoct.arguments import parse_config
from decoct.config import DistillConfig
from decoct.synthesis import shards
from decoct.synthesis.distill import distill

if __name__ == "__main__":
    written, write = [], shards.write_parquet
    shards.write_parquet = lambda table, path: (written.append(path.name), write(table, path))
    config = parse_config(DistillConfig, sys.argv[2:])
    state = Accelerator()
    world, rank = state.num_processes, state.process_index
    distill(config)
    with open(os.path.join(sys.argv[1], f"rank_{rank}.json"), "w") as file:
        json.dump({"world": world, "written": written}, file)
"""


@pytest.fixture(scope="module")
def arguments(sample_part, trained_teacher) -> list[str]:
    """A run of 24 score shards, with crops by heat maps and both kinds of labels."""
    settings = "--crop_fraction 0.5 --grid_size 3 --coalitions 300 --candidates_per_class 0 --ipc 1 3 --views 3"
    data = ["--dataset", str(sample_part), "--teacher", str(trained_teacher)]
    return [*data, *settings.split(), "--selection", "herding", "--batch_size", "16", "--shard_size", "4"]


@pytest.fixture(scope="module")
def uninterrupted(once, arguments) -> Path:
    """The run in this process, from start to end."""

    def make(folder: Path) -> None:
        from decoct.synthesis.distill import distill

        distill(parse_config(DistillConfig, [*arguments, "--output_dir", str(folder / "run")]))

    return once("uninterrupted", make) / "run"


def assert_same_run(folder: Path, expected: Path) -> None:
    """Equal tables, manifests (but for seconds and folder), cards and previews."""
    for ipc in (1, 3):
        ours, theirs = (pq.read_table(next(run.glob(f"data/ipc_{ipc}/*.parquet"))) for run in (folder, expected))
        assert ours.schema == theirs.schema
        assert ours.equals(theirs)
    manifests = []
    for run in (folder, expected):
        manifest = read_json(run / "manifest.json")
        del manifest["seconds"], manifest["config"]["output_dir"]
        manifests.append(manifest)
    assert manifests[0] == manifests[1]
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}


def kill_when(words: list[str], ready: Callable[[], bool], cwd: Path) -> None:
    """Starts a command and ends its whole process group by SIGKILL as soon as `ready()`."""
    log = cwd / "killed.log"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    with log.open("w") as output:
        process = subprocess.Popen(
            words, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            limit = time.monotonic() + 200
            while not ready():
                assert process.poll() is None, f"ended before it was killed:\n{log.read_text()}"
                assert time.monotonic() < limit, f"not ready in time:\n{log.read_text()}"
                time.sleep(0.005)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the command must have been killed, not ended by itself"


def test_one_process_equals_two(launch, arguments, uninterrupted, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    options = [tmp_path, *arguments, "--output_dir", tmp_path / "run"]
    done = launch(tmp_path / "driver.py", *options, cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    ranks: list[dict[str, Any]] = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert [rank["world"] for rank in ranks] == [2, 2]
    first, second = (set(rank["written"]) for rank in ranks)
    assert len(first) >= 12
    assert len(second) >= 12, "both processes must have had work"
    assert not first & second
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_killed_distillation_ends_the_same(launch, launch_words, scripts, arguments, uninterrupted, tmp_path):
    words = [*arguments, "--output_dir", "run"]
    shards = tmp_path / "run" / "shards"
    kill_when(
        launch_words(scripts / "distill.py", *words),
        lambda: len(list(shards.glob("scores-*.parquet"))) >= 2,
        tmp_path,
    )
    done_before = {path.name for path in shards.glob("*.parquet")}
    assert 2 <= len(done_before) < 24, "there must be work left"
    assert not (tmp_path / "run" / "manifest.json").exists()
    done = launch(scripts / "distill.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_killed_teacher_ends_the_same(launch, launch_words, scripts, sample_part, tmp_path):
    from decoct.training.teacher import train_teacher

    settings = "--model convnet3_w8 --epochs 4 --save_epochs 2 --batch_size 8 --checkpoint_steps 1".split()
    words = ["--dataset", str(sample_part), *settings, "--output_dir"]
    kill_when(
        launch_words(scripts / "train_teacher.py", *words, "teacher"),
        lambda: any((tmp_path / "teacher" / "checkpoints").glob("*-*/progress.json")),
        tmp_path,
    )
    assert not (tmp_path / "teacher" / "training.json").exists(), "there must be work left"
    done = launch(scripts / "train_teacher.py", *words, "teacher", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = train_teacher(parse_config(TeacherConfig, [*words, str(tmp_path / "whole")]))
    assert read_json(tmp_path / "teacher" / "training.json")["epochs"] == whole["epochs"]
    for part in (".", "epoch_2"):
        ours, theirs = (load_file(tmp_path / run / part / "model.safetensors") for run in ("teacher", "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (tmp_path / "teacher" / "checkpoints").exists()
