"""Markdown tables of one setting: accuracies by method, cross-architecture matrices, the metrics of DD-Ranking."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from decoct.methods import BASELINE, method_name, method_order
from decoct.results.records import require_one_setting, setting_of
from decoct.results.reported import Reported, is_same_protocol, is_same_task
from decoct.results.tables import decimals, markdown_table, percent, record_cell

__all__ = [
    "Cells",
    "Series",
    "columns_of",
    "epoch_rule",
    "format_comparison",
    "format_matrix",
    "format_ranking",
    "matrices",
    "reported_elsewhere",
    "reported_rows",
    "series_of",
    "setting_title",
    "with_baselines",
    "without_repeated_students",
]

Record = Mapping[str, Any]
# Mean and standard deviation, fractions, by student and images per class.
Cells = dict[tuple[str, int], tuple[float, float | None]]


@dataclass(frozen=True)
class Series:
    """One row of a table, one line of a figure: a method with a teacher, over images per class and students."""

    label: str
    teacher: str
    records: tuple[dict[str, Any], ...]

    @property
    def is_baseline(self) -> bool:
        return self.records[0]["method"] == BASELINE

    def at(self, student: str, ipc: int) -> dict[str, Any] | None:
        """The record of a student and a number of images per class."""
        cells = (each for each in self.records if (each["student"], each["ipc"]) == (student, ipc))
        return next(cells, None)


def series_of(records: Sequence[dict[str, Any]]) -> list[Series]:
    """The records of one setting as rows; those that would share a cell get rows of their own, by run and then hash.

    Args:
        records: With `run`, the folder that each comes from.

    Raises:
        ValueError: If the records are of several settings.
    """
    require_one_setting(records)
    teachers = _teacher_names(records)
    parts = [_label, lambda record: f"k = {record.get('tiles', 1)}", lambda record: record["run"], _hash]

    def place(record: Record) -> Hashable:
        return record.get("teacher"), _teacher(record), record["student"], record["ipc"]

    labels = _distinct(records, parts, place)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record, label, teacher in zip(records, labels, teachers, strict=True):
        rows.setdefault((label, teacher), []).append(record)
    series = [Series(label, teacher, tuple(members)) for (label, teacher), members in rows.items()]
    return sorted(series, key=lambda each: (method_order(each.records[0]["method"]), each.label, each.teacher))


def _distinct(
    records: Sequence[dict[str, Any]], parts: Sequence[Callable[[Record], str]], place: Callable[[Record], Hashable]
) -> list[str]:
    """A label per record from as few parts as it takes for records with the same label to have different places."""
    labels = pandas.Series([parts[0](record) for record in records], dtype=object)
    places = pandas.Series([place(record) for record in records], dtype=object)
    for part in parts[1:]:
        values = pandas.Series([part(record) for record in records], dtype=object)
        shared = (
            pandas.DataFrame({"label": labels, "place": places}).duplicated(keep=False).groupby(labels).transform("any")
        )
        several = values.groupby(labels).transform("nunique") > 1
        labels = labels.where(~(shared & several), labels + ", " + values)
    return labels.tolist()


def _label(record: Record) -> str:
    name = method_name(record["method"])
    tiles = record.get("tiles", 1)
    return name if tiles == 1 or record["method"] == BASELINE else f"{name}, k = {tiles}"


def _hash(record: Record) -> str:
    return str(record["config_hash"])


def _teacher(record: Record) -> str:
    """Architecture and accuracy of a teacher, as far as they are known."""
    accuracy = record.get("teacher_accuracy")
    shown = "accuracy unknown" if accuracy is None else f"{percent(accuracy)} %"
    model = record.get("teacher_model")
    return f"{model}, {shown}" if model else shown


def _teacher_names(records: Sequence[Record]) -> list[str]:
    """The teacher of each record; where two look alike, with its folder or Hub id."""
    folders: dict[str, set[str]] = {}
    for record in records:
        folders.setdefault(_teacher(record), set()).add(str(record.get("teacher")))
    names = []
    for record in records:
        alike = len(folders[_teacher(record)]) > 1
        names.append(f"{_teacher(record)}, {record.get('teacher')}" if alike else _teacher(record))
    return names


def columns_of(records: Iterable[Record]) -> list[tuple[str, int]]:
    """The (student, images per class) of the records, sorted."""
    return sorted({(record["student"], record["ipc"]) for record in records})


def without_repeated_students(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leaves out records of a run whose students are all among another record's, as of 1 seed and later of 3."""
    keys = ("run", "method", "tiles", "student", "ipc", "teacher", "teacher_accuracy")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((setting_of(record), *(record.get(key) for key in keys)), []).append(record)
    dropped = {
        id(record)
        for members in groups.values()
        for record in members
        for other in members
        if record is not other and _students(record) and _students(record) < _students(other)
    }
    return [record for record in records if id(record) not in dropped]


def _students(record: Mapping[str, Any]) -> set[tuple[int, float]]:
    return set(zip(record["seeds"], record.get("accuracies") or [], strict=False))


