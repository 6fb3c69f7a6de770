"""Result records: from the accuracies of single students to results.json, tables and a verdict in words."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decoct.run_folder import read_json, write_json

__all__ = [
    "SETTING_FIELDS",
    "difference_interval",
    "format_table",
    "fraction",
    "group_by_setting",
    "is_accuracy_record",
    "mean_and_std",
    "merge_records",
    "method_name",
    "percent",
    "place_of",
    "read_results",
    "require_one_setting",
    "setting_of",
    "verdict",
]

Record = Mapping[str, Any]

# What all numbers of a table share, in the order of `setting_of`.
SETTING_FIELDS = ("dataset", "protocol", "labels", "epoch rule")

COLUMNS = ("method", "k", "IPC", "student", "teacher %", "accuracy %", "seeds", "random %", "difference")
METHOD_NAMES = {
    "infoutil": "InfoUtil",
    "igds": "IGDS",
    "rded": "RDED",
    "random": "random images",
    "herding": "herding",
    "k_center": "k-center",
    "k_means": "k-means",
    "forgetting": "forgetting",
}
NEEDED = ("dataset", "method", "ipc", "student", "protocol", "labels", "epoch", "accuracy_mean", "seeds")

# Of the intervals that decide whether two sets are level.
CONFIDENCE = 0.95


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def read_results(file: Path) -> list[dict[str, Any]]:
    """The records of results.json; none if there is no such file.

    Raises:
        ValueError: If the file is not a list of records; it is left as it is.
    """
    if not file.is_file():
        return []
    try:
        records = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file} must be JSON. {error}. Repair it or move it away.") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{file} must be a list of result records. Got something else; move it away.")
    return records


def merge_records(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes records into results.json; those with the same `config_hash` are replaced, all others stay."""
    file.parent.mkdir(parents=True, exist_ok=True)
    merged = {record.get("config_hash", f"unknown {row}"): record for row, record in enumerate(read_results(file))}
    merged.update({record["config_hash"]: record for record in records})
    write_json(file, list(merged.values()))


# Settings


def is_accuracy_record(record: Record) -> bool:
    """Whether a record is an accuracy on the distilled classes, with all that a table states."""
    return record.get("task", "accuracy") == "accuracy" and all(key in record for key in NEEDED)


def setting_of(record: Record) -> tuple[str, ...]:
    """What numbers must share to stand in one table: dataset, protocol with its overrides, labels, epoch rule.

    Beside the name of a user's own protocol stands which settings its file had (`own_settings`).
    """
    overrides = record.get("overrides") or {}
    own = [f"settings {record['protocol_settings']}"] if record.get("protocol_settings") else []
    shown = ", ".join([*own, *(f"{key}={value}" for key, value in sorted(overrides.items()))])
    protocol = f"{record['protocol']} ({shown})" if shown else record["protocol"]
    return record["dataset"], protocol, record["labels"], record["epoch"]


