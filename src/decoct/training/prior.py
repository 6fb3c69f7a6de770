"""Training a pixel diffusion prior (DDPM, Ho et al., 2020), saved as a diffusers pipeline folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor
from tqdm.auto import tqdm

from decoct.config import PriorConfig
from decoct.data.loading import check_label_names, load_split, measure_spec
from decoct.data.spec import ImageSpec
from decoct.data.tensors import PixelDataset
from decoct.igds.grids import sample_grid
from decoct.igds.prior import load_pipeline, prior_label_names
from decoct.models.classifier import fingerprint_of
from decoct.run.files import named_errors
from decoct.run.folder import json_text, write_json
from decoct.run.lock import writes_alone
from decoct.run.processes import close, open_accelerator
from decoct.run.seeding import seeded, torch_generator
from decoct.training.loop import (
    check_training,
    claim_training,
    cosine_schedule,
    finish_training,
    parameter_groups,
    provenance,
    steps_per_epoch,
    train_epochs,
)

__all__ = ["build_unet", "draw_noising", "noise_loss", "plan_prior", "train_prior"]

PIPELINE_FILES = ("training.json", "model_index.json", "unet", "scheduler")
WRITTEN = (
    *PIPELINE_FILES,
    *(f"epoch_*/{name}" for name in PIPELINE_FILES),
    *("samples/epoch_*.png", "checkpoints", "trackers"),
)
GROUPS = 8  # of the group norms


@writes_alone
def train_prior(config: PriorConfig) -> dict[str, Any]:
    """Trains a prior into `config.output_dir`; a rerun of a killed run continues and ends bit for bit the same.

    The folder is a stock diffusers pipeline with the moving average of the weights, and so are the `epoch_N/` of early
    ones. `training.json` holds the loss of each epoch, the label names, the configuration and the versions; `samples/`
    shows what it draws.

    Returns:
        The content of `training.json`.

    Raises:
        ValueError: If the data or the configuration cannot be used, or the folder belongs to another configuration.
    """
    accelerator = open_accelerator(config.mixed_precision, config.report_to, Path(config.output_dir) / "trackers")
    config, images, spec, unet = _prepare(config, accelerator)
    if (finished := claim_training(accelerator, config, images, WRITTEN, **_start(config, unet))) is not None:
        return finished
    return _train(accelerator, config, images, spec, unet)


def plan_prior(config: PriorConfig) -> dict[str, Any]:
    """What `train_prior` would do; nothing is written."""
    accelerator = open_accelerator(config.mixed_precision)
    config, images, spec, unet = _prepare(config, accelerator)
    check_training(config, images, **_start(config, unet))
    close(accelerator)
    return {
        "parameters": unet.num_parameters(),
        "images": len(images),
        "image_size": spec.image_size,
        "classes": spec.num_classes if config.conditional else "none (unconditional)",
        "steps": config.epochs * steps_per_epoch(len(images), config.batch_size),
        "image_passes": config.epochs * len(images),
        "output_dir": config.output_dir,
    }


def _prepare(config: PriorConfig, accelerator: Accelerator) -> tuple[PriorConfig, Dataset, ImageSpec, UNet2DModel]:
    """The configuration with its batch size, images to train on, what they are like, and the new network.

    Raises:
        ValueError: For what would keep it from being trained.
    """
    with accelerator.main_process_first():
        images = load_split(config, config.train_split)
        spec = measure_spec(images, config.image_size)
    unet = build_unet(config, spec)
    if config.init is not None:
        _take_weights(unet, config, spec)
    config = config.with_batch_size(len(images), accelerator.num_processes)
    steps_per_epoch(len(images), config.batch_size)
    return config, images, spec, unet


def build_unet(config: PriorConfig, spec: ImageSpec) -> UNet2DModel:
    """The noise-predicting U-Net, its weights set by the seed; a conditional one has a null class after the others.

    Raises:
        ValueError: If the images cannot be halved as often as there are resolutions.
    """
    halvings = len(config.channels) - 1
    if spec.image_size % 2**halvings:
        raise ValueError(
            f"channels must have at most {_halvings(spec.image_size) + 1} entries, because images of "
            f"{spec.image_size} px can be halved {_halvings(spec.image_size)} times. Got {config.channels}."
        )
    attention = "Attn" if config.attention else ""
    with seeded(config.seed, "weights"):
        return UNet2DModel(
            sample_size=spec.image_size,
            in_channels=spec.channels,
            out_channels=spec.channels,
            layers_per_block=config.layers_per_block,
            block_out_channels=tuple(config.channels),
            down_block_types=("DownBlock2D",) * halvings + (f"{attention}DownBlock2D",),
            up_block_types=(f"{attention}UpBlock2D",) + ("UpBlock2D",) * halvings,
            norm_num_groups=GROUPS,
            dropout=config.dropout,
            num_class_embeds=spec.num_classes + 1 if config.conditional else None,
        )


def _take_weights(unet: UNet2DModel, config: PriorConfig, spec: ImageSpec) -> None:
    """Gives a new network the weights of the prior that training starts from.

    Raises:
        ValueError: If that prior has another network, noise schedule or classes.
    """
    prior = load_pipeline(str(config.init), None)
    if (names := prior_label_names(str(config.init))) is not None:
        check_label_names(spec.label_names, names, "The dataset", f"The prior {config.init!r}")
    noise = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type")
    networks = [name for name in unet.config if not name.startswith("_") and name != "dropout"]
    own, got = (
        {**getattr(network, "config", {}), **{name: scheduler.config.get(name) for name in noise}}
        for network, scheduler in ((unet, _scheduler(config)), (prior.unet, prior.scheduler))
    )
    if other := [name for name in (*noise, *networks) if json_text(own[name]) != json_text(got.get(name))]:
        raise ValueError(
            f"init must be a prior of the same network and noise schedule as the new one. Got {config.init!r} with "
            + ", ".join(f"{name} {got.get(name)!r} in place of {own[name]!r}" for name in other[:3])
            + "."
        )
    unet.load_state_dict(prior.unet.state_dict())


def _scheduler(config: PriorConfig) -> DDPMScheduler:
    """The noise that is trained on."""
    return DDPMScheduler(num_train_timesteps=config.train_steps, beta_schedule=config.beta_schedule)


def _start(config: PriorConfig, unet: UNet2DModel) -> dict[str, str]:
    """The fingerprint of the weights that training starts from, if they are not the seed's."""
    return {} if config.init is None else {"start": fingerprint_of({"prior": unet})}


