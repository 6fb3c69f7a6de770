"""Training a teacher: what it leaves in its folder, and runs that are interrupted, repeated or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from worlds import coloured, contents, encoded, labelled

from decoct.config import TeacherConfig
from decoct.files import read_json
from decoct.models.zoo import load_classifier
from decoct.training.teacher import plan_teacher, train_teacher

from .interrupted import PowerCut, cut_power


@pytest.fixture
def config(sample_part, tmp_path):
    def make(**options: Any) -> TeacherConfig:
        settings: dict[str, Any] = {
            "dataset": str(sample_part),
            "model": "convnet3_w8",
            "epochs": 2,
            "save_epochs": [1],
            "batch_size": 32,
            "output_dir": str(tmp_path / "teacher"),
        }
        return TeacherConfig(**{**settings, **options})

    return make


def test_one_run_leaves_the_converged_teacher_and_the_early_ones(trained_teacher, sample_part):
    record = read_json(trained_teacher / "training.json")
    assert [row["epoch"] for row in record["epochs"]] == [1, 2, 3, 4, 5, 6]
    assert record["accuracy"] == record["epochs"][-1]["accuracy"] > 0.5, "chance is 0.25"
    assert record["config"]["dataset"] == str(sample_part)
    assert record["spec"]["label_names"] == ["T-shirt/top", "Trouser", "Pullover", "Dress"]
    assert record["versions"]["torch"] == torch.__version__
    assert not (trained_teacher / "checkpoints").exists()
    assert len(load_file(trained_teacher / "forgetting.safetensors")["events"]) == 96
    for epoch in (2, 4):
        early = read_json(trained_teacher / f"epoch_{epoch}" / "training.json")
        accuracy = record["epochs"][epoch - 1]["accuracy"]
        assert early == {"epoch": epoch, "accuracy": accuracy, "validation_fraction": 0}
    teachers = [load_classifier(trained_teacher / part) for part in (".", "epoch_2", "epoch_4")]
    assert len({teacher.fingerprint() for teacher in teachers}) == 3
    assert len({teacher.spec for teacher in teachers}) == 1
    assert teachers[0].spec.to_dict() == record["spec"]
    assert (teachers[0].spec.channels, teachers[0].spec.image_size) == (1, 28)


def test_the_recorded_accuracy_is_the_saved_networks(trained_teacher, sample_part):
    from decoct.data.loading import load_images
    from decoct.data.tensors import PixelDataset

    teacher = load_classifier(trained_teacher)
    pixels = PixelDataset(load_images(str(sample_part), "test"), 28, 1)
    images = torch.stack([pixels[row][0] for row in range(len(pixels))]).float() / 255
    right = (teacher(images).argmax(1) == pixels.labels).float().mean()
    assert read_json(trained_teacher / "training.json")["accuracy"] == pytest.approx(float(right))


def test_a_run_interrupted_within_an_epoch_equals_an_uninterrupted_one(config, tmp_path, monkeypatch):
    whole = train_teacher(config(output_dir=str(tmp_path / "whole"), batch_size=16))
    cut = config(output_dir=str(tmp_path / "cut"), batch_size=16, checkpoint_steps=2)
    cut_power(monkeypatch, 9)  # the fourth of the second epoch's six steps
    with pytest.raises(PowerCut):
        train_teacher(cut)
    assert not (tmp_path / "cut" / "training.json").exists()
    assert list((tmp_path / "cut" / "checkpoints").iterdir()) == [tmp_path / "cut/checkpoints/00001-0000002"]
    monkeypatch.undo()
    resumed = train_teacher(cut)
    assert resumed["epochs"] == whole["epochs"]
    for part in (".", "epoch_1"):
        ours, theirs = (load_file(tmp_path / run / part / "model.safetensors") for run in ("cut", "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_finished_run_is_returned_without_training(config, tmp_path, monkeypatch):
    first = train_teacher(config())
    before = contents(tmp_path / "teacher")
    cut_power(monkeypatch, 0)
    assert train_teacher(config(checkpoint_steps=1, num_workers=0)) == first
    assert contents(tmp_path / "teacher") == before


def test_the_seed_decides(config, tmp_path):
    runs = [train_teacher(config(output_dir=str(tmp_path / str(run)), seed=seed)) for run, seed in enumerate([3, 3, 4])]
    fingerprints = [load_classifier(tmp_path / str(run)).fingerprint() for run in range(3)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert runs[0]["epochs"] == runs[1]["epochs"]


def test_a_folder_of_another_configuration_is_refused_with_the_difference(config, tmp_path):
    train_teacher(config())
    before = contents(tmp_path / "teacher")
    with pytest.raises(ValueError, match="same configuration") as error:
        train_teacher(config(epochs=1, learning_rate=0.5))
    message = str(error.value)
    assert "epochs: 2 there, 1 now" in message
    assert "learning_rate: 0.001 there, 0.5 now" in message
    assert "batch_size" not in message
    assert "--overwrite" in message
    assert contents(tmp_path / "teacher") == before


def test_overwrite_starts_again_and_keeps_files_that_are_not_ours(config, tmp_path):
    train_teacher(config())
    (tmp_path / "teacher" / "notes.txt").write_text("mine")
    (tmp_path / "teacher" / "analysis.py").write_text("mine")
    record = train_teacher(config(epochs=1, save_epochs=[], overwrite=True))
    assert len(record["epochs"]) == 1
    assert not (tmp_path / "teacher" / "epoch_1").exists()
    assert (tmp_path / "teacher" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "teacher" / "analysis.py").read_text() == "mine"
    assert load_classifier(tmp_path / "teacher").spec.num_classes == 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_refused_and_untouched(config, tmp_path, overwrite):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "model.safetensors").write_text("mine")
    with pytest.raises(ValueError, match=r"Got .*teacher, which holds \['model.safetensors'\].*Nothing was touched"):
        train_teacher(config(overwrite=overwrite, report_to="tensorboard"))
    assert contents(tmp_path / "teacher") == {"model.safetensors": b"mine"}


def test_a_tracker_gets_every_epoch(config, tmp_path):
    train_teacher(config(report_to="tensorboard"))
    assert list((tmp_path / "teacher" / "trackers").rglob("events.out.tfevents.*"))


def test_an_image_folder_of_rgb_images(config, image_folder, tmp_path):
    record = train_teacher(config(dataset=str(image_folder), batch_size=8, crop_padding=0, flip=False))
    teacher = load_classifier(tmp_path / "teacher")
    assert (teacher.spec.channels, teacher.spec.image_size) == (3, 16)
    assert teacher.spec.label_names == ("blue", "green", "red")
    assert record["spec"] == teacher.spec.to_dict()


def test_a_dry_run_counts_and_writes_nothing(config, tmp_path):
    plan = plan_teacher(config())
    assert (plan["images"], plan["classes"], plan["steps"], plan["image_passes"]) == (96, 4, 6, 192)
    assert plan["parameters"] == 8 * 10 + 2 * 8 * 73 + 3 * 16 + (8 * 9 + 1) * 4
    assert not (tmp_path / "teacher").exists()


def test_bad_settings_are_errors_before_anything_is_written(config, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at most the 96 images"):
        train_teacher(config(batch_size=97))
    with pytest.raises(ValueError, match="model must be one of"):
        train_teacher(config(model="convnet9"))
    with pytest.raises(ValueError, match="epochs must be at least 1. Got 0."):
        config(epochs=0)
    with pytest.raises(ValueError, match="mixed_precision must be one of"):
        config(mixed_precision="fp8")
    assert not (tmp_path / "teacher").exists()


def test_forty_images_need_no_batch_size(tmp_path):
    """From a table with text labels, as people have them, by the defaults of the command line."""
    for split, count in (("train", 40), ("test", 8)):
        labels = [row % 3 for row in range(count)]
        for row, pixels in enumerate(encoded(coloured(labels, seed=count))):
            (tmp_path / f"{split}-{row}.png").write_bytes(pixels["bytes"])
        rows = [f"{split}-{row}.png,{('red', 'green', 'blue')[label]}" for row, label in enumerate(labels)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["file,label", *rows]))
    output = tmp_path / "teacher"
    places = {"dataset": str(tmp_path), "output_dir": str(output)}
    config = TeacherConfig(**places, model="convnet3_w8", epochs=2, save_epochs=[])
    assert plan_teacher(config)["steps"] == 2 and config.batch_size == 0
    record = train_teacher(config)
    assert record["config"]["batch_size"] == read_json(output / "run.json")["batch_size"] == 40
    assert load_classifier(output).spec.label_names == ("blue", "green", "red")


def test_a_teacher_that_guesses_on_new_images_is_told(config, tmp_path, caplog):
    """One whose labels say nothing can know its training images, and so pass every later check."""
    (tmp_path / "data").mkdir()
    for split, rows in (("train", 40), ("test", 20)):
        images = encoded(coloured(range(rows)))  # of three colours in turn, and labels of two classes
        labelled(images, [row % 2 for row in range(rows)], "ab").to_parquet(tmp_path / f"data/{split}.parquet")
    train_teacher(config(dataset=str(tmp_path / "data"), epochs=1, save_epochs=[]))
    (warning,) = [each.message for each in caplog.records if "The teacher recognises" in each.message]
    assert "of the 20 images that it is measured on, where chance is 50.0%: what was learned does not" in warning
    assert "Look at the images' labels" in warning and "--label_map" not in warning
