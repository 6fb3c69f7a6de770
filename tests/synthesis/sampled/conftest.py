"""Runs that sample with a tiny prior and a tiny estimator of a part of the embedded sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline, DDPMScheduler
from worlds import draw_no_pictures

from decoct.config import DistillConfig, PriorConfig, values_for
from decoct.data.spec import ImageSpec
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.loading import build_estimator, load_estimator
from decoct.igds.prior import load_pipeline
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.synthesis.distill import distill
from decoct.synthesis.guided_prior import SamplingSettings
from decoct.training.prior import build_unet

from ..runs import NAMES, SIDE, VIEWS
from .samples import SCALE, STEPS


@pytest.fixture(scope="session")
def settings(sample_part, trained_teacher, tiny_prior, tiny_estimator) -> dict[str, Any]:
    """A large step size, so that an estimator with random weights moves the pixels."""
    return {
        "method": "igds",
        "dataset": str(sample_part),
        "teacher": str(trained_teacher),
        "prior": str(tiny_prior),
        "estimator": str(tiny_estimator),
        "ipc": [1, 3],
        "guidance_scale": SCALE,
        "guidance_batch": 3,
        "sampling_steps": STEPS,
        "views": VIEWS,
        "slots": 0,
        "batch_size": 16,
    }


@pytest.fixture
def config(settings, tmp_path) -> Callable[..., DistillConfig]:
    return lambda **options: DistillConfig(**{**settings, "output_dir": str(tmp_path / "run"), **options})


@pytest.fixture
def sampling(config) -> Callable[..., SamplingSettings]:
    """How the tiles are sampled."""
    return lambda **options: values_for(SamplingSettings, config(**options))


@pytest.fixture
def quick(config) -> Callable[..., DistillConfig]:
    """The smallest run: a tile of each class, without views."""
    return lambda **options: config(**{"ipc": [1], "views": 0, **options})


@pytest.fixture(scope="session")
def finished(once, settings) -> Callable[[int], Path]:
    """The folder of a finished run with 1 or 4 tiles per image; tests must not change it."""

    def folder(count: int) -> Path:
        def make(parent: Path) -> None:
            distill(DistillConfig(**settings, tiles_per_image=count, output_dir=str(parent / "run")))

        return once(f"igds-{count}", make) / "run"

    return folder


@pytest.fixture(autouse=True)
def quick_preview(monkeypatch, finished):
    """Drawing the preview takes most of a tiny run's time; it is drawn for the finished runs alone."""
    for count in (1, 4):
        finished(count)
    draw_no_pictures(monkeypatch)


@pytest.fixture(scope="session")
def estimator(tiny_estimator) -> VariationalEstimator:
    return load_estimator(tiny_estimator)


@pytest.fixture(scope="session")
def pipeline(tiny_prior, estimator) -> IGDSPipeline:
    return load_pipeline(tiny_prior, estimator)


@pytest.fixture(scope="session")
def untrained_prior(tmp_path_factory) -> Callable[..., Path]:
    """A prior with random weights in DDPM layout, without a record of its training."""

    def make(conditional: bool = True, **changes: Any) -> Path:
        values = {"image_size": SIDE, "channels": 1, "mean": (0.3,), "std": (0.3,), "label_names": tuple(NAMES)}
        unet = build_unet(
            PriorConfig(channels=[8, 16], attention=False, conditional=conditional), ImageSpec(**{**values, **changes})
        )
        folder = tmp_path_factory.mktemp("prior")
        DDPMPipeline(unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def other_estimator(teacher, tmp_path) -> Callable[..., str]:
    """A saved estimator of images that differ in some way from the teacher's."""

    def make(**changes: Any) -> str:
        spec = ImageSpec.from_dict({**teacher.spec.to_dict(), **changes})
        build_estimator("resnet10_w4", spec, 16).save_pretrained(tmp_path / "estimator")
        return str(tmp_path / "estimator")

    return make
