"""Other people's numbers, with where they stand, from `presets/reported/<name>.yaml` or a user's own file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from decoct.files import read_yaml, shown

__all__ = ["Reported", "is_same_protocol", "is_same_task", "load_reported"]

KEYS = {"method", "where", "dataset", "student", "protocol", "labels", "accuracy"}
OPTIONAL = {"teacher_accuracy"}


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One row of a published table.

    Args:
        method: Name as the source writes it.
        where: Table or section of the source.
        dataset: Name without its owner, for example `cifar10`.
        student: Architecture.
        protocols: Protocols whose recipe is meant; none for a recipe that decoct has no protocol of.
        labels: Label modes it may be set beside.
        teacher_accuracy: Fraction; None if the source does not name it.
        accuracy: Mean and standard deviation, fractions, by images per class; None for a deviation not named.
        source: The publication.
        notes: What differs from how decoct measures.
    """

    method: str
    where: str
    dataset: str
    student: str
    protocols: tuple[str, ...]
    labels: tuple[str, ...]
    teacher_accuracy: float | None
    accuracy: dict[int, tuple[float, float | None]]
    source: str
    notes: str


def load_reported(name_or_path: str) -> list[Reported]:
    """The rows of a file of reported numbers; the file states percents, the rows hold fractions.

    Raises:
        ValueError: If there is no such file, or it does not have `source`, `notes` and `results` with their fields.
    """
    folder = files("decoct.presets") / "reported"
    names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name_or_path in names:
        content = read_yaml(folder / f"{name_or_path}.yaml")
    elif Path(name_or_path).is_file():
        content = read_yaml(Path(name_or_path))
    else:
        raise ValueError(f"reported must be one of {names} or a YAML file. Got {name_or_path!r}.")
    if not isinstance(content, dict) or "source" not in content or not isinstance(content.get("results"), list):
        raise ValueError(
            f"{name_or_path} must have `source:` and a list of `results:`, and may have `notes:`. Got {shown(content)}."
        )
    source, notes = str(content["source"]), str(content.get("notes") or "")
    rows = []
    for number, row in enumerate(content["results"], start=1):
        try:
            rows.append(_reported(row, source, notes))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name_or_path}, result {number}: {error}") from None
    return rows


def _reported(row: Any, source: str, notes: str) -> Reported:
    if not isinstance(row, dict) or not KEYS <= set(row) <= KEYS | OPTIONAL:
        got = sorted(row) if isinstance(row, dict) else row
        raise ValueError(f"the fields must be {sorted(KEYS)} and may be {sorted(OPTIONAL)}. Got {got}.")
    form = "accuracy must be `images per class: [mean, standard deviation]`. Got"
    if not isinstance(row["accuracy"], dict):
        raise ValueError(f"{form} {shown(row['accuracy'])}.")
    accuracy = {}
    for ipc, values in row["accuracy"].items():
        mean, std, *rest = [*_as_list(values), None]
        if [each for each in rest if each is not None]:
            raise ValueError(f"{form} {shown(values)}.")
        accuracy[int(ipc)] = (_fraction(mean), None if std is None else _fraction(std))
    teacher = row.get("teacher_accuracy")
    return Reported(
        method=str(row["method"]),
        where=str(row["where"]),
        dataset=str(row["dataset"]),
        student=str(row["student"]),
        protocols=tuple(_as_list(row["protocol"])),
        labels=tuple(_as_list(row["labels"])),
        teacher_accuracy=None if teacher is None else _fraction(teacher),
        accuracy=accuracy,
        source=source,
        notes=notes,
    )


def is_same_task(row: Reported, dataset: str, student: str) -> bool:
    """Whether a row is about a dataset, whoever owns it, and an architecture, whatever its norm or stem."""
    return _plain(Path(dataset).name) == _plain(row.dataset) and _architecture(student) == _architecture(row.student)


def is_same_protocol(row: Reported, protocol: str, labels: str) -> bool:
    """Whether a row was measured by the recipe of a protocol with labels of that kind."""
    return protocol in row.protocols and labels in row.labels


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _architecture(name: str) -> str:
    return re.sub(r"_(instance|imagenet)", "", name)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _fraction(percent: Any) -> float:
    value = float(percent) / 100
    if not 0 <= value <= 1:
        raise ValueError(f"accuracies must be percents from 0 to 100. Got {percent}.")
    return value
