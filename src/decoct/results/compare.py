"""Results of several runs side by side: tables, verdicts in words, a CSV file of all records, and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from decoct.config import CompareConfig, config_hash
from decoct.methods import method_name
from decoct.results.comparison import (
    Cells,
    Series,
    columns_of,
    epoch_rule,
    format_comparison,
    format_matrix,
    format_ranking,
    matrices,
    reported_elsewhere,
    reported_rows,
    series_of,
    setting_title,
    with_baselines,
    without_repeated_students,
)
from decoct.results.figures import save_accuracy_curves, save_matrices
from decoct.results.records import (
    check_accuracy_record,
    group_by_setting,
    is_accuracy_record,
    read_results,
    setting_of,
)
from decoct.results.reported import Reported, load_reported
from decoct.results.statistics import verdict
from decoct.results.tables import escape_markdown, percent
from decoct.run.files import written_whole
from decoct.run.folder import write_text
from decoct.run.lock import writes_alone

__all__ = ["Collection", "collect_records", "compare", "format_csv"]

MARK = "<!-- written by decoct compare -->"

CSV_COLUMNS = (
    *("run", "dataset", "eval_split", "method", "ipc", "tiles", "student"),
    *("protocol", "protocol_settings", "overrides", "labels", "epoch"),
    *("teacher", "teacher_model", "teacher_accuracy", "accuracy_mean", "accuracy_std", "accuracies", "seeds"),
    *("seconds", "device", "config_hash"),
)
BASELINE_COLUMNS = ("accuracy_mean", "accuracy_std", "accuracies", "seeds", "config_hash")
RANKING_COLUMNS = ("hlr", "ior", "lrs", "real_accuracy", "note")


@dataclass(frozen=True)
class Collection:
    """Records of several runs, each with its `run`, and in words what was left out."""

    records: list[dict[str, Any]]
    notes: list[str]


@writes_alone
def compare(config: CompareConfig) -> str:
    """Writes `compare.md`, `compare.csv` and `figures/*.png` into the output folder; nothing else there is touched.

    Returns:
        The tables and verdicts as text, and where the files are.

    Raises:
        ValueError: If no run has results, a results file cannot be read, or `compare.md` is not decoct's.
    """
    collection = collect_records(config.runs)
    reported = load_reported(config.reported) if config.reported else []
    folder = Path(config.output_dir)
    document = folder / "compare.md"
    if document.is_file() and not document.read_text(encoding="utf-8").startswith(MARK):
        raise ValueError(
            f"output_dir must not hold a compare.md that decoct did not write. Got {document}. "
            "Nothing was touched; use another --output_dir."
        )
    (folder / "figures").mkdir(exist_ok=True)
    shown, written = [], []
    for setting, records in group_by_setting(collection.records).items():
        series = series_of(with_baselines(records))
        text = _section(setting, records, series, reported)
        figures = _save_figures(folder / "figures", setting, records, series, reported)
        links = [f"![{escape_markdown(name)}](figures/{file})" for name, file in figures.items()]
        shown.append(text)
        written.append("\n\n".join([text, *links]))
    notes = "\n".join(f"- {escape_markdown(note)}" for note in collection.notes)
    write_text(document, "\n\n".join([MARK, "# Comparison", *written, *([notes] if notes else [])]) + "\n")
    with written_whole(folder / "compare.csv") as temporary:
        temporary.write_text(format_csv(collection.records), encoding="utf-8", newline="")
    files = [f"See   {document.resolve()}", f"Data  {(folder / 'compare.csv').resolve()}"]
    return "\n\n".join([*shown, *([notes] if notes else []), "\n".join(files)])


# Records


def collect_records(runs: Sequence[str]) -> Collection:
    """The accuracy records of run folders or results files; the same measurement in several of them counts once.

    A folder of `decoct distill DATASET` has them in its `distilled`.

    Raises:
        ValueError: If a path does not exist, a file does not hold records, or damaged ones, or no run has any.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    empty, notes = [], []
    for run in map(str, runs):
        path = Path(run)
        if not path.exists():
            raise ValueError(f"runs must be existing run folders or results files. Got {run!r}.")
        if path.is_dir():
            whole = path / "distilled" / "results.json"
            path = whole if whole.is_file() and not (path / "results.json").exists() else path / "results.json"
        records = read_results(path)
        others = sorted(str(record.get("task", "unknown")) for record in records if not is_accuracy_record(record))
        if others:
            tasks = ", ".join(dict.fromkeys(others))
            notes.append(f"{run}: {len(others)} records left out that are no accuracies of a distilled set ({tasks}).")
        if not records:
            empty.append(run)
        for row, record in enumerate(records):
            if not is_accuracy_record(record):
                continue
            check_accuracy_record(record, f"record {row} of {path}")
            complete = {**record, "run": run, "config_hash": _identity(record)}
            key = (complete["config_hash"], complete["method"], setting_of(complete))
            if key not in found or _completeness(complete) > _completeness(found[key]):
                found[key] = complete
    if not found:
        raise ValueError(
            f"runs must hold accuracies of a distilled set (results.json). Got none in {', '.join(map(str, runs))}. "
            "Make them by `decoct evaluate --distilled RUN`."
        )
    if empty:
        notes.append(f"Left out, since they hold no results (decoct evaluate makes them): {', '.join(empty)}.")
    return Collection(without_repeated_students(list(found.values())), notes)


def _identity(record: Mapping[str, Any]) -> str:
    return str(record.get("config_hash") or config_hash(dict(record)))


def _completeness(record: Mapping[str, Any]) -> int:
    return (record.get("baseline") is not None) + (record.get("dd_ranking") is not None)


