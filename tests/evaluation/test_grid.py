"""Grids of sets and students: files, cells, what is measured already, and tiny grids end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from worlds import draw_no_pictures

from decoct.evaluation.grid import agrees, known_of
from decoct.evaluation.grid_file import GridFile, Variant, read_grid, varied
from decoct.evaluation.sweep import Inputs, Sweep, cells_of, part_of
from decoct.files import read_json
from decoct.training.protocols import load_protocol

RUNS = Path("runs")
GRIDS = Path(__file__).parents[2] / "benchmarks" / "grids.py"
GRID = """
records: "{dataset}.json"
fields: {stage: try}
seeds: [0, 1]
students: [convnet3_w8]
labels: [hard]
distil: {candidates_per_class: 8, coalitions: 30, batch_size: 16}
evaluate: {epochs: 1}
ipc: [2]
sets:
  random: {method: random}
  "windows, {utility_order}":
    {method: infoutil, crop_fraction: 0.5, selection: top, vary: {utility_order: [highest, lowest]}}
  windows, early labels: {method: infoutil, crop_fraction: 0.5, selection: top, label_teacher: epoch_2}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    draw_no_pictures(monkeypatch)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "try.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture
def inputs(sample_part, trained_teacher) -> Inputs:
    return Inputs(str(sample_part), str(trained_teacher))


def grid_of(path: Path, text: str, **vary: Any) -> GridFile:
    path.write_text(f"records: records.json\n{text}")
    return read_grid(path, vary)


# Files


def test_varied_options_stand_for_all_combinations(file):
    grid = grid_of(
        file,
        'sets: {"{method} {views} {beta:g}": {label_bits: 4, vary: {method: [igds], views: [1, 2], beta: [0, 0.5]}}}',
    )
    assert [variant.name for variant in grid.sets] == ["igds 1 0", "igds 1 0.5", "igds 2 0", "igds 2 0.5"]
    assert grid.sets[1].options == {"label_bits": 4, "method": "igds", "views": 1, "beta": 0.5}
    fewer = read_grid(file, {"beta": [3]})
    assert [variant.name for variant in fewer.sets] == ["igds 1 3", "igds 2 3"]


def test_one_at_a_time_leaves_the_others_as_they_are(file):
    text = """
sets: {random: {method: random}}
training:
  own: {}
  "{option} {value:g}": {epochs: 5, one_at_a_time: {ema_decay: [0.0, 0.9], epochs: [7]}}
"""
    found = {variant.name: variant.options for variant in grid_of(file, text).training}
    assert found == {
        "own": {},
        "ema decay 0": {"epochs": 5, "ema_decay": 0.0},
        "ema decay 0.9": {"epochs": 5, "ema_decay": 0.9},
        "epochs 7": {"epochs": 7},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sets: {random: {methods: random}}", r"sets of .* must have options among .*Got \['methods'\]"),
        ("sets: {a: {method: igds, vary: {betas: [1]}}}", r"Got \['betas'\]"),
        ("sets: {a: {}}\ntraining: {a: {momenta: 1}}", r"training of .*Got \['momenta'\]"),
        ("sets: {a: {}}\nseed: 1", "no keys but .*Got .*'seed'"),
        ("", "must have records and sets"),
    ],
)
def test_files_that_are_no_grids_are_refused(file, text, message):
    with pytest.raises(ValueError, match=message):
        grid_of(file, text)


def test_values_of_options_that_are_not_varied_are_refused(file):
    with pytest.raises(ValueError, match=r"vary must name options .*'utility_order'.*Got \['beta'\]"):
        read_grid(file, {"beta": [1]})


def test_a_varied_protocol_keeps_its_name_and_its_other_fields():
    protocol = load_protocol("strong_kd")
    assert varied(protocol, {}) == protocol
    changed = varied(protocol, {"batch_factor": 0.4, "learning_rate_factor": 2.0, "betas": [0.5, 0.9]})
    assert changed.batch_sizes == {1: 4, 10: 10, 50: 20} and changed.learning_rate == 2 * protocol.learning_rate
    assert changed.learning_rates["vgg11"] == 2 * protocol.learning_rates["vgg11"] and changed.betas == (0.5, 0.9)
    assert changed.matrix_learning_rate == 2 * protocol.matrix_learning_rate
    same = {"batch_sizes": protocol.batch_sizes, "learning_rate": 0.001, "learning_rates": protocol.learning_rates}
    same["matrix_learning_rate"] = protocol.matrix_learning_rate
    assert dataclasses.replace(changed, betas=protocol.betas, **same) == protocol
    epochs, steps = varied(protocol, {"epochs": 300}), varied(load_protocol("rded_kd"), {"steps": {1: 20}})
    assert (epochs.epochs, epochs.steps, steps.epochs, steps.steps) == (300, None, None, {1: 20})
    with pytest.raises(ValueError, match="ema_decay of protocol 'strong_kd'"):
        varied(protocol, {"ema_decay": 2.0})


