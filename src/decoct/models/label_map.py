"""Which outputs of a classifier are the classes of a dataset that names them otherwise, or has fewer of them."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decoct.data.columns import listed
from decoct.files import parse_yaml
from decoct.models.classifier import Classifier

__all__ = ["match_classes", "read_label_map", "teacher_for"]

logger = logging.getLogger(__name__)


def read_label_map(file: str | None) -> dict[str, str]:
    """The teacher's name (or number) of each class of the dataset, from a file; empty without one.

    JSON and YAML hold one mapping, CSV two columns: the dataset's name, the teacher's.

    Raises:
        ValueError: If there is no such file, or it holds something else, or a name twice.
    """
    if file is None:
        return {}
    path = Path(file)
    if path.suffix.lower() not in (".json", ".yaml", ".yml", ".csv") or not path.is_file():
        raise ValueError(f"label_map must be an existing .json, .yaml or .csv file. Got {file!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = [row for row in csv.reader(text.splitlines()) if row]
            pairs: list[tuple[Any, ...]] = [tuple(cell.strip() for cell in row) for row in rows]
        elif path.suffix.lower() == ".json":
            pairs = json.loads(text, object_pairs_hook=list)
        else:
            content = parse_yaml(text, path)
            pairs = list(content.items()) if isinstance(content, dict) else []
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"label_map must be a valid {path.suffix} file. Got {file!r}: {error}") from error
    usable = isinstance(pairs, list) and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], str | int) and not isinstance(pair[1], bool)
        for pair in pairs
    )
    if not usable or not pairs:
        raise ValueError(
            f"label_map must map each class name of the dataset to a name or number of the teacher's. Got {file!r}, "
            "which holds something else (CSV: two columns)."
        )
    names = [str(name) for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"label_map must have each class name once. Got {listed(twice)} twice in {file!r}.")
    return {str(name): str(value) for name, value in pairs}


def teacher_for(
    teacher: Classifier, label_names: Sequence[str], dataset: str, label_map: Mapping[str, str] | None = None
) -> Classifier:
    """The teacher with the classes of a dataset, in its order and by its names: itself where they are the same.

    Args:
        label_names: Of the dataset.
        dataset: Its name, for messages.
        label_map: The teacher's name of a class of the dataset, where it is another one.

    Raises:
        ValueError: If a class is not among the teacher's, or cannot be told, with the names and the remedy.
    """
    if list(label_names) == list(teacher.spec.label_names) and not label_map:
        return teacher
    if teacher.classes is not None:
        raise ValueError(
            f"The teacher {teacher.name} must have the classes of {dataset}. Got one that is restricted to others: "
            f"{listed(teacher.spec.label_names)}."
        )
    own = teacher.spec.label_names
    classes = match_classes(own, label_names, f"the teacher {teacher.name}", f"the dataset {dataset}", label_map)
    if classes == list(range(len(own))) and list(label_names) == list(own):
        return teacher
    pairs = zip(label_names, classes, strict=True)
    renamed = [f"{name!r} is {own[label]!r}" for name, label in pairs if name != own[label]]
    logger.warning(
        "The teacher %s has %d classes, the dataset %s %d; they were matched by name: %s.",
        teacher.name, len(own), dataset, len(classes), listed(renamed) if renamed else "all are spelt alike",
    )  # fmt: skip
    return teacher.restricted_to(label_names, classes)


def match_classes(
    own: Sequence[str],
    label_names: Sequence[str],
    teacher: str,
    dataset: str,
    label_map: Mapping[str, str] | None = None,
) -> list[int]:
    """The number of each class of a dataset among a teacher's.

    A name is one of the teacher's as it is written, or else without case, spaces, underscores and hyphens, or else one
    of the synonyms that commas separate, as in `tench, Tinca tinca`. In `label_map` it may be a number.

    Args:
        own: The teacher's names.
        label_names: The dataset's.
        teacher, dataset: Whose they are, for the message.
        label_map: The teacher's name of a class of the dataset, where it is another one.

    Raises:
        ValueError: If a name of the map is not the dataset's, or a class has none or several of the teacher's classes.
    """
    label_map = label_map or {}
    if unknown := [name for name in label_map if name not in set(label_names)]:
        raise ValueError(
            f"label_map must map class names of {dataset}: {listed(label_names)}. Got {listed(unknown)} as well."
        )
    spellings: list[dict[str, list[int]]] = [{}, {}, {}]
    for label, name in enumerate(own):
        synonyms = {_plain(part) for part in name.split(",")}
        for found, keys in zip(spellings, ({name}, {_plain(name)}, synonyms), strict=True):
            for key in keys:
                found.setdefault(key, []).append(label)
    classes, missing, several = [], [], []
    for name in label_names:
        wanted = label_map.get(name, name)
        written = (wanted, _plain(wanted), _plain(wanted))
        found_labels = next((found[key] for found, key in zip(spellings, written, strict=True) if key in found), [])
        if not found_labels and name in label_map and wanted.isdecimal() and int(wanted) < len(own):
            found_labels = [int(wanted)]
        if not found_labels:
            missing.append(wanted)
        elif len(found_labels) > 1:
            several.append(f"{wanted!r} (classes {', '.join(map(str, found_labels))})")
        classes.append(found_labels[0] if found_labels else -1)
    twice = [name for name, label in zip(label_names, classes, strict=True) if label >= 0 and classes.count(label) > 1]
    for names, fault in ((missing, "unknown to it"), (several, "several of its classes"), (twice, "one class of it")):
        if names:
            raise ValueError(
                f"Each class of {dataset} must be one class of {teacher}. Got {len(names)} of {len(label_names)} that "
                f"are {fault}: {listed(names)}.\n{teacher}: {listed(own)}\n{dataset}: {listed(label_names)}\n"
                "Say which is which with --label_map (a JSON, YAML or CSV file: the dataset's name, the teacher's name "
                "or number), or use a matching pair."
            )
    return classes


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
