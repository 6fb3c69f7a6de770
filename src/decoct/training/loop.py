"""One accelerate training loop for all networks: deterministic batches, checkpoints, trackers, progress.

Batches, learning rates and augmentation are functions of (seed, epoch, step), so a resumed run needs no sampler or
random state beyond the checkpoint, and equals the uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm

from decoct.config import TrainingConfig, to_dict
from decoct.data.loading import bit_depth_of
from decoct.data.source import dataset_fingerprint, source_record
from decoct.data.spec import ImageSpec
from decoct.files import read_object
from decoct.run.files import named_errors
from decoct.run.folder import check_folder, claim_folder, identity_of
from decoct.run.processes import close, device_name
from decoct.run.seeding import torch_generator
from decoct.run.versions import installed_versions

__all__ = [
    "claim_training",
    "EpochBatches",
    "cosine_schedule",
    "finish_training",
    "parameter_groups",
    "provenance",
    "require_finite_losses",
    "steps_per_epoch",
    "train_epochs",
    "warmup_cosine",
]

logger = logging.getLogger(__name__)


def steps_per_epoch(images: int, batch_size: int, processes: int = 1) -> int:
    """Steps of an epoch; the last, incomplete batch is left out, so that every step has the same size.

    Raises:
        ValueError: If the batch size is not a multiple of the process count, or larger than the dataset.
    """
    if batch_size % processes:
        raise ValueError(f"batch_size must be a multiple of the {processes} processes. Got {batch_size}.")
    if batch_size > images:
        raise ValueError(f"batch_size must be at most the {images} images of the dataset. Got {batch_size}.")
    return images // batch_size


class EpochBatches(Sampler[list[int]]):
    """The batches of one epoch (`steps_per_epoch`) from a given step on: this process's shares of a permutation."""

    def __init__(
        self, images: int, batch_size: int, seed: int, epoch: int, start: int = 0, rank: int = 0, processes: int = 1
    ) -> None:
        self.steps = steps_per_epoch(images, batch_size, processes)
        self.order = torch.randperm(images, generator=torch_generator(seed, "epoch", epoch)).tolist()
        self.batch_size, self.start, self.rank, self.processes = batch_size, start, rank, processes

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.processes
        for step in range(self.start, self.steps):
            first = step * self.batch_size + self.rank * share
            yield self.order[first : first + share]


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def cosine_schedule(config: TrainingConfig, images: int, peak: float) -> Callable[[int], float]:
    """`step -> learning rate` over a whole training: `warmup_cosine` times the peak."""
    steps = config.epochs * steps_per_epoch(images, config.batch_size)
    warmup = int(config.warmup_fraction * steps)
    return lambda step: peak * warmup_cosine(step, steps, warmup)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: weight decay on matrices and kernels, none on one-dimensional parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def train_epochs(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: torch.utils.data.Dataset[Any],
    config: TrainingConfig,
    output_dir: Path,
    loss_of: Callable[[Any, int, int], Tensor],
    learning_rate: Callable[[int], float],
    after_epoch: Callable[[int, float], dict[str, float]],
    after_step: Callable[[], None] | None = None,
) -> list[dict[str, float]]:
    """Trains for `config.epochs`, resuming from the newest checkpoint in `output_dir`.

    Args:
        model: Prepared by the accelerator, as is the optimizer.
        loss_of: `(batch, epoch, step) -> loss`, a scalar on the device; epochs count from 0.
        learning_rate: `step -> learning rate`, over all steps of the run.
        after_epoch: `(epochs done, mean loss) -> metrics` to log; called once per epoch, also after a resume.
        after_step: Called after every optimizer step, for what follows the weights (moving averages, queues).

    Returns:
        The metrics of every epoch, those before a resume included.

    Raises:
        ValueError: If a loss is not finite (on a GPU a few steps later, and before a checkpoint is written), or another
            number of processes made the checkpoint.
    """
    images = len(dataset)  # type: ignore[arg-type]
    steps = steps_per_epoch(images, config.batch_size)
    share = accelerator.process_index, accelerator.num_processes
    history, epoch, start, loss_sum = _resume(accelerator, output_dir)
    while epoch < config.epochs:
        model.train()
        progress = tqdm(
            total=steps,
            initial=start,
            desc=f"epoch {epoch + 1}/{config.epochs}",
            leave=False,
            disable=not accelerator.is_main_process,
        )
        batches = EpochBatches(images, config.batch_size, config.seed, epoch, start, *share)
        loader = DataLoader(dataset, batch_sampler=batches, num_workers=config.num_workers)
        losses = torch.tensor(loss_sum, dtype=torch.float64)
        held: list[Tensor] = []
        for step, batch in enumerate(loader, start=start):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * steps + step)
            loss = loss_of(batch, epoch, step)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if after_step is not None:
                after_step()
            held.append(loss.detach())
            every = config.checkpoint_steps or steps
            saves = (step + 1) % every == 0 and step + 1 < steps
            if saves or len(held) >= losses_held(loss.device) or step + 1 == steps:
                found, held = torch.stack(held).tolist(), []
                for each in require_finite_losses(found, f"epoch {epoch + 1}, step", step + 1 - len(found)):
                    losses += each
                progress.set_postfix(loss=f"{losses.item() / (step + 1):.3f}", refresh=False)
            progress.update()
            if saves:
                losses = _mean_over_processes(accelerator, losses)
                _save(accelerator, output_dir, history, epoch, step + 1, losses.item())
        progress.close()
        losses = _mean_over_processes(accelerator, losses)
        metrics = after_epoch(epoch + 1, losses.item() / steps)
        history.append({"epoch": epoch + 1, "loss": losses.item() / steps, **metrics})
        accelerator.log(history[-1], step=(epoch + 1) * steps)
        epoch, start, loss_sum = epoch + 1, 0, 0.0
        if epoch % config.checkpoint_every == 0 or epoch == config.epochs:
            _save(accelerator, output_dir, history, epoch, 0, 0.0)
    return history


