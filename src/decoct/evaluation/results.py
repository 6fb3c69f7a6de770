"""Result records: from the accuracies of single students to results.json and a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from decoct.run_folder import read_json, write_json

__all__ = ["format_table", "mean_and_std", "merge_records", "read_results"]

COLUMNS = ("method", "k", "IPC", "student", "protocol", "labels", "epoch", "teacher %", "accuracy %", "seeds")


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


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """Records as plain text, one table per dataset, protocol (with overrides) and epoch rule: these are never mixed."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["dataset"], _protocol(record), record["epoch"]), []).append(record)
    tables = []
    for (dataset, protocol, epoch), members in sorted(groups.items()):
        rows = sorted((_row(record) for record in members), key=_order)
        widths = [max(len(row[column]) for row in [COLUMNS, *rows]) for column in range(len(COLUMNS))]
        lines = [f"{dataset}, protocol {protocol}, {epoch} epoch"]
        for row in [COLUMNS, tuple("-" * width for width in widths), *rows]:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _order(row: tuple[str, ...]) -> tuple[Any, ...]:
    return row[3], row[5], int(row[2]), row[0], int(row[1]), row


def _protocol(record: dict[str, Any]) -> str:
    """The protocol's name and whatever was not trained as it says."""
    overrides = record.get("overrides") or {}
    shown = ", ".join(f"{key}={value}" for key, value in sorted(overrides.items()))
    return f"{record['protocol']} ({shown})" if shown else record["protocol"]


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    accuracy = f"{100 * record['accuracy_mean']:.1f}"
    if len(record["seeds"]) > 1:
        accuracy += f" ± {100 * record['accuracy_std']:.1f}"
    teacher = record["teacher_accuracy"]
    return (
        record["method"],
        str(record["tiles"]),
        str(record["ipc"]),
        record["student"],
        _protocol(record),
        record["labels"],
        record["epoch"],
        "-" if teacher is None else f"{100 * teacher:.1f}",
        accuracy,
        str(len(record["seeds"])),
    )