def group_by_setting(records: Iterable[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Records by `setting_of`, the settings sorted and the records of each in their order."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(setting_of(record), []).append(record)
    return dict(sorted(groups.items()))


def require_one_setting(records: Iterable[Record]) -> None:
    """Raises ValueError, naming what differs, unless all records can stand in one table."""
    columns = zip(*(setting_of(record) for record in records), strict=True)
    different = {
        name: values
        for name, column in zip(SETTING_FIELDS, columns, strict=False)
        if len(values := sorted(set(column))) > 1
    }
    if different:
        shown = "; ".join(f"{name}: {', '.join(values)}" for name, values in different.items())
        raise ValueError(
            f"A table must hold one dataset, protocol, label mode and epoch rule, since numbers of different ones say "
            f"nothing about each other. Got several ({shown}). Compare each setting on its own."
        )


# Words


def method_name(method: str) -> str:
    """A method as people write it: `infoutil` is InfoUtil."""
    return METHOD_NAMES.get(method, method)


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal; `-` for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def fraction(value: float | None) -> str:
    """A fraction with three decimals; `-` for None."""
    return "-" if value is None else f"{value:.3f}"


def difference_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the difference of two means (Welch's t); None if a side has fewer than two values."""
    if min(len(first), len(second)) < 2:
        return None
    difference = statistics.fmean(first) - statistics.fmean(second)
    if statistics.variance(first) + statistics.variance(second) == 0:
        return difference, difference
    from scipy.stats import ttest_ind  # takes a while to import

    interval = ttest_ind(first, second, equal_var=False).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def place_of(record: Record) -> str:
    """What was measured, in words: IPC, student, protocol and labels."""
    return f"IPC {record['ipc']}, {record['student']}, {record['protocol']}, {record['labels']} labels"


def verdict(record: Record) -> str:
    """Whether a distilled set beats random images, by how many points, and whether the seeds' spread allows to say so.

    Sets are called level where 0 lies in the difference's confidence interval (`difference_interval`); with one seed
    on a side the spread is unknown, and the sentence says that.
    """
    method = method_name(record["method"])
    method = method[:1].upper() + method[1:]
    baseline = record.get("baseline")
    if record["method"] == "random":
        return f"{method} are the baseline themselves ({percent(record['accuracy_mean'])})."
    if baseline is None:
        note = record.get("baseline_note") or "none is recorded"
        return f"{method} was not compared with random images: {note}."
    difference = record["accuracy_mean"] - baseline["accuracy_mean"]
    seeds = [len(record["seeds"]), len(baseline["seeds"])]
    accuracies = f"{percent(record['accuracy_mean'])} against {percent(baseline['accuracy_mean'])}"
    known = f"{accuracies}; {seeds[0]} and {seeds[1]} seeds"
    points = f"{abs(100 * difference):.1f} points"
    interval = difference_interval(record["accuracies"], baseline["accuracies"])
    if interval is None:
        side = "above" if difference > 0 else "below" if difference < 0 else "from"
        return f"{method} is {points} {side} random images ({known}; with one seed on a side the spread is unknown)."
    low, high = (f"{100 * end:+.1f}" for end in interval)
    shown = f"{known}; 95 % interval of the difference {low} to {high}"
    if interval[0] <= 0 <= interval[1]:
        return (
            f"{method} is level with random images, as far as the seeds tell ({100 * difference:+.1f} points, {shown})."
        )
    return f"{method} {'beats' if difference > 0 else 'is beaten by'} random images by {points} ({shown})."


# Tables


def format_table(records: Iterable[dict[str, Any]]) -> str:
    """Records as plain text, one table per setting (`setting_of`): different settings are never mixed.

    Beside the accuracy of each set stand the accuracy of random images and the difference, in points.
    """
    tables = []
    groups = group_by_setting(record for record in records if is_accuracy_record(record))
    for (dataset, protocol, labels, epoch), members in groups.items():
        ordered = sorted(members, key=_order)
        rows = [COLUMNS, *(_row(record) for record in ordered)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        chosen = " (chosen on the test set)" if epoch == "best" else ""
        heading = f"{dataset}, protocol {protocol}, {labels} labels, {epoch} epoch{chosen}"
        lines = [" ".join(heading.split())]
        for row in [rows[0], tuple("-" * width for width in widths), *rows[1:]]:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _order(record: Record) -> tuple[Any, ...]:
    return record["student"], int(record["ipc"]), record["method"], record.get("tiles", 1), str(record["seeds"])


def _row(record: Record) -> tuple[str, ...]:
    baseline = record.get("baseline")
    cells = (
        method_name(record["method"]),
        str(record.get("tiles", 1)),
        str(record["ipc"]),
        record["student"],
        percent(record.get("teacher_accuracy")),
        _accuracy(record),
        str(len(record["seeds"])),
        "-" if baseline is None else _accuracy(baseline),
        "-" if baseline is None else f"{100 * (record['accuracy_mean'] - baseline['accuracy_mean']):+.1f}",
    )
    return tuple(" ".join(cell.split()) for cell in cells)


def _accuracy(record: Record) -> str:
    """Mean and, of several seeds, standard deviation in percent."""
    spread = f" ± {percent(record['accuracy_std'])}" if len(record["seeds"]) > 1 else ""
    return percent(record["accuracy_mean"]) + spread
