"""Comparing runs: what shares a table, what the files hold, and names that would break them."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from worlds import accuracy_record, measured

from decoct.config import CompareConfig
from decoct.results.compare import collect_records, compare, format_csv
from decoct.results.comparison import format_comparison, format_matrix, matrices, series_of
from decoct.results.figures import save_accuracy_curves, save_matrices
from decoct.results.reported import load_reported
from decoct.results.tables import escape_markdown, markdown_table


def record(*accuracies, **changes):
    return accuracy_record(*accuracies, **{"run": "runs/a", **changes})


def write(folder, *records):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(records))
    return str(folder)


def rows_of(table):
    """The cells of a Markdown table; those of its second line, the rule, are left out."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
    return [[cell.strip() for cell in line] for number, line in enumerate(lines) if number != 1]


def run_compare(folder, *runs, **options):
    config = CompareConfig(runs=list(runs), output_dir=str(folder), **options)
    return compare(config)


# What shares a table


def test_rows_are_methods_and_columns_are_students_and_ipcs():
    records = [record(0.5, 0.52), record(0.7, ipc=50), record(0.4, 0.4, 0.4, student="vgg11", tiles=4)]
    assert rows_of(format_comparison(series_of(records))) == [
        ["method", "teacher", "convnet3, IPC 10", "convnet3, IPC 50", "vgg11, IPC 10"],
        ["InfoUtil", "convnet3, 82.5 %", "51.0 ± 1.4 (2)", "70.0 (1)", "-"],
        ["InfoUtil, k = 4", "convnet3, 82.5 %", "-", "-", "40.0 ± 0.0 (3)"],
    ]


@pytest.mark.parametrize("other", [{"labels": "hard"}, {"protocol": "strong_kd"}, {"overrides": {"epochs": 3}}])
def test_a_table_of_several_settings_is_refused(other):
    for make in (series_of, matrices, format_matrix):
        with pytest.raises(ValueError, match="A table must hold one .* say nothing about each other"):
            make([record(), record(**other)])


def test_another_teacher_is_another_row():
    early = {"teacher": "runs/teacher/epoch_2", "ipc": 1}
    table = rows_of(format_comparison(series_of([record(), record(teacher_accuracy=0.6, **early)])))
    assert [row[1] for row in table[1:]] == ["convnet3, 60.0 %", "convnet3, 82.5 %"]
    alike = rows_of(format_comparison(series_of([record(), record(**early)])))
    teachers = ["convnet3, 82.5 %, runs/teacher", "convnet3, 82.5 %, runs/teacher/epoch_2"]
    assert [row[1] for row in alike[1:]] == teachers


def test_runs_that_would_share_a_cell_have_rows_of_their_own():
    records = [record(0.5), record(0.6, run="runs/b"), record(0.7, ipc=1, run="runs/b")]
    table = rows_of(format_comparison(series_of(records)))
    assert [row[0] for row in table[1:]] == ["InfoUtil, runs/a", "InfoUtil, runs/b"]
    same_run = rows_of(format_comparison(series_of([record(0.5, config_hash="aa"), record(0.6, config_hash="bb")])))
    assert [row[0] for row in same_run[1:]] == ["InfoUtil, aa", "InfoUtil, bb"]


def test_the_matrix_has_teachers_as_rows_and_students_as_columns():
    records = [
        record(0.5, 0.5),
        record(0.3, 0.3, student="vgg11"),
        record(0.4, 0.4, teacher_model="resnet18", teacher="runs/resnet"),
        record(0.9, ipc=50),
    ]
    found = matrices(records)
    assert {label: list(by_ipc) for label, by_ipc in found.items()} == {"InfoUtil": [10]}
    assert rows_of(format_matrix(found["InfoUtil"][10])) == [
        ["teacher / student", "convnet3", "vgg11"],
        ["convnet3", "50.0 ± 0.0 (2)", "30.0 ± 0.0 (2)"],
        ["resnet18", "40.0 ± 0.0 (2)", "-"],
    ]
    assert matrices([record(), record(teacher_model=None, student="vgg11")]) == {}


# Records of several runs


def test_the_same_measurement_in_two_runs_counts_once_and_the_fuller_record_stays(tmp_path):
    plain = record(config_hash="same")
    full = {**plain, "baseline": measured(0.4, 0.41, config_hash="base")}
    collection = collect_records([write(tmp_path / "a", plain), write(tmp_path / "b", full, record(0.9))])
    assert len(collection.records) == 2
    assert collection.records[0]["baseline"] == full["baseline"]


