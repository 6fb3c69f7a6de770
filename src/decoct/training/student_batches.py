"""The augmented batches a student is trained on: made on the device, for the whole distilled set lives there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from decoct.data.crops import random_resized_boxes
from decoct.data.mixed_views import MixedViews, mixed_pixels, mixed_views
from decoct.data.spec import ImageSpec
from decoct.distilled.dataset import DistilledSet, Slots
from decoct.run.seeding import numpy_generator, seeded, torch_generator
from decoct.training.augment import (
    add_lighting,
    color_jitter_choices,
    crop_and_flip,
    cutmix,
    cutmix_box,
    jitter_colors,
    rand_augment,
    shuffle_tiles,
    tile_orders,
    tile_shares,
)
from decoct.training.protocols import Protocol, batch_size, crop_scale

__all__ = ["StudentBatches"]


@dataclass(frozen=True)
class _Choices:
    """The random choices of an epoch, for all images in index order; None: not done.

    Args:
        boxes: `(n, 4)`, crops in shares of the side.
        flips: `(n,)` bool.
        tiles: `(n, tiles)` int64, orders of the tiles.
        views: `(n,)` int64, the stored view, or mixed view, that an image is replayed as.
        mixed: Where these mixed views are, `(n,)`.
        colors: `(n, 3)` changes of brightness, contrast and saturation, and the `(n, 3)` order they come in.
        lighting: `(n, 3)` strengths of the principal colours.
    """

    boxes: Tensor | None
    flips: Tensor
    tiles: Tensor | None = None
    views: Tensor | None = None
    mixed: MixedViews | None = None
    colors: tuple[Tensor, Tensor] | None = None
    lighting: Tensor | None = None


class StudentBatches:
    """The mixed batches of each epoch, with their labels.

    Random choices are drawn for all images at once in index order, from generators seeded by (seed, stage, epoch), so
    that an image's augmentation does not depend on the batch it falls in; CutMix has one box a step, as in RDED, and
    RandAugment its operations.

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
        # Stored logits describe their own view and no other mixture: mixing two lost 4 to 6 points.
        self.mixing = protocol.cutmix_probability if labels not in ("views", "mixed") else 0.0
        self.drop_single = drop_single and len(distilled) > 1
        self.images, self.hard = distilled.images.to(device), distilled.labels.to(device)
        self.logits: Tensor | None = None
        self.views: Tensor | None = None
        if labels == "tiles" and distilled.tile_logits is not None:
            self.logits = distilled.tile_logits.to(device)
        if labels == "views" and distilled.view_logits is not None and distilled.view_boxes is not None:
            self.logits, self.views = distilled.view_logits.to(device), distilled.view_boxes.to(device)
        self.slots: Slots | None = None
        self.mixed_views: Callable[[Tensor, Tensor], MixedViews] | None = None
        if labels == "mixed" and (slots := distilled.slots) is not None:
            self.slots = slots.to(device)
            self.mixed_views = partial(
                mixed_views,
                seed=slots.seed,
                count=len(distilled),
                side=spec.image_size,
                smallest_area=slots.smallest_area,
            )

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Pixels `(batch, channels, side, side)`, target probabilities and hard targets, both `(batch, classes)`.

        Pixels are in [0, 1]; changes of colour can leave that range. Hard targets are one-hot labels, mixed where the
        images are. Targets of `online` are these; the teacher replaces them.
        """
        count, side = len(self.images), self.images.shape[-1]
        choices = self._draw(epoch)
        permutation = torch.randperm(count, generator=torch_generator(self.seed, "student-order", epoch))
        mixing = numpy_generator(self.seed, "student-cutmix", epoch)
        for step, rows in enumerate(permutation.to(self.device).split(self.size)):
            if self.drop_single and len(rows) == 1:
                continue
            hard = self._hard_target(rows, choices)
            pixels, target = self._pixels(rows, choices), self._target(rows, choices, hard)
            if self.protocol.rand_augment is not None and choices.views is None:
                with seeded(self.seed, "student-rand-augment", epoch, step):
                    pixels = rand_augment(pixels, *self.protocol.rand_augment)
            if self.mixing and (self.mixing >= 1 or mixing.random() < self.mixing):
                box = cutmix_box(mixing, side, self.protocol.cutmix_alpha)
                partners = torch.from_numpy(mixing.permutation(len(rows))).to(self.device)
                pixels, kept = cutmix(pixels, partners, box)
                target, hard = (kept * each + (1 - kept) * each[partners] for each in (target, hard))
            yield pixels, target, hard

    def view_indices(self, epoch: int) -> Tensor:
        """The stored view of each image in an epoch, `(n,)`: every M epochs see each of the M views once."""
        stored = self.views if self.slots is None else self.slots.scales
        if stored is None:
            raise ValueError(f"labels must be 'views' or 'mixed' to replay stored views. Got {self.labels!r}.")
        count, views = stored.shape[:2]
        cycle, position = divmod(epoch, views)
        generator = numpy_generator(self.seed, "student-views", cycle)
        return torch.from_numpy(generator.random((count, views)).argsort(axis=1)[:, position].copy())

    def _draw(self, epoch: int) -> _Choices:
        """The choices of an epoch; stored views are replayed without any further change."""
        count, device, protocol = len(self.images), self.device, self.protocol
        if self.mixed_views is not None:
            views = self.view_indices(epoch)
            mixed = self.mixed_views(torch.arange(count), views).to(device)
            return _Choices(None, mixed.flips, views=views.to(device), mixed=mixed)
        if self.views is not None:
            views = self.view_indices(epoch).to(device)
            chosen = self.views[torch.arange(count, device=device), views]
            return _Choices(chosen[:, :4], chosen[:, 4] > 0.5, views=views)
        generator = numpy_generator(self.seed, "student-augment", epoch)
        boxes = random_resized_boxes(generator, count, (self.smallest, 1.0), protocol.rrc_ratio)
        flips = torch.from_numpy(generator.random(count) < protocol.flip).to(device)
        tiles, colors, lighting = None, None, None
        if self.tiles > 1 and protocol.shuffle_tiles:
            tiles = tile_orders(generator, count, self.tiles).to(device)
        if protocol.color_jitter > 0:
            shares, orders = color_jitter_choices(generator, count, protocol.color_jitter)
            colors = shares.to(device), orders.to(device)
        if protocol.lighting > 0:
            lighting = torch.from_numpy(generator.normal(0, protocol.lighting, (count, 3))).float().to(device)
        return _Choices(boxes.to(device) if self.smallest < 1 else None, flips, tiles, colors=colors, lighting=lighting)

    def _pixels(self, rows: Tensor, choices: _Choices) -> Tensor:
        """Each row's view before CutMix, `(batch, channels, side, side)` float32; a mixed view has its own."""
        if choices.mixed is not None:
            return mixed_pixels(self.images, rows, choices.mixed.select(rows))
        pixels = self.images[rows].float() / 255
        if choices.tiles is not None:
            pixels = shuffle_tiles(pixels, choices.tiles[rows])
        pixels = crop_and_flip(pixels, None if choices.boxes is None else choices.boxes[rows], choices.flips[rows])
        if choices.colors is not None:
            shares, orders = choices.colors
            pixels = jitter_colors(pixels, shares[rows], orders[rows])
        if choices.lighting is not None:
            pixels = add_lighting(pixels, choices.lighting[rows])
        return pixels

    def _hard_target(self, rows: Tensor, choices: _Choices) -> Tensor:
        """One-hot labels `(batch, classes)` float32; of a mixed view, by the shares of the two images."""
        hard = F.one_hot(self.hard[rows], self.classes).float()
        if choices.mixed is None:
            return hard
        partners, (first, end, left, right) = choices.mixed.partners[rows], choices.mixed.cuts[rows].unbind(-1)
        pasted = ((end - first) * (right - left) / self.images.shape[-1] ** 2)[:, None]
        return (1 - pasted) * hard + pasted * F.one_hot(self.hard[partners], self.classes)

    def _target(self, rows: Tensor, choices: _Choices, hard: Tensor) -> Tensor:
        """Label of each row's view before CutMix, `(batch, classes)` float32; of a mixed view, of the mixture."""
        if self.slots is not None and choices.views is not None:
            logits = self.slots.logits(rows, choices.views[rows], self.classes)
            return (logits / self.protocol.temperature).softmax(dim=-1)
        if self.logits is None:
            return hard
        temperature = self.protocol.temperature
        if choices.views is not None:
            return (self.logits[rows, choices.views[rows]].float() / temperature).softmax(dim=-1)
        logits = self.logits[rows]
        if choices.tiles is not None:
            logits = logits.gather(1, choices.tiles[rows][:, :, None].expand_as(logits))
        soft = (logits / temperature).softmax(dim=-1)
        if choices.boxes is None:
            return soft.mean(dim=1)
        return (tile_shares(choices.boxes[rows], self.tiles)[:, :, None] * soft).sum(dim=1)