# Text


def _section(
    setting: Sequence[str], records: Sequence[dict[str, Any]], series: Sequence[Series], reported: Sequence[Reported]
) -> str:
    """Everything about one setting: table, how it was measured, verdicts, matrices, DD-Ranking."""
    parts = [f"## {escape_markdown(setting_title(setting))}", format_comparison(series, reported)]
    parts.append(escape_markdown(_measured(setting, records)))
    columns = columns_of(records)
    if rows := reported_rows(reported, records[0], columns):
        parts.append(escape_markdown(f"Reported ({len(rows)} rows): {reported[0].source}. {_caution(reported)}"))
    if elsewhere := reported_elsewhere(reported, records[0], columns):
        numbers = "; ".join(f"{label}: {_listed(cells)}" for label, cells in elsewhere.items())
        parts.append(escape_markdown(f"Not in the table, by another recipe or with another kind of labels: {numbers}."))
    parts.append(_verdicts(series))
    for label, by_ipc in matrices(records).items():
        for ipc, members in by_ipc.items():
            parts += [f"**{escape_markdown(label)}, IPC {ipc}, by teacher and student**", format_matrix(members)]
    if ranking := format_ranking(series):
        parts += ["**DD-Ranking metrics**, on fractions", ranking]
    return "\n\n".join(parts)


def _measured(setting: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    """The line below a table: what its numbers are."""
    dataset, protocol, labels, _ = setting
    teachers = [(record.get("teacher") or "unknown", percent(record.get("teacher_accuracy"))) for record in records]
    named = ", ".join(f"{teacher} ({accuracy} %)" for teacher, accuracy in dict.fromkeys(teachers))
    seeds = sorted({seed for record in records for seed in record["seeds"]})
    return (
        f"Accuracy in %, mean ± standard deviation (students). Dataset {dataset}; protocol {protocol}; "
        f"{labels} labels; teacher {named}; seeds {', '.join(map(str, seeds))}; {epoch_rule(setting)}."
    )


def _listed(cells: Cells) -> str:
    return ", ".join(f"{student} IPC {ipc} {percent(mean)}" for (student, ipc), (mean, _) in cells.items())


def _caution(reported: Sequence[Reported]) -> str:
    notes = f" {reported[0].notes[:1].upper()}{reported[0].notes[1:]}." if reported[0].notes else ""
    return f"Their teacher and epoch rule are not those of the rows above.{notes}"


def _verdicts(series: Sequence[Series]) -> str:
    """One sentence for each measured set but random images themselves."""
    teachers = {row.teacher for row in series}
    lines = []
    for row in series:
        method = row.records[0]["method"]
        if row.is_baseline or method == "random":
            continue
        place = [] if row.label == method_name(method) else [row.label]
        place += [f"teacher {row.teacher}"] if len(teachers) > 1 else []
        for student, ipc in columns_of(row.records):
            record = row.at(student, ipc)
            if record is not None:
                words = ", ".join([student, f"IPC {ipc}", *place])
                lines.append(f"- {escape_markdown(words)}: {escape_markdown(verdict(record))}")
    return "\n".join(lines) or "Random images alone: there is nothing to compare them with."


# Files


def _save_figures(
    folder: Path,
    setting: Sequence[str],
    records: Sequence[dict[str, Any]],
    series: Sequence[Series],
    reported: Sequence[Reported],
) -> dict[str, str]:
    """Saves the figures of one setting; file names by what they show."""
    figures = {}
    title = setting_title(setting)
    columns = columns_of(records)
    for student in sorted({student for student, _ in columns}):
        mine = [column for column in columns if column[0] == student]
        theirs = {
            label: {ipc: values for (_, ipc), values in cells.items()}
            for (label, _), cells in reported_rows(reported, records[0], mine).items()
        }
        file = _file_name("accuracy", student, setting)
        save_accuracy_curves(folder / file, series, student, title, theirs)
        figures[f"Accuracy of {student} over images per class"] = file
    for label, by_ipc in matrices(records).items():
        file = _file_name("matrix", label, setting)
        save_matrices(folder / file, by_ipc, label, title)
        figures[f"{label}: accuracy by teacher and student"] = file
    return figures


def _file_name(kind: str, subject: str, setting: Sequence[str]) -> str:
    """A file name that is safe whatever the names in it, and different for different subjects and settings."""
    words = "-".join([subject, Path(setting[0]).name, *setting[1:]])
    readable = re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")[:80]
    return f"{kind}-{readable}-{config_hash({'subject': subject, 'setting': list(setting)})[:6]}.png"


def format_csv(records: Iterable[Mapping[str, Any]]) -> str:
    """All records, one row each; accuracies are fractions, lists and overrides JSON.

    Text that a spreadsheet would take for a formula starts with an apostrophe.
    """
    heading = [*CSV_COLUMNS, *(f"baseline_{name}" for name in BASELINE_COLUMNS), "baseline_note"]
    heading += [f"dd_ranking_{name}" for name in RANKING_COLUMNS]
    rows = []
    for record in records:
        baseline, ranking = record.get("baseline") or {}, record.get("dd_ranking") or {}
        values = [record.get(name) for name in CSV_COLUMNS] + [baseline.get(name) for name in BASELINE_COLUMNS]
        values += [record.get("baseline_note"), *(ranking.get(name) for name in RANKING_COLUMNS)]
        rows.append([_csv_cell(value) for value in values])
    return pandas.DataFrame(rows, columns=heading, dtype=object).to_csv(index=False, lineterminator="\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value
    return value
