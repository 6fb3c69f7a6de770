"""Training a student on a distilled set: batches are made on the device, for the whole set lives there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoct.config import LABEL_MODES
from decoct.data.crops import random_resized_boxes
from decoct.data.spec import ImageSpec
from decoct.evaluation.distilled import DistilledSet
from decoct.evaluation.protocols import Protocol, batch_size, crop_scale, learning_rate
from decoct.models.classifier import Classifier
from decoct.seeding import item_seed, numpy_generator, torch_generator
from decoct.training.augment import (
    crop_and_flip,
    cutmix,
    cutmix_box,
    shuffle_tiles,
    tile_orders,
    tile_shares,
)
from decoct.training.loop import parameter_groups
from decoct.training.precision import autocast

__all__ = ["StudentBatches", "soft_label_loss", "train_student"]


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
    on_epoch_end: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Trains a student in place; the same arguments give the same weights.

    Args:
        student: Pixels in [0, 1] to logits; it is moved to the device and left in training mode.
        distilled: What it is trained on.
        protocol: Optimiser, schedule, batch size and augmentation.
        labels: `hard` (one-hot, cross-entropy), `tiles` (stored logits of the tiles, weighted by the share of the crop
            they cover), `views` (stored logits of fixed views, which are replayed as they are, without CutMix) or
            `online` (the teacher labels every mixed batch, as RDED does).
        teacher: Needed for `online` alone.
        seed: Seed of order, augmentation and dropout. The initial weights are the student's own.
        mixed_precision: `no`, `bf16` or `fp16`.
        compile: Compile student and teacher in place.
        epochs: Instead of the protocol's.
        rrc_scale: Smallest area of random-resized crops instead of the protocol's, in (0, 1]; `views` has its own.
        architecture: The student's name, for the protocol's learning rate. Default: `student.name`.
        on_epoch_end: Called with the epoch (from 0) and its mean loss.

    Returns:
        Mean loss of each epoch, in nats.

    Raises:
        ValueError: If the label mode is unknown or not stored, or `online` has no teacher.
    """
    _check_arguments(distilled, labels, teacher)
    device = torch.device(device)
    total = epochs or protocol.epochs
    architecture = architecture or getattr(student, "name", None)
    student.to(device).train()
    if teacher is not None:
        teacher.to(device).eval()
    if compile:
        student.compile()
        if labels == "online" and teacher is not None:
            teacher.compile()
    optimizer = _optimizer(student, protocol)
    batches = StudentBatches(
        distilled, protocol, labels, seed=seed, device=device, rrc_scale=rrc_scale, drop_single=_has_batch_norm(student)
    )
    labeller = teacher if labels == "online" else None
    step = _make_step(student, labeller, optimizer, protocol, labels, mixed_precision, device)
    losses = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(item_seed(seed, "student-dropout"))
        for epoch in range(total):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(protocol, epoch, total, architecture)
            steps = [(step(pixels, target), len(pixels)) for pixels, target in batches.epoch(epoch)]
            count = sum(size for _, size in steps)
            losses.append(float(torch.stack([loss * size for loss, size in steps]).sum()) / count)
            if on_epoch_end is not None:
                on_epoch_end(epoch, losses[-1])
    return losses


def _make_step(
    student: nn.Module,
    teacher: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    protocol: Protocol,
    labels: str,
    mixed_precision: str,
    device: torch.device,
) -> Callable[[Tensor, Tensor], Tensor]:
    """One optimiser step on (pixels, target) that returns the loss; a teacher, if given, replaces the target."""
    temperature = 1.0 if labels == "hard" else protocol.temperature
    scaler = torch.amp.GradScaler(device.type, enabled=mixed_precision == "fp16")

    def step(pixels: Tensor, target: Tensor) -> Tensor:
        with autocast(device, mixed_precision):
            if teacher is not None:
                target = teacher_target(teacher, pixels, temperature)
            logits = student(pixels)
        loss = soft_label_loss(logits.float(), target, temperature)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


@torch.no_grad()
def teacher_target(teacher: nn.Module, pixels: Tensor, temperature: float) -> Tensor:
    """The teacher's probabilities at a temperature, `(batch, classes)` float32."""
    return (teacher(pixels).float() / temperature).softmax(dim=1)


