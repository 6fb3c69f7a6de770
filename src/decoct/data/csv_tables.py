"""Tables as CSV: which can be read together, and how their cells are read as they are written."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

import pandas

__all__ = ["readable_tables"]

logger = logging.getLogger(__name__)

# Cells that pandas reads as missing wherever they stand, which are names among others; an empty one is missing.
NO_VALUE = frozenset(
    "NA N/A n/a #N/A <NA> NULL null None NaN nan -NaN -nan #NA 1.#IND -1.#IND 1.#QNAN -1.#QNAN".split() + ["#N/A N/A"]
)
NUMBER = re.compile(r"\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity)\s*", re.IGNORECASE)
PADDED = re.compile(r"\s*[+-]?0\d+\s*")  # `001` is a name, and no number
TRUTH_VALUES = frozenset({"True", "TRUE", "true", "False", "FALSE", "false"})


def readable_tables(files: Mapping[str, str], separator: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The tables that can be read together, by split, and pandas' options for reading them.

    A column is text unless it has numbers or truth values alone, in all of the files. Whole numbers with leading zeros
    are text, and so are `NA`, `None` and the like in such a column; among numbers or truth values they are missing.
    A table that lacks a column of the training split's is left out with a warning, as that of a test split whose labels
    are kept secret; so is one that has nothing in a column of text.
    """
    kinds = {split: _kinds(file, separator) for split, file in files.items()}
    for split, own in list(kinds.items()):
        wanted = kinds.get("train", {})
        lacking = [name for name in wanted if name not in own or (not own[name] and _is_text(wanted[name]))]
        if lacking:
            logger.warning("The split %r is left out: %s has nothing in %s.", split, files[split], ", ".join(lacking))
            del kinds[split]
    found: dict[str, set[str]] = {}
    for own in kinds.values():
        for name, cells in own.items():
            found.setdefault(name, set()).update(cells)
    text = [name for name, cells in found.items() if _is_text(cells)]
    options = {
        "sep": separator,
        "converters": dict.fromkeys(text, _as_written),
        "keep_default_na": False,
        "na_values": {name: [""] if name in text else ["", *sorted(NO_VALUE)] for name in found},
    }
    return {split: files[split] for split in kinds}, options


def _kinds(file: str, separator: str) -> dict[str, set[str]]:
    """What the cells of each column are, but for empty ones: text, numbers, truth values or missing values."""
    kinds: dict[str, set[str]] = {}
    with pandas.read_csv(file, sep=separator, dtype=str, keep_default_na=False, chunksize=100_000) as chunks:
        for chunk in chunks:
            for name in chunk:
                known = kinds.setdefault(name, set())
                if "text" not in known:  # a column with text is text, whatever else is in it
                    known |= {_kind(cell) for cell in set(chunk[name]) - {""}}
    return kinds


def _kind(cell: str) -> str:
    if cell in NO_VALUE:
        return "missing"
    if cell in TRUTH_VALUES:
        return "truth value"
    return "number" if NUMBER.fullmatch(cell) and not PADDED.fullmatch(cell) else "text"


def _is_text(kinds: Collection[str]) -> bool:
    """Whether a column of such cells is text; one that holds nothing is not."""
    return "text" in kinds or (bool(kinds) and len(set(kinds) - {"missing"}) != 1)


def _as_written(cell: str) -> str | None:
    return cell or None
