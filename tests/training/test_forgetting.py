"""Forgetting events, against a hand-made sequence and a slow loop over the predictions of a real training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file

from decoct.config import TeacherConfig
from decoct.data.loading import load_images
from decoct.training.forgetting import (
    FORGETTING_FILE,
    ForgettingEvents,
    check_forgetting_events,
    forgetting_scores,
    write_forgetting_events,
)
from decoct.training.loop import EpochBatches
from decoct.training.teacher import train_teacher

from .interrupted import PowerCut, cut_power

# Outcomes of six images in five epochs: 1 right, 0 wrong, - not presented.
HISTORIES = ["11111", "00000", "10101", "-1001", "1-0-1", "0-1-0"]
EVENTS, LEARNED = [0, 0, 2, 1, 1, 1], [True, False, True, True, True, True]
IMAGES, BATCH, EPOCHS = 96, 20, 3


@pytest.fixture
def config(sample_part, tmp_path):
    def make(**options: Any) -> TeacherConfig:
        settings: dict[str, Any] = {
            "dataset": str(sample_part),
            "model": "convnet3_w8",
            "epochs": EPOCHS,
            "save_epochs": [],
            "batch_size": BATCH,
            "learning_rate": 1e-2,
            "output_dir": str(tmp_path / "teacher"),
        }
        return TeacherConfig(**{**settings, **options})

    return make


@pytest.fixture
def histories() -> ForgettingEvents:
    """The counts of `HISTORIES`."""
    counted = ForgettingEvents(len(HISTORIES))
    for epoch in range(5):
        rows = [row for row in range(len(HISTORIES)) if HISTORIES[row][epoch] != "-"]
        right = [HISTORIES[row][epoch] == "1" for row in rows]
        # Two steps, in an order of their own.
        for step in (slice(2, None), slice(0, 2)):
            counted.update(torch.tensor(rows[step]), torch.tensor(right[step]))
    return counted


@pytest.fixture
def six_images(sample_part) -> Dataset:
    return load_images(str(sample_part)).select([3, 9, 0, 40, 41, 95])


def test_an_event_is_a_wrong_classification_right_after_a_right_one(histories):
    assert histories.events.tolist() == EVENTS
    assert histories.learned.tolist() == LEARNED
    assert histories.right.tolist() == [True, False, True, True, True, False]


def test_the_state_goes_on_where_it_was_saved():
    whole, saved = ForgettingEvents(4), ForgettingEvents(4)
    steps = [(torch.randperm(4)[:3], torch.rand(3) < 0.5) for _ in range(20)]
    for rows, right in steps:
        whole.update(rows, right)
    for rows, right in steps[:7]:
        saved.update(rows, right)
    resumed = ForgettingEvents(4)
    resumed.load_state_dict(saved.state_dict())
    for rows, right in steps[7:]:
        resumed.update(rows, right)
    assert all(torch.equal(values, resumed.state_dict()[name]) for name, values in whole.state_dict().items())


@pytest.mark.parametrize(("order", "never"), [("highest", -1), ("lowest", 5), ("quantile", 5)])
def test_scores_are_counts_and_never_learned_images_come_last(histories, six_images, tmp_path, order, never):
    write_forgetting_events(tmp_path, histories, six_images, epochs=5)
    check_forgetting_events(str(tmp_path), six_images)
    scores = forgetting_scores(str(tmp_path), order)
    assert scores.dtype == np.float32
    source = six_images["source_index"][:]
    assert scores[source].tolist() == [
        never if not known else count for count, known in zip(EVENTS, LEARNED, strict=True)
    ]
    assert np.isnan(np.delete(scores, source)).all()


def test_a_teacher_without_events_and_events_of_other_images_are_errors(histories, six_images, sample_part, tmp_path):
    for call in (lambda: check_forgetting_events("user/teacher", six_images), lambda: forgetting_scores(str(tmp_path))):
        with pytest.raises(ValueError, match=r"has no forgetting.safetensors: train it again with scripts/train_teach"):
            call()
    write_forgetting_events(tmp_path, histories, six_images, epochs=5)
    with pytest.raises(
        ValueError, match=r"Got 96 images with fingerprint \w{12}, and events of 6 images .*--train_split"
    ):
        check_forgetting_events(str(tmp_path), load_images(str(sample_part)))


def test_a_training_counts_what_its_own_forward_passes_say(config, tmp_path, monkeypatch):
    from decoct.models.classifier import Classifier

    predicted: list[np.ndarray] = []
    forward = Classifier.forward

    def record(self: Classifier, pixels: torch.Tensor) -> torch.Tensor:
        logits = forward(self, pixels)
        if self.training:
            predicted.append(logits.argmax(1).numpy())
        return logits

    monkeypatch.setattr(Classifier, "forward", record)
    train_teacher(config(epochs=6))
    steps = IMAGES // BATCH
    assert len(predicted) == 6 * steps, "counting must take no forward pass of its own"
    labels = np.asarray(load_images(config().dataset)["label"][:])
    outcomes: list[list[bool]] = [[] for _ in range(IMAGES)]
    for epoch in range(6):
        for step, rows in enumerate(EpochBatches(IMAGES, BATCH, 0, epoch)):
            for row, guess in zip(rows, predicted[epoch * steps + step], strict=True):
                outcomes[row].append(guess == labels[row])
    events = [sum(before and not now for before, now in zip(seen, seen[1:], strict=False)) for seen in outcomes]
    saved = load_file(tmp_path / "teacher" / FORGETTING_FILE)
    assert saved["events"].tolist() == events
    assert saved["learned"].tolist() == [any(seen) for seen in outcomes]
    assert saved["source_index"].tolist() == list(range(IMAGES))
    assert min(map(len, outcomes)) < 6, "the incomplete batch of an epoch is not presented"
    assert max(events) >= 2, "the check needs images that are forgotten"
    assert not all(saved["learned"])


def test_an_interrupted_training_counts_the_same(config, tmp_path, monkeypatch):
    train_teacher(config(output_dir=str(tmp_path / "whole")))
    cut_power(monkeypatch, 7)  # the fourth of the second epoch's four steps; the checkpoint is two steps old
    settings = config(output_dir=str(tmp_path / "cut"), checkpoint_steps=2)
    with pytest.raises(PowerCut):
        train_teacher(settings)
    assert not (tmp_path / "cut" / FORGETTING_FILE).exists()
    monkeypatch.undo()
    train_teacher(settings)
    ours, theirs = ((tmp_path / run / FORGETTING_FILE).read_bytes() for run in ("cut", "whole"))
    assert ours == theirs
    assert sum(load_file(tmp_path / "cut" / FORGETTING_FILE)["events"]) > 0


def test_counting_does_not_change_the_weights(config, tmp_path, monkeypatch):
    train_teacher(config())
    monkeypatch.setattr(ForgettingEvents, "update", lambda self, rows, right: None)
    train_teacher(config(output_dir=str(tmp_path / "without")))
    ours, theirs = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("teacher", "without"))
    assert ours == theirs


def test_overwriting_a_teacher_leaves_no_old_counts(config, tmp_path):
    train_teacher(config())
    folder = Path(config().output_dir)
    shutil.copy(folder / FORGETTING_FILE, tmp_path / "old")
    train_teacher(config(seed=1, epochs=5, overwrite=True))
    assert (folder / FORGETTING_FILE).read_bytes() != (tmp_path / "old").read_bytes()


def test_the_outcomes_of_all_processes_are_counted(config, tmp_path, monkeypatch):
    """Two processes' outcomes, in the order of their shares, stand for the rows of the whole batch."""
    presented: list[list[int]] = []
    update = ForgettingEvents.update

    def record(self: ForgettingEvents, rows: torch.Tensor, right: torch.Tensor) -> None:
        assert rows.shape == right.shape == (BATCH,)
        presented.append(rows.tolist())
        update(self, rows, right)

    monkeypatch.setattr(ForgettingEvents, "update", record)
    gathered: list[int] = []
    gather = Accelerator.gather
    monkeypatch.setattr(
        Accelerator, "gather", lambda self, tensor: (gathered.append(len(tensor)), gather(self, tensor))[1]
    )
    train_teacher(config(epochs=1))
    shares = [list(EpochBatches(IMAGES, BATCH, 0, 0, rank=rank, processes=2)) for rank in range(2)]
    assert presented == [first + second for first, second in zip(*shares, strict=True)]
    assert gathered == [BATCH] * (IMAGES // BATCH)
