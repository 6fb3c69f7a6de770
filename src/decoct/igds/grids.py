"""Grids of generated samples, a row per class."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers import DDIMScheduler, SchedulerMixin, UNet2DModel
from PIL import Image
from torch import Tensor

from decoct.data.spec import ImageSpec
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.run.files import written_whole
from decoct.run.seeding import torch_generator

__all__ = ["sample_grid", "save_grid"]

ROWS, COLUMNS = 10, 10
GAP = 2  # pixels between images


def sample_grid(
    path: Path, unet: UNet2DModel, scheduler: SchedulerMixin, spec: ImageSpec, steps: int, seed: int
) -> None:
    """Draws ten samples of each of the first ten classes from a prior with DDIM, and saves them as one picture.

    An unconditional prior fills the same grid with samples of no class.
    """
    pipeline = IGDSPipeline(
        unet=unet,
        transformer=None,
        vae=None,
        scheduler=DDIMScheduler.from_config(scheduler.config),  # type: ignore[attr-defined]
        estimator=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    rows = min(ROWS, spec.num_classes)
    labels = torch.arange(rows).repeat_interleave(COLUMNS).tolist()
    images = pipeline(
        class_labels=labels,
        guidance_scale=0.0,
        num_inference_steps=steps,
        generator=[torch_generator(seed, "grid", number) for number in range(len(labels))],
        output_type="pt",
    ).images
    save_grid(path, (images * 255).round().to(torch.uint8).unflatten(0, (rows, COLUMNS)))


def save_grid(path: str | os.PathLike[str], images: Tensor) -> None:
    """Saves images `(rows, columns, channels, side, side)` uint8 as one PNG with white gaps."""
    rows, columns, channels, side, _ = images.shape
    pitch = side + GAP
    canvas = torch.full((channels, rows * pitch + GAP, columns * pitch + GAP), 255, dtype=torch.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = GAP + row * pitch, GAP + column * pitch
            canvas[:, top : top + side, left : left + side] = images[row, column].cpu()
    array = canvas.permute(1, 2, 0).numpy()
    with written_whole(Path(path)) as temporary:
        Image.fromarray(array[..., 0] if channels == 1 else array).save(temporary, "PNG")
