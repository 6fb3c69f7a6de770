"""One picture of a distilled dataset: where the crops come from, the heat maps that chose them, what came out."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from decoct.pages.fonts import drawable
from decoct.run.files import written_whole

__all__ = ["PreviewRow", "save_preview", "save_strips"]

MAX_CLASSES = 10
IMAGES_PER_CLASS = 2
PANEL = 1.35  # inches
HEAT_COLORS = "RdBu_r"
STRIP_TILE, STRIP_GAP = 0.62, 0.22  # inches


@dataclass
class PreviewRow:
    """One distilled image and where it, or its best tile, comes from.

    Args:
        label_name: Class name.
        source: Real image, `(channels, height, width)` uint8, 1 or 3 channels.
        boxes: Crops that were chosen from it: top, left, height, width in its pixels.
        heatmap: Attribution of the patches, `(grid, grid)`, or None where the crops come from no heat map.
        distilled: Resulting image, `(channels, height, width)` uint8.
        scores: Utility of each crop.
    """

    label_name: str
    source: np.ndarray
    boxes: Sequence[Sequence[float]]
    heatmap: np.ndarray | None
    distilled: np.ndarray
    scores: Sequence[float]


def save_preview(path: str | os.PathLike[str], rows: Sequence[PreviewRow]) -> None:
    """Writes the picture as PNG: a line per class, at most 10 classes and the first 2 images of each.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("rows must be one or more distilled images. Got none.")
    classes: dict[str, list[PreviewRow]] = {}
    for row in rows:
        classes.setdefault(row.label_name, []).append(row)
    shown = [members[:IMAGES_PER_CLASS] for members in list(classes.values())[:MAX_CLASSES]]
    with_heat = any(row.heatmap is not None for members in shown for row in members)
    headings = ["source, crops", "heat map", "distilled"] if with_heat else ["source, crops", "distilled"]
    groups = max(map(len, shown))

    names, families = drawable([members[0].label_name for members in shown])
    figure, axes = grid(len(shown), groups, len(headings), with_heat)
    for line, members, name in zip(axes, shown, names, strict=True):
        first = line[0][0]
        first.text(-0.1, 0.5, wrap(name), transform=first.transAxes, ha="right", va="center",
                   fontsize=9, fontweight="bold", fontfamily=families, parse_math=False)  # fmt: skip
        for panels, row in zip(line, members, strict=False):
            draw_source(panels[0], row)
            if with_heat:
                draw_heatmap(panels[1], row)
            draw_image(panels[-1], row.distilled)
            panels[-1].set_xlabel(score_text(row.scores), fontsize=7, labelpad=2)
    for panels in axes[0]:
        for axis, heading in zip(panels, headings, strict=True):
            axis.set_title(heading, fontsize=8, color="0.3")
    with written_whole(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=100, facecolor="white", metadata={"Software": None})


def grid(lines: int, groups: int, panels: int, color_bar: bool) -> tuple[Figure, list[list[list[Any]]]]:
    """A figure with `axes[line][group][panel]`, all blank, a gap between groups and room for names and colour bar."""
    left, top, bottom, gap, pitch = 1.45, 0.35, 0.75 if color_bar else 0.3, 0.25, PANEL + 0.08
    line_pitch = PANEL + 0.24
    width = left + groups * panels * pitch + (groups - 1) * gap + 0.1
    height = top + lines * line_pitch + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = [[[None] * panels for _ in range(groups)] for _ in range(lines)]
    for line in range(lines):
        for group in range(groups):
            for panel in range(panels):
                x = left + (group * panels + panel) * pitch + group * gap
                y = height - top - line * line_pitch - PANEL
                axis = figure.add_axes((x / width, y / height, PANEL / width, PANEL / height))
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                axes[line][group][panel] = axis  # type: ignore[call-overload]
    if color_bar:
        bar_axis = figure.add_axes((left / width, 0.45 / height, 2.8 / width, 0.1 / height))
        bar = figure.colorbar(
            ScalarMappable(Normalize(-1, 1), HEAT_COLORS), cax=bar_axis, orientation="horizontal", ticks=[-1, 0, 1]
        )
        bar.ax.tick_params(labelsize=7, length=2)
        bar.set_label("attribution to the true class, as a share of the image's largest", fontsize=7)
    return figure, axes


def draw_image(axis: Any, image: np.ndarray, **style: Any) -> None:
    """Shows a `(channels, height, width)` uint8 image pixel by pixel."""
    if image.shape[0] == 1:
        axis.imshow(image[0], cmap="gray", vmin=0, vmax=255, interpolation="nearest", **style)
    else:
        axis.imshow(np.moveaxis(image, 0, -1), interpolation="nearest", **style)


