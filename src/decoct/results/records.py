"""The one format of result records, in `results.json` of a run folder and in `benchmarks/results`.

Every record of an accuracy has

    task                            accuracy, continual or transfer
    dataset, method, ipc, tiles     what was measured
    eval_split                      on which split, where a split of `dataset` is; records of earlier versions lack it
    student, protocol, labels, epoch, overrides, protocol_settings
                                    how; numbers that differ in these share no table (`setting_of`)
    teacher, teacher_model, teacher_accuracy
    accuracy_mean, accuracy_std     over the seeds, as fractions; the sample standard deviation, 0.0 for one seed
    accuracies, seeds               of single students
    baseline, baseline_note         the same of random images beside it, or why there are none
    config_hash                     of all that it depends on; a record with the same hash replaces it

and what its task adds. The accuracy of `continual` is that after the last step, beside those of all steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from decoct.files import read_json, shown
from decoct.run.folder import write_json

__all__ = [
    "SETTING_FIELDS",
    "check_accuracy_record",
    "group_by_setting",
    "is_accuracy_record",
    "merge_records",
    "read_results",
    "require_one_setting",
    "setting_of",
]

Record = Mapping[str, Any]

# Tasks whose records earlier versions wrote into files of their own.
EARLIER = ("continual", "transfer")

# What all numbers of a table share, in the order of `setting_of`.
SETTING_FIELDS = ("dataset", "protocol", "labels", "epoch rule")

NEEDED = ("dataset", "method", "ipc", "student", "protocol", "labels", "epoch", "accuracy_mean", "seeds")
TEXTS = ("dataset", "method", "student", "protocol", "labels", "epoch")


def read_results(source: Path) -> list[dict[str, Any]]:
    """The records of a run folder, or of a file of records; none if there are none.

    Of a folder, `results.json` is read, and the `continual.json` and `transfer.json` of earlier versions.

    Raises:
        ValueError: If a file is not a list of records; it is left as it is.
    """
    if not source.is_dir():
        return _read(source)
    records = _read(source / "results.json")
    known = {record.get("config_hash") for record in records}
    for task in EARLIER:
        for record in _read(source / f"{task}.json"):
            if record.get("config_hash") not in known:
                records.append({"task": task, **record})
    return records


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        records = read_json(file)
    except ValueError as error:
        raise ValueError(f"{error} Repair it or move it away.") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{file} must be a list of result records. Got something else; move it away.")
    return records


def merge_records(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes records into results.json; those with the same `config_hash` are replaced, all others stay."""
    merged = {record.get("config_hash", f"unknown {row}"): record for row, record in enumerate(read_results(file))}
    merged.update({record["config_hash"]: record for record in records})
    write_json(file, list(merged.values()))


# Settings


def is_accuracy_record(record: Record) -> bool:
    """Whether a record is an accuracy on the distilled classes, with all that a table states."""
    return record.get("task", "accuracy") == "accuracy" and all(key in record for key in NEEDED)


def check_accuracy_record(record: Record, where: str) -> None:
    """Raises ValueError for the first field of a record, or of its baseline, that is not what tables take.

    Args:
        where: Which record it is, in words.
    """
    for name in TEXTS:
        _require(isinstance(record[name], str), f"{name} of {where}", "text", record[name])
    _require(type(record["ipc"]) is int and record["ipc"] >= 1, f"ipc of {where}", "at least 1", record["ipc"])
    for each, whose in ((record, where), (record.get("baseline"), f"the baseline of {where}")):
        if each is None:
            continue
        _require(isinstance(each, Mapping), whose, "an object", each)
        seeds: Any = each.get("seeds")
        whole = isinstance(seeds, list) and bool(seeds) and all(type(seed) is int for seed in seeds)
        _require(whole, f"seeds of {whose}", "a list of whole numbers", seeds)
        accuracies: Any = each.get("accuracies")
        fractions = isinstance(accuracies, list) and all(map(_is_fraction, accuracies))
        paired = fractions and len(accuracies) == len(seeds)
        _require(paired, f"accuracies of {whose}", f"{len(seeds)} fractions in [0, 1], one a seed", accuracies)
        for name in ("accuracy_mean", "accuracy_std"):
            _require(_is_fraction(each.get(name)), f"{name} of {whose}", "a fraction in [0, 1]", each.get(name))


def _is_fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _require(condition: bool, what: str, expected: str, got: Any) -> None:
    if not condition:
        raise ValueError(f"{what} must be {expected}. Got {shown(got)}. Repair the record, or take it out.")


def setting_of(record: Record) -> tuple[str, ...]:
    """What numbers must share to stand in one table: dataset, protocol with its overrides, labels, epoch rule.

    Beside the dataset stands the split that measured, unless it is the test split; beside the name of a user's own
    protocol which settings its file had (`own_settings`).
    """
    split = record.get("eval_split") or "test"
    dataset = record["dataset"] if split == "test" else f"{record['dataset']} ({split} split)"
    overrides = record.get("overrides") or {}
    # The records of a grid over a protocol's settings name the way of training.
    settings = record.get("protocol_settings") or record.get("training")
    own = [f"settings {settings}"] if settings else []
    shown = ", ".join([*own, *(f"{key}={value}" for key, value in sorted(overrides.items()))])
    protocol = f"{record['protocol']} ({shown})" if shown else record["protocol"]
    return dataset, protocol, record["labels"], record["epoch"]


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
