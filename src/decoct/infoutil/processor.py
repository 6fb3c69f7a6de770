"""InfoUtil as a `datasets.map` processor: candidates in; heat maps, crop boxes and utility scores out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Features, List, Value
from torch import Tensor

from decoct.config import DistillConfig, values_for
from decoct.data.mosaic import cut_tiles
from decoct.data.pixels import to_pixels
from decoct.infoutil.attribution import CaptumKernelShap, ExactShapley, GradCam, KernelShap
from decoct.infoutil.cropping import distinct_boxes, pad_to, random_boxes, window_boxes
from decoct.infoutil.utility import cross_entropy_loss, grad_norm, grad_norm_last, gradient_flow
from decoct.models.classifier import Classifier
from decoct.models.throughput import calibrated_batch_size, teacher_forward
from decoct.run.finite import require_finite
from decoct.run.precision import DTYPES, autocast
from decoct.run.seeding import item_seed, numpy_generator

__all__ = ["Attribution", "CropSettings", "HeatmapSettings", "InfoUtilProcessor", "Reference", "build_attribution"]

LAST_LAYER_SCORES = ("grad_norm_last", "gradient_flow")


class Attribution(Protocol):
    """What captum's attribution methods look like: `attribute(pixels, target) -> heat maps (batch, grid, grid)`."""

    def attribute(self, pixels: Tensor, target: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Reference:
    """The candidates that `gradient_flow` takes its maximum over: teacher features, logits and labels."""

    features: Tensor
    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class HeatmapSettings:
    """How heat maps are made; the fields are those of `DistillConfig`."""

    attribution: str
    grid_size: int
    coalitions: int
    baseline: str
    value: str
    mixed_precision: str
    seed: int


@dataclass(frozen=True)
class CropSettings:
    """How an image is cropped; the fields are those of `DistillConfig`."""

    attribution: str
    whole_images: bool
    tile_rows: int
    crop_fraction: float
    crop_center: Literal["pooled", "patch"]
    crops_per_image: int
    noise_scale: float


def build_attribution(teacher: Classifier, settings: HeatmapSettings, batch_size: int) -> Attribution | None:
    """The attribution method that is asked for; None where crops come from no heat map."""
    if settings.attribution in ("random", "whole"):
        return None
    if settings.attribution == "grad_cam":
        return GradCam(teacher, settings.grid_size)
    logits = teacher_forward(teacher, settings.mixed_precision)
    options: dict[str, Any] = {
        "forward": logits if settings.value == "logit" else lambda pixels: logits(pixels).softmax(1),
        "grid_size": settings.grid_size,
        "baseline": settings.baseline,
        "baseline_value": teacher.spec.mean,
        "batch_size": batch_size,
    }
    if settings.attribution == "exact_shapley":
        return ExactShapley(**options)
    method = KernelShap if settings.attribution == "kernel_shap" else CaptumKernelShap
    return method(coalitions=settings.coalitions, seed=settings.seed, **options)


class InfoUtilProcessor:
    """Attribution, cropping and utility of a batch of images (InfoUtil, section 3.2).

        images.map(processor, batched=True, with_indices=True, with_rank=True,
                   features=processor.features, remove_columns=images.column_names)

    The result has one row per image and no pixels: `label`, `source_index`, `heatmap` (grid x grid, or null where no
    heat map was needed), `boxes` (crops x top, left, height, width in pixels at the teacher's image size), `utility`
    (one score per crop), for diverse selection `features` (crops x width) and, for regression, `logits` (crops x
    classes). It does not depend on batch size or process count.

    Args:
        teacher: In eval mode.
        config: The run's settings.
        batch_size: Images per forward pass. Default: the fastest of a short calibration.
        reference: What `gradient_flow` compares with; required for that score alone.
        forgetting: Score of each image by its source index (`forgetting_scores`); required for `forgetting` alone.
        heatmaps: Heat maps by source index that were computed before, with the same settings. Default: they are
            computed, where crops need them.

    Raises:
        ValueError: If `gradient_flow` lacks its reference, `forgetting` its scores, or features are needed of a teacher
            that has none (`Classifier.linear_heads`).
    """

    def __init__(
        self,
        teacher: Classifier,
        config: DistillConfig,
        batch_size: int | None = None,
        reference: Reference | None = None,
        forgetting: np.ndarray | None = None,
        heatmaps: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        if config.utility == "gradient_flow" and reference is None:
            raise ValueError("reference must be given for utility 'gradient_flow'. Got None.")
        if config.utility == "forgetting" and forgetting is None:
            raise ValueError("forgetting must be given for utility 'forgetting'. Got None.")
        self.teacher, self.reference, self.forgetting, self.heatmaps = teacher, reference, forgetting, heatmaps
        self.crops = values_for(CropSettings, config)
        self.utility, self.diverse = config.utility, config.selection not in ("top", "random")
        self.with_logits = config.needs_logits
        if self.diverse or self.utility in LAST_LAYER_SCORES:
            teacher.linear_heads()
        self.seed, self.mixed_precision = config.seed, config.mixed_precision
        self.side = teacher.spec.image_size
        self.batch_size = batch_size or calibrated_batch_size(teacher, config.mixed_precision)
        # A window as large as the image needs no heat map; the chosen images get theirs at the end.
        windows = config.attribution != "random" and not config.whole_images
        settings = values_for(HeatmapSettings, config)
        self.attribution = build_attribution(teacher, settings, self.batch_size) if windows else None

    @property
    def features(self) -> Features:
        """Features of the result, for `datasets.map`."""
        columns: dict[str, Any] = {
            "label": ClassLabel(names=list(self.teacher.spec.label_names)),
            "source_index": Value("int64"),
            "heatmap": List(List(Value("float32"))),
            "boxes": List(List(Value("int32"))),
            "utility": List(Value("float32")),
        }
        if self.diverse:
            columns["features"] = List(List(Value("float16")))
        if self.with_logits:
            columns["logits"] = List(List(Value("float32")))
        return Features(columns)

    def __call__(self, batch: dict[str, list[Any]], indices: list[int], rank: int | None = None) -> dict[str, Any]:
        if rank is not None and torch.cuda.is_available():
            self.teacher.to(f"cuda:{rank % torch.cuda.device_count()}")
        pixels = to_pixels(batch["image"], self.side, self.teacher.spec.channels)
        return self.scored(pixels, batch["label"], batch.get("source_index", indices))

    def scored(self, pixels: Tensor, classes: list[int], source: list[int]) -> dict[str, Any]:
        """The columns of a batch of images.

        Args:
            pixels: `(batch, channels, side, side)` uint8, of the teacher's size.
            classes: Their labels.
            source: Their source indices.
        """
        labels = torch.tensor(classes, device=self.teacher.device)
        names = self.teacher.spec.label_names

        def place_of(row: int) -> str:
            return f"image {source[row]} of class {names[classes[row]]!r}"

        heatmaps = self._heatmaps(pixels, labels, source)
        if heatmaps is not None:
            require_finite(heatmaps, "values of heat maps", place_of)
        boxes = self._boxes(heatmaps, source)
        utility, features, logits = self._score(pixels, labels, boxes, source)
        require_finite(utility, f"scores ({self.utility})", place_of)
        if self.diverse:
            require_finite(features, "features of the teacher", place_of, half=True)
        result: dict[str, Any] = {
            "label": classes,
            "source_index": source,
            "heatmap": [None] * len(source) if heatmaps is None else heatmaps.cpu().numpy(),
            "boxes": boxes.numpy(),
            "utility": utility.numpy(),
        }
        if self.diverse:
            result["features"] = features.half().numpy()
        if self.with_logits:
            result["logits"] = logits.numpy()
        return result

    def _heatmaps(self, pixels: Tensor, labels: Tensor, source: list[int]) -> Tensor | None:
        if self.heatmaps is not None:
            return torch.from_numpy(np.stack([self.heatmaps[row] for row in source])).to(labels.device)
        if self.attribution is None:
            return None
        images = pixels.to(labels.device).float() / 255
        if isinstance(self.attribution, CaptumKernelShap):
            seeds = [item_seed(self.seed, "captum", row) for row in source]
            return self.attribution.attribute(images, labels, seeds=seeds)
        return self.attribution.attribute(images, labels)

    def _boxes(self, heatmaps: Tensor | None, source: list[int]) -> Tensor:
        """Boxes `(batch, crops, 4)`, each image's from its own generator."""
        crops = self.crops
        generators = [numpy_generator(self.seed, "crops", row) for row in source]
        if crops.attribution == "random":
            return torch.stack([random_boxes(self.side, crops.crops_per_image, each) for each in generators])
        if heatmaps is None:
            return torch.tensor([0, 0, self.side, self.side]).repeat(len(source), 1, 1)
        return window_boxes(
            heatmaps,
            self.side,
            crops.crop_fraction,
            crops.crops_per_image,
            crops.noise_scale,
            generators,
            crops.crop_center,
        )

    def _score(self, pixels: Tensor, labels: Tensor, boxes: Tensor, source: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Utility `(batch, crops)`, features `(batch, crops, width)` and logits; a window is scored once."""
        distinct = [distinct_boxes(each) for each in boxes]
        rows = torch.repeat_interleave(torch.tensor([len(unique) for unique, _ in distinct]))
        flat = torch.cat([unique for unique, _ in distinct])
        parts = []
        for start in range(0, len(flat), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            crops = self._crops(pixels, rows[chunk], flat[chunk]).to(labels.device)
            parts.append([each.cpu() for each in self._utility(crops, labels[rows[chunk].to(labels.device)])])
        scores, features, logits = (torch.cat(each) for each in zip(*parts, strict=True))
        if self.utility == "random":
            drawn = [numpy_generator(self.seed, "utility", row).random() for row in source]
            scores = torch.tensor(drawn)[rows].float()
        elif self.utility == "forgetting" and self.forgetting is not None:
            scores = torch.from_numpy(self.forgetting[source])[rows].float()
        first = torch.tensor([0, *(len(unique) for unique, _ in distinct)])[:-1].cumsum(0)
        index = torch.stack([offset + inverse for offset, (_, inverse) in zip(first, distinct, strict=True)])
        return scores[index], features[index], logits[index]

    def _crops(self, pixels: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
        """Tiles as they are stored, at the teacher's size: resized, or padded as RDED scores them."""
        tiles = cut_tiles(pixels, rows, boxes, self.side // self.crops.tile_rows).float() / 255
        if self.crops.attribution == "random":
            return pad_to(tiles, self.side, self.teacher.spec.mean)
        if tiles.shape[-1] == self.side:
            return tiles
        return F.interpolate(tiles, (self.side, self.side), mode="bilinear", align_corners=False)

    def _utility(self, crops: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores `(crops,)` and, where something needs them, features `(crops, width)` and logits."""
        score = features = logits = torch.zeros(len(crops), 0)
        if self.utility == "grad_norm":
            score = grad_norm(self.teacher, crops, labels, min(self.batch_size, 64), DTYPES.get(self.mixed_precision))
        needs_features = self.diverse or self.utility in LAST_LAYER_SCORES
        if not needs_features and self.utility != "loss":
            return score, features, logits
        with torch.no_grad(), autocast(self.teacher.device, self.mixed_precision):
            if needs_features:
                features, logits = (part.float() for part in self.teacher.features_and_logits(crops))
            else:
                logits = self.teacher(crops).float()
        if self.utility == "grad_norm_last":
            score = grad_norm_last(features, logits, labels, self.teacher.bias_factor)
        elif self.utility == "loss":
            score = cross_entropy_loss(logits, labels)
        elif self.reference is not None and self.utility == "gradient_flow":
            reference = self.reference
            others = (reference.features, reference.logits, reference.labels)
            score = gradient_flow(features, logits, labels, *others, self.teacher.bias_factor)
        return score, features, logits


def reference_of(teacher: Classifier, pixels: Tensor, labels: np.ndarray, mixed_precision: str) -> Reference:
    """Features and logits of whole candidates, `(references, channels, side, side)` uint8, for `gradient_flow`."""
    features, logits = [], []
    with torch.no_grad(), autocast(teacher.device, mixed_precision):
        for chunk in pixels.split(64):
            feature, logit = teacher.features_and_logits(chunk.to(teacher.device).float() / 255)
            features.append(feature.float())
            logits.append(logit.float())
    return Reference(torch.cat(features), torch.cat(logits), torch.from_numpy(labels).to(teacher.device))
