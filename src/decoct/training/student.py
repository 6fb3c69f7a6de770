"""Training a student on a distilled set under a named protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from decoct.distilled.dataset import DistilledSet
from decoct.models.classifier import Classifier
from decoct.run.precision import autocast
from decoct.run.seeding import item_seed
from decoct.training.loop import require_finite_losses
from decoct.training.optimizers import set_learning_rates, student_optimizers
from decoct.training.protocols import Protocol, epoch_count, schedule
from decoct.training.student_batches import StudentBatches

__all__ = ["soft_label_loss", "train_student"]

Tensors = tuple[Tensor, ...] | list[Tensor]


def train_student(
    student: nn.Module,
    distilled: DistilledSet,
    protocol: Protocol,
    labels: str,
    teacher: Classifier | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    mixed_precision: str = "no",
    compile: bool = False,
    epochs: int | None = None,
    rrc_scale: float | None = None,
    architecture: str | None = None,
    on_epoch_end: Callable[[int, float, nn.Module], None] | None = None,
) -> list[float]:
    """Trains a student in place; the same arguments give the same weights.

    Args:
        student: Pixels in [0, 1] to logits; it is moved to the device and left in training mode, with the weights to be
            evaluated: their moving average where the protocol has one.
        distilled: What it is trained on.
        protocol: Optimiser, schedule, batch size and augmentation.
        labels: `hard` (one-hot, cross-entropy), `tiles` (stored logits of the tiles, weighted by the share of the crop
            they cover), `views` (stored logits of fixed views, which are replayed as they are, without CutMix), `mixed`
            (stored logits of fixed views with CutMix, replayed likewise) or `online` (the teacher labels every mixed
            batch, as RDED does); one of those the protocol has.
        teacher: Needed for `online` alone.
        seed: Seed of order, augmentation and dropout. The initial weights are the student's own.
        mixed_precision: `no`, `bf16` or `fp16`.
        compile: Compile student and teacher in place.
        epochs: Instead of the protocol's.
        rrc_scale: Smallest area of random-resized crops instead of the protocol's, in (0, 1]; stored views have their
            own.
        architecture: The student's name, for the protocol's learning rate. Default: `student.name`.
        on_epoch_end: Called with the epoch (from 0), its mean loss and the network to measure: the moving average of
            the weights where the protocol has one, else the student.

    Returns:
        Mean loss of each epoch, in nats.

    Raises:
        ValueError: If the label mode is unknown, not the protocol's or not stored, or `online` has no teacher; if a
            loss is not finite.
    """
    _check_arguments(distilled, protocol, labels, teacher)
    device = torch.device(device)
    total = epochs or epoch_count(protocol, distilled.ipc, distilled.spec.num_classes, len(distilled))
    architecture = architecture or getattr(student, "name", None)
    student.to(device).train()
    if teacher is not None:
        teacher.to(device).eval()
    average = _moving_average(student, protocol)
    if compile:
        student.compile()
        if labels == "online" and teacher is not None:
            teacher.compile()
    optimizers = student_optimizers(student, protocol, architecture)
    batches = StudentBatches(
        distilled, protocol, labels, seed=seed, device=device, rrc_scale=rrc_scale, drop_single=_has_batch_norm(student)
    )
    labeller = teacher if labels == "online" else None
    step = _make_step(student, labeller, optimizers, average, protocol, labels, mixed_precision, device)
    losses = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(item_seed(seed, "student-dropout"))
        for epoch in range(total):
            set_learning_rates(optimizers, schedule(protocol, epoch, total))
            steps = [(step(*batch), len(batch[0])) for batch in batches.epoch(epoch)]
            count = sum(size for _, size in steps)
            require_finite_losses(torch.stack([loss for loss, _ in steps]).tolist(), f"epoch {epoch + 1}, step")
            losses.append(float(torch.stack([loss * size for loss, size in steps]).sum()) / count)
            if on_epoch_end is not None:
                on_epoch_end(epoch, losses[-1], student if average is None else average.module)
    if average is not None:
        student.load_state_dict(average.module.state_dict())
    return losses


def _make_step(
    student: nn.Module,
    teacher: nn.Module | None,
    optimizers: Sequence[torch.optim.Optimizer],
    average: AveragedModel | None,
    protocol: Protocol,
    labels: str,
    mixed_precision: str,
    device: torch.device,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """One optimiser step on (pixels, target, hard target) that returns the loss; a teacher, if given, replaces the
    target."""
    temperature = protocol.temperature
    scaler = torch.amp.GradScaler(device.type, enabled=mixed_precision == "fp16")

    def step(pixels: Tensor, target: Tensor, hard: Tensor) -> Tensor:
        with autocast(device, mixed_precision):
            if teacher is not None:
                target = teacher_target(teacher, pixels, temperature)
            logits = student(pixels)
        if labels == "hard":
            loss = F.cross_entropy(logits.float(), target)
        else:
            loss = soft_label_loss(logits.float(), target, temperature, protocol.loss)
            if protocol.hard_weight:
                loss = loss + protocol.hard_weight * F.cross_entropy(logits.float(), hard)
        scaler.scale(loss).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update_parameters(student)
        return loss.detach()

    return step


@torch.no_grad()
def teacher_target(teacher: nn.Module, pixels: Tensor, temperature: float) -> Tensor:
    """The teacher's probabilities at a temperature, `(batch, classes)` float32."""
    return (teacher(pixels).float() / temperature).softmax(dim=1)


