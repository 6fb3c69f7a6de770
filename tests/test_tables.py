"""The tables of the READMEs say what the records say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_tables", BENCHMARKS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(setting: str, accuracy: float, **changes: Any) -> dict[str, Any]:
    return {
        "setting": setting,
        "method": setting.split("_")[0],
        "ipc": 10,
        "labels": "online",
        "protocol": "rded_kd",
        "epochs": 300,
        "rrc_scale": 0.08,
        "student": "convnet3",
        "teacher_accuracy": 0.8248,
        "tile_accuracy": 0.9,
        "distill_seed": 0,
        "student_seed": 0,
        "accuracy": accuracy,
        "precision": "bf16",
        "stage": "final",
        **changes,
    }


def three(setting: str, *accuracies: float, **changes: Any) -> list[dict[str, Any]]:
    return [record(setting, a, distill_seed=s, student_seed=s, **changes) for s, a in enumerate(accuracies)]


RECORDS = [
    *three("random", 0.50, 0.51, 0.52),
    *three("infoutil", 0.55, 0.56, 0.57),
    record("infoutil", 0.30, ipc=1),
    record("infoutil", 0.52, labels="views"),
    record("random", 0.10, stage="sweep"),
    record("whole, lowest", 0.40, stage="sweep"),
    record("whole, lowest", 0.42, stage="sweep", distill_seed=1),
    record("whole, highest", 0.05, stage="sweep", labels="views"),
]


@pytest.fixture
def files(tmp_path):
    readme, sweep, results = tmp_path / "README.md", tmp_path / "SWEEP.md", tmp_path / "cifar10.json"
    readme.write_text("# Title\n\n<!-- results:begin -->\n<!-- results:end -->\n\nafter\n")
    sweep.write_text("before\n<!-- sweep:begin -->\nold\n<!-- sweep:end -->\n")
    results.write_text(json.dumps(RECORDS))
    return readme, sweep, results


def arguments(files: tuple[Path, Path, Path], *more: str) -> list[str]:
    readme, sweep, results = map(str, files)
    return ["--records", results, "--readme", readme, "--sweep_readme", sweep, *more]


def row(text: str, name: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    assert len(lines) == 1, text
    return [cell.strip() for cell in lines[0].strip("|").split("|")][1:]


def test_main_table_has_mean_spread_and_count_beside_the_reported_numbers(tables):
    main, views = tables.results_section(RECORDS).split("IPC), labels")[1:]
    assert row(main, "random images") == ["–", "51.0 ± 1.0 (3)", "–"]
    assert row(main, "InfoUtil, decoct's default") == ["30.0 (1)", "56.0 ± 1.0 (3)", "–"]
    assert row(main, "RDED, reported") == ["23.5", "50.2", "68.4"]
    assert row(main, "InfoUtil, reported") == ["28.5", "54.1", "69.8"]
    assert row(views, "InfoUtil, decoct's default") == ["–", "52.0 (1)", "–"]
    assert "| herding |" not in main + views
    assert "reported" not in views


def test_conditions_come_from_the_records(tables):
    text = tables.results_section(RECORDS)
    for words in ("`rded_kd` with 300 epochs", "rrc_scale 0.08", "last epoch", "bf16", "82.48 %", "1 to 3", "82.24 %"):
        assert words in text
    assert "the protocol's crops" in tables.results_section([{**each, "rrc_scale": None} for each in RECORDS])


def test_sweep_has_one_table_per_label_mode_the_best_first(tables):
    text = tables.sweep_section(RECORDS)
    online, views = text.split("labels `views`")
    assert online.index("whole, lowest") < online.index("random")
    assert row(online, "whole, lowest") == ["41.0 ± 1.4 (2)", "90.0", "82.48"]
    assert row(views, "whole, highest") == ["5.0 (1)", "90.0", "82.48"]
    assert "InfoUtil, decoct's default" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rrc_scale": 0.5, "distill_seed": 9}, "rrc_scale must be the same"),
        ({"protocol": "other", "distill_seed": 9}, "protocol must be the same"),
        ({}, "Records must be unique"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(tables, changes, message):
    with pytest.raises(ValueError, match=message):
        tables.results_section([*RECORDS, record("random", 0.5, **changes)])


def test_only_the_sections_are_written_and_check_tells_when_they_are_out_of_date(tables, files, capsys):
    readme, sweep, results = files
    before = readme.read_text()
    assert tables.main(arguments(files, "--check")) == 1
    assert readme.read_text() == before
    assert tables.main(arguments(files)) == 0
    written = readme.read_text()
    assert written.startswith("# Title\n\n<!-- results:begin -->")
    assert written.endswith("<!-- results:end -->\n\nafter\n")
    assert "old" not in sweep.read_text()
    assert tables.main(arguments(files, "--check")) == 0
    assert tables.main(arguments(files)) == 0
    assert readme.read_text() == written
    results.write_text(json.dumps([*RECORDS, *three("rded", 0.4, 0.5, 0.6)]))
    assert tables.main(arguments(files, "--check")) == 1
    assert "out of date" in capsys.readouterr().out


def test_without_records_the_sections_say_so(tables, files):
    readme, sweep, results = files
    results.unlink()
    assert tables.main(arguments(files)) == 0
    assert "No records yet." in readme.read_text()
    assert "No records yet." in sweep.read_text()


def test_missing_markers_are_an_error_that_names_the_file(tables, files):
    files[0].write_text("# Title\n")
    with pytest.raises(ValueError, match=r"README.md must hold the markers <!-- results:begin -->"):
        tables.main(arguments(files))


def test_the_repositorys_own_files_have_the_markers(tables):
    for path, name in ((BENCHMARKS.parent / "README.md", "results"), (BENCHMARKS / "README.md", "sweep")):
        assert tables.replace_section(path.read_text(encoding="utf-8"), name, "new", path)
