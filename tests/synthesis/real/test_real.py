"""Which tiles each method chooses from a part of the embedded sample, and how they are packed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import load_dataset
from safetensors.torch import load_file

import decoct
from decoct.infoutil.processor import InfoUtilProcessor
from decoct.infoutil.utility import cross_entropy_loss, grad_norm
from decoct.run.seeding import numpy_generator
from decoct.synthesis.distill import distill, plan_distill
from decoct.synthesis.selection import coverage, gradient_directions, k_center, k_means, regression

from ..runs import CLASSES, columns
from .images import check_images


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("method", ["infoutil", "rded", "random", "herding", "k_center", "k_means", "forgetting"])
def test_every_method_end_to_end(config, tmp_path, teacher, source, sample_part, method, count):
    manifest = distill(config(method=method, tiles_per_image=count))
    folder = tmp_path / "run"
    real = np.asarray(decoct.load_images(str(sample_part))["label"][:])
    for ipc in (1, 3):
        check_images(folder, ipc, count, teacher, source)
        values = columns(folder, ipc)
        for label, members in zip(values["label"], values["tiles"], strict=True):
            assert all(real[member["source_index"]] == label for member in members)
            assert all((member["heatmap"] is not None) == (method == "infoutil") for member in members)
            if method == "infoutil":
                assert all(np.array(member["heatmap"]).shape == (3, 3) for member in members)
        right = values["tile_logits"].argmax(-1) == values["label"][:, None]
        assert manifest["tile_accuracy"][str(ipc)] == pytest.approx(right.mean())
    written = {"README.md", "data", "manifest.json", "preview.png", "report.html", "run.json"}
    assert {path.name for path in folder.iterdir()} == written


def test_infoutil_takes_diverse_images_among_the_lowest_gradient_norms(config, tmp_path, teacher, source, sample_part):
    distill(config(candidates_per_class=0, ipc=[3]))
    labels = torch.tensor(decoct.load_images(str(sample_part))["label"][:])
    norms = grad_norm(teacher, source.float() / 255, labels).numpy()
    features = teacher.features_and_logits(source.float() / 255)[0].half().float().numpy()
    values = columns(tmp_path / "run", 3)
    for label in range(CLASSES):
        rows = np.flatnonzero(labels.numpy() == label)
        pool = rows[np.argsort(norms[rows])][:9]
        chosen = [values["tiles"][3 * label + number][0]["source_index"] for number in range(3)]
        assert chosen == pool[k_center(features[pool], 3)].tolist()


def test_the_lowest_gradient_norms_are_taken_without_a_diverse_selection(
    config, tmp_path, teacher, source, sample_part
):
    distill(config(candidates_per_class=0, selection="top"))
    labels = torch.tensor(decoct.load_images(str(sample_part))["label"][:])
    norms = grad_norm(teacher, source.float() / 255, labels).numpy()
    values = columns(tmp_path / "run", 3)
    for label in range(CLASSES):
        rows = np.flatnonzero(labels.numpy() == label)
        chosen = [values["tiles"][3 * label + number][0] for number in range(3)]
        assert [tile["source_index"] for tile in chosen] == rows[np.argsort(norms[rows])][:3].tolist()
        assert [tile["score"] for tile in chosen] == pytest.approx(np.sort(norms[rows])[:3], rel=1e-3)
    first = columns(tmp_path / "run", 1)["tiles"]
    assert first == values["tiles"][::3], "a smaller IPC is a prefix of a larger one"


def test_herding_follows_the_class_mean_of_the_features(config, tmp_path, teacher, source, sample_part):
    distill(config(method="herding", candidates_per_class=0, ipc=[5]))
    labels = np.asarray(decoct.load_images(str(sample_part))["label"][:])
    features = teacher.features_and_logits(source.float() / 255)[0].half().double().numpy()
    values = columns(tmp_path / "run", 5)
    for label in range(CLASSES):
        rows = np.flatnonzero(labels == label)
        chosen = [values["tiles"][5 * label + number][0]["source_index"] for number in range(5)]
        taken: list[int] = []
        for _ in range(5):
            rest = [row for row in rows if row not in taken]
            distances = [np.linalg.norm(features[[*taken, row]].mean(0) - features[rows].mean(0)) for row in rest]
            taken.append(rest[int(np.argmin(distances))])
        assert chosen == taken


@pytest.mark.parametrize("method", ["k_center", "k_means"])
def test_coresets_of_a_class_are_chosen_by_the_features(config, tmp_path, teacher, source, sample_part, method):
    distill(config(method=method, candidates_per_class=0, ipc=[5]))
    labels = np.asarray(decoct.load_images(str(sample_part))["label"][:])
    features = teacher.features_and_logits(source.float() / 255)[0].half().double().numpy()
    values = columns(tmp_path / "run", 5)
    for label in range(CLASSES):
        rows = np.flatnonzero(labels == label)
        chosen = [values["tiles"][5 * label + number][0]["source_index"] for number in range(5)]
        pool = rows[np.argsort([numpy_generator(0, "utility", row).random() for row in rows])]
        if method == "k_means":
            expected = k_means(features[pool], 5, int(numpy_generator(0, "k_means", label, 5).integers(2**32)))
        else:
            expected = k_center(features[pool], 5)
        assert chosen == pool[expected].tolist()


def test_coverage_by_gradients_looks_at_errors_and_features(config, tmp_path, teacher, source, sample_part):
    settings = {"selection": "coverage", "coverage_kernel": "gradients", "utility": "loss", "views": 0}
    distill(config(candidates_per_class=0, ipc=[2, 5], **settings))
    labels = np.asarray(decoct.load_images(str(sample_part))["label"][:])
    features, logits = (each.float() for each in teacher.features_and_logits(source.float() / 255))
    losses = cross_entropy_loss(logits, torch.from_numpy(labels)).numpy()
    sets = {ipc: [tiles[0]["source_index"] for tiles in columns(tmp_path / "run", ipc)["tiles"]] for ipc in (2, 5)}
    alike = 0
    for label in range(CLASSES):
        rows = np.flatnonzero(labels == label)
        pool = rows[np.argsort(losses[rows])][: math.ceil(0.5 * len(rows))]
        described = features.half().float().numpy()[pool]
        taken = pool[coverage(gradient_directions(described, logits.numpy()[pool], label), 5)]
        assert sets[5][5 * label : 5 * label + 5] == taken.tolist()
        assert sets[2][2 * label : 2 * label + 2] == taken[:2].tolist(), "nested"
        alike += taken.tolist() == pool[coverage(described, 5)].tolist()
    assert alike < CLASSES, "features alone choose others"


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_regression_chooses_images_of_all_classes_together(config, tmp_path, teacher, source, sample_part, share):
    settings = {"selection": "regression", "pool_share": share, "utility": "loss", "views": 0}
    distill(config(candidates_per_class=0, ipc=[2, 5], **settings))
    labels = np.asarray(decoct.load_images(str(sample_part))["label"][:])
    features, logits = (each.float() for each in teacher.features_and_logits(source.float() / 255))
    losses = cross_entropy_loss(logits, torch.from_numpy(labels)).numpy()
    order = [np.flatnonzero(labels == label) for label in range(CLASSES)]
    order = [rows[np.argsort(losses[rows])][: math.ceil(share * len(rows))] for rows in order]
    pool = np.concatenate(order)
    taken = pool[regression(features.half().numpy()[pool], logits.numpy()[pool], labels[pool], 5)]
    values = columns(tmp_path / "run", 5)
    chosen = [tiles[0]["source_index"] for tiles in values["tiles"]]
    assert chosen == taken.T.flatten().tolist()
    fewer = [tiles[0]["source_index"] for tiles in columns(tmp_path / "run", 2)["tiles"]]
    assert fewer == taken[:2].T.flatten().tolist(), "a smaller IPC is a prefix of a larger one"


def test_forgetting_takes_the_images_forgotten_most_often(config, tmp_path, trained_teacher, sample_part):
    distill(config(method="forgetting", candidates_per_class=0, ipc=[2, 7]))
    saved = load_file(trained_teacher / "forgetting.safetensors")
    events = torch.where(saved["learned"], saved["events"], -1).numpy()
    labels = np.asarray(decoct.load_images(str(sample_part))["label"][:])
    values = columns(tmp_path / "run", 7)
    by_row = []
    for label in range(CLASSES):
        rows = np.flatnonzero(labels == label)
        chosen = [values["tiles"][7 * label + number][0] for number in range(7)]
        assert [tile["score"] for tile in chosen] == np.sort(events[rows])[::-1][:7].tolist()
        assert [events[tile["source_index"]] for tile in chosen] == [tile["score"] for tile in chosen]
        by_row += [rows[np.argsort(-events[rows], kind="stable")][:7].tolist()]
        fewer = columns(tmp_path / "run", 2)["tiles"][2 * label : 2 * label + 2]
        assert [members[0] for members in fewer] == chosen[:2], "a smaller IPC is a prefix of a larger one"
    ours = [[values["tiles"][7 * label + number][0]["source_index"] for number in range(7)] for label in range(CLASSES)]
    assert ours != by_row, "equal counts are not in row order"
    distill(config(method="forgetting", candidates_per_class=0, ipc=[7], seed=1, output_dir=str(tmp_path / "other")))
    other = columns(tmp_path / "other", 7)["tiles"]
    assert [tile[0]["score"] for tile in other] == [tile[0]["score"] for tile in values["tiles"]]
    assert other != values["tiles"], "the seed draws among equal counts"


def test_forgetting_ranks_the_candidates_alone(config, tmp_path, trained_teacher):
    distill(config(method="forgetting", candidates_per_class=3, ipc=[3]))
    distill(config(method="random", candidates_per_class=3, ipc=[3], output_dir=str(tmp_path / "all")))
    ours, candidates = (
        {members[0]["source_index"] for members in columns(tmp_path / run, 3)["tiles"]} for run in ("run", "all")
    )
    assert ours == candidates


@pytest.mark.parametrize("run", [distill, plan_distill])
def test_forgetting_needs_the_events_of_the_same_images(config, tmp_path, teacher, sample_part, run):
    asked = {"method": "forgetting"}
    copied = decoct.load_classifier(teacher.name)
    copied.model.save_pretrained(tmp_path / "teacher")
    with pytest.raises(
        ValueError, match=r"has no forgetting.safetensors: train it again with scripts/train_teacher.py"
    ):
        run(config(teacher=str(tmp_path / "teacher"), **asked))
    images = decoct.load_images(str(sample_part))
    images.select(range(95)).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="Got 95 images with fingerprint .*, and events of 96 images"):
        run(config(dataset=str(tmp_path / "other.parquet"), **asked))
    with pytest.raises(ValueError, match="forgetting must be given for utility 'forgetting'. Got None."):
        InfoUtilProcessor(teacher, config(method="forgetting"), 16)
    assert not (tmp_path / "run").exists()


def test_rded_strides_its_tiles_over_the_images(config, tmp_path):
    distill(config(method="rded", tiles_per_image=4))
    values = columns(tmp_path / "run", 3)
    for label in range(CLASSES):
        scores = np.array([[tile["score"] for tile in values["tiles"][3 * label + number]] for number in range(3)])
        assert (np.diff(scores.T.flatten()) >= 0).all(), "image i shows ranks i, n+i, 2n+i, 3n+i"
    distill(config(method="infoutil", selection="top", tiles_per_image=4, output_dir=str(tmp_path / "other")))
    scores = [tile["score"] for members in columns(tmp_path / "other", 3)["tiles"][:3] for tile in members]
    assert scores == sorted(scores)


def test_the_random_baseline_follows_from_the_seed(config, tmp_path):
    chosen = []
    for run, seed in enumerate([0, 0, 1]):
        distill(config(method="random", seed=seed, output_dir=str(tmp_path / str(run)), views=0))
        tiles = load_dataset(str(tmp_path / str(run)), "ipc_3", split="train")["tiles"][:]
        chosen.append([members[0]["source_index"] for members in tiles])
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize(
    "options",
    [
        {"crop_fraction": 0.5},
        {"method": "rded", "tiles_per_image": 4},
        {"method": "k_means", "views": 1},
        {"method": "forgetting", "views": 1},
        {"selection": "regression", "views": 1},
    ],
)
def test_shards_of_another_size_change_nothing(config, tmp_path, options):
    runs = []
    for size in (5, 100):
        distill(config(shard_size=size, output_dir=str(tmp_path / str(size)), **options))
        runs.append(columns(tmp_path / str(size), 3))
    few, many = runs
    assert torch.equal(few["pixels"], many["pixels"])
    assert (few["view_boxes"] == many["view_boxes"]).all()
    assert np.allclose(few["tile_logits"], many["tile_logits"], atol=1e-2)
    assert np.allclose(few["view_logits"], many["view_logits"], atol=1e-2)
    for ours, theirs in zip(few["tiles"], many["tiles"], strict=True):
        for tile, other in zip(ours, theirs, strict=True):
            assert (tile["source_index"], tile["box"]) == (other["source_index"], other["box"])
            assert tile["score"] == pytest.approx(other["score"], rel=1e-3)
            if tile["heatmap"] is not None:
                assert np.allclose(tile["heatmap"], other["heatmap"], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"attribution": "captum_kernel_shap"},
        {"attribution": "grad_cam", "utility": "grad_norm_last", "utility_order": "highest"},
        {"attribution": "exact_shapley", "grid_size": 2, "utility": "loss", "utility_order": "quantile"},
        {"attribution": "exact_shapley", "utility": "gradient_flow", "gradient_flow_references": 12},
        {"attribution": "random", "utility": "random"},
        {"attribution": "whole", "selection": "k_center", "tiles_per_image": 4},
        {"crop_center": "patch", "baseline": "blur", "value": "probability", "selection": "herding"},
        {"crop_fraction": 1.0, "attribution": "captum_kernel_shap", "selection": "herding"},
        {"crop_fraction": 1.0, "attribution": "grad_cam"},
        {"selection": "regression", "tiles_per_image": 4},
        {"batch_size": None},
    ],
)
def test_every_variant_end_to_end(config, tmp_path, teacher, source, options):
    settings = {"crop_fraction": 0.5, "ipc": [2], "candidates_per_class": 10}
    manifest = distill(config(**{**settings, **options}))
    assert manifest["ipcs"] == [2]
    check_images(tmp_path / "run", 2, options.get("tiles_per_image", 1), teacher, source)
    values = columns(tmp_path / "run", 2)
    assert np.isfinite(values["tile_logits"]).all()
    grid = options.get("grid_size", 3)
    for members in values["tiles"]:
        for tile in members:
            if options.get("attribution") in ("random", "whole"):
                assert tile["heatmap"] is None
            else:
                assert np.array(tile["heatmap"]).shape == (grid, grid)


def test_half_precision(config, tmp_path, teacher, source):
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision
    try:
        manifest = distill(config(mixed_precision="bf16", crop_fraction=0.5))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert manifest["config"]["mixed_precision"] == "bf16"
    values = columns(tmp_path / "run", 3)
    exact = teacher(values["pixels"].float() / 255).numpy()
    rounded = values["tile_logits"][:, 0]
    assert np.allclose(rounded, exact, atol=0.15)
    assert not np.allclose(rounded, exact, atol=1e-4), "the teacher must have run in bf16"


def test_the_best_score_is_taken_in_the_order_asked_for(config, tmp_path, teacher, source, sample_part):
    settings = {"candidates_per_class": 0, "ipc": [1], "utility": "loss", "selection": "top", "views": 0}
    labels = torch.tensor(decoct.load_images(str(sample_part))["label"][:])
    losses = cross_entropy_loss(teacher(source.float() / 255), labels).numpy()
    for order, pick in (("highest", np.argmax), ("lowest", np.argmin)):
        distill(config(utility_order=order, output_dir=str(tmp_path / order), **settings))
        tiles = load_dataset(str(tmp_path / order), "ipc_1", split="train")["tiles"][:]
        for label in range(CLASSES):
            rows = np.flatnonzero(labels.numpy() == label)
            assert tiles[label][0]["source_index"] == rows[pick(losses[rows])]


@pytest.mark.parametrize("stage", [distill, plan_distill])
def test_a_crop_fraction_that_leaves_one_window_is_refused_before_anything_is_attributed(config, tmp_path, stage):
    with pytest.raises(
        ValueError, match=r"crop_fraction must leave more than one window of an image of 28 px. Got 0.99"
    ):
        stage(config(crop_fraction=0.99))
    assert not (tmp_path / "run").exists()