def test_students_that_were_evaluated_again_with_more_seeds_count_once(tmp_path):
    run = write(tmp_path / "a", record(0.5), record(0.5, 0.6, 0.7), record(0.5, method="rded"))
    assert [len(each["seeds"]) for each in collect_records([run]).records] == [3, 1]


def test_a_run_of_the_whole_command_has_its_results_one_folder_down(tmp_path):
    write(tmp_path / "photos" / "distilled", record(0.6))
    (found,) = collect_records([str(tmp_path / "photos")]).records
    assert (found["run"], found["accuracy_mean"]) == (str(tmp_path / "photos"), 0.6)


def test_runs_without_results_are_named(tmp_path):
    (tmp_path / "teacher").mkdir()
    continual = {"task": "continual", "config_hash": "c"}
    collection = collect_records([write(tmp_path / "a", record(), continual), str(tmp_path / "teacher")])
    assert len(collection.records) == 1
    assert "1 records left out" in collection.notes[0] and "continual" in collection.notes[0]
    assert str(tmp_path / "teacher") in collection.notes[1] and "decoct evaluate" in collection.notes[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracies": None}, r"accuracies of record 1 of .*results\.json must be 2 fractions in .*, one a seed"),
        ({"accuracies": [0.5]}, "accuracies of record 1 .*must be 2 fractions"),
        ({"accuracy_std": None}, "accuracy_std of record 1 .*must be a fraction in"),
        ({"accuracy_mean": float("nan")}, "accuracy_mean of record 1 .*Got nan"),
        ({"seeds": 3}, "seeds of record 1 .*must be a list of whole numbers. Got 3"),
        ({"ipc": "10"}, "ipc of record 1 .*must be at least 1. Got 10"),
        ({"student": None}, "student of record 1 .*must be text"),
        ({"baseline": [0.5]}, "the baseline of record 1 .*must be an object"),
        ({"baseline": {"seeds": [0]}}, "accuracies of the baseline of record 1 .*must be 1 fractions"),
    ],
)
def test_a_damaged_record_is_named_with_its_file(tmp_path, changes, message):
    run = write(tmp_path / "run", record(), {**record(), **changes})
    with pytest.raises(ValueError, match=message):
        compare(CompareConfig(runs=[run], output_dir=str(tmp_path / "comparison")))
    assert not (tmp_path / "comparison" / "compare.md").exists()


def test_no_results_at_all_is_an_error_with_the_remedy(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"Got none in .*empty\. Make them by `decoct evaluate"):
        collect_records([str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="existing run folders or results files. Got 'runs/missing'"):
        collect_records(["runs/missing"])


def test_a_random_baseline_is_one_row_whatever_the_number_of_sets_it_serves(tmp_path):
    base = measured(0.4, 0.42, config_hash="base")
    runs = [write(tmp_path / name, record(method=name, baseline=base)) for name in ("infoutil", "rded")]
    random = write(tmp_path / "random", record(0.4, 0.42, method="random", config_hash="base"))
    text = run_compare(tmp_path / "out", *runs, random)
    lines = [line for line in text.splitlines() if "random images" in line and line.startswith("|")]
    assert len(lines) == 1 and "random images (baseline)" in lines[0] and "41.0 ± 1.4 (2)" in lines[0]
    assert len((tmp_path / "out" / "compare.csv").read_text().splitlines()) == 4


# Reported numbers


def test_reported_numbers_join_the_table_of_their_protocol_and_labels(tmp_path):
    runs = [write(tmp_path / "a", record(), record(ipc=3), record(labels="hard", student="resnet18"))]
    text = run_compare(tmp_path / "out", *runs, reported="infoutil")
    hard, online = text.split("## ")[1:]
    row = next(line for line in online.splitlines() if "InfoUtil (reported: InfoUtil, Table 1)" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["theirs, 82.2 %", "-", "54.1 ± 0.5"]
    assert "Their teacher and epoch rule are not those of the rows above." in online
    assert "(reported" not in hard
    assert "Not in the table, by another recipe" in hard and "InfoUtil (soft labels, Table 1): resnet18 IPC 10" in hard
    assert "TESLA (hard labels, Table 1): convnet3 IPC 10 66.4" in online


@pytest.mark.parametrize("name", ["infoutil", "igds"])
def test_shipped_reported_numbers_are_fractions_with_sources(name, scripts):
    rows = load_reported(name)
    assert rows and all(0.05 < mean < 0.95 for row in rows for mean, _ in row.accuracy.values())
    assert all(std is None or 0 < std < 0.03 for row in rows for _, std in row.accuracy.values())
    lines = (scripts.parent / "presets" / "reported" / f"{name}.yaml").read_text().splitlines()
    numbers = [line for line in lines if line.strip().startswith(("accuracy:", "teacher_accuracy:"))]
    assert len(numbers) >= len(rows) and all("# source: " in line for line in numbers)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([{"method": "x"}], "result 1: the fields must be"),
        ([{"accuracy": {1: [150]}}], "percents from 0 to 100. Got 150"),
        ([{"accuracy": {1: [1, 2, 3]}}], "mean, standard deviation"),
        ([{"accuracy": 81}], "result 1: accuracy must be `images per class: .* Got 81"),
        (None, "must have `source:` and a list of `results:`, and may have `notes:`. Got "),
    ],
)
def test_a_bad_file_of_reported_numbers_names_the_row(tmp_path, results, words):
    row = {"method": "x", "where": "T", "dataset": "d", "student": "s", "protocol": None, "labels": "hard"}
    entries = results and [{**row, **each} if "accuracy" in each else each for each in results]
    (tmp_path / "mine.yaml").write_text(json.dumps({"source": "s", "results": entries}))
    with pytest.raises(ValueError, match=words):
        load_reported(str(tmp_path / "mine.yaml"))
    with pytest.raises(ValueError, match=r"one of \['igds', 'infoutil'\]"):
        load_reported("rded")


