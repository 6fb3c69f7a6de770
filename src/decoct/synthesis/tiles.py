"""From scored candidates to the tiles of each IPC, and from tiles to labelled images."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Features
from PIL import Image as PILImage
from torch import Tensor

from decoct.data.mosaic import compose, cut_tiles, tile_ranks
from decoct.data.pixels import to_pixels
from decoct.data.spec import ImageSpec
from decoct.models.throughput import Forward
from decoct.run.finite import require_finite
from decoct.run.seeding import numpy_generator
from decoct.synthesis.relabel import draw_views, tile_logits, view_logits
from decoct.synthesis.selection import Selected, gradient_directions, select_class, select_jointly

__all__ = [
    "LabelSettings",
    "Mosaics",
    "SelectionSettings",
    "Tile",
    "cut_mosaics",
    "images_of",
    "label_mosaics",
    "pixels_of",
    "png_bytes",
    "read_scores",
    "select_tiles",
]


@dataclass(frozen=True)
class Tile:
    """One chosen crop: its candidate row, the image it comes from, the box in pixels, its score and heat map."""

    row: int
    source_index: int
    box: tuple[int, int, int, int]
    score: float
    heatmap: list[list[float]] | None


@dataclass(frozen=True)
class SelectionSettings:
    """How tiles are selected by their scores; the fields are those of `DistillConfig`."""

    tiles_per_image: int
    utility: str
    utility_order: Literal["highest", "lowest", "quantile"]
    utility_quantile: float
    selection: Literal["top", "random", "herding", "k_center", "k_means", "coverage", "regression"]
    pool_factor: float
    pool_share: float
    coverage_kernel: Literal["features", "gradients"]
    coverage_noise: float
    seed: int


@dataclass(frozen=True)
class LabelSettings:
    """What of an image is labelled: its tiles and fixed views; the fields are those of `DistillConfig`."""

    tiles_per_image: int
    views: int
    view_scale: float
    seed: int


@dataclass(frozen=True)
class Mosaics:
    """A few packed images.

    Args:
        pixels: `(images, channels, side, side)` uint8.
        labels: Class of each.
        numbers: Number of each within its class.
        provenance: Of each image, its tiles as entries of the column `tiles`.
    """

    pixels: Tensor
    labels: list[int]
    numbers: list[int]
    provenance: list[list[dict[str, Any]]]


def read_scores(paths: Sequence[Path]) -> pa.Table:
    """All columns of the score shards but features and logits: a few bytes per candidate."""
    names = [name for name in pq.read_schema(paths[0]).names if name not in ("features", "logits")]
    return pa.concat_tables([pq.read_table(path, columns=names) for path in paths])


def read_outputs(
    paths: Sequence[Path], column: Literal["features", "logits"], rows: np.ndarray, crops: np.ndarray
) -> np.ndarray:
    """Features or logits `(rows, width)` of one crop of each of the given candidates, holding one shard at a time."""
    size = pq.read_metadata(paths[0]).num_rows
    parts: dict[int, np.ndarray] = {}
    for shard in np.unique(rows // size):
        members = np.flatnonzero(rows // size == shard)
        table = pq.read_table(paths[shard], columns=[column])[column].combine_chunks()
        chosen = table.take(pa.array(rows[members] % size))
        values = chosen.flatten().flatten().to_numpy().astype(np.float32).reshape(len(members), len(chosen[0]), -1)
        parts |= dict(zip(members.tolist(), values[np.arange(len(members)), crops[members]], strict=True))
    return np.stack([parts[index] for index in range(len(rows))])


def select_tiles(
    paths: Sequence[Path], label_names: Sequence[str], ipc: int, settings: SelectionSettings
) -> list[list[Tile]]:
    """The tiles of each class, best first, k times `ipc` of them; a pure function of score shards and seed.

    Equal counts of forgetting events are many, so that a draw by seed and class ranks them, the same for every IPC.
    Other equal scores are in row order. The starts of `k_means` are drawn by seed, class and IPC.

    Raises:
        ValueError: If a class has fewer candidates than tiles; it is named.
    """
    scores, count = read_scores(paths), ipc * settings.tiles_per_image
    labels = scores["label"].to_numpy()
    members = [np.flatnonzero(labels == label) for label in range(len(label_names))]
    for name, rows in zip(label_names, members, strict=True):
        if len(rows) < count:
            raise ValueError(f"Class {name!r} must have at least {count} candidates. Got {len(rows)}.")
    tables = [scores.take(pa.array(rows)) for rows in members]
    utilities = [np.array(table["utility"].to_pylist(), dtype=np.float32) for table in tables]
    order, quantile = settings.utility_order, settings.utility_quantile

    selection, share, noise = settings.selection, settings.pool_share, settings.coverage_noise
    by_gradients = selection == "coverage" and settings.coverage_kernel == "gradients"

    def outputs_of(label: int, rows: np.ndarray, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = members[label][rows]
        return read_outputs(paths, "features", rows, crops), read_outputs(paths, "logits", rows, crops)

    def features_of(label: int, rows: np.ndarray, crops: np.ndarray) -> np.ndarray:
        if by_gradients:
            return gradient_directions(*outputs_of(label, rows, crops), label)
        return read_outputs(paths, "features", members[label][rows], crops)

    selected = []
    if selection == "regression":
        selected = select_jointly(utilities, outputs_of, count, order, quantile, share, noise)
    else:
        for label, utility in enumerate(utilities):
            ties = numpy_generator(settings.seed, "ties", label).permutation(len(utility))
            starts = numpy_generator(settings.seed, "k_means", label, ipc)
            selected.append(
                select_class(
                    utility,
                    functools.partial(features_of, label),
                    count,
                    order,
                    quantile,
                    selection,
                    settings.pool_factor,
                    share,
                    noise,
                    seed=int(starts.integers(2**32)),
                    draw=ties,
                    ties_by_draw=settings.utility == "forgetting",
                )
            )
    return [tiles_of_class(rows, table, each) for rows, table, each in zip(members, tables, selected, strict=True)]


def tiles_of_class(rows: np.ndarray, table: pa.Table, selected: Selected) -> list[Tile]:
    """The tiles that were selected of a class.

    Args:
        rows: Of its candidates.
        table: What `read_scores` says of them.
    """
    found = table.take(pa.array(selected.rows)).to_pylist()
    return [
        Tile(
            int(rows[row]),
            member["source_index"],
            tuple(member["boxes"][crop]),
            member["utility"][crop],
            member["heatmap"],
        )
        for row, crop, member in zip(selected.rows, selected.crops, found, strict=True)
    ]


def images_of(
    tiles: list[list[Tile]], tiles_per_image: int, strided: bool = False
) -> list[tuple[int, int, list[Tile]]]:
    """Class, number in the class and tiles of every distilled image, class by class, in the order of `tile_ranks`."""
    images = []
    for label, ranked in enumerate(tiles):
        order = tile_ranks(len(ranked) // tiles_per_image, tiles_per_image, strided)
        images += [(label, number, [ranked[rank] for rank in ranks]) for number, ranks in enumerate(order.tolist())]
    return images


def cut_mosaics(
    members: list[tuple[int, int, list[Tile]]], candidates: Dataset, spec: ImageSpec, tile_side: int
) -> Mosaics:
    """Cuts and packs the tiles of a few images.

    Args:
        members: Class, number in the class and tiles of each image (`images_of`).
        candidates: The images that `Tile.row` counts.
        tile_side: In pixels.
    """
    stacks = []
    for _, _, tiles in members:
        pixels = to_pixels(candidates[[tile.row for tile in tiles]]["image"], spec.image_size, spec.channels)
        stacks.append(cut_tiles(pixels, torch.arange(len(tiles)), torch.tensor([t.box for t in tiles]), tile_side))
    return Mosaics(
        compose(torch.stack(stacks)),
        [label for label, _, _ in members],
        [number for _, number, _ in members],
        [
            [{"source_index": t.source_index, "box": t.box, "score": t.score, "heatmap": t.heatmap} for t in tiles]
            for _, _, tiles in members
        ],
    )


def label_mosaics(
    mosaics: Mosaics,
    features: Features,
    label_names: Sequence[str],
    settings: LabelSettings,
    label_forward: Forward,
    teacher_forward: Forward,
    device: torch.device,
    batch_size: int,
) -> Dataset:
    """Labels the tiles and views of a few packed images.

    Args:
        features: Of the result (`image_features`).
        label_names: For messages.
        label_forward: Pixels in [0, 1] to logits of the teacher that labels.
        teacher_forward: Likewise of the teacher that scored; it says which tiles it gets right.
    """
    pixels = mosaics.pixels.to(device).float() / 255
    labels = torch.tensor(mosaics.labels)

    def place_of(image: int) -> str:
        return place_of_image(mosaics, image, label_names)

    own = tile_logits(teacher_forward, pixels, settings.tiles_per_image, batch_size)
    verdicts = require_finite(own, "logits of the teacher", place_of).argmax(-1).cpu()
    stored = tile_logits(label_forward, pixels, settings.tiles_per_image, batch_size)
    columns: dict[str, Any] = {
        "image": [{"bytes": png_bytes(each), "path": None} for each in mosaics.pixels],
        "label": mosaics.labels,
        "tile_logits": as_float16(stored, "logits of tiles", place_of),
        "tiles": mosaics.provenance,
        "correct": (verdicts == labels[:, None]).tolist(),
    }
    if settings.views:
        boxes = np.stack(
            [
                draw_views(numpy_generator(settings.seed, "views", label, number), settings.views, settings.view_scale)
                for label, number in zip(mosaics.labels, mosaics.numbers, strict=True)
            ]
        )
        columns["view_boxes"] = list(boxes)
        logits = view_logits(label_forward, pixels, torch.from_numpy(boxes), batch_size)
        columns["view_logits"] = as_float16(logits, "logits of views", place_of)
    return Dataset.from_dict(columns, features=features)


def place_of_image(mosaics: Mosaics, image: int, label_names: Sequence[str]) -> str:
    """A packed image for a message: its number, its class and what its tiles were made of."""
    tiles = mosaics.provenance[image]
    kind = "source image" if "source_index" in tiles[0] else "seed"
    made_of = ", ".join(str(tile["source_index" if kind == "source image" else "seed"]) for tile in tiles)
    return f"image {mosaics.numbers[image]} of class {label_names[mosaics.labels[image]]!r} ({kind} {made_of})"


def as_float16(logits: Tensor, what: str, place_of: Callable[[int], str]) -> list[np.ndarray]:
    """Rows as float16 arrays; raises ValueError for logits that are none there."""
    return list(require_finite(logits, what, place_of, half=True).cpu().half().numpy())


def pixels_of(encoded: Sequence[bytes], channels: int) -> Tensor:
    """The inverse of `png_bytes` for images of one size: `(images, channels, side, side)` uint8."""
    images = [PILImage.open(io.BytesIO(each)) for each in encoded]
    return to_pixels(images, images[0].width, channels)


def png_bytes(pixels: Tensor) -> bytes:
    """A uint8 image `(channels, side, side)` as PNG."""
    array = pixels.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    PILImage.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
