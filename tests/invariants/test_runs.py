"""A result does not depend on the number of processes, nor on being killed on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from decoct.arguments import parse_config
from decoct.config import DistillConfig, TeacherConfig
from decoct.files import read_json
from decoct.run import shards
from decoct.run.lock import LOCK_FILE
from decoct.synthesis.distill import distill


@pytest.fixture(scope="module")
def arguments(sample_part, trained_teacher) -> list[str]:
    """A run of 24 score shards, with crops by heat maps and all kinds of stored labels."""
    settings = "--crop_fraction 0.5 --grid_size 3 --coalitions 300 --candidates_per_class 0 --ipc 1 3 --views 3"
    labels = ["--slots", "3", "--selection", "herding"]
    data = ["--dataset", str(sample_part), "--teacher", str(trained_teacher)]
    return [*data, *settings.split(), *labels, "--batch_size", "16", "--shard_size", "4"]


def test_one_process_equals_two(written_by_two, uninterrupted, assert_same_run, tmp_path):
    first, second = written_by_two
    assert len(first) >= 12
    assert len(second) >= 12, "both processes must have had work"
    assert not first & second
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_killed_distillation_ends_the_same(
    launch, scripts, arguments, uninterrupted, kill_when, assert_same_run, tmp_path
):
    words = [*arguments, "--output_dir", "run"]
    shards = tmp_path / "run" / "shards"
    kill_when(lambda: len(list(shards.glob("scores-*.parquet"))) >= 2, scripts / "distill.py", *words, cwd=tmp_path)
    done_before = {path.name for path in shards.glob("*.parquet")}
    assert 2 <= len(done_before) < 24, "there must be work left"
    assert not (tmp_path / "run" / "manifest.json").exists()
    done = launch(scripts / "distill.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_killed_teacher_ends_the_same(launch, scripts, sample_part, kill_when, tmp_path):
    from decoct.training.teacher import train_teacher

    settings = "--model convnet3_w8 --epochs 4 --save_epochs 2 --batch_size 8 --checkpoint_steps 1".split()
    words = ["--dataset", str(sample_part), *settings, "--output_dir"]
    kill_when(
        lambda: any((tmp_path / "teacher" / "checkpoints").glob("*-*/progress.json")),
        *(scripts / "train_teacher.py", *words, "teacher"),
        cwd=tmp_path,
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


def die_after(shards_written: int, words: list[str]) -> None:
    """A rank that is killed while it writes a shard."""
    write, written = shards.write_parquet, []

    def killed(table, path):
        if len(written) == shards_written:
            (path.parent / f"{path.name}.123.tmp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write(table, path)
        written.append(path)

    shards.write_parquet = killed
    distill(parse_config(DistillConfig, words))


def test_four_ranks_of_which_one_is_killed_equal_one_machine(arguments, uninterrupted, assert_same_run, tmp_path):
    folder = tmp_path / "run"
    words = [*arguments, "--output_dir", str(folder), "--world_size", "4", "--rank"]

    def rank(number: int) -> dict[str, str]:
        return distill(parse_config(DistillConfig, [*words, str(number)]))["missing"]

    assert rank(0) == {"scores": "18 of 24"}
    assert rank(1) == {"scores": "12 of 24"}
    dying = multiprocessing.get_context("fork").Process(target=die_after, args=(2, [*words, "2"]))
    dying.start()
    dying.join(100)
    assert dying.exitcode == -signal.SIGKILL
    assert (folder / f"{LOCK_FILE}-2").exists(), "the lock of the dead one is left behind"
    assert rank(3) == {"scores": "4 of 24"}, "a dead one costs the others nothing"
    assert rank(2) == {"ipc_1": "1 of 1"}, "scores are complete, and labels of an IPC are one rank's"
    distill(parse_config(DistillConfig, [*words[:-3], "--merge"]))
    assert_same_run(folder, uninterrupted)
