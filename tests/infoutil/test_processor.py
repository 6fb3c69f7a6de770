"""InfoUtil as a `datasets.map` processor: used directly, in batches of any size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

import decoct
from decoct.config import DistillConfig
from decoct.data.pixels import to_pixels
from decoct.infoutil.processor import InfoUtilProcessor, reference_of
from decoct.infoutil.utility import cross_entropy_loss, grad_norm, grad_norm_last

WINDOWS = {"crop_fraction": 0.5, "grid_size": 3, "coalitions": 16, "batch_size": 8}


@pytest.fixture(scope="module")
def teacher(trained_teacher) -> decoct.Classifier:
    return decoct.load_classifier(trained_teacher)


@pytest.fixture(scope="module")
def images(sample_part) -> Dataset:
    return decoct.load_images(str(sample_part)).select(range(10, 21))


def process(teacher: decoct.Classifier, images: Dataset, batch: int = 4, **options: object) -> dict[str, np.ndarray]:
    """The processor's columns, by `datasets.map` as its docstring says."""
    config = DistillConfig(**{**WINDOWS, **options})
    reference = None
    if config.utility == "gradient_flow":
        pixels, labels = to_pixels(images["image"][:], 28, 1), np.asarray(images["label"][:])
        reference = reference_of(teacher, pixels, labels, config.mixed_precision)
    processor = InfoUtilProcessor(teacher, config, config.batch_size, reference)
    scored = images.map(
        processor,
        batched=True,
        batch_size=batch,
        with_indices=True,
        with_rank=True,
        features=processor.features,
        remove_columns=images.column_names,
        load_from_cache_file=False,
    )
    assert scored.features == processor.features
    return {name: np.array(scored[name][:]) for name in scored.column_names}


def crops_of(images: Dataset, boxes: np.ndarray) -> list[torch.Tensor]:
    """Every box of every image at 28 px as it is stored, `(crops, 1, 28, 28)` in [0, 1]."""
    pixels = to_pixels(images["image"][:], 28, 1).float()
    return [
        torch.cat(
            [
                F.interpolate(
                    image[None, :, top : top + height, left : left + width],
                    (28, 28),
                    mode="bilinear",
                    align_corners=False,
                ).round()
                / 255
                for top, left, height, width in rows
            ]
        )
        for image, rows in zip(pixels, boxes, strict=True)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attribution": "exact_shapley", "utility": "loss"},
        {"attribution": "captum_kernel_shap", "utility": "grad_norm_last"},
        {"attribution": "grad_cam", "utility": "gradient_flow", "selection": "herding"},
        {"method": "rded"},
        {"method": "herding"},
        {"selection": "regression", "utility": "random"},
        {"selection": "coverage", "coverage_kernel": "gradients"},
        {"crop_fraction": 1.0, "baseline": "blur", "value": "probability"},
    ],
)
def test_a_batch_equals_singles(teacher, images, options):
    together = process(teacher, images, batch=5, **options)
    singles = process(teacher, images, batch=1, **{**options, "batch_size": 1})
    assert (together["boxes"] == singles["boxes"]).all()
    assert (together["source_index"] == singles["source_index"]).all()
    assert np.allclose(together["utility"], singles["utility"], rtol=1e-3, atol=1e-6)
    if together["heatmap"].dtype == object:
        assert all(each is None for each in [*together["heatmap"], *singles["heatmap"]])
    else:
        assert np.allclose(together["heatmap"], singles["heatmap"], atol=1e-5)
    if "features" in together:
        assert np.allclose(together["features"].astype(float), singles["features"].astype(float), atol=1e-2)
    assert ("logits" in together) == (options.get("selection") in ("regression", "coverage"))
    if "logits" in together:
        assert np.allclose(together["logits"], singles["logits"], atol=1e-4)


def test_columns_of_the_papers_setting(teacher, images):
    scored = process(teacher, images)
    assert scored["source_index"].tolist() == list(range(10, 21))
    assert scored["label"].tolist() == images["label"][:]
    assert scored["heatmap"].shape == (11, 3, 3)
    assert scored["boxes"].shape == (11, 5, 4)
    assert (scored["boxes"][..., 2:] == 14).all()
    assert (scored["boxes"][..., :2] >= 0).all()
    assert (scored["boxes"][..., :2] + 14 <= 28).all()
    assert scored["utility"].shape == (11, 5)
    assert np.isfinite(scored["utility"]).all()


