"""Which columns hold the images and the labels, and the labels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["find_image_column", "find_label_column", "listed", "read_labels"]

SHOWN = 5  # rows, names or values an error lists before it only counts them


def listed(values: Sequence[Any]) -> str:
    """The first few values, and how many more there are."""
    rest = len(values) - SHOWN
    return ", ".join(map(str, values[:SHOWN])) + (f" … and {rest} more" if rest > 0 else "")


def _columns(dataset: datasets.Dataset) -> str:
    kinds = {name: getattr(feature, "dtype", type(feature).__name__) for name, feature in dataset.features.items()}
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _require_column(dataset: datasets.Dataset, kind: str, column: str) -> None:
    if column not in dataset.column_names:
        raise ValueError(f"{kind}_column must be one of {dataset.column_names}. Got {column!r}.")


def _is_image(feature: Any) -> bool:
    """Images, and what parquet files written without the `datasets` library hold instead."""
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def find_image_column(dataset: datasets.Dataset, given: str | None) -> str:
    """The column `given`, else the only image column; ValueError if there is none, or more than one."""
    if given is not None:
        _require_column(dataset, "image", given)
        if not _is_image(dataset.features[given]):
            raise ValueError(
                f"image_column must hold images. Got {given!r}; the columns are {_columns(dataset)}. If it holds paths "
                f"or bytes, cast it: `ds.cast_column({given!r}, datasets.Image())`."
            )
        return given
    found = [name for name, feature in dataset.features.items() if _is_image(feature)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"Several columns hold images: {found}. Name one with --image_column.")
    raise ValueError(
        f"One column must hold images. Got {_columns(dataset)}. If one holds paths or bytes, cast it: "
        "`ds.cast_column(name, datasets.Image())`."
    )


def find_label_column(dataset: datasets.Dataset, given: str | None) -> str:
    """The column `given`, else the only `ClassLabel` column, else `label` or `labels`; ValueError otherwise."""
    if given is not None:
        _require_column(dataset, "label", given)
        return given
    found = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    found = found or [name for name in ("label", "labels") if name in dataset.column_names]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"Several columns hold class labels: {found}. Name one with --label_column.")
    raise ValueError(
        f"One column must hold class labels. Got {_columns(dataset)}. Name it with --label_column; in an image "
        "folder, put each class into a sub-folder of its own."
    )


def read_labels(dataset: datasets.Dataset, column: str) -> tuple[np.ndarray, datasets.ClassLabel]:
    """Labels of shape `(rows,)`, int64 from 0 on, and their feature with the class names.

    Raises:
        ValueError: For labels that are not integers, missing, without a name, or (if unnamed) not 0, 1, … in full.
    """
    feature = dataset.features[column]
    named = isinstance(feature, datasets.ClassLabel)
    if not named and not (isinstance(feature, datasets.Value) and "int" in feature.dtype):
        kind = getattr(feature, "dtype", type(feature).__name__)
        raise ValueError(
            f"Labels must be a ClassLabel or integers. Got column {column!r} with {kind} values. "
            f"Make classes of them: `ds = ds.class_encode_column({column!r})`."
        )
    values: pa.ChunkedArray = dataset.select_columns([column]).with_format("arrow")[:][column]
    labels = pc.fill_null(values.cast(pa.int64()), -1).to_numpy()
    missing = np.flatnonzero(labels < 0)
    if len(missing):
        raise ValueError(
            f"Every row must have a label. Got {len(missing)} of {len(labels)} rows of column {column!r} with none or "
            f"a negative one: rows {listed(missing.tolist())}. Leave them out with `ds.filter`, or use another split."
        )
    if not named:
        present = np.unique(labels)
        if present[-1] != len(present) - 1:
            raise ValueError(
                f"Integer labels without names must be 0, 1, … without gaps. Got {len(present)} values in column "
                f"{column!r}: {listed(present.tolist())}. Number them with `ds = ds.class_encode_column({column!r})`, "
                f"or name the classes with `ds.cast_column({column!r}, datasets.ClassLabel(names=...))`."
            )
        feature = datasets.ClassLabel(names=[str(label) for label in present])
    elif labels.max() >= feature.num_classes:
        row = int(np.argmax(labels >= feature.num_classes))
        raise ValueError(
            f"Labels of column {column!r} must be below {feature.num_classes}, its number of class names. "
            f"Got {labels[row]} in row {row}."
        )
    return labels, datasets.ClassLabel(names=feature.names)
