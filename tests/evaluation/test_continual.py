import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from worlds import without_times

from decoct.arguments import parse_config
from decoct.config import EvaluateConfig
from decoct.data.loading import load_images
from decoct.data.tensors import PixelDataset
from decoct.distilled.dataset import load_distilled
from decoct.evaluation import continual as module
from decoct.evaluation.continual import SeenImages, SeenLogits, class_order, select_classes, stages
from decoct.evaluation.evaluate import evaluate, format_evaluation, plan_evaluate
from decoct.models.accuracy import accuracy
from decoct.models.zoo import build_classifier, load_classifier
from decoct.results.tables import format_students_plan
from decoct.training.protocols import load_protocol
from decoct.training.student import train_student


@pytest.fixture
def config(run_folder, images):
    def make(**changes) -> EvaluateConfig:
        values = {"task": "continual", "distilled": str(run_folder), "dataset": str(images), "ipc": [3]}
        training = {"students": ["convnet3_w8"], "epochs": 2, "steps": 3, "orders": 2, "labels": ["tiles"]}
        training["protocols"] = ["rded_kd"]
        return EvaluateConfig(**{**values, **training, "baseline": False, **changes})

    return make


@pytest.mark.parametrize(
    ("classes", "steps", "sizes"),
    [(10, 5, [2, 4, 6, 8, 10]), (10, 4, [3, 6, 8, 10]), (3, 3, [1, 2, 3]), (3, 1, [3])],
)
def test_classes_arrive_in_groups_of_nearly_one_size(classes, steps, sizes):
    order = class_order(0, 0, classes)
    seen = stages(order, steps)
    assert [len(each) for each in seen] == sizes
    assert all(each == order[: len(each)] for each in seen)


@pytest.mark.parametrize("steps", [0, 4])
def test_steps_must_fit_the_classes(steps):
    with pytest.raises(ValueError, match=rf"steps must be in \[1, 3\].*Got {steps}"):
        stages([0, 1, 2], steps)