# Cells


def test_cells_go_seed_by_seed_and_share_sets(file, inputs):
    grid = dataclasses.replace(read_grid(file), ipc=[1, 2], labels=["hard", "online"])
    cells = cells_of(grid, inputs, RUNS)
    assert [cell.seed for cell in cells] == [0] * 16 + [1] * 16
    assert len({cell.evaluate.distilled for cell in cells}) == 2 * 2 * 4
    assert all(cell.distil.output_dir == cell.evaluate.distilled and cell.distil.ipc == [cell.ipc] for cell in cells)
    names = [(cell.ipc, cell.identity["setting"], cell.identity["labels"]) for cell in cells[:4]]
    assert names == [
        (1, "random", "hard"),
        (1, "random", "online"),
        *[(1, "windows, highest", mode) for mode in ("hard", "online")],
    ]
    assert {cell.epochs(4) for cell in cells} == {1} and {cell.identity["stage"] for cell in cells} == {"try"}


def test_a_cell_states_how_its_student_is_trained_whether_the_file_does_or_not(file, inputs):
    grid = dataclasses.replace(read_grid(file), distil={"mixed_precision": "bf16"}, evaluate={})
    known = {"epochs": 300, "mixed_precision": "no", "eval_split": "test"}
    for cell in cells_of(grid, inputs, RUNS):
        assert {name: cell.identity[name] for name in known} == known
    stated = {"epochs": 5, "mixed_precision": "bf16", "eval_split": "validation"}
    for cell in cells_of(dataclasses.replace(grid, evaluate=stated), inputs, RUNS):
        assert not any(agrees({name: value}, cell.identity) for name, value in known.items())


def test_a_set_has_what_its_students_need(file, inputs):
    grid = read_grid(file)
    cells = {cell.identity["setting"]: cell for cell in cells_of(grid, inputs, RUNS)}
    assert {cell.distil.views for cell in cells.values()} == {0}
    assert cells["windows, early labels"].distil.label_teacher == [f"{inputs.teacher}/epoch_2"]
    assert cells["windows, early labels"].identity["label_teacher"] == "epoch_2"
    several = Variant("several", {"method": "random", "label_teacher": ["converged", "../other", "user/name"]})
    (cell, *_) = cells_of(dataclasses.replace(grid, sets=[several]), inputs, RUNS)
    assert cell.distil.label_teacher == ["converged", f"{inputs.teacher}/../other", "user/name"]
    stored = {cell.distil.views for cell in cells_of(dataclasses.replace(grid, labels=["views", "hard"]), inputs, RUNS)}
    assert stored == {50}
    given = dataclasses.replace(grid, labels=["views"], sets=[Variant("few", {"method": "random", "views": 3})])
    assert {cell.distil.views for cell in cells_of(given, inputs, RUNS)} == {3}


def test_sampling_has_no_part_in_real_images(file, inputs):
    grid = dataclasses.replace(
        read_grid(file),
        distil={"sampling_steps": 7},
        sets=[Variant("random", {"method": "random"}), Variant("samples", {"method": "igds"}, min_ipc=2)],
        networks=["prior"],
        ipc=[1, 2],
    )
    cells = cells_of(grid, dataclasses.replace(inputs, networks={"prior": "sample"}), RUNS)
    made = {(cell.identity["setting"], cell.ipc): cell.distil for cell in cells}
    assert set(made) == {("random", 1), ("random", 2), ("samples", 2)}
    assert (made["samples", 2].prior, made["samples", 2].sampling_steps) == ("sample", 7)
    assert (made["random", 2].prior, made["random", 2].sampling_steps) == ("runs/prior", 250)


def test_one_seed_can_make_the_sets_of_all_students(file, inputs):
    cells = cells_of(dataclasses.replace(read_grid(file), distil={"seed": 3}), inputs, RUNS)
    assert {cell.distil.seed for cell in cells} == {3} and {cell.seed for cell in cells} == {0, 1}
    assert {cell.stated["distill_seed"] for cell in cells} == {3}
    assert len({cell.evaluate.distilled for cell in cells}) == 4


def test_parts_have_sets_of_their_own_or_share_a_single_one(file, inputs):
    cells = cells_of(dataclasses.replace(read_grid(file), labels=["hard", "online"]), inputs, RUNS)
    parts = [part_of(cells, part, 3) for part in range(3)]
    folders = [{cell.evaluate.distilled for cell in part} for part in parts]
    assert sum(map(len, parts)) == len(cells) and not folders[0] & folders[1] and not folders[1] & folders[2]
    assert [len(part_of(cells[:2], part, 2)) for part in range(2)] == [1, 1]


# What is measured