def losses_held(device: torch.device) -> int:
    """How many losses stay on a device before they are looked at: a look waits until a GPU has computed them."""
    return 1 if device.type == "cpu" else 50


def require_finite_losses(losses: Sequence[float], where: str, first: int = 0) -> Sequence[float]:
    """The losses of consecutive steps as they are; `first` is the step of the first one, and steps count from 0.

    Raises:
        ValueError: If one is NaN or infinite, with the step, counted from 1.
    """
    for step, loss in enumerate(losses, start=first):
        if not math.isfinite(loss):
            raise ValueError(
                f"Losses must be finite. Got {loss} at {where} {step + 1}. Train with a lower learning rate, or with "
                "the mixed precision 'no' or 'bf16'."
            )
    return losses


def _mean_over_processes(accelerator: Accelerator, losses: Tensor) -> Tensor:
    """The mean of a scalar over all processes; as it is where there is one."""
    if accelerator.num_processes == 1:
        return losses
    return accelerator.reduce(losses.float().to(accelerator.device), "mean").cpu().double()


def _save(
    accelerator: Accelerator, folder: Path, history: list[dict[str, float]], epoch: int, step: int, loss_sum: float
) -> None:
    """Writes a checkpoint under a temporary name, renames it, and removes the older ones."""
    final, temporary = folder / "checkpoints" / f"{epoch:05d}-{step:07d}", folder / "checkpoints" / "unfinished"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    with named_errors(temporary):
        accelerator.save_state(str(temporary))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        progress = {"history": history, "epoch": epoch, "step": step, "loss_sum": loss_sum}
        progress["processes"] = accelerator.num_processes
        with named_errors(temporary):
            (temporary / "progress.json").write_text(json.dumps(progress))
        os.replace(temporary, final)
        for older in sorted(final.parent.iterdir()):
            if older != final:
                shutil.rmtree(older)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, folder: Path) -> tuple[list[dict[str, float]], int, int, float]:
    """Loads the newest complete checkpoint: metrics so far, epochs done, steps done in the epoch, their summed loss."""
    checkpoints = sorted((folder / "checkpoints").glob("*-*/progress.json"))
    if not checkpoints:
        return [], 0, 0, 0.0
    progress = json.loads(checkpoints[-1].read_text())
    # Each process draws batches and augmentations of its own: another number of them would be another training.
    began = progress.get("processes", accelerator.num_processes)
    if began != accelerator.num_processes:
        raise ValueError(
            f"processes must be {began}, with which the training in {folder} began. Got {accelerator.num_processes}. "
            f"Continue it by --processes {began}, or use another --output_dir."
        )
    accelerator.load_state(str(checkpoints[-1].parent))
    return progress["history"], progress["epoch"], progress["step"], progress["loss_sum"]


def training_identity(config: TrainingConfig, images: datasets.Dataset, **networks: str) -> dict[str, Any]:
    """What a trained network depends on; `networks` are fingerprints of those that it is made from."""
    return identity_of(to_dict(config), data=dataset_fingerprint(images), **networks)


def check_training(config: TrainingConfig, images: datasets.Dataset, **networks: str) -> None:
    """Raises ValueError as `claim_training`; nothing is touched."""
    check_folder(Path(config.output_dir), training_identity(config, images, **networks), config.overwrite)


def claim_training(
    accelerator: Accelerator,
    config: TrainingConfig,
    images: datasets.Dataset,
    written: Iterable[str],
    **networks: str,
) -> dict[str, Any] | None:
    """Claims `config.output_dir` and starts the tracker, or returns the record of a training that is finished there.

    Args:
        images: The training images; their fingerprint is part of the run's identity.
        written: Glob patterns of everything such a training writes.
        **networks: Fingerprints of networks that it starts from.

    Raises:
        ValueError: If the folder belongs to another configuration.
    """
    folder = Path(config.output_dir)
    if accelerator.is_main_process:
        claim_folder(folder, training_identity(config, images, **networks), config.overwrite, written)
    accelerator.wait_for_everyone()
    if (folder / "training.json").is_file():
        logger.info("%s is finished already.", folder)
        if accelerator.is_main_process:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a kill may have kept the run from it
        close(accelerator)
        return read_object(folder / "training.json")
    if config.report_to is not None:
        accelerator.init_trackers("decoct")
    return None


def provenance(
    config: TrainingConfig, images: datasets.Dataset, spec: ImageSpec, device: torch.device
) -> dict[str, Any]:
    """What a network was made from and with, for its `training.json`."""
    return {
        "config": to_dict(config),
        "source": source_record(config.dataset, images.info),
        "data": dataset_fingerprint(images),
        "spec": spec.to_dict(),
        **({"bit_depth": depth} if (depth := bit_depth_of(images)) else {}),
        "versions": installed_versions(),
        "device": device_name(device),
    }


def finish_training(accelerator: Accelerator, folder: Path, save: Callable[[], None]) -> None:
    """Saves the result on the main process and removes the checkpoints, while the others wait."""
    if accelerator.is_main_process:
        save()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    accelerator.wait_for_everyone()
    close(accelerator)
