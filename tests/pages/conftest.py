"""Distilled run folders with reports, and results as evaluating leaves them."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worlds import accuracy_record, draw_no_pictures, measured

from decoct.config import DistillConfig
from decoct.files import read_json
from decoct.run.folder import write_json

from .cards import MANIFEST

SETTINGS: dict[str, Any] = {"ipc": [1, 3], "views": 2, "slots": 0, "batch_size": 16}
METHODS: dict[str, dict[str, Any]] = {
    "infoutil": {"tiles_per_image": 4, "candidates_per_class": 16, "grid_size": 3, "coalitions": 16},
    "random": {"candidates_per_class": 16},
    "igds": {"tiles_per_image": 4, "sampling_steps": 2},
}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</script><b>{{ 7*7 }}</b> {% raw %} 'quoted'\nsecond line",
    "\u202ereversed\u202c & <!-- open",
]


def record(ipc: int, accuracies: list[float], baseline: list[float] | None = None, **changes: Any) -> dict[str, Any]:
    """A record of results.json."""
    known = {"dataset": "sample", "ipc": ipc, "tiles": 4, "labels": "views", "teacher_accuracy": 0.889}
    if baseline is not None:
        known |= {"baseline": measured(*baseline), "baseline_note": ""}
    return accuracy_record(*accuracies, **{**known, **changes})


@pytest.fixture(scope="session")
def make_record() -> Callable[..., dict[str, Any]]:
    """`make_record(ipc, accuracies, baseline accuracies or None, **changes)`."""
    return record


@pytest.fixture(scope="session")
def distilled(once, sample_part, trained_teacher, tiny_prior, tiny_estimator) -> Callable[[str], Path]:
    """`distilled(method)`: a finished run folder, with its report; tests must not change it."""
    networks = {"teacher": str(trained_teacher), "prior": str(tiny_prior), "estimator": str(tiny_estimator)}

    def folder(method: str) -> Path:
        def make(parent: Path) -> None:
            from decoct.synthesis.distill import distill

            with pytest.MonkeyPatch.context() as patch:
                draw_no_pictures(patch)
                options = {**SETTINGS, **METHODS[method], **networks, "dataset": str(sample_part)}
                distill(DistillConfig(method=method, output_dir=str(parent / "run"), **options))

        return once(f"report-{method}", make) / "run"

    return folder


@pytest.fixture
def copied(distilled, tmp_path) -> Callable[[str], Path]:
    """`copied(method)`: a copy of a finished run folder, for tests that change it."""
    return lambda method: Path(shutil.copytree(distilled(method), tmp_path / method))


@pytest.fixture
def hostile(copied) -> Path:
    """A run folder whose names try to leave the places where they are shown."""
    from decoct.pages.report import write_report

    folder = copied("infoutil")
    manifest = read_json(folder / "manifest.json")
    bad = HOSTILE[0] + HOSTILE[1] + HOSTILE[2]
    manifest |= {"label_names": HOSTILE, "dataset": bad, "device": bad, "versions": {"torch": bad}}
    manifest["teacher"] = {"name": bad, "fingerprint": bad}
    manifest["config"] |= {"dataset": bad, "output_dir": bad, "teacher": bad}
    write_json(folder / "manifest.json", manifest)
    ranking = {"hlr": 0.1, "ior": 0.1, "lrs": 0.1, "note": bad}
    changes = {"dataset": bad, "student": bad, "protocol": bad, "dd_ranking": ranking, "baseline_note": bad}
    records = [record(ipc, [0.5], **changes) for ipc in (1, 3)]
    write_json(folder / "results.json", records)
    write_report(folder)
    return folder


@pytest.fixture
def manifest() -> dict[str, Any]:
    """Of a set of CIFAR-10, as a dataset card reads it; tests may change it."""
    return copy.deepcopy(MANIFEST)