def test_class_orders_are_reproducible_and_differ():
    orders = [class_order(0, order, 10) for order in range(5)]
    assert orders == [class_order(0, order, 10) for order in range(5)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({*map(tuple, orders)}) == 5
    assert class_order(1, 0, 10) != orders[0]


def test_the_memory_holds_the_images_and_logits_of_the_classes(run_folder):
    whole = load_distilled(run_folder, 3)
    part = select_classes(whole, [2, 0])
    rows = [row for row, label in enumerate(whole.labels.tolist()) if label in (2, 0)]
    assert part.spec.label_names == ("blue", "red")
    assert part.labels.tolist() == [[2, 0].index(whole.labels[row]) for row in rows]
    assert torch.equal(part.images, whole.images[rows])
    assert torch.equal(part.view_boxes, whole.view_boxes[rows])
    for name in ("tile_logits", "view_logits"):
        logits = getattr(whole, name)
        by_hand = torch.stack([torch.stack([logits[row, :, 2], logits[row, :, 0]], dim=1) for row in rows])
        assert torch.equal(getattr(part, name), by_hand)
    assert (part.ipc, part.tiles_per_image, part.spec.mean) == (3, 4, whole.spec.mean)
    assert whole.spec.label_names == ("red", "green", "blue")


def test_all_classes_in_their_order_are_the_whole_set(run_folder):
    whole = load_distilled(run_folder, 3)
    same = select_classes(whole, [0, 1, 2])
    for field in dataclasses.fields(whole):
        ours, theirs = getattr(same, field.name), getattr(whole, field.name)
        assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs


@pytest.mark.parametrize("classes", [[0, 0], [3], [-1]])
def test_only_classes_of_the_set_can_be_selected(run_folder, classes):
    with pytest.raises(ValueError, match="classes must be different ones below 3"):
        select_classes(load_distilled(run_folder, 1), classes)


def test_the_teacher_knows_only_the_classes_seen(teacher):
    whole = load_classifier(teacher["name"])
    part = SeenLogits(whole, [2, 0])
    pixels = torch.rand(4, 3, 16, 16)
    assert torch.equal(part(pixels), torch.stack([whole(pixels)[:, 2], whole(pixels)[:, 0]], dim=1))
    assert part.spec.label_names == ("blue", "red")
    assert part.name == whole.name


def test_accuracy_is_over_the_classes_seen(images):
    class AlwaysFirst(torch.nn.Module):
        def forward(self, pixels):
            return torch.tensor([1.0, 0.0]).expand(len(pixels), 2)

    kept = [row for row in range(45) if row % 3 != 2 or row < 15]  # 15 red, 15 green, 5 blue
    pixels = PixelDataset(load_images(str(images), "test").select(kept), 16, 3)
    assert len(SeenImages(pixels, [2, 0])) == 20
    assert accuracy(AlwaysFirst(), SeenImages(pixels, [2, 0])) == pytest.approx(5 / 20)
    assert accuracy(AlwaysFirst(), SeenImages(pixels, [0, 2])) == pytest.approx(15 / 20)


def test_the_last_step_is_ordinary_training(config, run_folder, images, monkeypatch):
    monkeypatch.setattr(module, "class_order", lambda seed, order, classes: list(range(classes)))
    (record,) = evaluate(config(orders=1, seed=4, epochs=30, labels=["views"]))
    whole = load_distilled(run_folder, 3)
    student = build_classifier("convnet3_w8", whole.spec, 4)
    train_student(student, whole, load_protocol("rded_kd"), "views", seed=4, epochs=30)
    alone = accuracy(student, PixelDataset(load_images(str(images), "test"), 16, 3))
    assert record["stage_accuracies"][0][-1] == alone
    assert record["stage_accuracies"][0][0] == 1, "one class cannot be mistaken"
    assert alone > 0.4, "the comparison must be with a student that learned"


def test_the_documented_command_has_labels_that_work(run_folder, images):
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    (words,) = re.findall("^decoct evaluate (.*--task continual.*)$", text, re.MULTILINE)
    words = f"{words} --distilled {run_folder} --dataset {images} --steps 3 --epochs 1 --no_baseline"
    rows = plan_evaluate(parse_config(EvaluateConfig, shlex.split(words)))
    assert len(rows) == 2 and all(row["students"] for row in rows)


def test_mixed_labels_are_refused_and_the_error_names_others(config, monkeypatch):
    monkeypatch.setattr("decoct.distilled.dataset.DistilledSet.check_labels", lambda distilled, labels: None)
    with pytest.raises(ValueError, match="(?s)labels must be of .*Got .*'mixed'.*Name others: --labels tiles"):
        plan_evaluate(config(labels=["mixed"], protocols=["strong_kd"]))


def test_one_record_per_setting(config, run_folder, teacher):
    records = evaluate(config(labels=["hard", "tiles", "views", "online"], seed=7))
    assert [record["labels"] for record in records] == ["hard", "tiles", "views", "online"]
    assert json.loads((run_folder / "results.json").read_text()) == records
    assert len({record["config_hash"] for record in records}) == 4
    for record in records:
        assert (record["task"], record["method"], record["epoch"]) == ("continual", "infoutil", "last")
        assert (record["ipc"], record["tiles"], record["steps"], record["seeds"]) == (3, 4, 3, [7, 8])
        assert (record["teacher"], record["teacher_model"]) == (teacher["name"], "convnet3_w8")
        assert 0 <= record["teacher_accuracy"] <= 1
        assert record["overrides"] == {"epochs": 2}
        assert all(sorted(order) == ["blue", "green", "red"] for order in record["orders"])
        first, second = record["stage_accuracies"]
        assert len(first) == len(second) == 3 and first[0] == second[0] == 1
        assert record["accuracies"] == [first[-1], second[-1]]
        assert (record["accuracy_mean"], record["accuracy_std"]) == (record["stage_mean"][-1], record["stage_std"][-1])
        assert record["stage_mean"] == pytest.approx([(a + b) / 2 for a, b in zip(first, second, strict=True)])
        assert record["stage_std"] == pytest.approx([abs(a - b) / 2**0.5 for a, b in zip(first, second, strict=True)])


def test_a_rerun_trains_only_what_is_missing(config, run_folder):
    first = evaluate(config())
    files = sorted((run_folder / "evaluation").glob("continual-*.json"))
    assert len(files) == 6
    files[0].unlink()
    times = {file: file.stat().st_mtime_ns for file in files[1:]}
    again = evaluate(config())
    assert without_times(again) == without_times(first)
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())
    more = evaluate(config(orders=3))
    assert more[0]["stage_accuracies"][:2] == first[0]["stage_accuracies"]
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())
    assert len(json.loads((run_folder / "results.json").read_text())) == 2