@pytest.mark.parametrize("utility", ["grad_norm", "grad_norm_last", "loss"])
def test_scores_are_those_of_the_resized_crops(teacher, images, utility):
    scored = process(teacher, images, utility=utility)
    for crops, label, scores in zip(crops_of(images, scored["boxes"]), scored["label"], scored["utility"], strict=True):
        labels = torch.full((len(crops),), int(label))
        if utility == "grad_norm":
            expected = grad_norm(teacher, crops, labels)
        else:
            features, logits = teacher.features_and_logits(crops)
            last = grad_norm_last(features, logits, labels)
            expected = last if utility == "grad_norm_last" else cross_entropy_loss(logits, labels)
        assert np.allclose(scores, expected.numpy(), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("tiles_per_image", "options"),
    [
        (4, {"crop_fraction": 0.5}),
        (4, {"crop_fraction": 0.75}),
        (4, {"method": "herding", "utility": "loss"}),
        (4, {"method": "rded"}),
        (1, {"crop_fraction": 0.6}),
        (1, {"method": "herding", "utility": "loss"}),
        (1, {"method": "rded"}),
    ],
)
def test_what_is_scored_is_what_is_stored(teacher, images, tiles_per_image, options):
    settings = {"utility": "loss", "selection": "regression", **options}
    scored = process(teacher, images, tiles_per_image=tiles_per_image, **settings)
    assert (scored["boxes"][..., 2] == scored["boxes"][..., 3]).all()
    pixels, side = to_pixels(images["image"][:], 28, 1), 28 if tiles_per_image == 1 else 14
    for row, crop in itertools.product(range(3), range(scored["boxes"].shape[1])):
        top, left, height, width = scored["boxes"][row, crop]
        stored = pixels[row, None, :, top : top + height, left : left + width].float()
        if height != side:
            stored = F.interpolate(stored, (side, side), mode="bilinear", align_corners=False, antialias=True).round()
        if options.get("method") == "rded":
            seen = torch.full((1, 1, 28, 28), teacher.spec.mean[0])
            start = (28 - side) // 2
            seen[:, :, start : start + side, start : start + side] = stored / 255
        else:
            seen = F.interpolate(stored / 255, (28, 28), mode="bilinear", align_corners=False)
        features, logits = teacher.features_and_logits(seen)
        expected = F.cross_entropy(logits, torch.tensor([scored["label"][row]]))
        assert scored["utility"][row, crop] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
        assert np.allclose(scored["features"][row, crop].astype(float), features[0].numpy(), rtol=2e-3, atol=2e-2)
        if "logits" in scored:
            assert np.allclose(scored["logits"][row, crop], logits[0].numpy(), rtol=1e-3, atol=1e-4)


def test_whole_images_need_no_heat_map_and_have_one_crop(teacher, images):
    for options in ({"crop_fraction": 1.0}, {"method": "random"}, {"method": "herding"}):
        scored = process(teacher, images, **options)
        assert (scored["boxes"] == [0, 0, 28, 28]).all()
        assert scored["utility"].shape == (11, 1)
        assert all(heatmap is None for heatmap in scored["heatmap"])


def test_random_scores_follow_from_seed_and_source_row(teacher, images):
    scores = process(teacher, images, method="random")["utility"]
    assert (process(teacher, images.select([3, 7]), method="random")["utility"] == scores[[3, 7]]).all()
    assert (process(teacher, images, method="random", seed=1)["utility"] != scores).all()


def test_gradient_flow_needs_its_reference(teacher):
    with pytest.raises(ValueError, match="reference must be given for utility 'gradient_flow'"):
        InfoUtilProcessor(teacher, DistillConfig(utility="gradient_flow"))


def test_the_batch_size_is_calibrated_when_none_is_given(teacher):
    assert InfoUtilProcessor(teacher, DistillConfig(grid_size=3)).batch_size >= 8
