"""What the parquet files of a distilled dataset hold, checked a few rows at a time."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Array2D, Features
from PIL import Image

from decoct.distilled.parquet import ROWS, check_footer, check_images, open_parquet
from decoct.distilled.schema import SLOT_COLUMNS, expected_features
from decoct.files import shown

__all__ = ["check_parquet", "tile_accuracy"]

ROWS_SHOWN = 10
# draw_views rounds box sides to float16, whose spacing below 1 is 2^-11.
BOX_TOLERANCE = 2.0**-11
# What a damaged or hostile file makes pyarrow and datasets' extension types raise.
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, RecursionError)
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, Image.DecompressionBombError)

Fault = tuple[str, str]  # name of the check, what is wrong


def check_parquet(path: Path, manifest: dict[str, Any], ipc: int) -> tuple[list[Fault], np.ndarray]:
    """Checks schema and rows of one file, holding few rows at a time.

    Args:
        manifest: One without problems (`check_manifest`).
        ipc: Images per class that belong into the file's folder.

    Returns:
        The problems, and the number of images of each class, `(classes,)` int64.
    """
    names = manifest["label_names"]
    counts = np.zeros(len(names), dtype=np.int64)
    problems: list[Fault] = []
    faults: dict[Fault, list[str]] = defaultdict(list)
    try:
        check_footer(path, max(4 * ipc * len(names), 10_000))  # a few too many are counted and named
        check_images(path)
        with open_parquet(path) as file:
            features = expected_features(manifest)
            columns, problems = check_schema(file.schema_arrow, features)
            start = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=columns) if columns else ():
                labels = label_values(batch, len(names))
                counts += np.bincount(labels[labels >= 0], minlength=len(names))
                for check, what, row in batch_faults(batch, manifest, features):
                    name = f" (class {shown(names[labels[row]])!r})" if labels[row] >= 0 else ""
                    faults[check, what].append(f"row {start + row}{name}")
                start += len(batch)
    except UNREADABLE as error:
        first = shown((str(error) or type(error).__name__).split("\n")[0])
        problems.append(("parquet", f"is truncated or damaged, download or write it again: {first}"))
    for (check, what), rows in faults.items():
        more = f" and {len(rows) - ROWS_SHOWN:,} more" if len(rows) > ROWS_SHOWN else ""
        problems.append((check, f"{what}: {', '.join(rows[:ROWS_SHOWN])}{more}"))
    return problems, counts


def tile_accuracy(paths: Sequence[Path]) -> float | None:
    """Share of tiles whose largest logit is their label's, of files without problems; None without logits."""
    right = total = 0
    for path in paths:
        with open_parquet(path) as file:
            if "tile_logits" not in file.schema_arrow.names:
                return None
            shape = file.schema_arrow.field("tile_logits").type.shape
            for batch in file.iter_batches(batch_size=ROWS, columns=["label", "tile_logits"]):
                logits, _ = stacked(batch.column("tile_logits").storage, shape)
                labels = batch.column("label").to_numpy(zero_copy_only=False)
                right += int((logits.argmax(-1) == labels[:, None]).sum())
                total += logits.shape[0] * logits.shape[1]
    return right / total if total else None


def check_schema(schema: pa.Schema, expected: Features) -> tuple[list[str], list[Fault]]:
    """The columns that are as decoct writes them, and what is wrong with the others and the label names."""
    problems: list[Fault] = []
    columns = []
    for field in expected.arrow_schema:
        if schema.names.count(field.name) != 1:
            number = "none" if field.name not in schema.names else "several"
            problems.append(("schema", f"must have one column {field.name!r}. Got {number}."))
        elif not same_type(got := schema.field(field.name).type, field.type):
            problems.append(("schema", f"column {field.name!r} must be {typed(field.type)}. Got {shown(typed(got))}."))
        else:
            columns.append(field.name)
    for name in sorted({*schema.names} - {*expected}):
        problems.append(("schema", f"has a column {shown(name)!r}, which decoct does not write."))
    found = stored_features(schema)
    for name, kind in (("image", "Image"), ("label", "ClassLabel")):
        got = found[name].get("_type") if isinstance(found.get(name), dict) else None
        if got != kind:
            problems.append(("schema", f"column {name!r} must be stored as {kind}. Got {shown(got)}."))
        elif name == "label" and found[name].get("names") != expected["label"].names:
            got = shown(found[name].get("names"))
            problems.append(
                ("labels", f"label names must be the manifest's {shown(expected['label'].names)}. Got {got}.")
            )
    return columns, problems


