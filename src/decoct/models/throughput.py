"""A network's forward pass: in what precision, in which batches, and how fast on this machine."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from decoct.models.classifier import Classifier
from decoct.run.precision import autocast

__all__ = [
    "Forward",
    "calibrated_batch_size",
    "fastest_batch_size",
    "images_per_second",
    "teacher_forward",
    "throughput",
    "training_throughput",
]

Forward: TypeAlias = Callable[[Tensor], Tensor]


def teacher_forward(teacher: Classifier, mixed_precision: str = "no") -> Forward:
    """Pixels in [0, 1] to float32 logits, without gradients, in the given precision."""

    @torch.no_grad()
    def forward(pixels: Tensor) -> Tensor:
        with autocast(teacher.device, mixed_precision):
            return teacher(pixels).float()

    return forward


def calibrated_batch_size(teacher: Classifier, mixed_precision: str) -> int:
    """The fastest batch size of the teacher's forward pass on this machine."""
    return fastest_batch_size(teacher_forward(teacher, mixed_precision), random_pixels(teacher, 16))


@torch.inference_mode()
def fastest_batch_size(
    forward: Forward, sample_pixels: Tensor, candidates: Sequence[int] = (8, 16, 32, 64, 128, 256, 512)
) -> int:
    """The batch size with the most images per second: sizes grow until throughput falls or memory is full.

    Args:
        forward: Pixels to scores.
        sample_pixels: `(batch, channels, height, width)`; repeated to each size.
        candidates: Batch sizes, rising.
    """
    best, best_rate = candidates[0], 0.0
    for size in candidates:
        rows = torch.arange(size, device=sample_pixels.device) % len(sample_pixels)
        try:
            rate = images_per_second(forward, sample_pixels[rows])
        except torch.OutOfMemoryError:
            if size == candidates[0]:
                raise
            torch.cuda.empty_cache()
            break
        if rate < 0.9 * best_rate:
            break
        if rate > best_rate:
            best, best_rate = size, rate
    return best


def images_per_second(forward: Forward, pixels: Tensor, seconds: float = 0.05) -> float:
    """Throughput of `forward` on one batch: the fastest of a few runs after a first one that is not counted."""
    fastest, spent, runs = math.inf, 0.0, -1
    while runs < 2 or (spent < seconds and runs < 20):
        start = time.perf_counter()
        forward(pixels)
        if pixels.is_cuda:
            torch.cuda.synchronize(pixels.device)
        elapsed = time.perf_counter() - start
        runs += 1
        if runs > 0:
            fastest, spent = min(fastest, elapsed), spent + elapsed
    return len(pixels) / fastest


def throughput(teacher: Classifier, mixed_precision: str, batch_size: int | None = None) -> float:
    """Images per second of the teacher's forward pass on its device, in batches of `batch_size` or the fastest."""
    batch = random_pixels(teacher, batch_size or calibrated_batch_size(teacher, mixed_precision))
    return images_per_second(teacher_forward(teacher, mixed_precision), batch)


def training_throughput(network: Classifier, images: int = 16) -> float:
    """Images per second of forward and backward passes.

    Args:
        network: On the device to time; a copy of it is trained on, so that it stays as it is.
        images: Of the batch.
    """
    trained = copy.deepcopy(network).train()

    def step(pixels: Tensor) -> Tensor:
        loss = trained(pixels).logsumexp(dim=1).mean()
        loss.backward()
        return loss

    return images_per_second(step, random_pixels(network, images))


def random_pixels(network: Classifier, images: int) -> Tensor:
    """Noise of the shape of a batch that a network takes, on its device."""
    spec = network.spec
    return torch.rand(images, spec.channels, spec.image_size, spec.image_size, device=network.device)