def soft_label_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL(target || softmax(logits / T)), mean over the batch, in nats, without the factor T^2 (RDED).

    For one-hot targets and T = 1 it is the cross-entropy; for mixed one-hot targets it differs from it by a constant.
    """
    return F.kl_div((logits / temperature).log_softmax(dim=1), target, reduction="batchmean")


class StudentBatches:
    """The mixed batches of each epoch, with their labels.

    Random choices are drawn for all images at once in index order, from generators seeded by (seed, stage, epoch), so
    that an image's augmentation does not depend on the batch it falls in; CutMix has one box a step, as in RDED.

    Args:
        distilled: Moved to the device as a whole.
        labels: A label mode, see `train_student`.
        rrc_scale: Smallest area of a crop; None takes the protocol's.
        drop_single: Leave out a last batch of one image, which batch norm cannot be trained on.
    """

    def __init__(
        self,
        distilled: DistilledSet,
        protocol: Protocol,
        labels: str,
        *,
        seed: int,
        device: torch.device,
        rrc_scale: float | None = None,
        drop_single: bool = False,
    ) -> None:
        spec: ImageSpec = distilled.spec
        self.protocol, self.labels, self.seed, self.device = protocol, labels, seed, device
        self.tiles, self.classes = distilled.tiles_per_image, spec.num_classes
        self.smallest = rrc_scale if rrc_scale is not None else crop_scale(protocol, self.tiles)
        self.size = batch_size(protocol, distilled.ipc, self.classes, len(distilled))
        # A stored view's logits describe that view and no mixture: mixing two lost 4 to 6 points.
        self.mixed = protocol.cutmix_alpha > 0 and labels != "views"
        self.drop_single = drop_single and len(distilled) > 1
        self.images, self.hard = distilled.images.to(device), distilled.labels.to(device)
        self.logits: Tensor | None = None
        self.views: Tensor | None = None
        if labels == "tiles" and distilled.tile_logits is not None:
            self.logits = distilled.tile_logits.to(device)
        if labels == "views" and distilled.view_logits is not None and distilled.view_boxes is not None:
            self.logits, self.views = distilled.view_logits.to(device), distilled.view_boxes.to(device)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of pixels `(batch, channels, side, side)` in [0, 1] and target probabilities `(batch, classes)`.

        Targets of `online` are the one-hot labels; the teacher replaces them.
        """
        count, side = len(self.images), self.images.shape[-1]
        boxes, flips, orders, views = self._draw(epoch)
        permutation = torch.randperm(count, generator=torch_generator(self.seed, "student-order", epoch))
        mixing = numpy_generator(self.seed, "student-cutmix", epoch)
        for rows in permutation.to(self.device).split(self.size):
            if self.drop_single and len(rows) == 1:
                continue
            pixels = self.images[rows].float() / 255
            if orders is not None:
                pixels = shuffle_tiles(pixels, orders[rows])
            pixels = crop_and_flip(pixels, None if boxes is None else boxes[rows], flips[rows])
            target = self._target(rows, boxes, orders, views)
            if self.mixed:
                box = cutmix_box(mixing, side, self.protocol.cutmix_alpha)
                partners = torch.from_numpy(mixing.permutation(len(rows))).to(self.device)
                pixels, kept = cutmix(pixels, partners, box)
                target = kept * target + (1 - kept) * target[partners]
            yield pixels, target

    def view_indices(self, epoch: int) -> Tensor:
        """The stored view of each image in an epoch, `(n,)`: every M epochs see each of the M views once."""
        if self.views is None:
            raise ValueError(f"labels must be 'views' to replay stored views. Got {self.labels!r}.")
        count, views = self.views.shape[:2]
        cycle, position = divmod(epoch, views)
        generator = numpy_generator(self.seed, "student-views", cycle)
        return torch.from_numpy(generator.random((count, views)).argsort(axis=1)[:, position].copy())

    def _draw(self, epoch: int) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """Boxes (None: whole images), flips, tile orders (None: as they are) and views (None: drawn) of all images."""
        count = len(self.images)
        if self.views is not None:
            views = self.view_indices(epoch).to(self.device)
            chosen = self.views[torch.arange(count, device=self.device), views]
            return chosen[:, :4], chosen[:, 4] > 0.5, None, views
        generator = numpy_generator(self.seed, "student-augment", epoch)
        boxes = random_resized_boxes(generator, count, (self.smallest, 1.0), self.protocol.rrc_ratio)
        flips = torch.from_numpy(generator.random(count) < self.protocol.flip).to(self.device)
        orders = tile_orders(generator, count, self.tiles).to(self.device) if self.tiles > 1 else None
        return boxes.to(self.device) if self.smallest < 1 else None, flips, orders, None

    def _target(self, rows: Tensor, boxes: Tensor | None, orders: Tensor | None, views: Tensor | None) -> Tensor:
        """Label of each row's view before CutMix, `(batch, classes)` float32."""
        if self.logits is None:
            return F.one_hot(self.hard[rows], self.classes).float()
        if views is not None:
            return (self.logits[rows, views[rows]].float() / self.protocol.temperature).softmax(dim=-1)
        logits = self.logits[rows]
        if orders is not None:
            logits = logits.gather(1, orders[rows][:, :, None].expand_as(logits))
        soft = (logits / self.protocol.temperature).softmax(dim=-1)
        if boxes is None:
            return soft.mean(dim=1)
        return (tile_shares(boxes[rows], self.tiles)[:, :, None] * soft).sum(dim=1)


def _optimizer(student: nn.Module, protocol: Protocol) -> torch.optim.AdamW:
    """AdamW without weight decay on one-dimensional parameters; the learning rate is set every epoch."""
    groups = parameter_groups(student, protocol.weight_decay)
    return torch.optim.AdamW(groups, lr=protocol.learning_rate, betas=protocol.betas, fused=True)


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


def _check_arguments(distilled: DistilledSet, labels: str, teacher: Classifier | None) -> None:
    """Raises ValueError for a label mode that cannot be trained with."""
    if labels not in LABEL_MODES:
        raise ValueError(f"labels must be one of {list(LABEL_MODES)}. Got {labels!r}.")
    distilled.check_labels(labels)
    if labels == "online":
        if teacher is None:
            raise ValueError(
                "teacher must be given for labels 'online', which the teacher makes during training. Got None. "
                "Pass --teacher, or use the stored labels: --labels views."
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