# Files


HOSTILE = "=a|b`c`\n../<img src=x> $x$ _y_"


def test_hostile_names_break_neither_tables_nor_csv_nor_file_names(tmp_path):
    names = dict.fromkeys(("dataset", "method", "student", "labels", "protocol", "teacher_model", "teacher"), HOSTILE)
    run = write(tmp_path / "a", record(**names), record(**{**names, "student": "_b"}))
    text = run_compare(tmp_path / "out", run)
    table = rows_of("\n".join(line for line in text.splitlines() if line.startswith("| ")).split("\n| teacher")[0])
    assert {len(row) for row in table} == {4}
    assert "<img" not in text.replace("\\<img", "")
    files = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")]
    assert sorted(path.split("/")[0] for path in files) == ["compare.csv", "compare.md", *["figures"] * 3]
    assert all(re.fullmatch(r"(figures/)?[A-Za-z0-9.-]+", path) for path in files)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "compare.csv").read_text())))
    assert [row["method"] for row in rows] == ["'" + HOSTILE] * 2


def test_escaped_text_is_one_line_and_a_table_has_as_many_cells_as_it_was_given():
    assert escape_markdown("a|b\n`c`") == "a\\|b \\`c\\`"
    assert rows_of(markdown_table([["x", "y"], ["1|2", "`"]])) == [["x", "y"], ["1\\|2", "\\`"]]


def test_the_csv_holds_every_record_and_reads_back():
    ranking = {"hlr": -0.05, "ior": 0.1, "lrs": 0.4, "real_accuracy": None, "note": "@note"}
    first = record(0.5, 0.6, baseline=measured(0.4, config_hash="base"), dd_ranking=ranking, overrides={"epochs": 3})
    old = {key: value for key, value in record().items() if key not in ("task", "teacher_model", "baseline")}
    rows = list(csv.DictReader(io.StringIO(format_csv([first, old]))))
    assert len(rows) == 2 and rows[0].keys() == rows[1].keys()
    assert (float(rows[0]["accuracy_mean"]), json.loads(rows[0]["accuracies"])) == (0.55, [0.5, 0.6])
    assert (json.loads(rows[0]["overrides"]), float(rows[0]["baseline_accuracy_mean"])) == ({"epochs": 3}, 0.4)
    assert (rows[0]["dd_ranking_hlr"], rows[0]["dd_ranking_note"]) == ("-0.05", "'@note")
    assert rows[1]["teacher_model"] == rows[1]["baseline_seeds"] == ""


def colours(path):
    return {tuple(colour) for colour in np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).tolist()}


