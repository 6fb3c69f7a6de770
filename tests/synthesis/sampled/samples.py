"""Samples drawn by hand, to compare with."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from decoct.pipelines.igds.pipeline import IGDSPipeline, IGDSPipelineOutput
from decoct.run.seeding import item_seed
from decoct.synthesis.tiles import pixels_of

STEPS, SCALE = 3, 20.0
# How the tiles of a class are cut at IPC 1 and 3: first tile, end, and the IPC whose beta they have.
PARTS = {1: [(0, 1, 1), (1, 3, 3)], 4: [(0, 2, 1), (2, 4, 1), (4, 6, 3), (6, 9, 3), (9, 12, 3)]}


def drawn(pipeline: IGDSPipeline, label: int, seeds: list[int], **options: Any) -> IGDSPipelineOutput:
    """Samples of a class from generators with these seeds."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    settings = {"guidance_scale": SCALE, "num_inference_steps": STEPS, "output_type": "pt", "generator": generators}
    return pipeline(class_labels=[label] * len(seeds), **{**settings, **options})


def seeds_of(label: int, first: int, end: int, seed: int = 0) -> list[int]:
    return [item_seed(seed, "sample", label, number) for number in range(first, end)]


def eight_bit(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def pixels(rows: Dataset, channels: int = 1) -> Tensor:
    return pixels_of(rows["image"][:], channels)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Mean difference in grey levels."""
    return float((ours.int() - theirs.int()).abs().float().mean())
