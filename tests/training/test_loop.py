"""The training loop: batches, learning rates, and runs that are interrupted."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import TensorDataset

from decoct.config import TrainingConfig
from decoct.run.seeding import seeded
from decoct.training import loop
from decoct.training.loop import EpochBatches, parameter_groups, train_epochs, warmup_cosine

from .interrupted import PowerCut

IMAGES, BATCH, EPOCHS = 22, 4, 3
STEPS = IMAGES // BATCH


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(IMAGES, 5, generator=generator), torch.arange(IMAGES) % 3)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def train(
    folder: Path, stop_after: int | None = None, every: int = 1, steps: int | None = None, spoilt: int | None = None
) -> tuple[nn.Module, list[dict[str, float]], list[tuple[int, int]]]:
    """Trains in `folder`; returns the network, the history and the (epoch, step) pairs that were computed."""
    accelerator = Accelerator()
    model = network()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    seen: list[tuple[int, int]] = []

    def loss_of(batch: list[torch.Tensor], epoch: int, step: int) -> torch.Tensor:
        if len(seen) == stop_after:
            raise PowerCut
        seen.append((epoch, step))
        inputs, labels = batch
        with seeded(0, "noise", epoch, step):
            inputs = inputs + 0.1 * torch.randn(inputs.shape)
        loss = F.cross_entropy(model(inputs), labels)
        return loss * torch.nan if len(seen) == spoilt else loss

    def learning_rate(step: int) -> float:
        return 0.05 * warmup_cosine(step, EPOCHS * STEPS, 3)

    def after_epoch(epoch: int, loss: float) -> dict[str, float]:
        return {"accuracy": epoch / 10}

    config = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, seed=0, checkpoint_every=every, checkpoint_steps=steps)
    history = train_epochs(
        accelerator, model, optimizer, dataset(), config, folder, loss_of, learning_rate, after_epoch
    )
    return accelerator.unwrap_model(model), history, seen


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_processes_share_each_batch_and_an_epoch_holds_an_image_once():
    whole = list(EpochBatches(IMAGES, BATCH, seed=1, epoch=2))
    assert len(whole) == STEPS
    assert len(set(itertools.chain(*whole))) == STEPS * BATCH
    assert all(0 <= image < IMAGES for image in itertools.chain(*whole))
    for processes in (2, 4):
        shares = [EpochBatches(IMAGES, BATCH, 1, 2, 0, rank, processes) for rank in range(processes)]
        assert all(len(share) == STEPS for share in shares)
        assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == whole


def test_batches_start_anywhere_and_differ_between_epochs_and_seeds():
    whole = list(EpochBatches(IMAGES, BATCH, 1, 2))
    for start in range(STEPS + 1):
        rest = EpochBatches(IMAGES, BATCH, 1, 2, start)
        assert list(rest) == whole[start:]
        assert len(rest) == STEPS - start
    assert whole != list(EpochBatches(IMAGES, BATCH, 1, 3))
    assert whole != list(EpochBatches(IMAGES, BATCH, 2, 2))


def test_a_batch_size_that_cannot_be_is_an_error():
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes. Got 4."):
        EpochBatches(IMAGES, 4, 0, 0, processes=3)
    with pytest.raises(ValueError, match="batch_size must be at most the 22 images of the dataset. Got 23."):
        EpochBatches(IMAGES, 23, 0, 0)


def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    shares = [warmup_cosine(step, 100, 10) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1
    assert shares[55] == pytest.approx(0.5)
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert warmup_cosine(0, 100, 0) == 1
    assert warmup_cosine(5, 5, 5) == 1, "a run of warm-up only must not divide by zero"


def test_weight_decay_is_for_matrices_and_kernels():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model[3].bias.requires_grad_(False)
    decayed, others = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert {id(p) for p in others["params"]} == {id(model[0].bias), id(model[1].weight), id(model[1].bias)}


def test_the_history_holds_every_epoch(tmp_path):
    _, history, seen = train(tmp_path)
    assert [(row["epoch"], row["accuracy"]) for row in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert all(row["loss"] > 0 for row in history)
    assert seen == [(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("stop_after", "every", "steps", "repeated"),
    [
        (STEPS + 3, 1, 2, 1),  # in the second epoch, a step after a checkpoint within it
        (STEPS + 3, 1, None, 3),  # back to the end of the first epoch
        (STEPS + 3, 3, None, STEPS + 3),  # no checkpoint yet: from the start
        (2 * STEPS, 1, 2, 0),  # between two epochs
        (1, 1, 1, 0),
    ],
)
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path, stop_after, every, steps, repeated):
    whole, history, seen = train(tmp_path / "whole")
    with pytest.raises(PowerCut):
        train(tmp_path / "cut", stop_after, every, steps)
    resumed, resumed_history, rest = train(tmp_path / "cut", None, every, steps)
    assert rest == seen[stop_after - repeated :]
    assert same_weights(whole, resumed)
    assert resumed_history == history


def test_a_loss_that_is_not_finite_ends_the_training_and_leaves_the_checkpoint_before_it(tmp_path):
    with pytest.raises(ValueError, match=r"Losses must be finite\. Got nan at epoch 2, step 3\. Train with a lower"):
        train(tmp_path, spoilt=STEPS + 3)
    whole, resumed = train(tmp_path / "whole"), train(tmp_path)
    assert resumed[2][0] == (1, 0) and same_weights(whole[0], resumed[0])


def test_a_run_interrupted_again_and_again_equals_an_uninterrupted_one(tmp_path):
    whole, history, _ = train(tmp_path / "whole")
    cuts = 0
    while True:
        try:
            resumed, resumed_history, _ = train(tmp_path / "cut", stop_after=4, steps=1)
            break
        except PowerCut:
            cuts += 1
    assert cuts == math.ceil(EPOCHS * STEPS / 4) - 1
    assert same_weights(whole, resumed)
    assert resumed_history == history


def test_a_checkpoint_cut_off_while_it_was_written_is_ignored(tmp_path):
    whole, history, _ = train(tmp_path / "whole")
    with pytest.raises(PowerCut):
        train(tmp_path / "cut", STEPS + 3, steps=2)
    unfinished = tmp_path / "cut" / "checkpoints" / "unfinished"
    unfinished.mkdir()
    (unfinished / "progress.json").write_text(json.dumps({"history": [], "epoch": 9, "step": 0, "loss_sum": 0}))
    resumed, resumed_history, _ = train(tmp_path / "cut", steps=2)
    assert same_weights(whole, resumed)
    assert resumed_history == history


def test_a_training_is_continued_by_as_many_processes_as_it_began_with(tmp_path):
    with pytest.raises(PowerCut):
        train(tmp_path, STEPS + 3, steps=2)
    (progress,) = (tmp_path / "checkpoints").glob("*/progress.json")
    began = json.loads(progress.read_text())
    assert began["processes"] == 1
    progress.write_text(json.dumps({**began, "processes": 2}))
    with pytest.raises(ValueError, match=r"processes must be 2, with which the training in .* began\. Got 1\. Cont"):
        train(tmp_path, steps=2)
    del began["processes"]  # as versions before wrote it
    progress.write_text(json.dumps(began))
    assert same_weights(train(tmp_path, steps=2)[0], train(tmp_path / "whole")[0])


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    train(tmp_path, steps=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"{EPOCHS:05d}-0000000"]


def test_losses_that_are_looked_at_later_are_the_same(tmp_path, monkeypatch):
    expected, history, _ = train(tmp_path / "each step", steps=2)
    monkeypatch.setattr(loop, "losses_held", lambda device: 3)
    looks: list[int] = []
    check = loop.require_finite_losses
    monkeypatch.setattr(loop, "require_finite_losses", lambda *some: looks.append(len(some[0])) or check(*some))
    found, later, _ = train(tmp_path / "later", steps=4)
    assert later == history and same_weights(found, expected)
    assert looks == [3, 1, 1] * EPOCHS, "after three steps, before a checkpoint, and at the end of an epoch"
    with pytest.raises(ValueError, match=r"Got nan at epoch 2, step 3\."):
        train(tmp_path / "spoilt", spoilt=STEPS + 3)
