"""A trained estimator in its folder, random views, and runs that are interrupted, repeated or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from encoders import ENCODERS
from safetensors.torch import load_file
from transformers import AutoModel, ViTImageProcessor
from worlds import coloured, contents, encoded, labelled

from decoct.config import EstimatorConfig
from decoct.data.loading import load_images
from decoct.data.tensors import PixelDataset
from decoct.files import read_json
from decoct.igds.contrastive import MomentumContrast
from decoct.igds.loading import load_estimator
from decoct.igds.probe import extract_features, fit_linear_classifier
from decoct.pipelines.igds.estimates import frozen_copy
from decoct.run.seeding import numpy_generator
from decoct.training.estimator import plan_estimator, train_estimator
from decoct.training.view_augment import ViewChoices, draw_choices, view_of

from .interrupted import PowerCut, cut_power


@pytest.fixture
def config(sample_part, tmp_path):
    def make(**options: Any) -> EstimatorConfig:
        settings: dict[str, Any] = {
            "dataset": str(sample_part),
            "encoder": "resnet10_w4",
            "projection_dim": 8,
            "epochs": 2,
            "batch_size": 16,
            "queue_size": 64,
            "output_dir": str(tmp_path / "ve"),
        }
        return EstimatorConfig(**{**settings, **options})

    return make


@pytest.mark.parametrize("q_mode", ["two_view", "class_mean"])
def test_a_run_leaves_an_estimator_and_its_record(config, sample_part, tmp_path, q_mode):
    record = train_estimator(config(q_mode=q_mode))
    assert record == read_json(tmp_path / "ve" / "training.json")
    assert set(contents(tmp_path / "ve")) == {
        "config.json",
        "estimator.py",
        "model.safetensors",
        "run.json",
        "training.json",
    }
    assert [row["epoch"] for row in record["epochs"]] == [1, 2]
    for row in record["epochs"]:
        assert row["loss"] == pytest.approx(row["contrastive"] - 0.1 * row["contextual"])
        assert row["contextual"] > 0
    assert (record["rank"], record["full_rank"]) == (3, 3)
    assert record["versions"]["torch"] == torch.__version__
    assert record["spec"]["label_names"] == ["T-shirt/top", "Trouser", "Pullover", "Dress"]
    assert (record["spec"]["image_size"], record["spec"]["channels"]) == (28, 1)

    estimator = load_estimator(tmp_path / "ve")
    assert {weight.dtype for weight in estimator.parameters()} == {torch.float32}
    features, labels = extract_features(estimator, PixelDataset(load_images(str(sample_part), "test"), 28, 1))
    predicted = estimator.classifier(torch.from_numpy(features)).argmax(dim=1)
    smooth = extract_features(
        frozen_copy(estimator, softplus=True), PixelDataset(load_images(str(sample_part), "test"), 28, 1)
    )[0]
    assert not np.allclose(smooth, features)
    softened = estimator.classifier(torch.from_numpy(smooth)).argmax(dim=1)
    assert record["softplus_accuracy"] == pytest.approx(float((softened.numpy() == labels).mean()))
    assert record["linear_accuracy"] == pytest.approx(float((predicted.numpy() == labels).mean()))
    assert min(record["linear_accuracy"], record["knn_accuracy"]) > 0.3, "chance is 0.25"


def test_training_changes_the_encoder_and_follows_the_seed(config, tmp_path):
    runs = {"a": {}, "again": {}, "other": {"seed": 1}, "moco": {"kl_weight": 0.0}, "longer": {"epochs": 3}}
    for name, options in runs.items():
        train_estimator(config(output_dir=str(tmp_path / name), **options))
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in runs}
    same = {name: all(torch.equal(weights[name][key], weights["a"][key]) for key in weights["a"]) for name in runs}
    assert same == {"a": True, "again": True, "other": False, "moco": False, "longer": False}


@pytest.mark.parametrize("q_mode", ["two_view", "class_mean"])
def test_a_run_interrupted_within_an_epoch_equals_an_uninterrupted_one(config, tmp_path, monkeypatch, q_mode):
    whole = train_estimator(config(output_dir=str(tmp_path / "whole"), q_mode=q_mode))
    cut = config(output_dir=str(tmp_path / "cut"), q_mode=q_mode, checkpoint_steps=2)
    cut_power(monkeypatch, 9, MomentumContrast, "forward")  # the fourth of the second epoch's six steps
    with pytest.raises(PowerCut):
        train_estimator(cut)
    assert not (tmp_path / "cut" / "training.json").exists()
    assert list((tmp_path / "cut" / "checkpoints").iterdir()) == [tmp_path / "cut/checkpoints/00001-0000002"]
    monkeypatch.undo()
    resumed = train_estimator(cut)
    assert resumed["epochs"] == whole["epochs"]
    ours, theirs = (load_file(tmp_path / run / "model.safetensors") for run in ("cut", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_a_finished_run_is_returned_without_training(config, tmp_path, monkeypatch):
    first = train_estimator(config(epochs=1))
    before = contents(tmp_path / "ve")
    cut_power(monkeypatch, 0, MomentumContrast, "forward")
    assert train_estimator(config(epochs=1, checkpoint_steps=1)) == first
    assert contents(tmp_path / "ve") == before
    with pytest.raises(ValueError, match=r"temperature: 0\.1 there, 0\.2 now"):
        train_estimator(config(epochs=1, temperature=0.2))
    assert contents(tmp_path / "ve") == before


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_existing_encoder_is_kept_and_gets_a_classifier(config, image_folder, tmp_path, monkeypatch, kind):
    ENCODERS[kind](tmp_path / "encoder")
    encoder = AutoModel.from_pretrained(tmp_path / "encoder")
    processor = ViTImageProcessor(image_mean=[0.4] * 3, image_std=[0.2] * 3, size={"height": 28, "width": 28})
    processor.save_pretrained(tmp_path / "encoder")
    cut_power(monkeypatch, 0, MomentumContrast, "forward")
    record = train_estimator(config(encoder=str(tmp_path / "encoder"), dataset=str(image_folder)))
    assert record["epochs"] == []
    assert record["linear_accuracy"] > 0.5, "chance is 0.33"
    assert record["spec"] == {
        "image_size": 28,
        "channels": 3,
        "mean": [0.4] * 3,
        "std": [0.2] * 3,
        "label_names": ["blue", "green", "red"],
    }
    kept = load_estimator(tmp_path / "ve").encoder.state_dict()
    expected = getattr(encoder, "vision_model", encoder).state_dict()
    assert all(torch.equal(kept[key], value) for key, value in expected.items())


def test_a_dry_run_counts_and_writes_nothing(config, tmp_path):
    plan = plan_estimator(config())
    assert (plan["images"], plan["classes"], plan["steps"]) == (96, 4, 12)
    assert plan["image_passes"] == 2 * 12 * 16 + 96 + 40
    assert plan["parameters"] > 10_000
    assert not (tmp_path / "ve").exists()


def test_bad_settings_are_errors_before_anything_is_written(config, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at most the 96 images of the dataset. Got 128"):
        train_estimator(config(batch_size=128, queue_size=128))
    with pytest.raises(ValueError, match=r"queue_size must be 0 or a multiple of batch_size \(16\). Got 40"):
        config(queue_size=40)
    with pytest.raises(ValueError, match="encoder must be one of .*'resnet10'.*Got 'resnet34'"):
        train_estimator(config(encoder="resnet34"))
    assert not (tmp_path / "ve").exists()


def test_a_single_class_is_an_error_before_anything_is_trained(config, tmp_path):
    (tmp_path / "images").mkdir()
    for split in ("train", "test"):
        labelled(encoded(coloured([0] * 4)), [0] * 4, ["red"]).to_parquet(tmp_path / "images" / f"{split}.parquet")
    for run in (plan_estimator, train_estimator):
        with pytest.raises(ValueError, match=r"dataset must have at least 2 classes.* Got \['red'\]"):
            run(config(dataset=str(tmp_path / "images"), batch_size=0, queue_size=0))
    assert not (tmp_path / "ve").exists()


def test_the_script_trains_with_two_processes(launch, scripts, sample_part, tmp_path):
    data = ["--dataset", sample_part, "--output_dir", "runs/ve", "--encoder", "resnet10_w4", "--projection_dim", 8]
    sizes = ["--epochs", 1, "--queue_size", 64, "--batch_size", 16]
    done = launch(scripts / "train_estimator.py", *data, *sizes, cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    record = read_json(tmp_path / "runs" / "ve" / "training.json")
    assert f"linear classifier {100 * record['linear_accuracy']:.1f} %" in done.stdout
    assert "rank 3 of 3. Saved in runs/ve" in done.stdout
    assert len(record["epochs"]) == 1
    estimator = load_estimator(tmp_path / "runs" / "ve")
    features, labels = extract_features(estimator, PixelDataset(load_images(str(sample_part)), 28, 1))
    weight, bias = fit_linear_classifier(features, labels, 4)
    torch.testing.assert_close(estimator.classifier.weight, weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(estimator.classifier.bias, bias, rtol=1e-3, atol=1e-3)


def test_views_do_not_depend_on_how_the_batch_is_shared():
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    choices = draw_choices(np.random.default_rng(0), 6, 0.2, True, 0.4)
    whole = view_of(pixels, choices)
    parts = [view_of(pixels[first : first + 3], choices.rows(first, first + 3)) for first in (0, 3)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)
    assert whole.shape == pixels.shape
    assert 0 <= whole.min() <= whole.max() <= 1


def test_views_do_what_was_drawn():
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole, plain = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4), torch.ones(4, 3)
    none = torch.zeros(4, dtype=torch.bool)
    images = pixels / 255
    assert torch.allclose(view_of(pixels, ViewChoices(whole, none, plain, none)), images, atol=1e-4)
    flipped = view_of(pixels, ViewChoices(whole, torch.tensor([True, False, True, False]), plain, none))
    assert torch.allclose(flipped[0], images[0].flip(-1), atol=1e-4)
    assert torch.allclose(flipped[1], images[1], atol=1e-4)
    grey = view_of(pixels, ViewChoices(whole, none, plain, torch.tensor([True, False, False, False])))
    assert torch.allclose(grey[0, 0], grey[0, 2])
    assert torch.allclose(grey[1], images[1], atol=1e-4)
    darker = torch.tensor([[0.5, 1.0, 1.0]]).expand(4, 3)
    assert torch.allclose(view_of(pixels, ViewChoices(whole, none, darker, none)), images / 2, atol=1e-4)
    quarter = torch.tensor([[0.5, 0.0, 0.5, 0.5]]).expand(4, 4)
    corner = view_of(pixels, ViewChoices(quarter, none, plain, none))
    assert torch.allclose(corner[..., 0, 0], images[..., 8, 0], atol=1e-4)


def test_draws_keep_to_their_ranges():
    choices = draw_choices(numpy_generator(0, "views", 0, 0), 2000, 0.2, True, 0.4)
    area = choices.boxes[:, 2] * choices.boxes[:, 3]
    assert 0.2 - 1e-5 <= area.min() <= area.max() <= 1
    assert 0.6 <= choices.factors.min() <= choices.factors.max() <= 1.4
    assert 0.45 < choices.flips.float().mean() < 0.55
    assert 0.15 < choices.grey.float().mean() < 0.25
    still = draw_choices(numpy_generator(0, "views", 0, 0), 50, 0.2, False, 0.0)
    assert not still.flips.any()
    assert torch.equal(still.factors, torch.ones(50, 3))


def test_grey_images_stay_grey():
    pixels = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    view = view_of(pixels, draw_choices(np.random.default_rng(0), 4, 0.2, True, 0.4))
    assert view.shape == (4, 1, 28, 28)
