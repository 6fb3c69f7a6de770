"""A picture of guided samples over beta: what more contextual information looks like (IGDS, Fig. 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from decoct.config import SampleConfig, to_dict, values_for
from decoct.files import read_object
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.loading import label_names, spec_of
from decoct.igds.prior import GuidedPrior
from decoct.pages.preview import MAX_CLASSES, save_strips
from decoct.run.folder import check_folder, claim_folder, identity_of, write_json
from decoct.run.lock import writes_alone
from decoct.run.precision import autocast
from decoct.run.versions import installed_versions
from decoct.synthesis.chunks import Chunk, sample_chunks
from decoct.synthesis.guided_prior import (
    PriorSettings,
    SamplingSettings,
    check_classes,
    open_pipeline,
    place,
    sampler_networks,
)
from decoct.synthesis.tiles import pixels_of

__all__ = ["draw_samples", "plan_samples"]

WRITTEN = ("samples.json", "samples.png")


@writes_alone
def draw_samples(config: SampleConfig) -> dict[str, Any]:
    """Samples the same seeds at each beta, and writes `samples.png` and `samples.json` into `config.output_dir`.

    Returns:
        The content of `samples.json`: the mean prototype and contextual term in nats at each beta, the configuration
        and the versions.

    Raises:
        ValueError: If prior and estimator do not fit together, a class is unknown, or the folder belongs to another
            configuration.
    """
    accelerator = Accelerator()
    pipeline, estimator, names, classes = _load(config)
    folder, networks = Path(config.output_dir), sampler_networks(pipeline, config.prior, config.estimator)
    claim_folder(folder, identity_of(to_dict(config), **networks), config.overwrite, WRITTEN)
    if (folder / "samples.json").is_file():
        return read_object(folder / "samples.json")

    place(pipeline, accelerator.device, config.prior_offload)
    side, settings = estimator.config.image_size, values_for(SamplingSettings, config)
    strips: dict[str, list[np.ndarray]] = {}
    terms: dict[str, dict[str, list[float]]] = {}
    for beta, label in tqdm(
        [(beta, label) for beta in config.betas for label in classes], desc="samples", unit="class"
    ):
        with torch.no_grad(), autocast(accelerator.device, config.mixed_precision):
            rows = sample_chunks(pipeline, [Chunk(label, 0, config.images_per_class, beta)], settings, side)
        pixels = pixels_of(rows["image"][:], estimator.config.num_channels)
        strips.setdefault(f"β = {beta:g}", []).append(pixels.numpy())
        measured = terms.setdefault(f"{beta:g}", {"prototype": [], "contextual": []})
        for name, values in measured.items():
            values += rows[name][:]
    save_strips(
        folder / "samples.png",
        {title: np.stack(each) for title, each in strips.items()},
        [names[label] for label in classes],
    )
    record = {
        "betas": {
            beta: {name: float(np.mean(values)) for name, values in each.items()} for beta, each in terms.items()
        },
        "config": to_dict(config),
        **networks,
        "versions": installed_versions(),
    }
    write_json(folder / "samples.json", record)
    return record


def plan_samples(config: SampleConfig) -> dict[str, Any]:
    """What `draw_samples` would do; nothing is written."""
    pipeline, _, _, classes = _load(config)
    networks = sampler_networks(pipeline, config.prior, config.estimator)
    check_folder(Path(config.output_dir), identity_of(to_dict(config), **networks), config.overwrite)
    passes = len(config.betas) * len(classes) * config.images_per_class * config.sampling_steps
    return {"classes": len(classes), "betas": config.betas, "prior_passes": passes, "output_dir": config.output_dir}


def _load(config: SampleConfig) -> tuple[GuidedPrior, VariationalEstimator, list[str], list[int]]:
    """Pipeline, its estimator with the names of its classes, and the classes to sample."""
    settings = values_for(SamplingSettings, config)
    pipeline = open_pipeline(values_for(PriorSettings, config), settings)
    estimator: Any = pipeline.estimator
    check_classes(pipeline, settings, spec_of(estimator), f"the estimator {config.estimator}", config.prior)
    names = label_names(estimator)
    classes = config.classes or list(range(min(MAX_CLASSES, len(names))))
    unknown = [label for label in classes if not 0 <= label < len(names)]
    if unknown:
        raise ValueError(f"classes must be in [0, {len(names) - 1}], those of the estimator. Got {unknown}.")
    return pipeline, estimator, names, classes
