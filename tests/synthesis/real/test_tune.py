"""Choosing the selection of each IPC by short trainings on validation images."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from datasets import load_dataset

import decoct
from decoct.config import DistillConfig, TeacherConfig
from decoct.pages.describe import describe
from decoct.synthesis import tune as tuning
from decoct.synthesis.distill import distill, plan_distill
from decoct.synthesis.tune import SELECTIONS, best_of, plan_trials, steps_of, too_short, tuning_budget
from decoct.training.teacher import train_teacher


@pytest.fixture(scope="module")
def cautious(once, sample_part):
    def train(folder):
        config = TeacherConfig(
            **{"dataset": str(sample_part), "validation_fraction": 0.25, "model": "convnet3_w8", "epochs": 2},
            **{"batch_size": 16, "output_dir": str(folder)},
        )
        train_teacher(config)

    return once("cautious-quarter", train)


@pytest.fixture
def config(config):
    """Teachers of two epochs are hardly better than chance."""
    return partial(config, allow_weak_teacher=True)


@pytest.fixture
def tuned(config, cautious):
    return config(teacher=str(cautious), tune=True, tune_budget=1.0, views=0, slots=2)


def chosen_rows(folder, ipc):
    rows = load_dataset(str(folder), f"ipc_{ipc}", split="train")
    return [tile["source_index"] for tiles in rows["tiles"] for tile in tiles]


def test_each_ipc_has_the_selection_whose_students_were_best(tuned, config, cautious, tmp_path, monkeypatch):
    wanted = {1: "random images", 3: "coverage of all"}
    seen = []

    def measure(trials, scores, candidates, validation, *rest):
        seen.append((len(validation), [(trial.ipc, trial.selection) for trial in trials]))
        return {ipc: {name: float(name == wanted[ipc]) for name in SELECTIONS} for ipc in (1, 3)}

    monkeypatch.setattr("decoct.synthesis.real.run_trials", measure)
    manifest = distill(tuned)
    assert seen == [(24, [(ipc, name) for ipc in (1, 3) for name in SELECTIONS])]
    assert {ipc: each["selection"] for ipc, each in manifest["tuned"].items()} == {"1": wanted[1], "3": wanted[3]}
    options = {"teacher": str(cautious), "views": 0, "slots": 2, "output_dir": str(tmp_path / "by_hand")}
    distill(config(**options, ipc=[3], **SELECTIONS["coverage of all"]))
    assert chosen_rows(tuned.output_dir, 3) == chosen_rows(tmp_path / "by_hand", 3)


def test_students_are_trained_on_what_is_tried_and_measured_on_validation_images(tuned, monkeypatch):
    trained = []
    train_student = tuning.train_student

    def train(student, images, *rest, **options):
        trained.append((images.ipc, len(images), options["epochs"]))
        return train_student(student, images, *rest, **{**options, "epochs": 1})

    monkeypatch.setattr(tuning, "train_student", train)
    manifest = distill(tuned)
    assert len(trained) == 2 * len(SELECTIONS)
    assert {(ipc, images) for ipc, images, _ in trained} == {(1, 4), (3, 12)}
    for each in manifest["tuned"].values():
        assert set(each["tried"]) == set(SELECTIONS)
        assert all(accuracy * 24 == pytest.approx(round(accuracy * 24)) for accuracy in each["tried"].values())
        assert each["selection"] == best_of(each["tried"], 24)


def test_a_rerun_takes_up_the_students_that_are_trained(tuned, monkeypatch):
    train_student, left = tuning.train_student, [4]

    def train(student, *rest, **options):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return train_student(student, *rest, **{**options, "epochs": 1})

    monkeypatch.setattr(tuning, "train_student", train)
    with pytest.raises(KeyboardInterrupt):
        distill(tuned)
    left[0] = 2 * len(SELECTIONS) - 4
    distill(tuned)
    assert left[0] == 0


def test_all_trials_together_see_what_the_budget_allows(cautious, config):
    trials = plan_trials([1, 10], classes=10, budget=2 * len(SELECTIONS) * (4 * 10_000 + 500), validation=500)
    assert {(trial.ipc, trial.epochs) for trial in trials} == {(1, 1000), (10, 100)}, "and each is measured"
    assert steps_of(trials, 10) == {1: 1000, 10: 400}
    assert {trial.epochs for trial in plan_trials([1], 10, 10**9, 500)} == {3000}  # as long as the protocol trains
    assert {trial.epochs for trial in plan_trials([1, 10], 10, 1, 500)} == {1}
    plan = plan_distill(config(teacher=str(cautious), tune=True, tune_budget=1.0))
    assert plan["tuning"]["students"] == 2 * len(SELECTIONS)
    assert plan["tuning"]["share_of_the_teachers_training"] > 1.0, "an epoch each, where the budget has no more"
    assert plan["tuning"]["steps"] == {"1": 1, "3": 1} and "--tune_budget" in plan["tuning"]["note"]


def test_too_short_trainings_are_named_with_the_remedy(tuned, caplog):
    long = plan_trials([1, 10], 10, 10**9, 500)
    assert too_short(long, 10) == ""
    assert "10 of 3,000 at IPC 1)" in too_short([*plan_trials([1], 10, len(SELECTIONS) * 400, 0), long[-1]], 10)
    distill(tuned)
    (warning,) = [each.message for each in caplog.records if "tune" in each.message]
    assert "1 of 3,000 at IPC 1" in warning and "raise --tune_budget" in warning


def test_the_budget_is_a_share_of_the_teachers_training(cautious, trained_teacher):
    from decoct.models.zoo import load_classifier

    assert tuning_budget(0.1, load_classifier(cautious), 72) == round(0.3 * 2 * 72)
    assert tuning_budget(0.1, load_classifier(trained_teacher / "epoch_2"), 96) == round(0.3 * 6 * 96)
    in_memory = load_classifier(cautious)
    in_memory.name = "user/teacher"
    assert tuning_budget(0.1, in_memory, 100) == round(0.3 * TeacherConfig.epochs * 100)


def test_the_default_stays_unless_it_is_beaten_by_a_standard_error():
    default = "k-center of the easiest 3x"
    assert SELECTIONS[default] == {"selection": "k_center", "utility_order": "lowest", "pool_factor": 3.0}
    usual = DistillConfig()
    assert {name: getattr(usual, name) for name in SELECTIONS[default]} == SELECTIONS[default]
    measured = {**dict.fromkeys(SELECTIONS, 0.5), "easiest": 0.56}
    assert best_of(measured, 100) == default  # the difference has a standard error of 7 points
    assert best_of({**measured, "random images": 0.6}, 400) == "random images"
    assert best_of(measured, 400) == "easiest"
    assert best_of({**measured, "coverage of all": 0.56}, 400) == "easiest"  # the first of equals


def test_a_tuned_set_is_described_by_what_was_chosen(tuned, monkeypatch):
    accuracies = {name: float(name == "random images") for name in SELECTIONS}
    monkeypatch.setattr("decoct.synthesis.real.run_trials", lambda *rest: {1: accuracies, 3: accuracies})
    sentence = describe(distill(tuned)).sentence
    assert "short trainings on validation images: random images at IPC 1, random images at IPC 3" in sentence
    assert "coverage" not in sentence


def test_images_in_memory_bring_their_own_validation_images(cautious, sample_part, monkeypatch):
    images = decoct.load_images(str(sample_part))
    options = {"allow_weak_teacher": True, "candidates_per_class": 16, "slots": 2, "batch_size": 16}
    infoutil = decoct.InfoUtil(decoct.load_classifier(cautious), tune=True, **options)
    with pytest.raises(ValueError, match="validation must be given for tune"):
        infoutil.distill(images, 1)
    seen = []

    def measure(trials, scores, candidates, validation, *rest):
        seen.append(len(validation))
        return {1: dict.fromkeys(SELECTIONS, 0.5)}

    monkeypatch.setattr("decoct.synthesis.real.run_trials", measure)
    assert len(infoutil.distill(images, 1, validation=decoct.load_images(str(sample_part), "test"))) == 4
    assert seen == [40]
    with pytest.raises(ValueError, match="validation_fraction must be left out for images in memory"):
        decoct.InfoUtil(decoct.load_classifier(cautious), validation_fraction=0.1, **options).distill(images, 1)


def test_without_validation_images_there_is_nothing_to_choose_by(config):
    for call in (distill, plan_distill):
        with pytest.raises(ValueError, match="validation_fraction must be positive for the split .held_out"):
            call(config(tune=True))


def test_other_methods_choose_as_they_are_defined(config):
    with pytest.raises(ValueError, match="method must be 'infoutil' for --tune. Got 'herding'"):
        config(tune=True, method="herding")


def test_random_images_are_drawn_by_the_seed(config, tmp_path):
    rows = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"run{len(rows)}"
        distill(config(selection="random", seed=seed, views=0, candidates_per_class=0, output_dir=str(folder)))
        assert set(chosen_rows(folder, 1)) <= set(chosen_rows(folder, 3))
        rows.append(chosen_rows(folder, 3))
    assert rows[0] == rows[1] != rows[2]
    assert np.unique(rows[0]).size == len(rows[0])
