"""How records become tables, cells and sentences."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decoct.results.statistics import mean_and_std
from decoct.results.tables import accuracy_cell, markdown_table

NO_RECORDS = "No records yet."
Record = dict[str, Any]
Groups = dict[tuple[Any, ...], list[Record]]
# What each column of a table says of a record.
Columns = dict[str, Callable[[Record], str]]
# One table holds records that agree in all of these that they have.
TRAINING = ("dataset", "student", "protocol", "epochs", "rrc_scale", "mixed_precision", "epoch", "eval_split")
SAMPLING = ("scheduler", "sampling_steps", "fingerprints")
# The label modes, in the order of their tables.
LABELS = ("online", "views", "tiles", "hard")


# Records


def read(path: Path) -> Any:
    """The content of a result file; an empty list if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def grouped(records: Iterable[Record], *names: str) -> Groups:
    """Records by their values of some fields, in the order of their first records."""
    groups: Groups = {}
    for record in records:
        groups.setdefault(tuple(record.get(name) for name in names), []).append(record)
    return groups


def best_first(groups: Groups) -> list[tuple[tuple[Any, ...], list[Record]]]:
    """Groups by their mean accuracy."""
    return sorted(groups.items(), key=lambda item: -mean_of(item[1], "accuracy_mean"))


def mean_of(records: Sequence[Record], name: str) -> float:
    """Mean of a field over the records that know it."""
    return statistics.fmean(record[name] for record in records if record[name] is not None)


def same(records: Sequence[Record], *names: str) -> Record:
    """A record for all, which agree in some fields. Default: how students were trained and samples drawn.

    Raises:
        ValueError: If they do not agree.
    """
    for name in names or (*TRAINING, *SAMPLING):
        found = sorted({repr(record.get(name)) for record in records})
        if len(found) > 1:
            raise ValueError(f"{name} must be the same in all records of a table. Got {', '.join(found)}.")
    return records[0]


# Tables


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns but the first are aligned right, or the sentence that nothing is recorded."""
    return markdown_table([header, *rows], align_right=True) if rows else NO_RECORDS


def row_each(records: Iterable[Record], columns: Columns) -> str:
    """A table with a row for each record."""
    return table(list(columns), [[cell(record) for cell in columns.values()] for record in records])


def accuracies(
    records: Sequence[Record], row: str, titles: Mapping[str, str], column: str, columns: Collection[Any]
) -> list[list[str]]:
    """Accuracies by two fields; `titles` has the values of `row` in order, and those without a record are left out."""
    cells = grouped(records, row, column)
    found = {first for first, _ in cells}
    return [
        [title, *(accuracy(cells.get((first, second), [])) for second in columns)]
        for first, title in titles.items()
        if first in found
    ]


# Cells and sentences


def accuracy(records: Sequence[Record]) -> str:
    """Mean ± standard deviation in % (number of seeds) of records that differ in their seeds alone.

    Raises:
        ValueError: If two records have the same seed.
    """
    if not records:
        return "–"
    by_seed: dict[int, float] = {}
    for record in records:
        for seed, value in zip(record["seeds"], record["accuracies"], strict=True):
            if seed in by_seed:
                place = ", ".join(str(record.get(name)) for name in ("setting", "method", "ipc", "labels"))
                raise ValueError(f"Records must be unique. Got two of {place} with the seed {seed}.")
            by_seed[seed] = value
    return accuracy_cell(*mean_and_std(list(by_seed.values())), len(by_seed), count=True)


def by_seed(records: Iterable[Record]) -> dict[int, float]:
    """Accuracies of records of one student each."""
    return {record["seeds"][0]: record["accuracy_mean"] for record in records}


def teachers(records: Iterable[Record]) -> str:
    """Accuracies of the teachers that label, in %."""
    return span((100 * record["teacher_accuracy"] for record in records), ".2f")


def conditions(records: Sequence[Record]) -> str:
    """How the students of a table were trained, and on what."""
    one = same(records)
    samples = f"{one['sampling_steps']} {one['scheduler'].upper()} steps. " if "scheduler" in one else ""
    crops = "the protocol's crops" if one["rrc_scale"] is None else f"rrc_scale {one['rrc_scale']:g}"
    if any(record["labels"] == "views" for record in records):
        crops += " (stored views bring their own crops)"
    counts = map(len, grouped(records, "setting", "ipc", "tiles", "labels").values())
    return (
        f"{samples}Student {one['student']}, protocol `{one['protocol']}` with {one['epochs']} epochs and {crops}, "
        f"{one['epoch']} epoch, {precision(one)}. Teacher that labels: {teachers(records)} %. Mean ± standard "
        f"deviation over seeds (their number, {span(counts)} here); a seed draws the images and starts the student."
    )


def precision(record: Record) -> str:
    """`fp32`, or the half precision that a record's networks computed in."""
    return "fp32" if record["mixed_precision"] == "no" else str(record["mixed_precision"])


def span(values: Iterable[float], form: str = "g") -> str:
    """`3`, or `1 to 3`."""
    ordered = sorted(values)
    low, high = format(ordered[0], form), format(ordered[-1], form)
    return low if low == high else f"{low} to {high}"
