"""What the report says of a run: its facts, its settings, the command that repeats it, and the images it shows."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decoct.pages.shown import shown_classes, shown_images
from decoct.pages.sources import Sources, data_uri

__all__ = ["class_sections", "soft_label"]

TOP_CLASSES = 5  # of a soft label


def soft_label(logits: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    """The largest probabilities of a soft label at temperature 1, as (class name, probability), and the rest's sum."""
    values = np.asarray(logits, dtype=np.float64)
    probabilities = np.exp(values - values.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")[:TOP_CLASSES]
    top = [(names[label], float(probabilities[label])) for label in order]
    return {"top": top, "others": len(names) - len(top), "rest": max(0.0, 1 - sum(share for _, share in top))}


def class_sections(folder: Path, manifest: dict[str, Any], sources: Sources | None) -> list[dict[str, Any]]:
    """The shown classes: `label`, `name`, their `images` with tiles, and the `real` images beside generated ones."""
    names = manifest["label_names"]
    sections = [
        {"label": label, "name": names[label], "images": [], "real": sources.real.get(label, []) if sources else []}
        for label in range(shown_classes(manifest))
    ]
    for row in shown_images(folder, manifest):
        sections[row["label"]]["images"].append(image_of(row, names, sources))
    return sections


def image_of(row: dict[str, Any], names: Sequence[str], sources: Sources | None) -> dict[str, Any]:
    """A distilled image: its picture, and of every tile its origin, heat map and soft label."""
    logits = row["tile_logits"]
    count = max(1, len(row["tiles"]) if logits is None else len(logits))
    origins = [*row["tiles"], *[{}] * (count - len(row["tiles"]))]
    tiles = [
        {
            "number": number + 1,
            **origin,
            "source": sources.crops.get(origin["source_index"]) if sources and "source_index" in origin else None,
            "cells": heat_cells(origin.get("heatmap")),
            "soft": None if logits is None else soft_label(logits[number], names),
        }
        for number, origin in enumerate(origins[:count])
    ]
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        picture = data_uri(image)
    return {"number": row["number"], "picture": picture, "side": math.isqrt(count), "tiles": tiles}


def heat_cells(heatmap: Sequence[Sequence[float]] | None) -> list[dict[str, Any]]:
    """The cells of a heat map in shares of the image's side: `left`, `top`, `size`, `value` in [-1, 1] as a share of
    the map's largest.
    """
    if heatmap is None:
        return []
    values = np.asarray(heatmap, dtype=np.float64)
    values = values / (np.abs(values).max() or 1.0)
    size = 1 / len(values)
    return [
        {"left": column * size, "top": line * size, "size": size, "value": float(values[line, column])}
        for line in range(len(values))
        for column in range(len(values))
    ]
