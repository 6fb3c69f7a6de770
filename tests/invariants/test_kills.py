"""A kill at any file operation is healed by the same command.

One run is watched: before each operation that changes a file, the folder is copied as a kill at that moment would leave
it. The same command then starts in each of these copies, and must end as the run that nobody killed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from worlds import contents, draw_no_pictures, without_times, write_images, write_run

from decoct.config import DistillConfig, EstimatorConfig, EvaluateConfig, PriorConfig, TeacherConfig
from decoct.evaluation.evaluate import evaluate
from decoct.files import read_json
from decoct.hub.verify import verify_folder
from decoct.synthesis.distill import distill
from decoct.training.estimator import train_estimator
from decoct.training.prior import train_prior
from decoct.training.teacher import train_teacher

# Python's names of what changes files, and how many of the arguments are paths.
OPERATIONS = {"open": 1, "os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1}
WRITES = os.O_WRONLY | os.O_RDWR
watching: list[Callable[[], None]] = []
watched: list[str] = []


def look(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: takes a copy before an operation below the watched folder."""
    if not watching or event not in OPERATIONS or (event == "open" and not arguments[2] & WRITES):
        return
    paths = [
        os.fsdecode(each) for each in arguments[: OPERATIONS[event]] if isinstance(each, str | bytes | os.PathLike)
    ]
    if any(os.path.abspath(path).startswith(watched[0]) for path in paths):
        copy, watching[:] = watching[0], []
        copy()
        watching.append(copy)


@contextmanager
def copies_of(folder: Path, into: Path) -> Iterator[list[Path]]:
    """The different states that a folder has before each change inside the block."""
    copies: list[Path] = []
    seen: set[str] = set()

    def copy() -> None:
        if not folder.exists():
            return
        state = hashlib.sha256(repr([*contents(folder).items(), sorted(map(str, folder.rglob("*")))]).encode())
        if state.hexdigest() not in seen:
            seen.add(state.hexdigest())
            copies.append(Path(shutil.copytree(folder, into / f"{len(copies):03d}")))

    sys.addaudithook(look)  # it stays for the life of the process, and looks at nothing later
    watched[:], watching[:] = [str(folder)], [copy]
    try:
        yield copies
    finally:
        watching.clear()


def heal(copies: list[Path], folder: Path, run: Callable[[], Any], check: Callable[[int], None]) -> None:
    for number, state in enumerate(copies):
        shutil.rmtree(folder)
        shutil.copytree(state, folder)
        run()
        check(number)


def names(folder: Path) -> list[str]:
    return sorted(contents(folder))


def test_a_distillation_killed_at_any_file_operation_is_healed(sample_part, trained_teacher, tmp_path, monkeypatch):
    draw_no_pictures(monkeypatch, report=True)
    folder = tmp_path / "run"
    options = {"ipc": [1], "views": 1, "slots": 2, "candidates_per_class": 4, "batch_size": 16, "shard_size": 16}
    config = DistillConfig(
        dataset=str(sample_part), teacher=str(trained_teacher), method="rded", output_dir=str(folder), **options
    )
    with copies_of(folder, tmp_path) as copies:
        distill(config)
    whole = contents(folder)
    assert len(copies) > 15, "every write must have been seen"
    assert any(".tmp" in name for state in copies for name in names(state)), "half-written files must be among them"

    def check(number: int) -> None:
        healed = contents(folder)
        assert sorted(healed) == sorted(whole), f"state {number}"
        data = [name for name in whole if name.startswith("data/")]
        assert [healed[name] for name in data] == [whole[name] for name in data], f"state {number}"
        report = verify_folder(folder)
        assert not [each for each in report.problems if each.check in ("files", "hashes", "manifest", "paths")], report

    heal(copies, folder, lambda: distill(config), check)


ESTIMATOR = {"encoder": "resnet10_w4", "projection_dim": 8, "epochs": 1, "batch_size": 96, "queue_size": 0}
PRIOR = {"channels": [8, 16], "attention": False, "epochs": 1, "batch_size": 96, "sample_every": 0}
TRAININGS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "teacher": (train_teacher, partial(TeacherConfig, model="convnet3_w8", epochs=2, save_epochs=[1], batch_size=48)),
    "estimator": (train_estimator, partial(EstimatorConfig, **ESTIMATOR)),
    "prior": (train_prior, partial(PriorConfig, **PRIOR)),
}


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_killed_at_any_file_operation_is_healed(sample_part, tmp_path, kind):
    train, config_of = TRAININGS[kind]
    folder = tmp_path / kind
    config = config_of(dataset=str(sample_part), output_dir=str(folder))
    with copies_of(folder, tmp_path) as copies:
        train(config)
    whole = contents(folder)
    assert len(copies) > 10, "every write must have been seen"

    def check(number: int) -> None:
        assert contents(folder) == whole, f"state {number}"

    # The trainings share one loop and its checkpoints: of the others each fourth state is enough.
    heal(copies if kind == "teacher" else copies[::4], folder, lambda: train(config), check)


def test_an_evaluation_killed_at_any_file_operation_is_healed(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", [1])
    images = write_images(tmp_path / "images", count=9)
    student = {"students": ["convnet3_w8"], "labels": ["hard"], "epochs": 1, "seeds": 2, "ranking": False}
    config = EvaluateConfig(distilled=str(folder), dataset=str(images), ipc=[1], **student)
    with copies_of(folder, tmp_path) as copies:
        evaluate(config)
    whole, records = names(folder), without_times(read_json(folder / "results.json"))
    assert len(copies) > 5, "every write must have been seen"

    def check(number: int) -> None:
        assert names(folder) == whole, f"state {number}"
        assert without_times(read_json(folder / "results.json")) == records, f"state {number}"

    heal(copies, folder, lambda: evaluate(config), check)