def test_curves_are_drawn_over_ipc(tmp_path):
    records = [
        record(0.3 + ipc / 200, 0.31 + ipc / 200, ipc=ipc, method=m) for m in ("infoutil", "rded") for ipc in (1, 50)
    ]
    save_accuracy_curves(tmp_path / "two.png", series_of(records), "convnet3", "title", {"theirs": {1: (0.4, None)}})
    save_accuracy_curves(tmp_path / "one.png", series_of([record(0.5, 0.6)]), "convnet3", "title")
    for name in ("two.png", "one.png"):
        picture = Image.open(tmp_path / name)
        assert picture.format == "PNG" and picture.size == (1080, 552)
    blue, orange = (0, 114, 178), (213, 94, 0)
    assert {blue, orange} <= colours(tmp_path / "two.png")
    assert blue in colours(tmp_path / "one.png") and orange not in colours(tmp_path / "one.png")


def test_heat_maps_have_a_panel_per_ipc(tmp_path):
    records = [record(0.4, ipc=ipc, student=name) for ipc in (1, 10) for name in ("convnet3", "vgg11")]
    save_matrices(tmp_path / "two.png", matrices(records)["InfoUtil"], "InfoUtil", "title")
    picture = Image.open(tmp_path / "two.png")
    assert picture.format == "PNG" and 500 < picture.width < 2000 and 200 < picture.height < 800


def test_other_files_in_the_folder_stay_and_a_foreign_compare_md_is_not_touched(tmp_path):
    run, out = write(tmp_path / "a", record()), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    run_compare(out, run)
    first = (out / "compare.md").read_text()
    run_compare(out, run)
    assert (out / "compare.md").read_text() == first and (out / "notes.txt").read_text() == "mine"
    links = re.findall(r"\]\((figures/[^)]+)\)", first)
    assert links and all((out / link).is_file() for link in links)
    (out / "compare.md").write_text("# My thesis")
    with pytest.raises(ValueError, match="a compare.md that decoct did not write"):
        run_compare(out, run)
    assert (out / "compare.md").read_text() == "# My thesis"


# The command


def test_two_runs_end_to_end(tmp_path, scripts):
    base = measured(0.4, 0.42, config_hash="base")
    ranking = {"hlr": 0.3, "ior": 0.1, "lrs": 0.45, "real_accuracy": 0.825, "note": ""}
    full = record(0.5, 0.52, baseline=base, dd_ranking=ranking)
    write(tmp_path / "runs" / "a", full, record(0.6, labels="hard", epoch="best"))
    write(tmp_path / "runs" / "b", record(0.3, 0.31, method="rded", baseline=base))
    (tmp_path / "runs" / "teacher").mkdir()
    words = [sys.executable, "-m", "decoct.cli", "compare", "runs/a", "runs/b", "runs/teacher"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert result.returncode == 0, result.stderr
    document = (tmp_path / "runs" / "comparison" / "compare.md").read_text()
    for text in (result.stdout, document):
        assert "## uoft-cs/cifar10: protocol rded_kd, hard labels, BEST epoch on the test set" in text
        assert "## uoft-cs/cifar10: protocol rded_kd, online labels, last epoch" in text
        assert "51.0 ± 1.4 (2)" in text and "teacher runs/teacher (82.5 %); seeds 0, 1; last epoch." in text
        assert "InfoUtil beats random images (51.0 against 41.0; 2 and 2 seeds; +10.0 points, 95 % interval" in text
        assert "RDED is beaten by random images (" in text and "; -10.5 points, 95 % interval" in text
        assert "was not compared with random images: turned off by --no" in text
        assert "| 0.300 | 0.100 | 0.450 | 82.5" in text
        assert "they hold no results (decoct evaluate makes them): runs/teacher." in text
    assert len(list((tmp_path / "runs" / "comparison" / "figures").glob("accuracy-*.png"))) == 2


def test_help_shows_commands_to_paste_and_errors_are_one_line(tmp_path, scripts):
    def script(*words):
        command = [sys.executable, str(scripts / "compare.py"), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    shown = script("--help")
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("decoct compare runs/*", "--runs", "--reported", "--output_dir"))
    missing = script("--runs", "missing", "--output_dir", "out")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1) and "'missing'" in missing.stderr
    none = script()
    assert none.returncode == 2 and "runs must be one or more run folders" in none.stderr