def with_baselines(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of one setting and, as rows of their own, the random images that they were compared with, each once."""
    baselines: dict[str, dict[str, Any]] = {}
    for record in records:
        baseline = record.get("baseline")
        if baseline is not None:
            entry = {**record, **baseline, "method": BASELINE, "run": "baseline", "dd_ranking": None, "baseline": None}
            baselines.setdefault(entry["config_hash"], entry)
    measured = [record for record in records if record["config_hash"] not in baselines]
    return measured + without_repeated_students(list(baselines.values()))


# Tables


def epoch_rule(setting: Sequence[str]) -> str:
    """Which epoch's accuracy is stated; that it was chosen on the test set is never left out."""
    return {"last": "last epoch", "best": "BEST epoch on the test set"}.get(setting[3], f"{setting[3]} epoch")


def setting_title(setting: Sequence[str]) -> str:
    """A setting in words."""
    dataset, protocol, labels, _ = setting
    return f"{dataset}: protocol {protocol}, {labels} labels, {epoch_rule(setting)}"


def format_comparison(series: Sequence[Series], reported: Sequence[Reported] = ()) -> str:
    """Rows are methods with their teacher, columns images per class by student; percents, mean ± std (students)."""
    columns = columns_of(record for row in series for record in row.records)
    cells = {
        (row.label, row.teacher, place): record_cell(row.at(*place), count=True) for row in series for place in columns
    }
    for (label, teacher), numbers in reported_rows(reported, series[0].records[0], columns).items():
        cells |= {(label, teacher, place): _mean_std(*values) for place, values in numbers.items()}
    table = pandas.Series(cells).unstack(sort=False).reindex(columns=columns).fillna("-")
    head = ["method", "teacher", *(f"{student}, IPC {ipc}" for student, ipc in columns)]
    return markdown_table([head, *([*names, *row] for names, row in zip(table.index, table.to_numpy(), strict=True))])


def reported_rows(
    reported: Iterable[Reported], record: Record, columns: Sequence[tuple[str, int]]
) -> dict[tuple[str, str], Cells]:
    """Reported numbers of a record's dataset, protocol and kind of labels: their cells by label and teacher."""
    rows: dict[tuple[str, str], Cells] = {}
    for row in reported:
        cells = _matching(row, record["dataset"], columns)
        if cells and is_same_protocol(row, record["protocol"], record["labels"]):
            label = f"{row.method} (reported: {row.source.split(' (')[0]}, {row.where})"
            teacher = "theirs" if row.teacher_accuracy is None else f"theirs, {percent(row.teacher_accuracy)} %"
            rows.setdefault((label, teacher), {}).update(cells)
    return rows


def reported_elsewhere(
    reported: Iterable[Reported], record: Record, columns: Sequence[tuple[str, int]]
) -> dict[str, Cells]:
    """Reported numbers of a record's dataset that were measured by another recipe or with another kind of labels."""
    rows: dict[str, Cells] = {}
    for row in reported:
        cells = _matching(row, record["dataset"], columns)
        if cells and not is_same_protocol(row, record["protocol"], record["labels"]):
            kind = "hard" if row.labels == ("hard",) else "soft"
            rows.setdefault(f"{row.method} ({kind} labels, {row.where})", {}).update(cells)
    return rows


def _matching(row: Reported, dataset: str, columns: Sequence[tuple[str, int]]) -> Cells:
    """The numbers of a reported row that belong to a dataset and columns of a table."""
    return {
        (student, ipc): row.accuracy[ipc]
        for student, ipc in columns
        if ipc in row.accuracy and is_same_task(row, dataset, student)
    }


def matrices(records: Sequence[dict[str, Any]]) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Records of one setting by method and IPC, where there are several teachers' architectures or students.

    Raises:
        ValueError: If the records are of several settings.
    """
    require_one_setting(records)
    known = [record for record in records if record.get("teacher_model")]
    parts = [_label, lambda record: str(record.get("teacher")), lambda record: record["run"], _hash]

    def place(record: Record) -> Hashable:
        return record["teacher_model"], record["student"], record["ipc"]

    groups: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for record, label in zip(known, _distinct(known, parts, place), strict=True):
        groups.setdefault(label, {}).setdefault(record["ipc"], []).append(record)
    several: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for label, by_ipc in sorted(groups.items()):
        for ipc, members in sorted(by_ipc.items()):
            if len(members) > 1:
                several.setdefault(label, {})[ipc] = members
    return several


def format_matrix(records: Sequence[dict[str, Any]]) -> str:
    """Accuracies of one method and IPC: rows are teachers' architectures, columns students."""
    require_one_setting(records)
    cells = [(record["teacher_model"], record["student"], record_cell(record, count=True)) for record in records]
    table = pandas.DataFrame(cells, columns=["teacher", "student", "cell"]).pivot(
        index="teacher", columns="student", values="cell"
    )
    rows = zip(table.index, table.fillna("-").to_numpy(), strict=True)
    return markdown_table([["teacher / student", *table.columns], *([teacher, *row] for teacher, row in rows)])


def format_ranking(series: Sequence[Series]) -> str:
    """DD-Ranking's metrics, on fractions: hard-label recovery, improvement over random, label-robust score."""
    rows = [["method", "teacher", "student", "IPC", "HLR", "IOR", "LRS", "real images %", "note"]]
    for row in series:
        for student, ipc in columns_of(row.records):
            ranking = (row.at(student, ipc) or {}).get("dd_ranking")
            if ranking:
                values = [decimals(ranking.get(name)) for name in ("hlr", "ior", "lrs")]
                real = percent(ranking.get("real_accuracy"))
                rows.append([row.label, row.teacher, student, str(ipc), *values, real, ranking.get("note") or ""])
    return markdown_table(rows) if len(rows) > 1 else ""


def _mean_std(mean: float, std: float | None) -> str:
    return percent(mean) if std is None else f"{percent(mean)} ± {percent(std)}"