def same_type(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types are equal; Arrow compares array types by their storage, which does not tell the shape."""
    return one.equals(other) and getattr(one, "shape", None) == getattr(other, "shape", None)


def typed(kind: pa.DataType) -> str:
    """A column's type, with the shape of arrays."""
    return f"{kind.value_type} of shape {tuple(kind.shape)}" if hasattr(kind, "shape") else str(kind)


def stored_features(schema: pa.Schema) -> dict[str, Any]:
    """The features that `datasets` finds in a schema, as JSON; empty where there are none."""
    content = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features"):
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def label_values(batch: pa.RecordBatch, classes: int) -> np.ndarray:
    """The class of each row, -1 where it is none."""
    if "label" not in batch.schema.names:
        return np.full(len(batch), -1)
    labels = batch.column("label").fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where((labels >= 0) & (labels < classes), labels, -1)


def batch_faults(batch: pa.RecordBatch, manifest: dict[str, Any], features: Features) -> Iterator[tuple[str, str, int]]:
    """`(check, what is wrong, row)` of the rows of a batch."""
    classes, settings = len(manifest["label_names"]), manifest["config"]
    for name in batch.schema.names:
        column = batch.column(name)
        if name == "label":
            for row in rows_of(label_values(batch, classes) < 0):
                yield "labels", f"label is not one of the {classes} classes", row
        elif name == "image":
            for row, image in enumerate(column):
                if fault := image_fault(image.as_py(), manifest["image_size"], manifest["channels"]):
                    yield "images", fault, row
        elif name == "tiles":
            for row, tiles in enumerate(column):
                if fault := tiles_fault(tiles.as_py(), settings["tiles_per_image"]):
                    yield "tiles", fault, row
        elif name == SLOT_COLUMNS[0]:
            _, broken = stacked(batch.column(name).storage, features[name].shape)
            for row in rows_of(broken):
                yield "logits", f"{name} is missing or not of shape {tuple(features[name].shape)}", row
        else:
            check = "views" if name == "view_boxes" else "logits"
            yield from ((check, *fault) for fault in array_faults(column, features[name], name, classes))


def image_fault(image: dict[str, Any] | None, side: int, channels: int) -> str | None:
    """What is wrong with a stored image; it is opened as a PNG alone, and decoded only if its size is right."""
    if image is None or image["bytes"] is None:
        return "no image is stored, at most a path to one"
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(image["bytes"]), formats=["PNG"]) as opened:
            if opened.size != (side, side) or opened.mode != mode:
                return f"image is not {side} x {side} px, {mode}, but {opened.width} x {opened.height}, {opened.mode}"
            opened.verify()  # checksums; decoding alone fills what is missing
        with Image.open(io.BytesIO(image["bytes"]), formats=["PNG"]) as opened:
            opened.load()
    except UNDECODABLE:
        return "image is not a PNG that can be decoded"
    return None


def tiles_fault(tiles: list[dict[str, Any] | None] | None, count: int) -> str | None:
    """What is wrong with the provenance of an image's tiles; only a heat map may be missing."""
    if tiles is None or len(tiles) != count:
        return f"provenance is not that of {count} tiles"
    for tile in tiles:
        values = [value for name, value in (tile or {"tile": None}).items() if name != "heatmap"]
        if any(value is None for value in values):
            return "provenance of a tile is incomplete"
        box = (tile or {}).get("box", [0, 0, 1, 1])
        if None in box or min(box) < 0 or min(box[2:]) < 1:
            return "box of a tile is not (top, left, height, width) in pixels"
        if (tile or {}).get("source_index", 0) < 0:
            return "source index of a tile is negative"
    return None


def rows_of(mask: np.ndarray) -> list[int]:
    """The numbers of the rows where a mask holds."""
    return np.flatnonzero(mask).tolist()


def array_faults(column: pa.Array, feature: Array2D, name: str, classes: int) -> Iterator[tuple[str, int]]:
    """`(what is wrong, row)` of a column of arrays: another shape, logits not finite, boxes outside the image, classes
    that there are not."""
    values, broken = stacked(column.storage, feature.shape)
    for row in rows_of(broken):
        yield f"{name} is missing or not of shape {tuple(feature.shape)}", row
    wrong = ~np.isfinite(values).all((1, 2)) & ~broken
    for row in rows_of(wrong):
        yield f"{name} is not finite" + ("" if name == "view_boxes" else ", so that it has no softmax"), row
    if name == SLOT_COLUMNS[2]:
        for row in rows_of((np.diff(values, axis=-1) <= 0).any((1, 2)) & ~broken):
            yield "the classes of a mixed view's logits are not different ones in rising order", row
        for row in rows_of((values >= classes).any((1, 2)) & ~broken):
            yield f"a class of a mixed view's logits is not one of the {classes}", row
    if name == SLOT_COLUMNS[1]:
        for row in rows_of((values <= 0).any((1, 2)) & ~wrong & ~broken):
            yield "the scale of a mixed view is not positive", row
    if name == "view_boxes":
        start, size, flip = values[..., :2], values[..., 2:4], values[..., 4]
        inside = ((start >= 0) & (size > 0) & (start + size <= 1 + BOX_TOLERANCE)).all((1, 2))
        for row in rows_of(~inside & ~wrong & ~broken):
            yield "a view is empty or not inside the image", row
        for row in rows_of(~np.isin(flip, (0, 1)).all(1) & ~wrong & ~broken):
            yield "the flip of a view is not 0 or 1", row


def stacked(storage: pa.Array, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values `(rows, *shape)` float32, and a mask of the rows that are null or have another shape; those are zero."""
    inner = storage.flatten()
    regular = (
        storage.null_count == inner.null_count == 0
        and (storage.value_lengths().to_numpy() == shape[0]).all()
        and (inner.value_lengths().to_numpy() == shape[1]).all()
    )
    if regular:
        leaves = inner.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return leaves.reshape(len(storage), *shape), np.zeros(len(storage), dtype=bool)
    values = np.zeros((len(storage), *shape), dtype=np.float32)
    broken = np.ones(len(storage), dtype=bool)
    for row, each in enumerate(storage.to_pylist()):
        lengths = [None if line is None else len(line) for line in each or ()]
        if lengths == [shape[1]] * shape[0]:
            values[row], broken[row] = np.array(each, dtype=np.float32), False
    return values, broken
