"""Stored logits beside those of a teacher, and where mixed views lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from decoct.config import DistillConfig, VerifyConfig
from decoct.files import read_json
from decoct.hub.labels import largest
from decoct.hub.verify import Report, verify
from decoct.synthesis.distill import distill


@pytest.fixture(scope="module")
def made(once, sample_part, trained_teacher):
    """Sets of all kinds of stored logits, by name."""

    def make(folder: Path) -> None:
        shared = {"dataset": str(sample_part), "teacher": str(trained_teacher), "method": "random", "slots": 6}
        for name, options in {
            "eight bits": {"label_bits": 8, "views": 2, "ipc": [1, 2]},
            "four bits": {"label_bits": 4, "tiles_per_image": 4, "ipc": [2]},
            "largest": {"label_bits": 8, "label_top_k": 2, "label_teacher": ["early", "converged"], "ipc": [2]},
        }.items():
            distill(DistillConfig(output_dir=str(folder / name), **shared, **options))

    return once("labels-to-verify", make)


def check(folder: Path, *teachers: Path) -> Report:
    return verify(VerifyConfig(source=str(folder), teacher=list(map(str, teachers))))


def test_the_teacher_that_labelled_says_what_is_stored(made, trained_teacher):
    both = trained_teacher, trained_teacher / "epoch_2"
    for name, teachers, kinds in (
        ("eight bits", both, 6),  # the early one has no part in it
        ("four bits", both[:1], 2),
        ("largest", both[::-1], 2),
    ):
        report = check(made / name, *teachers)
        assert report.ok and report.checked[-1] == "teacher", str(report)
        assert len(report.measured) == kinds and all("largest error" in line for line in report.measured)
    line = next(line for line in check(made / "eight bits", both[0]).measured if "slot_codes" in line)
    assert float(line.split("(")[1].split()[0]) <= 0.6, "steps of the quantisation"


@pytest.mark.parametrize("name", ["eight bits", "four bits", "largest"])
def test_another_teacher_is_told_by_a_row_and_a_slot(name, made, trained_teacher):
    report = check(made / name, trained_teacher / "epoch_4")
    assert not report.ok and {problem.check for problem in report.problems} == {"teacher"}
    (line,) = [str(problem) for problem in report.problems if "ipc_2" in str(problem) and "slot_codes" in str(problem)]
    assert "data/ipc_2: slot_codes at row " in line and ", slot " in line and "epoch_4 says: off by " in line


def test_a_sample_can_be_all_of_them(made, trained_teacher):
    """And says what share it is; a teacher that differs in one label is then told for certain."""
    folder = made / "four bits"
    few = verify(VerifyConfig(source=str(folder), teacher=[str(trained_teacher)], sample=5))
    every = verify(VerifyConfig(source=str(folder), teacher=[str(trained_teacher)], sample=1000))
    assert few.ok and every.ok
    for report, counts in ((few, ("5 of 32", "5 of 48")), (every, ("32 of 32", "48 of 48"))):
        for line, column, count in zip(report.measured, ("tile_logits", "slot_codes"), counts, strict=True):
            assert f"{column}: {count} labels" in line
    with pytest.raises(ValueError, match="sample must be at least 1. Got 0"):
        VerifyConfig(source="x", sample=0)


def test_the_largest_error_is_that_of_all_labels_not_of_the_most_doubtful_one():
    stored = torch.tensor([[4.0, 0.0], [0.1, 0.0]])
    steps, teacher = torch.tensor([8.0, 0.1]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    found = largest(stored, teacher, steps, torch.zeros(2), torch.tensor([3, 5]), torch.tensor([1, 2]), "slot")
    assert (found.place, found.error) == ("row 5, slot 2", pytest.approx(0.05)) and found.ok
    assert (found.largest, found.largest_steps) == (2.0, pytest.approx(0.5))


@pytest.mark.parametrize(("key", "value"), [("image_size", 5 * 10**9), ("ipcs", [10**23])])
def test_a_manifest_of_absurd_sizes_is_a_problem_and_no_traceback(made, tmp_path, key, value):
    shutil.copytree(made / "four bits", tmp_path / "set")
    manifest = read_json(tmp_path / "set" / "manifest.json")
    (tmp_path / "set" / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    report = check(tmp_path / "set")
    assert not report.ok and report.problems and "views" not in report.checked


def test_without_a_teacher_nothing_is_compared(made, trained_teacher, sample_part):
    report = check(made / "eight bits")
    assert report.ok and "teacher" not in report.checked and report.measured == []
    assert "  teacher   not checked" in str(report)


def test_a_teacher_whose_classes_go_by_other_names_is_restricted_as_when_it_labelled(
    sample_part, trained_teacher, tmp_path
):
    renamed = Path(shutil.copytree(trained_teacher, tmp_path / "renamed"))
    config = json.loads((renamed / "config.json").read_text())
    names = {label: f"the {name}" for label, name in config["id2label"].items()}
    config |= {"id2label": names, "label2id": {name: int(label) for label, name in names.items()}}
    (renamed / "config.json").write_text(json.dumps(config))
    label_map = tmp_path / "map.json"
    label_map.write_text(json.dumps({name.removeprefix("the "): name for name in names.values()}))
    shared = {"dataset": str(sample_part), "method": "random", "slots": 6, "label_map": str(label_map)}
    distill(DistillConfig(teacher=str(renamed), output_dir=str(tmp_path / "set"), ipc=[1], **shared))
    report = check(tmp_path / "set", renamed)
    assert report.ok and report.checked[-1] == "teacher" and report.measured, str(report)


def test_teachers_of_other_images_are_refused(made, tmp_path):
    from worlds import write_teacher

    write_teacher(tmp_path / "other")
    wanted = "^teacher must have the set's classes, T-shirt/top, .* Got .*other with red, green, blue"
    with pytest.raises(ValueError, match=wanted):
        check(made / "eight bits", tmp_path / "other")


@pytest.mark.parametrize("change", [{"seed": 1}, {"view_scale": 0.09}])
def test_a_manifest_that_moves_the_mixed_views_is_noticed(change, made, tmp_path):
    folder = Path(shutil.copytree(made / "four bits", tmp_path / "run"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"] |= change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = [each for each in check(folder).problems if each.check == "views"]
    assert "seed and view_scale give mixed views" in str(problem) and manifest["mixed_views"]["2"] in str(problem)


@pytest.mark.parametrize(("row", "words"), [
    ([1, 1], "are not different ones in rising order: row 3"),
    ([2, 0], "are not different ones in rising order: row 3"),
    ([0, 9], "a class of a mixed view's logits is not one of the 4: row 3"),
])  # fmt: skip
def test_classes_of_the_largest_logits_are_checked(row, words, made, tmp_path):
    from .test_verify import change_rows

    folder = Path(shutil.copytree(made / "largest", tmp_path / "run"))
    name = next(path.relative_to(folder).as_posix() for path in folder.glob("data/ipc_2/*.parquet"))

    def change(columns):
        columns["slot_classes"][3] = [row, *columns["slot_classes"][3][1:]]

    change_rows(folder, change, name)
    assert words in str(check(folder))


def test_the_logit_that_the_other_classes_share_is_compared_too(made, trained_teacher, tmp_path):
    from .test_verify import change_rows

    folder = Path(shutil.copytree(made / "largest", tmp_path / "run"))
    name = next(path.relative_to(folder).as_posix() for path in folder.glob("data/ipc_2/*.parquet"))
    teachers = [str(trained_teacher), str(trained_teacher / "epoch_2")]
    every = VerifyConfig(source=str(folder), teacher=teachers, sample=1000)
    assert verify(every).ok

    def change(columns):
        columns["slot_rest"][3][1] = [columns["slot_rest"][3][1][0] + 1]

    change_rows(folder, change, name)
    (problem,) = verify(every).problems
    assert "slot_codes at row 3, slot 1 is not what" in str(problem)
