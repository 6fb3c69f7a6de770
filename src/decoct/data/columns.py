"""Which columns hold the images and the labels, and the labels themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from decoct.data.folders import is_text
from decoct.data.names import check_names

__all__ = ["find_image_column", "find_label_column", "listed", "read_labels"]

logger = logging.getLogger(__name__)

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


def _is_bytes(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _is_image(feature: Any) -> bool:
    """Images, and what parquet files written without the `datasets` library hold instead."""
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def find_image_column(dataset: datasets.Dataset, given: str | None) -> str:
    """The column `given`, else the only image column (or of bytes); ValueError if there is none, or more than one."""
    if given is not None:
        _require_column(dataset, "image", given)
        if not _is_image(dataset.features[given]) and not _is_bytes(dataset.features[given]):
            raise ValueError(
                f"image_column must hold images. Got {given!r}; the columns are {_columns(dataset)}. If it holds "
                f"paths, cast it: `ds.cast_column({given!r}, datasets.Image())`."
            )
        return given
    found = [name for name, feature in dataset.features.items() if _is_image(feature)]
    found = found or [name for name, feature in dataset.features.items() if _is_bytes(feature)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"image_column must be one of {found}, which all hold images. Got None. Name one with --image_column."
        )
    raise ValueError(
        f"One column must hold images. Got {_columns(dataset)}. If one holds paths, cast it: "
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
        raise ValueError(
            f"label_column must be one of {found}, which all hold class labels. Got None. Name one with --label_column."
        )
    raise ValueError(
        f"One column must hold class labels. Got {_columns(dataset)}. Name it with --label_column; in an image "
        "folder, put each class into a sub-folder of its own."
    )


def read_labels(
    dataset: datasets.Dataset, column: str, label_names: Sequence[str] | None = None
) -> tuple[np.ndarray, datasets.ClassLabel]:
    """Labels of shape `(rows,)`, int64 from 0 on, and their feature with the class names.

    Text, whole numbers and truth values become classes in their order, named by what they are.

    Args:
        label_names: Classes of such labels, in label order, as another split has them. Default: those that are found,
            which a warning shows.

    Raises:
        ValueError: For labels that are none of these, missing, without a name, or not among `label_names`.
    """
    feature = dataset.features[column]
    dtype = getattr(feature, "dtype", type(feature).__name__)
    named = isinstance(feature, datasets.ClassLabel)
    if not named and not (
        isinstance(feature, datasets.Value) and ("int" in dtype or "string" in dtype or dtype == "bool")
    ):
        raise ValueError(
            f"Labels must be a ClassLabel, text, whole numbers or truth values. Got column {column!r} with {dtype} "
            f"values. Make classes of them: `ds = ds.class_encode_column({column!r})`."
        )
    values: pa.ChunkedArray = dataset.select_columns([column]).with_format("arrow")[:][column]
    if named:
        names = list(feature.names)
        labels = _require_labels(pc.fill_null(values.cast(pa.int64()), -1).to_numpy(), column)
        if labels.max() >= len(names):
            row = int(np.argmax(labels >= len(names)))
            raise ValueError(
                f"Labels of column {column!r} must be below {len(names)}, its number of class names. "
                f"Got {labels[row]} in row {row}."
            )
    else:
        labels, names = _classes_of(values, column, label_names)
    if broken := [name for name in names if not is_text(name)]:
        raise ValueError(f"Class names must be UTF-8. Got {broken[0]!r} in column {column!r}: name the class anew.")
    check_names(names, f"column {column!r}")
    return labels, datasets.ClassLabel(names=names)


def _classes_of(
    values: pa.ChunkedArray, column: str, label_names: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Labels and names of values without names."""
    whole = pa.types.is_integer(values.type)
    if whole:
        _require_labels(pc.fill_null(values.cast(pa.int64()), -1).to_numpy(), column)
    missing = np.flatnonzero(pc.is_null(values).to_numpy())
    _require_labels(np.where(np.isin(np.arange(len(values)), missing), -1, 0), column)
    found = sorted(set(values.to_pylist()))
    own = list(map(str, found))
    names = list(label_names) if label_names is not None else own
    if unknown := [name for name in own if name not in set(names)]:
        raise ValueError(
            f"Labels of column {column!r} must be among the classes {listed(names)}. Got {listed(unknown)} as well."
        )
    if label_names is None and not (whole and found == list(range(len(found)))):
        kind = "whole numbers" if whole else "text" if isinstance(found[0], str) else "truth values"
        logger.warning("The labels of column %r are %s; they make %d classes: %s.", column, kind, len(own), listed(own))
    number = {value: names.index(name) for value, name in zip(found, own, strict=True)}
    return np.array([number[value] for value in values.to_pylist()], dtype=np.int64), names


def _require_labels(labels: np.ndarray, column: str) -> np.ndarray:
    """The labels as they are; raises ValueError that names the rows of negative ones."""
    missing = np.flatnonzero(labels < 0)
    if len(missing):
        raise ValueError(
            f"Every row must have a label. Got {len(missing)} of {len(labels)} rows of column {column!r} with none or "
            f"a negative one: rows {listed(missing.tolist())}. Leave them out with `ds.filter`, or use another split."
        )
    return labels