def test_dry_run_counts_and_writes_nothing(config, run_folder):
    before = sorted(run_folder.rglob("*"))
    plan = plan_evaluate(config())
    assert sorted(run_folder.rglob("*")) == before
    # Three images a class; 1, 2 and 3 classes; two orders; two epochs.
    assert (plan[0]["students"], plan[0]["images_seen"]) == (6, 3 * (1 + 2 + 3) * 2 * 2)
    assert "6 students to train" in format_students_plan(plan)


def test_the_table_has_a_column_per_stage():
    record = {
        **{"task": "continual", "dataset": "colours", "method": "infoutil", "ipc": 3, "tiles": 4, "steps": 2},
        **{"student": "convnet3"},
        **{"protocol": "rded_kd", "labels": "views", "overrides": {}, "epoch": "last", "orders": [["a"], ["b"]]},
        **{"stage_mean": [0.9, 0.6543], "stage_std": [0.1, 0.02], "accuracies": [[0.83, 0.64], [0.97, 0.67]]},
        **{"seeds": [0, 1], "baseline": None, "baseline_note": "turned off by --no_baseline"},
    }
    text = format_evaluation([record])
    assert "Stage 1" in text and "Stage 2" in text and "Stage 3" not in text
    assert "90.0 ± 10.0" in text and "65.4 ± 2.0" in text
    assert "was not compared with random images: turned off" in text
    both = format_evaluation([record, {**record, "method": "rded", "stage_mean": [0.8, 0.5]}])
    assert both.count("Stage 1") == 1 and "80.0" in both
    # Records from before `results.json` held those of all tasks have the accuracies of all stages under `accuracies`.
    stages = {"stage_accuracies": record["accuracies"], "accuracies": [0.64, 0.67], "accuracy_mean": 0.655}
    assert format_evaluation([{**record, **stages}]) == text
    apart = format_evaluation([record, {**record, "labels": "hard"}, {**record, "overrides": {"epochs": 2}}])
    assert apart.count("Stage 1") == 3


def test_random_images_stand_beside_the_set(config, run_folder, images):
    (alone,) = evaluate(config(seed=3))
    files = sorted((run_folder / "evaluation").glob("continual-*"))
    times = [file.stat().st_mtime_ns for file in files]
    plan = plan_evaluate(config(seed=3, baseline=True))
    assert [(row["students"], row["done"]) for row in plan] == [(0, 6), (6, 0)]
    (record,) = evaluate(config(seed=3, baseline=True))
    assert [file.stat().st_mtime_ns for file in files] == times, "the set's students are not trained again"
    for name in ("accuracies", "stage_mean", "config_hash"):
        assert record[name] == alone[name]
    assert (alone["baseline"], alone["baseline_note"]) == (None, "turned off by --no_baseline")
    assert json.loads((run_folder / "results.json").read_text()) == [record]
    # The student of an order learns from its own draw, in the set's order of classes.
    (folder,) = run_folder.parent.glob("random-*")
    (draw,) = folder.glob("ipc_3-draw_4-*")
    order = class_order(3, 1, 3)[:2]
    memory = select_classes(load_distilled(draw, 3), order)
    student = build_classifier("convnet3_w8", memory.spec, 4)
    train_student(student, memory, load_protocol("rded_kd"), "tiles", seed=4, epochs=2)
    expected = accuracy(student, SeenImages(PixelDataset(load_images(str(images), "test"), 16, 3), order))
    assert record["baseline"]["stage_accuracies"][1][1] == expected
    text = format_evaluation([record])
    assert "\nrandom images  4" in text
    assert "all classes: InfoUtil is" in text and "random images" in text.splitlines()[-1]
    assert [row["students"] for row in plan_evaluate(config(seed=3, baseline=True))] == [0, 0]


def test_clear_errors_before_any_training(config, run_folder, make_images, make_run, teacher):
    with pytest.raises(ValueError, match=r"steps must be in \[1, 3\]"):
        evaluate(config(steps=4))
    with pytest.raises(ValueError, match="epoch must be 'last'"):
        evaluate(config(epoch="best"))
    with pytest.raises(ValueError, match="another order"):
        evaluate(config(dataset=str(make_images("swapped", ["green", "red", "blue"]))))
    with pytest.raises(ValueError, match="--views"):
        evaluate(config(distilled=str(make_run("bare", [3], teacher, views=0)), labels=["views"]))
    with pytest.raises(ValueError, match=r"(?s)'online'.*--teacher"):
        evaluate(config(distilled=str(make_run("unnamed", [3], None)), labels=["online"]))
    assert not (run_folder / "evaluation").exists()