def soft_label_loss(logits: Tensor, target: Tensor, temperature: float, loss: str = "kl") -> Tensor:
    """The loss of soft labels, mean over the batch.

    `kl`: KL(target || softmax(logits / T)), in nats, without the factor T^2 (RDED). `squared`: the squared error of
    logits after their mean is taken off; those of the target are T log(target), for a softmax drops that mean alone.

    Args:
        target: Probabilities at the temperature, `(batch, classes)`.
    """
    if loss == "kl":
        return F.kl_div((logits / temperature).log_softmax(dim=1), target, reduction="batchmean")
    wanted = temperature * target.clamp_min(torch.finfo(target.dtype).tiny).log()
    return F.mse_loss(logits - logits.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True))


def _moving_average(student: nn.Module, protocol: Protocol) -> AveragedModel | None:
    """The network whose weights follow the student's; its buffers, batch norm's statistics, are the student's."""
    if protocol.ema_decay == 0:
        return None
    averaging = warmed_average(protocol.ema_decay) if protocol.ema_warmup else get_ema_multi_avg_fn(protocol.ema_decay)
    return AveragedModel(student, multi_avg_fn=averaging).requires_grad_(False)


def warmed_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An exponential moving average whose decay after t steps is min(decay, (1 + t) / (10 + t))."""

    @torch.no_grad()
    def update(averages: Tensors, current: Tensors, steps: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        torch._foreach_lerp_(averages, current, share)

    return update


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


def _check_arguments(distilled: DistilledSet, protocol: Protocol, labels: str, teacher: Classifier | None) -> None:
    """Raises ValueError for a label mode that cannot be trained with."""
    protocol.check_labels(labels)
    distilled.check_labels(labels)
    if labels == "online":
        if teacher is None:
            raise ValueError(
                "teacher must be given for labels 'online', which the teacher makes during training. Got None. "
                "Pass --teacher, or use the stored labels: --labels mixed."
            )
        names = tuple(distilled.manifest["label_names"])
        expected, got = distilled.spec, teacher.spec
        if (expected.image_size, expected.channels) != (got.image_size, got.channels):
            raise ValueError(
                f"teacher must take images of {expected.image_size} px and {expected.channels} channels, as the "
                f"distilled set has. Got {got.image_size} px and {got.channels} channels in {teacher.name}."
            )
        if teacher.spec.label_names != names:
            raise ValueError(
                f"teacher must have the distilled set's label names {list(names)}. "
                f"Got {list(teacher.spec.label_names)} in {teacher.name}."
            )
