"""Heat maps over a grid of patches: Shapley values (exact, KernelSHAP, captum's KernelSHAP) and Grad-CAM.

Players are the cells of a patch grid; the value v(s) of a coalition s is a score of the image whose absent patches show
a baseline (InfoUtil, section 3.2.1). Every method is called as captum's are, `method.attribute(pixels, target)`, and
returns a heat map of shape `(batch, grid, grid)`, float32, on the pixels' device.

A `forward` is any callable from pixels in [0, 1] of shape `(batch, channels, height, width)` to scores of shape
`(batch, classes)`. It must treat images independently: a network has to be in eval mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from decoct.infoutil.grad_cam import GradCam
from decoct.infoutil.shapley import (
    MAX_EXACT_PLAYERS,
    CoalitionDesign,
    coalition_design,
    every_coalition,
    exact_shapley_values,
    neighbouring_triples,
    shapley_values,
)
from decoct.models.throughput import Forward

__all__ = [
    "CaptumKernelShap",
    "CoalitionDesign",
    "ExactShapley",
    "GradCam",
    "KernelShap",
    "PatchGame",
    "coalition_design",
    "exact_shapley_values",
    "shapley_values",
]

Baseline = Literal["mean", "blur"]


class PatchGame:
    """The cooperative game of an image: players are the patches, absent ones show a baseline.

    Args:
        forward: Pixels to scores.
        grid_size: Side g of the patch grid; pixel row i belongs to patch row floor(i g / height).
        baseline: `mean` (one colour) or `blur` (the image under a Gaussian blur with half a patch as sigma).
        baseline_value: Per-channel pixel values of the `mean` baseline; the channel means are 0 after normalisation.
        batch_size: Masked images per forward pass.

    Raises:
        ValueError: If `baseline` is unknown, or `mean` lacks its values.
    """

    def __init__(
        self,
        forward: Forward,
        grid_size: int,
        baseline: Baseline = "mean",
        baseline_value: Sequence[float] | None = None,
        batch_size: int = 64,
    ) -> None:
        if baseline not in ("mean", "blur"):
            raise ValueError(f"baseline must be one of ['mean', 'blur']. Got {baseline!r}.")
        if baseline == "mean" and baseline_value is None:
            raise ValueError("baseline_value must be one value per channel for baseline 'mean'. Got None.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Got {batch_size}.")
        self.forward = forward
        self.grid_size = grid_size
        self.baseline = baseline
        self.baseline_value = baseline_value
        self.batch_size = batch_size

    def baseline_pixels(self, pixels: Tensor) -> Tensor:
        """The image without any patch, of shape `(1, channels, 1, 1)` (`mean`) or that of `pixels` (`blur`)."""
        if self.baseline == "blur":
            return blur(pixels, sigma=max(pixels.shape[-2:]) / (2 * self.grid_size))
        value = pixels.new_tensor(self.baseline_value)
        if len(value) != pixels.shape[1]:
            raise ValueError(f"baseline_value must have {pixels.shape[1]} values, one per channel. Got {len(value)}.")
        return value.view(1, -1, 1, 1)

    def patch_index(self, pixels: Tensor) -> Tensor:
        """The patch of each pixel, `(height, width)` int64."""
        height, width = pixels.shape[-2:]
        row = torch.arange(height, device=pixels.device) * self.grid_size // height
        column = torch.arange(width, device=pixels.device) * self.grid_size // width
        return row[:, None] * self.grid_size + column

    @torch.inference_mode()
    def values(self, pixels: Tensor, target: Tensor, coalitions: Tensor) -> Tensor:
        """Values v(s) of shape `(batch, coalitions)`, float32.

        Args:
            pixels: `(batch, channels, height, width)`.
            target: `(batch,)` int64, the class whose score is the value.
            coalitions: `(coalitions, grid * grid)` bool.
        """
        count, total = len(coalitions), len(coalitions) * len(pixels)
        pixels = pixels.contiguous()  # masks broadcast over channels, which channels_last makes slower on CPU
        baseline = self.baseline_pixels(pixels)
        target, coalitions = target.to(pixels.device), coalitions.to(pixels.device)
        patch = self.patch_index(pixels)
        values = torch.empty(total, device=pixels.device)
        for start in range(0, total, self.batch_size):
            index = torch.arange(start, min(start + self.batch_size, total), device=pixels.device)
            row = index // count
            present = coalitions[index % count][:, patch][:, None]
            absent = baseline if len(baseline) == 1 else baseline[row]
            scores = self.forward(torch.where(present, pixels[row], absent))
            values[start : start + len(index)] = scores.gather(1, target[row, None])[:, 0]
        return values.view(len(pixels), count)

    @torch.inference_mode()
    def empty_values(self, pixels: Tensor, target: Tensor) -> Tensor:
        """v(0) of shape `(batch,)`: one forward pass of one image for the `mean` baseline."""
        if self.baseline == "blur":
            return self.values(pixels, target, torch.zeros(1, self.grid_size**2, dtype=torch.bool))[:, 0]
        empty = self.baseline_pixels(pixels).expand(1, *pixels.shape[1:])
        return self.forward(empty.contiguous())[0, target.to(pixels.device)].float()


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of the shape of `pixels`, mirrored at the borders."""
    side = min(pixels.shape[-2:])
    radius = min(math.ceil(2 * sigma), side - 1)
    steps = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.softmax(-(steps**2) / (2 * sigma**2), dim=0)
    channels = pixels.shape[1]
    padded = F.pad(pixels, (radius,) * 4, mode="reflect")
    blurred = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(blurred, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


class KernelShap:
    """KernelSHAP with one design of complementary pairs for all images: the cost is the forward passes.

    Args:
        forward, grid_size, baseline, baseline_value, batch_size: As in `PatchGame`.
        coalitions: Coalitions per image, in complementary pairs; see `coalition_design`.
        seed: Of the design.
    """

    def __init__(
        self,
        forward: Forward,
        grid_size: int,
        coalitions: int,
        seed: int = 0,
        baseline: Baseline = "mean",
        baseline_value: Sequence[float] | None = None,
        batch_size: int = 64,
    ) -> None:
        self.game = PatchGame(forward, grid_size, baseline, baseline_value, batch_size)
        self.design = coalition_design(grid_size**2, coalitions, seed, neighbouring_triples(grid_size))

    def attribute(self, pixels: Tensor, target: Tensor) -> Tensor:
        """Heat maps of shape `(batch, grid, grid)`; each sums to v(1) - v(0)."""
        side = self.game.grid_size
        everyone = torch.ones(1, side**2, dtype=torch.bool)
        values = self.game.values(pixels, target, torch.cat([self.design.coalitions, everyone]))
        empty = self.game.empty_values(pixels, target)
        return shapley_values(self.design, values[:, :-1], empty, values[:, -1]).view(-1, side, side)


class ExactShapley:
    """Exact Shapley values by enumerating all 2^(grid * grid) coalitions.

    Args:
        forward, grid_size, baseline, baseline_value, batch_size: As in `PatchGame`.

    Raises:
        ValueError: If the grid has more than 16 patches.
    """

    def __init__(
        self,
        forward: Forward,
        grid_size: int,
        baseline: Baseline = "mean",
        baseline_value: Sequence[float] | None = None,
        batch_size: int = 64,
    ) -> None:
        if grid_size**2 > MAX_EXACT_PLAYERS:
            raise ValueError(f"grid_size must be at most 4 for exact Shapley values. Got {grid_size}.")
        self.game = PatchGame(forward, grid_size, baseline, baseline_value, batch_size)

    def attribute(self, pixels: Tensor, target: Tensor) -> Tensor:
        """Heat maps of shape `(batch, grid, grid)`; each sums to v(1) - v(0)."""
        side = self.game.grid_size
        values = self.game.values(pixels, target, every_coalition(side**2))
        return exact_shapley_values(values).view(-1, side, side)


class CaptumKernelShap:
    """captum's `KernelShap`, image by image: the reference implementation, and the paper's (App. B.1).

    Its coalitions are independent draws, other ones for each image, and two more forward passes are spent on the empty
    and the full coalition.

    Args:
        forward, grid_size, baseline, baseline_value, batch_size: As in `PatchGame`.
        coalitions: Coalitions per image.
        seed: Of all images of a call without `seeds`.
    """

    def __init__(
        self,
        forward: Forward,
        grid_size: int,
        coalitions: int,
        seed: int = 0,
        baseline: Baseline = "mean",
        baseline_value: Sequence[float] | None = None,
        batch_size: int = 64,
    ) -> None:
        self.game = PatchGame(forward, grid_size, baseline, baseline_value, batch_size)
        self.coalitions = coalitions
        self.seed = seed

    def attribute(self, pixels: Tensor, target: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Heat maps of shape `(batch, grid, grid)`; `seeds` gives each image its own draws, whatever its batch."""
        from captum.attr import KernelShap as Reference

        side = self.game.grid_size
        seeds = [self.seed] * len(pixels) if seeds is None else seeds
        method = Reference(self.game.forward)
        mask = self.game.patch_index(pixels)[None, None]
        absent = self.game.baseline_pixels(pixels).expand_as(pixels)
        rows = []
        with torch.random.fork_rng(devices=[]):
            for row, seed in enumerate(seeds):
                torch.manual_seed(seed)
                values = method.attribute(
                    pixels[row : row + 1],
                    baselines=absent[row : row + 1],
                    target=int(target[row]),
                    feature_mask=mask,
                    n_samples=self.coalitions + 2,
                    perturbations_per_eval=self.game.batch_size,
                    return_input_shape=False,
                )
                rows.append(values.view(side, side).float())
        return torch.stack(rows).to(pixels.device)