def test_a_record_counts_where_its_settings_agree():
    record = {"method": "infoutil", "ipc": 10, "setting": "a", "options": {"views": 10}, "teacher": "one"}
    wanted = {"method": "infoutil", "ipc": 10}
    assert agrees(known_of(record), wanted)
    assert agrees(known_of(record), {**wanted, "views": 10, "noise_scale": 2.0, "utility_order": "lowest"})
    for other in ({"ipc": 1}, {"views": 50}, {"noise_scale": 0.0}, {"utility_order": "highest"}, {"setting": "b"}):
        assert not agrees(known_of(record), {**wanted, **other})
    assert agrees(known_of(record), {**wanted, "training": "as it is"})  # from before records stated it
    for split, other in ((None, "validation"), ("validation", "test")):
        assert agrees(known_of({**record, "eval_split": split}), {**wanted, "eval_split": split or "test"})
        assert not agrees(known_of({**record, "eval_split": split}), {**wanted, "eval_split": other})
    mosaic = {"method": "infoutil", "options": {"tiles_per_image": 4}}
    assert agrees(known_of(mosaic), {"crop_fraction": 0.5}) and not agrees(known_of(record), {"crop_fraction": 0.5})


# Runs


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    apart = ("seconds", "distill_seconds")
    shown = [{name: value for name, value in record.items() if name not in apart} for record in records]
    return sorted(shown, key=lambda record: (record["seed"], record["setting"], record["labels"]))


def run(file: Path, inputs: Inputs, folder: Path, records: Path, **options: Any) -> Sweep:
    grid = Sweep(read_grid(file), inputs, folder, records, Accelerator(), **options)
    grid.check()
    grid.fill()
    return grid


def test_a_killed_grid_continues_and_ends_as_if_it_had_not_been(file, inputs, tmp_path, monkeypatch):
    folder, whole = tmp_path / "runs", tmp_path / "whole.json"
    grid = Sweep(read_grid(file), inputs, folder, whole, Accelerator())
    plan = grid.plan()
    assert (plan["students"], plan["done"], plan["sets"]) == (8, 0, 8)
    assert (plan["heatmaps"], plan["scorings"]) == (2, 2)  # one of each seed, for three sets
    assert plan["forward_passes"]["attribution"] == 2 * 4 * 8 * 31 and plan["images_seen"] == 8 * 2 * 4
    assert not folder.exists() and not whole.exists()
    run(file, inputs, folder, whole)
    expected = read_json(whole)
    assert [record["seed"] for record in expected] == [0] * 4 + [1] * 4
    assert {record["eval_split"] for record in expected} == {"test"}  # which the file does not name
    assert len(list(folder.glob("scores/*/*"))) == len(list(folder.glob("heatmaps/*/*"))) == 2

    again, killed = tmp_path / "again", tmp_path / "killed.json"

    class Kill(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if record["seed"] == 1:
            raise Kill

    with pytest.raises(Kill):
        run(file, inputs, again, killed, report=stop)
    assert len(read_json(killed)) == 5
    run(file, inputs, again, killed)
    assert without_times(read_json(killed)) == without_times(expected)

    monkeypatch.setattr("decoct.evaluation.run.train_student", None)
    monkeypatch.setattr("decoct.synthesis.real.score", None)
    run(file, inputs, tmp_path / "nowhere", killed)  # records are enough
    assert not (tmp_path / "nowhere").exists()
    killed.unlink()
    run(file, inputs, again, killed)  # and so are sets and students
    assert without_times(read_json(killed)) == without_times(expected)


def test_parts_and_processes_end_with_the_same_records(file, inputs, tmp_path, launch):
    text = file.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    file.write_text(text)
    records, two = tmp_path / "parts.json", tmp_path / "two.json"
    run(file, inputs, tmp_path / "runs", records, part=(1, 2))
    assert {record["setting"] for record in read_json(records)} == {"windows, highest", "windows, early labels"}
    grid = run(file, inputs, tmp_path / "runs", records, part=(0, 2))
    assert len(grid.own_records()) == 4
    words = [GRIDS, file, "--dataset", inputs.dataset, "--teacher", inputs.teacher, "--output", two]
    done = launch(*words, "--runs", tmp_path / "two", cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    assert without_times(read_json(two)) == without_times(read_json(records))


def test_problems_are_found_before_anything_is_written(file, inputs, tmp_path):
    def check(**changes: Any) -> None:
        grid = dataclasses.replace(read_grid(file), **changes)
        Sweep(grid, inputs, tmp_path / "runs", tmp_path / "records.json", Accelerator()).check()

    check()
    with pytest.raises(ValueError, match="at least 20 candidates"):
        check(ipc=[20])
    with pytest.raises(ValueError, match="minimax_hard.*Got 'online'"):
        check(protocol="minimax_hard", labels=["online"])
    with pytest.raises(ValueError, match="no_such_network"):
        check(students=["no_such_network"])
    with pytest.raises(ValueError, match=r"students must be networks that take images of \d+ px. Got 'convnet6'"):
        check(students=["convnet6"])
    with pytest.raises(ValueError, match="epoch_9"):
        check(sets=[Variant("late", {"method": "random", "label_teacher": "epoch_9"})])
    assert list(tmp_path.iterdir()) == [file]
