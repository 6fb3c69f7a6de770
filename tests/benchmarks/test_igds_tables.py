"""The IGDS tables of the READMEs say what the records say."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .loading import load


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return load("igds_tables")


def record(setting: str, accuracy: float, **changes: Any) -> dict[str, Any]:
    return {
        **{"setting": setting, "ipc": 10, "tiles": 1, "labels": "views", "accuracy": accuracy, "seed": 0},
        **{"prototype": -0.5, "contextual": 0.4, "tile_accuracy": 0.8, "teacher_accuracy": 0.87, "dataset": "sample"},
        **{"student": "convnet3", "protocol": "rded_kd", "epochs": 300, "rrc_scale": 0.08, "mixed_precision": "bf16"},
        **{"epoch": "last", "eval_split": "test", "scheduler": "ddim", "sampling_steps": 50, "fingerprints": {}},
        **changes,
    }


RECORDS = [
    record("beta 10, scale 0.2, sample", 0.70, guide_on="sample"),
    record("beta 1, scale 0.2, sample", 0.80, guide_on="sample"),
    record("beta 1, scale 0.2, sample", 0.82, guide_on="sample", seed=1),
    record("beta 1, scale 0.2, x0_pred", 0.99, guide_on="x0_pred"),
    record("guidance off", 0.60, labels="hard"),
    record("random", 0.50),
    record("random", 0.40, tiles=4),
]


@pytest.fixture
def root(tmp_path) -> Path:
    """A copy of the two READMEs' markers, with records of the sample."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "beta_sweep_sample.json").write_text(json.dumps(RECORDS))
    markers = {"README.md": ["igds"], "benchmarks/README.md": ["beta", "estimator", "guidance"]}
    for file, names in markers.items():
        (tmp_path / file).write_text("\n".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->" for name in names))
    return tmp_path


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_settings_stand_in_order_with_mean_spread_and_number_of_seeds(tables, root):
    assert tables.main(["--root", str(root)]) == 0
    readme = rows((root / "README.md").read_text())
    assert readme[0] == ["", "`hard`", "`views`"]
    assert readme[2:] == [
        ["random real images", "–", "50.0 (1)"],
        ["prior alone", "60.0 (1)", "–"],
        ["beta 1, scale 0.2, sample", "–", "81.0 ± 1.4 (2)"],
        ["beta 10, scale 0.2, sample", "–", "70.0 (1)"],
    ]
    full = (root / "benchmarks" / "README.md").read_text()
    assert "99.0 (1)" in full
    assert "IPC 10, 4 tiles an image" in full
    assert full.count("No records yet.") == 2


def test_check_writes_nothing_and_says_what_is_out_of_date(tables, root, capsys):
    before = (root / "README.md").read_text()
    assert tables.main(["--root", str(root), "--check"]) == 1
    assert (root / "README.md").read_text() == before
    assert "section igds: out of date" in capsys.readouterr().out
    tables.main(["--root", str(root)])
    assert tables.main(["--root", str(root), "--check"]) == 0


def test_records_of_other_conditions_never_share_a_table(tables, root):
    other = [*RECORDS, record("beta 3, scale 0.2, sample", 0.9, epochs=1000, guide_on="sample")]
    (root / "benchmarks" / "results" / "beta_sweep_sample.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="epochs must be the same"):
        tables.main(["--root", str(root)])


def test_the_repositorys_tables_are_what_its_records_say(tables):
    assert tables.main(["--check"]) == 0
