"""The committed records of accuracies have one format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from decoct.results.statistics import mean_and_std

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TASKS = {"continual": "continual", "transfer": "transfer"}
FILES = (
    *("ablation_imagenette", "beta_study_sample", "beta_sweep_cifar10", "beta_sweep_sample", "cifar10", "continual"),
    *("beta_held_out_sample", "cifar10_igds", "cross_architecture", "demo", "fashion_mnist", "imagenette"),
    *("label_bytes", "label_teachers", "other_architectures", "selection_cifar10", "selection_sample"),
    *("self_contained", "strong_kd", "transfer", "view_scale_cifar10"),
)
TYPES: dict[str, Any] = {
    **dict.fromkeys(("task", "dataset", "method", "student", "protocol", "labels", "epoch"), str),
    **{"ipc": int, "seeds": list, "accuracies": list, "accuracy_mean": float, "accuracy_std": float},
    "teacher_accuracy": (float, type(None)),
}


def records_of(name: str) -> list[dict[str, Any]]:
    content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content["records"] + content["best"] if isinstance(content, dict) else content


def check_accuracies(record: dict[str, Any]) -> None:
    """Mean and standard deviation are those of the accuracies, one a seed; of several stages, of the last one."""
    accuracies = record["accuracies"]
    assert len(record["seeds"]) == len(accuracies) == len(set(record["seeds"])) > 0
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert (record["accuracy_mean"], record["accuracy_std"]) == pytest.approx(mean_and_std(accuracies), abs=1e-12)
    if "stage_accuracies" in record:
        assert [stages[-1] for stages in record["stage_accuracies"]] == accuracies


@pytest.mark.parametrize("name", FILES)
def test_every_record_has_the_fields_of_all_records(name):
    records = records_of(name)
    assert records
    for record in records:
        assert {field: record[field] for field in TYPES if not isinstance(record[field], TYPES[field])} == {}
        assert "accuracy" not in record and "precision" not in record
        assert record["task"] == TASKS.get(name, "accuracy")
        assert record["teacher_accuracy"] is None or 0 <= record["teacher_accuracy"] <= 1
        check_accuracies(record)
        if record.get("baseline"):
            check_accuracies(record["baseline"])


def test_no_file_has_a_path_of_a_machine():
    files = [*RESULTS.glob("*.json")]
    assert len(files) > 30
    for file in files:
        assert re.findall(r'"(?:/|~|[A-Z]:)[^"]*"', file.read_text(encoding="utf-8")) == [], file.name


def test_files_that_name_the_precision_name_it_alike():
    for name in ("beta_sweep_cifar10", "beta_sweep_sample", "cifar10", "self_contained"):
        assert {record["mixed_precision"] for record in records_of(name)} == {"bf16"}