def draw_source(axis: Any, row: PreviewRow) -> None:
    """Shows the real image with the crops' outlines."""
    draw_image(axis, row.source)
    for top, left, height, width in row.boxes:
        for color, line_width in (("black", 3.0), ("#ffd60a", 1.5)):
            axis.add_patch(
                Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec=color, lw=line_width, clip_on=False)
            )


def draw_heatmap(axis: Any, row: PreviewRow) -> None:
    """Shows the heat map over the faded image; red patches speak for the class, blue ones against it."""
    height, width = row.source.shape[-2:]
    grey = row.source.mean(axis=0, keepdims=True).astype(np.uint8)
    draw_image(axis, grey)
    if row.heatmap is None:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", va="center", fontsize=8, color="0.4",
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8})  # fmt: skip
        return
    largest = float(np.abs(row.heatmap).max()) or 1.0
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(
        row.heatmap / largest, cmap=HEAT_COLORS, vmin=-1, vmax=1, alpha=0.65, extent=extent, interpolation="nearest"
    )


def save_strips(
    path: str | os.PathLike[str], groups: Mapping[str, np.ndarray], label_names: Sequence[str] | None = None
) -> None:
    """Images side by side: a row for each class, a group of columns for each title.

    Args:
        path: PNG to write.
        groups: By title, arrays `(classes, count, channels, side, side)` uint8, 1 or 3 channels, all of one shape.
        label_names: Class names, one per row.

    Raises:
        ValueError: If there are no arrays, or their shapes, types or the number of names do not fit together.
    """
    arrays = list(groups.values())
    _check_strips(arrays, label_names)
    classes, count = arrays[0].shape[:2]
    left, top = (1.35 if label_names else 0.15), 0.35
    width = left + len(arrays) * count * STRIP_TILE + (len(arrays) - 1) * STRIP_GAP + 0.1
    height = top + classes * STRIP_TILE + 0.1
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    for group, (title, images) in enumerate(groups.items()):
        start = left + group * (count * STRIP_TILE + STRIP_GAP)
        middle = start + count * STRIP_TILE / 2
        figure.text(middle / width, 1 - 0.6 * top / height, title, ha="center", va="center", fontsize=10,
                    parse_math=False)  # fmt: skip
        for row in range(classes):
            bottom = height - top - (row + 1) * STRIP_TILE
            for column in range(count):
                corner = ((start + column * STRIP_TILE) / width, bottom / height)
                axis = figure.add_axes((*corner, 0.96 * STRIP_TILE / width, 0.96 * STRIP_TILE / height))
                axis.set_axis_off()
                draw_image(axis, images[row, column])
    names, families = drawable(label_names or [])
    for row, name in enumerate(names):
        place = height - top - (row + 0.5) * STRIP_TILE
        figure.text((left - 0.1) / width, place / height, wrap(name), ha="right", va="center", fontsize=8,
                    fontfamily=families, parse_math=False)  # fmt: skip
    with written_whole(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=120, facecolor="white", metadata={"Software": None})


def _check_strips(arrays: Sequence[np.ndarray], label_names: Sequence[str] | None) -> None:
    if not arrays:
        raise ValueError("groups must have one or more arrays. Got none.")
    shapes = {array.shape for array in arrays}
    fits = len(shapes) == 1 and arrays[0].ndim == 5 and arrays[0].shape[2] in (1, 3)
    if not fits or any(array.dtype != np.uint8 for array in arrays):
        types = sorted({str(array.dtype) for array in arrays})
        raise ValueError(
            "groups must be uint8 arrays (classes, count, channels, side, side) of one shape. "
            f"Got {sorted(shapes)} of {types}."
        )
    if label_names is not None and len(label_names) != len(arrays[0]):
        raise ValueError(f"label_names must be {len(arrays[0])} names, one per row. Got {len(label_names)}.")


def score_text(scores: Sequence[float]) -> str:
    """`score 0.12`, or the range of several."""
    if not len(scores):
        return ""
    low, high = f"{min(scores):.3g}", f"{max(scores):.3g}"
    return f"score {low}" if low == high else f"scores {low} to {high}"


def wrap(name: str, width: int = 14, lines: int = 3) -> str:
    """A class name in at most three short lines."""
    wrapped = textwrap.wrap(" ".join(name.split()), width, break_long_words=True)
    return "\n".join([*wrapped[: lines - 1], wrapped[lines - 1] + " …"] if len(wrapped) > lines else wrapped)
