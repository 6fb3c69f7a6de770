"""Two random views of each image for contrastive training: crops, flips and changes of colour."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from kornia import enhance
from kornia.color import rgb_to_grayscale
from torch import Tensor

from decoct.data.crops import crop_and_resize, random_resized_boxes

__all__ = ["ViewChoices", "draw_choices", "view_of"]

GREY_SHARE = 0.2  # of the RGB images (MoCo, He et al., 2020)


@dataclass(frozen=True)
class ViewChoices:
    """The random choices of one view of each image.

    Args:
        boxes: `(batch, 4)` top, left, height, width in shares of the side.
        flips: `(batch,)` bool, mirrored or not.
        factors: `(batch, 3)`, factors of brightness, contrast and saturation.
        grey: `(batch,)` bool, RGB images that lose their colour.
    """

    boxes: Tensor
    flips: Tensor
    factors: Tensor
    grey: Tensor

    def rows(self, first: int, last: int) -> ViewChoices:
        """The choices of images `first` to `last` (excluded)."""
        return ViewChoices(**{field.name: getattr(self, field.name)[first:last] for field in fields(self)})


def draw_choices(
    generator: np.random.Generator, count: int, crop_scale: float, flip: bool, color_jitter: float
) -> ViewChoices:
    """Draws one view of each of `count` images.

    Args:
        generator: All choices come from it, so that a global batch drawn at once has the same views however many
            processes share it.
        count: Images.
        crop_scale: Smallest area of a crop, as a share of the image's.
        flip: Mirror half of the images.
        color_jitter: Factors are uniform in `1 - color_jitter` to `1 + color_jitter`.
    """
    return ViewChoices(
        boxes=random_resized_boxes(generator, count, (crop_scale, 1.0)),
        flips=torch.from_numpy(generator.random(count) < (0.5 if flip else 0.0)),
        factors=torch.from_numpy(generator.uniform(1 - color_jitter, 1 + color_jitter, (count, 3)).astype(np.float32)),
        grey=torch.from_numpy(generator.random(count) < GREY_SHARE),
    )


def view_of(pixels: Tensor, choices: ViewChoices) -> Tensor:
    """One view of each image, in [0, 1].

    Args:
        pixels: `(batch, channels, side, side)` uint8; grey images get no change of saturation.
        choices: Of these images.

    Returns:
        `(batch, channels, side, side)` float32.
    """
    device, side = pixels.device, pixels.shape[-1]
    images = crop_and_resize(pixels.float() / 255, torch.arange(len(pixels), device=device), choices.boxes * side, side)
    images = torch.where(choices.flips.to(device)[:, None, None, None], images.flip(-1), images)
    factors = choices.factors.to(device)
    if bool((choices.factors != 1).any()):
        images = enhance.adjust_brightness_accumulative(images, factors[:, 0])
        images = enhance.adjust_contrast_with_mean_subtraction(images, factors[:, 1])
        if images.shape[1] == 3:
            images = enhance.adjust_saturation_with_gray_subtraction(images, factors[:, 2])
    if images.shape[1] == 3:
        images = torch.where(choices.grey.to(device)[:, None, None, None], rgb_to_grayscale(images), images)
    return images
