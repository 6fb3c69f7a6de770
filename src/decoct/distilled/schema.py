"""The columns of a distilled dataset's parquet files."""

from __future__ import annotations

from typing import Any

from datasets import Array2D, ClassLabel, Features, Image, List, Value

from decoct.data.spec import ImageSpec
from decoct.distilled.logit_codes import code_width, kept_classes

__all__ = [
    "GENERATED_TILE",
    "SELECTED_TILE",
    "SLOT_COLUMNS",
    "expected_features",
    "image_features",
    "imported_features",
    "slot_features",
    "spec_fields",
    "spec_of",
]

# The labels of mixed views (`decoct.distilled.logit_codes`); the last two where only the largest logits are stored.
SLOT_COLUMNS = ("slot_codes", "slot_scales", "slot_classes", "slot_rest")

# What they depend on; absent in older manifests.
SLOT_SETTINGS = ("slots", "label_bits", "label_top_k")

# Where a tile comes from: a crop of a real image, or a sample of the prior with the two estimates in nats.
SELECTED_TILE = {
    "source_index": Value("int64"),
    "box": List(Value("int32"), length=4),
    "score": Value("float32"),
    "heatmap": List(List(Value("float32"))),
}
GENERATED_TILE = {"seed": Value("int64"), "prototype": Value("float32"), "contextual": Value("float32")}


def image_features(
    spec: ImageSpec,
    method: str,
    tiles_per_image: int,
    views: int,
    slots: int = 0,
    label_bits: int = 8,
    label_top_k: int = 0,
) -> Features:
    """Columns of the distilled dataset; `correct` (the teacher's verdict on a tile) is dropped when it is written."""
    classes = spec.num_classes
    columns: dict[str, Any] = {
        "image": Image(),
        "label": ClassLabel(names=list(spec.label_names)),
        "tile_logits": Array2D((tiles_per_image, classes), "float16"),
    }
    if views:
        columns["view_logits"] = Array2D((views, classes), "float16")
        columns["view_boxes"] = Array2D((views, 5), "float16")
    if slots:
        columns |= slot_features(classes, slots, label_bits, label_top_k)
    columns["tiles"] = List(GENERATED_TILE if method == "igds" else SELECTED_TILE)
    columns["correct"] = List(Value("bool"))
    return Features(columns)


def slot_features(classes: int, slots: int, label_bits: int, label_top_k: int) -> Features:
    """Columns of the labels of mixed views."""
    codes, scales, names, rest = SLOT_COLUMNS
    kept = kept_classes(label_top_k, classes)
    columns = {
        codes: Array2D((slots, code_width(kept or classes, label_bits)), "uint8"),
        scales: Array2D((slots, 1), "float16"),
    }
    if kept:
        columns |= {names: Array2D((slots, kept), "uint16"), rest: Array2D((slots, 1), "float16")}
    return Features(columns)


def imported_features(spec: ImageSpec, soft: bool) -> Features:
    """Columns of a set of others: they do not say where a tile comes from, and soft labels are one an image."""
    features = image_features(spec, "", tiles_per_image=1, views=0)
    return Features({name: features[name] for name in ("image", "label", *(["tile_logits"] if soft else []))})


def expected_features(manifest: dict[str, Any]) -> Features:
    """The columns that decoct writes for a manifest."""
    if "imported" in manifest:
        return imported_features(spec_of(manifest), manifest["imported"]["labels"] == "soft")
    decisive = {name: manifest["config"][name] for name in ("method", "tiles_per_image", "views")}
    decisive |= {name: manifest["config"][name] for name in SLOT_SETTINGS if name in manifest["config"]}
    features = image_features(spec_of(manifest), **decisive)
    return Features({name: each for name, each in features.items() if name != "correct"})


def spec_of(manifest: dict[str, Any]) -> ImageSpec:
    """What the images of a manifest are like."""
    return ImageSpec(
        image_size=manifest["image_size"],
        channels=manifest["channels"],
        mean=tuple(manifest["image_mean"]),
        std=tuple(manifest["image_std"]),
        label_names=tuple(manifest["label_names"]),
    )


def spec_fields(spec: ImageSpec) -> dict[str, Any]:
    """The inverse of `spec_of`: the fields of a manifest that say what its images are like."""
    return {
        "label_names": list(spec.label_names),
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "image_size": spec.image_size,
        "channels": spec.channels,
    }
