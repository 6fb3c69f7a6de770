"""`decoct distill DATASET`: what it finds out about a dataset, what it plans, and that it ends with a report."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds import spec_of

from decoct.cli import main
from decoct.config import DistillConfig, EvaluateConfig, TeacherConfig, WholeConfig
from decoct.models.zoo import build_classifier
from decoct.run.folder import write_json
from decoct.whole import (
    FLATTERED,
    distilling_passes,
    format_outcome,
    format_plan,
    look_at,
    make_plan,
    minutes,
    plan_whole,
    whole_steps,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Photos of different sizes in class folders without splits: 20 of each of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir()
        for number in range(20):
            pixels = generator.integers(0, 150, (70 + number, 90, 3)).astype(np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_photos_of_different_sizes_without_a_test_split_are_resized_and_a_tenth_is_held_out(photos, tmp_path):
    config = WholeConfig(dataset=str(photos), output_dir=str(tmp_path / "out"))
    look = look_at(config)
    assert (look.spec.image_size, look.same_size, look.eval_split, look.counts) == (64, False, "held_out", [18, 18])
    plan = make_plan(config)
    assert (plan.model, plan.tiles, plan.ipcs, plan.epochs) == ("convnet4", 1, [1, 10], 100)
    teacher, distilled, students = (step.config for step in whole_steps(config, plan))
    assert isinstance(teacher, TeacherConfig) and isinstance(distilled, DistillConfig)
    assert isinstance(students, EvaluateConfig)
    for each in (teacher, distilled, students):
        assert (each.dataset, each.image_size, each.validation_fraction) == (str(photos), 64, 0.1)
    assert distilled.teacher == teacher.output_dir and students.distilled == distilled.output_dir
    assert students.eval_split == "held_out" and students.baseline
    assert not (tmp_path / "out").exists()


def test_most_images_decide_on_the_side_and_not_the_most_sizes(tmp_path):
    """Photos of one size beside thumbnails of as many sizes as there are of them."""
    for number in range(24):
        side = 150 if number >= 8 else 34 + number // 2
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (number, 0, 0)).save(folder / f"{number}.png")
    look = look_at(WholeConfig(dataset=str(tmp_path / "photos")))
    assert (look.spec.image_size, look.same_size) == (128, False)


def test_only_what_a_method_does_is_planned(photos):
    look = look_at(WholeConfig(dataset=str(photos), image_size=128))
    passes = {
        method: distilling_passes(WholeConfig(dataset=str(photos), method=method), look, 4, [1])
        for method in ("infoutil", "random")
    }
    assert passes["random"] < passes["infoutil"] / 5, "random images need no Shapley values"


def test_steps_are_others_where_images_or_the_teacher_are(photos, trained_teacher, sample_part, tmp_path):
    def fingerprints(**options) -> list[str]:
        config = WholeConfig(**{"dataset": str(folder), **options})
        return [step.fingerprint() for step in whole_steps(config, make_plan(config))]

    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    before = fingerprints()
    assert fingerprints() == before
    shutil.copy(folder / "dog" / "0.png", folder / "cat" / "0.png")
    assert not set(fingerprints()) & set(before)
    teacher = Path(shutil.copytree(trained_teacher, tmp_path / "teacher"))
    given = {"dataset": str(sample_part), "teacher": str(teacher)}
    before = fingerprints(**given)
    shutil.copy(teacher / "epoch_2" / "model.safetensors", teacher / "model.safetensors")
    assert not set(fingerprints(**given)) & set(before)


def test_overwrite_is_for_the_steps_that_have_it(photos):
    config = WholeConfig(dataset=str(photos), overwrite=True)
    assert [step.config.overwrite for step in whole_steps(config, make_plan(config))] == [True, True, False]


def test_an_output_folder_in_the_images_is_refused_before_the_work(photos, monkeypatch):
    monkeypatch.chdir(photos)
    with pytest.raises(ValueError, match="^output_dir must be apart from what is read. Got runs/photos"):
        plan_whole(WholeConfig(dataset="."))


def test_each_ipc_is_planned_once(photos):
    assert WholeConfig(dataset=str(photos), ipc=[5, 1, 5]).ipc == [1, 5]


def test_times_are_rounded_up():
    assert [minutes(seconds) for seconds in (0, 60, 75, 7200, 7201)] == [
        "1 minute", "1 minute", "2 minutes", "120 minutes", "3 hours",
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "left"), [(None, 18), (0.25, 15), (0.01, 19)])
def test_what_is_held_out_is_planned_as_it_will_be(photos, share, left):
    config = WholeConfig(dataset=str(photos), validation_fraction=share)
    plan = make_plan(config)
    assert plan.look.counts == [left, left], "at least one of each class is held out"
    assert f"measure on {100 * (share or 0.1):g} % of each class, held out (" in format_plan(config, plan)
    assert {step.config.validation_fraction for step in whole_steps(config, plan)} == {share or 0.1}
    images = 40 - 2 * left
    assert f"of {images} images, one of which is {100 / images:.1f} points" in format_plan(config, plan)


def test_tuning_holds_images_out_also_where_there_is_a_test_split(sample_part, trained_teacher, tmp_path):
    config = WholeConfig(dataset=str(sample_part), tune=True, ipc=[1])
    plan = make_plan(config)
    assert (plan.look.eval_split, plan.look.held_out, plan.look.counts) == ("test", 0.1, [22] * 4)
    teacher, distilled, students = (step.config for step in whole_steps(config, plan))
    assert {each.validation_fraction for each in (teacher, distilled, students)} == {0.1}
    assert (teacher.eval_split, students.eval_split) == ("held_out", None) and distilled.tune
    assert "a class, selected as serves 8 held-out images best (" in format_plan(config, plan)
    assert FLATTERED not in format_plan(config, plan)
    assert FLATTERED in plan_whole(WholeConfig(dataset=str(sample_part), eval_split="held_out", tune=True, ipc=[1]))
    plain = WholeConfig(dataset=str(sample_part), ipc=[1])
    assert not any(getattr(step.config, "tune", False) for step in whole_steps(plain, make_plan(plain)))
    with pytest.raises(ValueError, match="^teacher must be trained with --validation_fraction for --tune"):
        make_plan(WholeConfig(dataset=str(sample_part), tune=True, teacher=str(trained_teacher)))
    with pytest.raises(ValueError, match="^validation_fraction must be above 0 for --tune.* Got 0.$"):
        make_plan(WholeConfig(dataset=str(sample_part), tune=True, validation_fraction=0.0))
    with pytest.raises(ValueError, match="^method must be 'infoutil' for --tune. Got 'random'"):
        WholeConfig(dataset=str(sample_part), tune=True, method="random")


def test_a_given_teacher_says_what_is_held_out_where_there_is_no_split_to_measure_on(photos, tmp_path):
    def share(trained: float | None, **options) -> float:
        write_json(tmp_path / "training.json", {"config": {"validation_fraction": trained}})
        return look_at(WholeConfig(dataset=str(photos), teacher=str(tmp_path), **options)).held_out

    assert share(0.2) == 0.2
    assert share(0.2, validation_fraction=0.3) == 0.3, "refused by the step that distils, which names the teacher's"
    for options in ({}, {"validation_fraction": 0.0}, {"eval_split": "held_out"}):
        with pytest.raises(ValueError, match="^eval_split must be given .* trained with --validation_fraction 0.1"):
            share(None, **options)
    assert share(None, eval_split="train") == 0


def test_a_plan_of_hours_says_what_is_quicker(photos, monkeypatch):
    monkeypatch.setattr("decoct.whole.training_throughput", lambda network: 1.0)
    quicker = "Smaller images are far quicker: --image_size 64"
    large = plan_whole(WholeConfig(dataset=str(photos), image_size=128))
    assert quicker in large and "to 1 image a class" in large
    assert quicker not in plan_whole(WholeConfig(dataset=str(photos), image_size=64))


def test_a_share_of_0_is_none_and_not_the_default(photos, sample_part):
    with pytest.raises(ValueError, match=r"^eval_split must be given .* Got validation_fraction 0\.$"):
        look_at(WholeConfig(dataset=str(photos), validation_fraction=0.0))
    look = look_at(WholeConfig(dataset=str(sample_part), validation_fraction=0.0))
    assert (look.held_out, look.counts) == (0, [24] * 4)


def test_a_given_teacher_is_taken_and_the_plan_says_how_long_it_takes(sample_part, trained_teacher):
    config = WholeConfig(dataset=str(sample_part), teacher=str(trained_teacher))
    assert [step.title for step in whole_steps(config, make_plan(config))] == ["distilled sets", "students"]
    text = plan_whole(config)
    assert "96 images of 4 classes, 24 each, 28 px\n" in text
    assert f"take {trained_teacher} as teacher" in text and "to 1 or 10 images a class" in text
    assert "measure on the split test" in text and "on this machine" in text


def test_images_are_taken_at_the_side_of_a_given_teacher(photos, tmp_path):
    spec = spec_of(("cat", "dog"), side=32)
    build_classifier("convnet3_w8", spec).model.save_pretrained(tmp_path / "teacher")
    config = WholeConfig(dataset=str(photos), teacher=str(tmp_path / "teacher"), validation_fraction=0.1)
    plan = make_plan(config)
    assert (plan.look.spec.image_size, plan.model) == (32, "convnet3")
    assert {step.config.image_size for step in whole_steps(config, plan)} == {32}


def test_a_classifier_of_the_hub_that_is_here_is_offered_where_its_names_fit(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    known = {"a/pets": ["Dog", "bird", "cat"], "b/birds": ["wren", "robin"], "c/text": ["cat", "dog"]}
    for name, labels in known.items():
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        kind = "BertForSequenceClassification" if name == "c/text" else "ViTForImageClassification"
        config = {"architectures": [kind], "id2label": {str(label): each for label, each in enumerate(labels)}}
        write_json(folder / "snapshots" / "0123" / "config.json", config)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0123")
    (tmp_path / "models--d--broken").mkdir()
    text = plan_whole(WholeConfig(dataset=str(photos)))
    assert "or take one that is here and knows these classes: --teacher a/pets\n" in text
    assert "b/birds" not in text and "c/text" not in text


def test_an_ipc_that_a_class_has_not_images_enough_for_is_refused_before_the_work(sample_part):
    with pytest.raises(ValueError, match=r"ipc must be at most 24, .* 24 images .* Got \[50\]"):
        make_plan(WholeConfig(dataset=str(sample_part), ipc=[50]))


def test_a_dataset_before_the_options_is_taken_the_whole_way(monkeypatch):
    called = []
    monkeypatch.setattr("decoct.cli.supervise", lambda command, *others: called.append(command) or 0)
    for words in (["distill", "photos", "--ipc", "1"], ["distill", "--dataset", "photos"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
    assert [Path(word).name for word in called[0][1:2]] == ["whole.py"] and called[0][2:] == ["photos", "--ipc", "1"]
    assert any(Path(word).name == "distill.py" for word in called[1])


def test_one_command_ends_with_a_table_a_report_and_how_to_load_and_publish(
    sample_part, trained_teacher, tmp_path, monkeypatch, capsys
):
    def run(script: str, arguments: list[str]) -> None:
        path = Path(__file__).parents[1] / "scripts" / f"{script}.py"
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [str(path), *arguments])
            patch.setattr(sys, "path", list(sys.path))
            runpy.run_path(str(path), run_name="__main__")

    words = ["--teacher", trained_teacher, "--model", "convnet3_w8", "--student_epochs", 1, "--ipc", 1]
    words = [str(word) for word in (sample_part, *words, "--output_dir", "out")]
    monkeypatch.chdir(tmp_path)
    # In this process, which has imported everything already.
    monkeypatch.setattr("decoct.demo._launch", lambda step: run(step.script, step.arguments))
    run("whole", words)
    printed = capsys.readouterr().out
    report = tmp_path / "out" / "distilled" / "report.html"
    assert report.is_file() and f"See      {report}" in printed
    assert "random images" in printed and 'load_dataset("out/distilled", "ipc_1"' in printed
    assert "decoct publish out/distilled --push_to_hub USER/out" in printed
    monkeypatch.setattr("decoct.demo._launch", lambda step: pytest.fail("runs again"))
    run("whole", words)
    assert printed.splitlines()[-1] in capsys.readouterr().out


@pytest.mark.parametrize(("accuracy", "told"), [(0.3, True), (0.6, False)])
def test_students_that_guess_are_told_beside_the_table(accuracy, told, tmp_path, monkeypatch):
    monkeypatch.setattr("decoct.whole.format_evaluation", lambda records: "a table")
    write_json(tmp_path / "distilled" / "manifest.json", {"ipcs": [1, 10], "label_names": list("abcd")})
    record = {"student": "convnet3", "ipc": 10, "accuracy_mean": accuracy}
    write_json(tmp_path / "distilled" / "results.json", [{**record, "ipc": 1, "accuracy_mean": 0.25}, record])
    text = format_outcome(tmp_path)
    assert ("The best student, convnet3 at IPC 10, recognises 30.0% of the images" in text) == told
    assert ("where chance is 25.0%" in text) == told and "a table" in text
    assert FLATTERED not in text


@pytest.mark.parametrize(("eval_split", "told"), [("held_out", True), ("test", False)])
def test_a_selection_that_is_chosen_and_measured_by_the_same_images_is_told(eval_split, told, tmp_path, monkeypatch):
    monkeypatch.setattr("decoct.whole.format_evaluation", lambda records: "a table")
    write_json(tmp_path / "distilled" / "manifest.json", {"ipcs": [1], "label_names": ["a", "b"], "tuned": {}})
    record = {"student": "convnet3", "ipc": 1, "accuracy_mean": 0.9, "eval_split": eval_split}
    write_json(tmp_path / "distilled" / "results.json", [record])
    assert (FLATTERED in format_outcome(tmp_path)) == told
