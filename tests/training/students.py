"""A distilled set of three colour classes, and networks for it."""

import dataclasses

import numpy as np
import torch
from torch import nn
from worlds import COLOURS, MEAN, SIDE, STD, coloured

from decoct.data.mixed_views import mixed_pixels, mixed_views
from decoct.distilled.dataset import DistilledSet, Slots
from decoct.distilled.logit_codes import encode_logits
from decoct.models.zoo import build_classifier
from decoct.training.student_batches import StudentBatches

CLASSES, VIEWS = len(COLOURS), 4
CPU = torch.device("cpu")


class ColourTeacher(nn.Module):
    """Its logits are the images' mean colours."""

    def __init__(self, spec):
        super().__init__()
        self.spec, self.name = spec, "colours"

    def forward(self, pixels):
        return 60 * pixels.mean(dim=(2, 3))


def make_set(ipc: int = 4, tiles: int = 1, seed: int = 0) -> DistilledSet:
    labels = torch.arange(CLASSES).repeat_interleave(ipc)
    generator = np.random.default_rng(seed)
    boxes = np.concatenate(
        [generator.uniform(0, 0.3, (len(labels), VIEWS, 2)), generator.uniform(0.4, 0.7, (len(labels), VIEWS, 2))], -1
    )
    flips = generator.integers(0, 2, (len(labels), VIEWS, 1))
    boxes = torch.from_numpy(np.concatenate([boxes, flips], -1)).half().float()
    images = coloured(labels, seed)
    logits = 60 * images.float().mean(dim=(2, 3)) / 255
    manifest = {
        "label_names": list(COLOURS),
        "image_size": SIDE,
        "channels": 3,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "config": {"method": "random", "tiles_per_image": tiles},
    }
    return DistilledSet(
        images=images,
        labels=labels,
        tile_logits=logits[:, None].repeat(1, tiles, 1),
        view_logits=(logits[:, None] + torch.from_numpy(generator.normal(0, 1, (len(labels), VIEWS, CLASSES)))).half(),
        view_boxes=boxes,
        ipc=ipc,
        tiles_per_image=tiles,
        manifest=manifest,
    )


def with_mixed_views(distilled: DistilledSet, slots: int = VIEWS) -> DistilledSet:
    """The set with the labels that `ColourTeacher` gives to its mixed views."""
    count, seed, area = len(distilled), 3, 0.3
    places = torch.cartesian_prod(torch.arange(count), torch.arange(slots))
    views = mixed_views(*places.unbind(1), seed=seed, count=count, side=SIDE, smallest_area=area)
    logits = ColourTeacher(distilled.spec)(mixed_pixels(distilled.images, places[:, 0], views))
    codes, scales = map(torch.from_numpy, encode_logits(logits.reshape(count, slots, CLASSES).numpy(), 8))
    return dataclasses.replace(distilled, slots=Slots(codes, scales, 8, seed, area))


def student_of(distilled: DistilledSet, seed: int = 0):
    return build_classifier("convnet3_w8", distilled.spec, seed)


def collect(batches: StudentBatches, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, targets, _ = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(pixels), torch.cat(targets)


class FixedLogits(nn.Module):
    """Its logits do not depend on the image, so that a step's loss is known."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, pixels):
        return self.logits.expand(len(pixels), -1)
