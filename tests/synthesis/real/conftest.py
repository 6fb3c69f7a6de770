"""Runs that choose tiles from a part of the embedded sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from worlds import draw_no_pictures

import decoct
from decoct.config import DistillConfig
from decoct.data.pixels import to_pixels

from ..runs import SIDE, VIEWS


@pytest.fixture
def config(sample_part, trained_teacher, tmp_path):
    def make(**options: Any) -> DistillConfig:
        settings: dict[str, Any] = {
            "dataset": str(sample_part),
            "teacher": str(trained_teacher),
            "ipc": [1, 3],
            "candidates_per_class": 16,
            "grid_size": 3,
            "coalitions": 16,
            "views": VIEWS,
            "label_bits": 8,
            "slots": 0,
            "batch_size": 16,
            "output_dir": str(tmp_path / "run"),
        }
        return DistillConfig(**{**settings, **options})

    return make


@pytest.fixture(autouse=True)
def quick_preview(request, monkeypatch):
    """Drawing preview and report takes most of a tiny run's time; only tests named after the preview draw them."""
    if "preview" not in request.node.name:
        draw_no_pictures(monkeypatch, report=True)


@pytest.fixture(scope="session")
def source(sample_part) -> torch.Tensor:
    """Pixels of all real images, by source index."""
    return to_pixels(decoct.load_images(str(sample_part))["image"][:], SIDE, 1)
