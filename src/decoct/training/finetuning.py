"""Fine-tuning a pre-trained classifier on another dataset (IGDS, App. G)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import count, islice

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from decoct.data.tensors import PixelDataset
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.run.precision import autocast
from decoct.run.seeding import item_seed, seeded
from decoct.training.augment import padded_crops
from decoct.training.loop import EpochBatches, require_finite_losses, warmup_cosine

__all__ = ["MOMENTUM", "WEIGHT_DECAY", "fine_tune", "replace_head"]

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # of SGD (IGDS, App. G)


def replace_head(classifier: Classifier, architecture: str, label_names: Sequence[str], seed: int) -> Classifier:
    """A copy of a classifier that ends in a new head for other classes; all other weights and buffers are the same.

    Args:
        classifier: The pre-trained network.
        architecture: Its name for `build_classifier`.
        label_names: The new classes.
        seed: The head's weights are those that a new network of this seed and these classes starts with.
    """
    spec = dataclasses.replace(classifier.spec, label_names=tuple(label_names))
    renewed = build_classifier(architecture, spec, seed)
    path = next(path for path, layer in renewed.model.named_modules() if layer is renewed.head)
    head = {f"{path}.{name}" for name in renewed.head.state_dict()}
    body = {name: tensor for name, tensor in classifier.model.state_dict().items() if name not in head}
    missing, unexpected = renewed.model.load_state_dict(body, strict=False)
    if set(missing) != head or unexpected:
        raise ValueError(f"architecture must be the classifier's. Got {architecture!r} for {classifier.name}.")
    return renewed


def fine_tune(
    student: Classifier,
    images: PixelDataset,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    device: torch.device | str = "cpu",
    mixed_precision: str = "no",
    num_workers: int = 0,
    progress: tqdm | None = None,
) -> list[float]:
    """Trains a student in place as IGDS, App. G says: SGD (momentum 0.9, weight decay 5e-4), cosine decay to 0.

    Images are cropped at random after padding by an eighth of the side, and flipped; the paper names no augmentation.
    The same arguments give the same weights.

    Args:
        student: Pixels in [0, 1] to logits; it is moved to the device and left in training mode.
        images: Target images with the student's size and channels.
        steps: Optimiser steps.
        batch_size: Images per step, at most all of them.
        learning_rate: At the first step; it follows half a cosine and would be 0 at step `steps`.
        seed: Seed of order, augmentation and dropout.
        device: Where to train.
        mixed_precision: `no`, `bf16` or `fp16`.
        num_workers: Processes that read the images.
        progress: Bar to update every step.

    Returns:
        Cross-entropy of each step, in nats.

    Raises:
        ValueError: If a loss is not finite.
    """
    device = torch.device(device)
    student.to(device).train()
    augment = padded_crops(student.spec.image_size)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
    )
    scaler = torch.amp.GradScaler(device.type, enabled=mixed_precision == "fp16")
    losses = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(item_seed(seed, "finetune-dropout"))
        batches = _batches(images, min(batch_size, len(images)), seed, num_workers)
        for step, (pixels, labels) in enumerate(islice(batches, steps)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * warmup_cosine(step, steps, 0)
            pixels = pixels.to(device, non_blocking=True).float() / 255
            with seeded(seed, "finetune-augment", step):
                pixels = augment(pixels)
            with autocast(device, mixed_precision):
                logits = student(pixels)
            loss = F.cross_entropy(logits.float(), labels.to(device, non_blocking=True))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            if progress is not None:
                progress.update()
    return list(require_finite_losses(torch.stack(losses).tolist(), "step"))


def _batches(images: PixelDataset, size: int, seed: int, num_workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: one seeded permutation after the other, without their incomplete last batches."""
    for epoch in count():
        order = EpochBatches(len(images), size, seed, epoch)
        yield from DataLoader(images, batch_sampler=order, num_workers=num_workers)
