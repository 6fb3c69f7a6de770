"""What several sets made of the same candidates share: heat maps, and crops with their scores.

Selection, order and labels do not change them, and scores of the same crops need the same heat maps.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset

from decoct.config import DistillConfig, config_hash, values_for
from decoct.data.source import dataset_fingerprint
from decoct.infoutil.processor import CropSettings, HeatmapSettings, build_attribution
from decoct.models.classifier import Classifier
from decoct.synthesis.real import candidates_of, heatmaps_of, score

__all__ = ["SharedScores", "heatmap_settings", "score_settings"]


class SharedScores:
    """Heat maps and scores of one source's candidates by one teacher, each computed once and kept in shards.

    Args:
        folder: They lie in `heatmaps/` and `scores/`, by what they depend on and the seed.
        images: The source.
        teacher: That attributes and scores; on the accelerator's device from the first scores on.
        accelerator: Of this process; all processes compute together.
    """

    def __init__(self, folder: Path, images: Dataset, teacher: Classifier, accelerator: Accelerator) -> None:
        self.folder, self.images, self.teacher, self.accelerator = folder, images, teacher, accelerator

    @cached_property
    def source(self) -> dict[str, str]:
        """What all of them depend on."""
        return {"data": dataset_fingerprint(self.images), "teacher": self.teacher.fingerprint()}

    def scores(self, config: DistillConfig) -> list[Path]:
        """Score shards of a set's candidates, as `decoct.synthesis.real.score` makes them."""
        self.teacher.to(self.accelerator.device)
        candidates = candidates_of(config, self.images, self.teacher)
        name = f"{config.utility}-{'whole' if config.whole_images else config.attribution}"
        folder = self.folder / "scores" / f"{name}-{self.key(score_settings(config), config)}"
        heatmaps = self._heatmaps(config, candidates)
        size = config.batch_size or 1
        return score(config, candidates, self.teacher, size, self.accelerator, folder, heatmaps)

    def _heatmaps(self, config: DistillConfig, candidates: Dataset) -> dict[int, np.ndarray] | None:
        """Heat maps of the candidates by source index; None where crops need none, or captum makes them."""
        settings = heatmap_settings(config)
        if settings is None or config.attribution == "captum_kernel_shap":
            return None
        size = config.batch_size or 1
        attribution = build_attribution(self.teacher, values_for(HeatmapSettings, config), size)
        if attribution is None:
            return None
        rows, spec = range(len(candidates)), self.teacher.spec
        folder = self.folder / "heatmaps" / f"{config.attribution}-{self.key(settings, config)}"
        found = heatmaps_of(rows, attribution, candidates, spec, size, config.shard_size, self.accelerator, folder)
        indices = candidates["source_index"][:]
        return {indices[row]: np.array(heatmap, dtype=np.float32) for row, heatmap in found.items()}

    def key(self, settings: dict[str, Any] | None, config: DistillConfig) -> str:
        """What identifies heat maps or scores with these settings, as the end of a path."""
        return f"{config_hash({**self.source, **(settings or {})})}/seed_{config.seed}"


def heatmap_settings(config: DistillConfig) -> dict[str, Any] | None:
    """All that the candidates' heat maps depend on, but the source and the seed; None where crops need none."""
    if config.whole_images or config.attribution == "random":
        return None
    settings = dataclasses.asdict(values_for(HeatmapSettings, config))
    del settings["seed"]
    return {**settings, "candidates_per_class": config.candidates_per_class}


def score_settings(config: DistillConfig) -> dict[str, Any]:
    """All that the candidates' crops and scores depend on, but the source and the seed."""
    crops = {**dataclasses.asdict(values_for(CropSettings, config)), "scored": "as stored"}
    return {
        "heatmaps": heatmap_settings(config),
        "crops": None if config.whole_images and config.tile_rows == 1 else crops,
        "utility": config.utility,
        "order": config.utility_order if config.utility == "forgetting" else None,
        "references": config.gradient_flow_references if config.utility == "gradient_flow" else None,
        "features": config.selection not in ("top", "random"),
        **({"logits": True} if config.needs_logits else {}),
        "candidates_per_class": config.candidates_per_class,
        "mixed_precision": config.mixed_precision,
    }