def _halvings(side: int) -> int:
    """How often a side can be halved."""
    return (side & -side).bit_length() - 1


def _train(
    accelerator: Accelerator, config: PriorConfig, images: Dataset, spec: ImageSpec, unet: UNet2DModel
) -> dict[str, Any]:
    """Trains, drawing grids of samples on the way, and saves the averaged network at the end."""
    folder = Path(config.output_dir)
    dataset = PixelDataset(images, spec.image_size, spec.channels)
    scheduler = _scheduler(config)
    optimizer = torch.optim.AdamW(parameter_groups(unet, config.weight_decay), lr=config.learning_rate)
    average = EMAModel(unet.parameters(), decay=config.ema_decay, foreach=True)
    network, optimizer = accelerator.prepare(torch.compile(unet) if config.compile else unet, optimizer)
    average.to(accelerator.device)
    accelerator.register_for_checkpointing(average)

    def loss_of(batch: tuple[Tensor, Tensor], epoch: int, step: int) -> Tensor:
        draws = draw_noising(config, spec, epoch, step)
        share = slice(accelerator.process_index * len(batch[1]), (accelerator.process_index + 1) * len(batch[1]))
        pixels, labels, noise, times, dropped, flipped = (
            part.to(accelerator.device, non_blocking=True) for part in (*batch, *(draw[share] for draw in draws))
        )
        clean = pixels.float() / 127.5 - 1
        clean = torch.where(flipped.view(-1, 1, 1, 1), clean.flip(-1), clean)
        noisy = scheduler.add_noise(clean, noise, times)  # type: ignore[arg-type]
        classes = torch.where(dropped, spec.num_classes, labels) if config.conditional else None
        with accelerator.autocast():
            predicted = network(noisy, times, class_labels=classes).sample
        return noise_loss(predicted.float(), noise, scheduler, times, config.snr_gamma)

    def save(path: Path, record: dict[str, Any]) -> None:
        with named_errors(path):
            DDPMPipeline(averaged(unet, average), scheduler).save_pretrained(path)
        write_json(path / "training.json", record)

    label_names = list(spec.label_names)

    def after_epoch(epoch: int, loss: float) -> dict[str, float]:
        if accelerator.is_main_process:
            tqdm.write(f"epoch {epoch}/{config.epochs}: loss {loss:.5f}")
            if epoch in (config.save_epochs or ()) and epoch < config.epochs:
                early = {"epoch": epoch, "loss": loss, "validation_fraction": config.validation_fraction or 0}
                save(folder / f"epoch_{epoch}", {**early, "label_names": label_names})
            if config.sample_every and (epoch % config.sample_every == 0 or epoch == config.epochs):
                path = folder / "samples" / f"epoch_{epoch:04d}.png"
                sample_grid(path, averaged(unet, average), scheduler, spec, config.sample_steps, config.seed)
        return {}

    history = train_epochs(
        accelerator,
        network,
        optimizer,
        dataset,
        config,
        folder,
        loss_of,
        cosine_schedule(config, len(dataset), config.learning_rate),
        after_epoch,
        after_step=lambda: average.step(unet.parameters()),
    )
    record = {
        "loss": history[-1]["loss"],
        "epochs": history,
        "label_names": label_names,
        **provenance(config, images, spec, accelerator.device),
    }
    finish_training(accelerator, folder, lambda: save(folder, record))
    return record


def noise_loss(
    predicted: Tensor, noise: Tensor, scheduler: DDPMScheduler, times: Tensor, snr_gamma: float | None
) -> Tensor:
    """Mean squared error of predicted noise `(n, c, h, w)`, an image's times min(SNR, gamma) / SNR (Min-SNR, Eq. 8).

    `snr_gamma` of None weighs all diffusion steps `times` `(n,)` alike.
    """
    if snr_gamma is None:
        return F.mse_loss(predicted, noise)
    weights = (snr_gamma / compute_snr(scheduler, times)).clamp(max=1)
    return (weights * (predicted - noise).square().mean((1, 2, 3))).mean()


def draw_noising(config: PriorConfig, spec: ImageSpec, epoch: int, step: int) -> tuple[Tensor, ...]:
    """Noise, diffusion steps, dropped labels and flips of one global batch, the same on every process."""
    generator = torch_generator(config.seed, "diffusion", epoch, step)
    count = config.batch_size
    noise = torch.randn(count, spec.channels, spec.image_size, spec.image_size, generator=generator)
    times = torch.randint(config.train_steps, (count,), generator=generator)
    dropped = torch.rand(count, generator=generator) < config.label_dropout
    flipped = torch.rand(count, generator=generator) < (0.5 if config.flip else 0.0)
    return noise, times, dropped, flipped


def averaged(unet: UNet2DModel, average: EMAModel) -> UNet2DModel:
    """A copy of the network with the averaged weights, in eval mode."""
    network = copy.deepcopy(unet)
    average.copy_to(network.parameters())
    return network.eval()
