"""Validation images are nowhere but where choices look: not in a teacher's training, a set, or random images beside."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import pytest
from datasets import load_dataset

from decoct.config import EvaluateConfig, TeacherConfig
from decoct.data.loading import load_split
from decoct.evaluation.evaluate import evaluate
from decoct.files import read_json
from decoct.pages.printed import teacher_report
from decoct.run.folder import write_json
from decoct.synthesis.distill import distill, plan_distill
from decoct.training.teacher import train_teacher


@pytest.fixture(scope="module")
def cautious(once, sample_part):
    """A teacher trained for two epochs with half of the images held out."""

    def train(folder):
        config = TeacherConfig(
            **{"dataset": str(sample_part), "validation_fraction": 0.5, "model": "convnet3_w8", "epochs": 2},
            **{"save_epochs": [1], "batch_size": 16, "output_dir": str(folder)},
        )
        train_teacher(config)

    return once("cautious", train)


@pytest.fixture
def config(config):
    """Teachers of two epochs are hardly better than chance."""
    return partial(config, allow_weak_teacher=True)


@pytest.fixture
def held_out(cautious, sample_part):
    config = TeacherConfig(dataset=str(sample_part), validation_fraction=0.5)
    return set(load_split(config, "held_out")["source_index"][:])


def sources(folder, ipc):
    rows = load_dataset(str(folder), f"ipc_{ipc}", split="train")
    return {tile["source_index"] for tiles in rows["tiles"] for tile in tiles}


@pytest.mark.parametrize("teacher", ["", "epoch_1"])
def test_a_set_and_random_images_are_made_without_what_was_held_out_of_the_teacher(
    config, cautious, held_out, tmp_path, teacher
):
    made = config(
        teacher=str(cautious / teacher),
        allow_weak_teacher=True,
        ipc=[6],
        candidates_per_class=0,
        method="k_center",
        slots=2,
    )
    manifest = distill(made)
    assert manifest["config"]["validation_fraction"] == 0.5
    assert manifest["candidates"] == len(held_out) == 48
    assert not sources(made.output_dir, 6) & held_out
    if not teacher:
        evaluate(
            EvaluateConfig(
                **{"distilled": made.output_dir, "dataset": made.dataset, "eval_split": "held_out", "epochs": 1},
                **{"students": ["convnet3_w8"], "labels": ["views"], "protocols": ["rded_kd"], "ranking": False},
            )
        )
        (draw,) = tmp_path.glob("random-*/ipc_6-*")
        assert not sources(draw, 6) & held_out
        (record,) = read_json(tmp_path / "run/results.json")
        assert record["eval_split"] == "held_out"


def test_the_teacher_is_measured_on_what_is_held_out(cautious, held_out):
    record = read_json(cautious / "training.json")
    assert record["accuracy"] * len(held_out) == pytest.approx(round(record["accuracy"] * len(held_out)))
    assert (record["config"]["validation_fraction"], record["config"]["eval_split"]) == (0.5, "held_out")
    assert "on validation images, held out of the training split" in teacher_report(record, "teacher")
    record["config"]["eval_split"] = None
    assert "on real test images" in teacher_report(record, "teacher")


def test_another_share_than_the_teachers_is_refused(config, cautious, trained_teacher):
    with pytest.raises(ValueError, match=r"validation_fraction must be 0\.5, the share .* trained\. Got 0\.1"):
        plan_distill(config(teacher=str(cautious), allow_weak_teacher=True, validation_fraction=0.1))
    with pytest.raises(ValueError, match=r"validation_fraction must be 0, the share .* trained\. Got 0\.1"):
        plan_distill(config(teacher=str(trained_teacher), validation_fraction=0.1))


def test_no_other_network_has_seen_what_is_held_out(config, cautious, trained_teacher):
    with pytest.raises(ValueError, match=r"label_teacher must be trained with .* 0\.5.*trained with 0"):
        plan_distill(config(teacher=str(cautious), label_teacher=str(trained_teacher)))
    asked = {"teacher": str(cautious), "method": "igds", "prior": "sample", "estimator": str(trained_teacher)}
    with pytest.raises(ValueError, match=r"estimator must be trained with --validation_fraction 0\.5"):
        plan_distill(config(**asked))


def test_a_teacher_that_labels_online_has_not_seen_them_either(config, cautious, trained_teacher):
    made = config(teacher=str(cautious), ipc=[1], method="random")
    distill(made)
    asked = {"distilled": made.output_dir, "dataset": made.dataset, "labels": ["online"], "eval_split": "held_out"}
    with pytest.raises(ValueError, match=r"teacher must be trained with --validation_fraction 0\.5"):
        evaluate(EvaluateConfig(**asked, teacher=str(trained_teacher)))


def test_of_other_images_others_are_held_out(config, cautious):
    with pytest.raises(ValueError, match=r"must be those that .*cautious was trained on.*--train_split"):
        plan_distill(config(teacher=str(cautious), train_split="train[:80%]"))


def test_another_share_than_the_sets_is_refused(config, cautious, tmp_path):
    made = config(teacher=str(cautious), allow_weak_teacher=True, ipc=[1], method="random")
    distill(made)
    asked = EvaluateConfig(distilled=made.output_dir, dataset=made.dataset, eval_split="held_out")
    with pytest.raises(ValueError, match=r"validation_fraction must be 0\.5, the share held out when the set"):
        evaluate(dataclasses.replace(asked, validation_fraction=0.1))


def test_a_teacher_without_a_record_is_taken_at_its_word(config, cautious, tmp_path):
    teacher = tmp_path / "published"
    teacher.mkdir()
    for file in cautious.iterdir():
        if file.suffix in (".safetensors", ".py") or file.name == "config.json":
            (teacher / file.name).write_bytes(file.read_bytes())
    assert (
        plan_distill(
            config(teacher=str(teacher), allow_weak_teacher=True, validation_fraction=0.5, candidates_per_class=0)
        )["candidates"]
        == 48
    )
    assert (
        plan_distill(config(teacher=str(teacher), allow_weak_teacher=True, candidates_per_class=0))["candidates"] == 96
    )
    write_json(teacher / "training.json", json.loads((cautious / "training.json").read_text()))
    assert (
        plan_distill(config(teacher=str(teacher), allow_weak_teacher=True, candidates_per_class=0))["candidates"] == 48
    )
