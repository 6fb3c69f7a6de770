"""Distilling end to end on a part of the embedded sample."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Image, load_dataset
from PIL import Image as PILImage
from safetensors.torch import load_file

import decoct
from decoct.config import DistillConfig
from decoct.data.mosaic import cut_tile, unpack
from decoct.data.pixels import to_pixels
from decoct.infoutil.processor import InfoUtilProcessor
from decoct.infoutil.utility import cross_entropy_loss, grad_norm
from decoct.run.folder import read_json
from decoct.run.seeding import numpy_generator
from decoct.synthesis.distill import distill, plan_distill
from decoct.synthesis.relabel import view_crops
from decoct.synthesis.selection import k_center, k_means

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress"]
CLASSES, SIDE, VIEWS = 4, 28, 2


@pytest.fixture
def config(sample_part, trained_teacher, tmp_path):
    def make(**options: Any) -> DistillConfig:
        settings: dict[str, Any] = {
            "dataset": str(sample_part),
            "teacher": str(trained_teacher),
            "ipc": [1, 3],
            "candidates_per_class": 16,
            "grid_size": 3,
            "coalitions": 16,
            "views": VIEWS,
            "batch_size": 16,
            "output_dir": str(tmp_path / "run"),
        }
        return DistillConfig(**{**settings, **options})

    return make


@pytest.fixture(autouse=True)
def quick_preview(request, monkeypatch):
    """Drawing preview and report takes most of a tiny run's time; only tests named after the preview draw them."""
    if "preview" not in request.node.name:
        monkeypatch.setattr("decoct.synthesis.output.save_preview", lambda path, rows: path.write_bytes(b"PNG"))
        monkeypatch.setattr(
            "decoct.synthesis.run.write_report", lambda folder, *parts: (folder / "report.html").write_bytes(b"HTML")
        )


@pytest.fixture(scope="module")
def teacher(trained_teacher) -> decoct.Classifier:
    return decoct.load_classifier(trained_teacher)


@pytest.fixture(scope="module")
def source(sample_part) -> torch.Tensor:
    """Pixels of all real images, by source index."""
    return to_pixels(decoct.load_images(str(sample_part))["image"][:], SIDE, 1)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def columns(folder: Path, ipc: int) -> dict[str, Any]:
    """The columns of an IPC as `load_dataset` reads the run folder, arrays where they can be."""
    images = load_dataset(str(folder), f"ipc_{ipc}", split="train")
    arrays = images.with_format("numpy")
    values = {name: arrays[name][:] for name in images.column_names if name not in ("image", "tiles")}
    return {**values, "pixels": to_pixels(images["image"][:], SIDE, 1), "tiles": images["tiles"][:]}


def check_images(folder: Path, ipc: int, count: int, teacher: decoct.Classifier, source: torch.Tensor) -> None:
    """Every stored value of an IPC follows from the real images and the labelling teacher."""
    values = columns(folder, ipc)
    assert values["label"].tolist() == np.repeat(range(CLASSES), ipc).tolist()
    pixels = values["pixels"].float() / 255
    tiles = unpack(values["pixels"], count)
    resized = F.interpolate(tiles.flatten(0, 1).float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
    expected = teacher(resized if count > 1 else pixels).view(-1, count, CLASSES)
    assert np.allclose(values["tile_logits"], expected.numpy(), rtol=2e-3, atol=2e-3)
    for number, (members, cut) in enumerate(zip(values["tiles"], tiles, strict=True)):
        assert len(members) == count
        for member, tile in zip(members, cut, strict=True):
            assert torch.equal(tile, cut_tile(source[member["source_index"]], tuple(member["box"]), tile.shape[-1]))
        boxes = torch.from_numpy(values["view_boxes"][number])
        crops = view_crops(pixels[number : number + 1], torch.zeros(VIEWS, dtype=torch.long), boxes)
        assert np.allclose(values["view_logits"][number], teacher(crops).numpy(), rtol=2e-3, atol=2e-3)
    used = [member["source_index"] for members in values["tiles"] for member in members]
    assert len(set(used)) == len(used) == CLASSES * ipc * count, "an image gives at most one tile"


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


def test_the_run_folder_describes_itself_and_has_a_preview(config, tmp_path, teacher):
    manifest = distill(config())
    folder = tmp_path / "run"
    assert read_json(folder / "manifest.json") == manifest
    written = {name for name in files(folder) if name not in ("manifest.json", "report.html", "run.json")}
    assert set(manifest["files"]) == written
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    with PILImage.open(folder / "preview.png") as picture:
        assert min(picture.size) > 200
    assert manifest["label_names"] == NAMES
    assert (manifest["image_size"], manifest["channels"], manifest["ipcs"]) == (SIDE, 1, [1, 3])
    assert manifest["image_mean"] == list(teacher.spec.mean)
    assert manifest["candidates"] == 16 * CLASSES
    assert manifest["teacher"] == {"name": teacher.name, "fingerprint": teacher.fingerprint()}
    assert manifest["config"]["utility_order"] == "lowest", "the configuration is stored as it was resolved"
    for ipc in (1, 3):
        features = load_dataset(str(folder), f"ipc_{ipc}", split="train").features
        assert features["image"] == Image()
        assert features["label"] == ClassLabel(names=NAMES)
        assert (features["tile_logits"].shape, features["tile_logits"].dtype) == ((1, CLASSES), "float16")
        assert (features["view_logits"].shape, features["view_logits"].dtype) == ((VIEWS, CLASSES), "float16")
        assert (features["view_boxes"].shape, features["view_boxes"].dtype) == ((VIEWS, 5), "float16")
        assert set(features["tiles"].feature) == {"source_index", "box", "score", "heatmap"}


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


def test_folders_of_one_name_and_a_folder_made_again_load_their_own_images(config, tmp_path):
    """`datasets` keeps what it loaded, and must notice that it is something else."""
    seen = []
    for parent, seed in (("a", 0), ("b", 1), ("b", 2)):
        folder = tmp_path / parent / "run"
        distill(config(method="random", seed=seed, output_dir=str(folder), overwrite=True))
        loaded = load_dataset(str(folder), "ipc_3", split="train")
        stored = Dataset.from_parquet(str(next(folder.glob("data/ipc_3/*.parquet"))), keep_in_memory=True)
        assert loaded["tiles"][:] == stored["tiles"][:]
        seen.append(str(loaded["tiles"][:]))
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"crop_fraction": 0.5},
        {"method": "rded", "tiles_per_image": 4},
        {"method": "k_means", "views": 1},
        {"method": "forgetting", "views": 1},
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


def test_no_views_leave_their_columns_out(config, tmp_path):
    distill(config(views=0))
    assert load_dataset(str(tmp_path / "run"), "ipc_1", split="train").column_names == [
        "image",
        "label",
        "tile_logits",
        "tiles",
    ]


def test_view_boxes_follow_from_seed_class_and_number(config, tmp_path):
    from decoct.synthesis.relabel import draw_views

    distill(config(seed=5, view_scale=0.3))
    boxes = columns(tmp_path / "run", 3)["view_boxes"]
    expected = [
        draw_views(numpy_generator(5, "views", label, number), VIEWS, 0.3) for label in range(4) for number in range(3)
    ]
    assert (boxes == np.stack(expected)).all()


def test_rgb_images_of_a_folder(tmp_path, image_folder):
    spec = decoct.measure_spec(decoct.load_images(str(image_folder)))
    decoct.build_classifier("convnet3_w8", spec).model.save_pretrained(tmp_path / "teacher")
    options = {"dataset": str(image_folder), "teacher": str(tmp_path / "teacher"), "output_dir": str(tmp_path / "run")}
    distill(DistillConfig(ipc=[2], tiles_per_image=4, views=1, coalitions=30, batch_size=16, **options))
    images = load_dataset(str(tmp_path / "run"), "ipc_2", split="train")
    assert images[0]["image"].mode == "RGB"
    assert images[0]["image"].size == (16, 16)
    brightest = np.stack([np.asarray(image).mean((0, 1)).argmax() for image in images["image"]])
    assert brightest.tolist() == [2, 2, 1, 1, 0, 0], "blue, green and red images"


# The teacher that labels


@pytest.mark.parametrize(
    ("choice", "labellers"),
    [
        ("converged", {"1": ".", "11": "."}),
        ("early", {"1": "epoch_2", "11": "epoch_2"}),
        ("by_ipc", {"1": "epoch_2", "11": "."}),
        ("path", {"1": "epoch_4", "11": "epoch_4"}),
    ],
)
def test_the_teacher_that_labels(config, tmp_path, trained_teacher, source, teacher, choice, labellers):
    given = str(trained_teacher / "epoch_4") if choice == "path" else choice
    manifest = distill(config(label_teacher=given, ipc=[1, 11], candidates_per_class=12))
    for ipc, folder in labellers.items():
        labeller = decoct.load_classifier(trained_teacher / folder)
        assert manifest["label_teachers"][ipc]["fingerprint"] == labeller.fingerprint()
        check_images(tmp_path / "run", int(ipc), 1, labeller, source)
    right = teacher(columns(tmp_path / "run", 11)["pixels"].float() / 255).argmax(1).numpy()
    expected = (right == np.repeat(range(CLASSES), 11)).mean()
    assert manifest["tile_accuracy"]["11"] == pytest.approx(expected), "accuracy is that of the teacher that scored"


def test_an_early_teacher_that_was_not_saved_is_an_error(config, trained_teacher):
    with pytest.raises(ValueError, match=r"label_teacher must be 'converged'.*'early'.*has no epoch_N folder"):
        distill(config(teacher=str(trained_teacher / "epoch_2"), label_teacher="early"))
    with pytest.raises(ValueError, match="teacher must be an existing folder"):
        distill(config(label_teacher="/no/such/teacher"))


# Repeated and refused runs


def test_a_finished_run_is_returned_as_it_is(config, tmp_path):
    manifest = distill(config())
    before = files(tmp_path / "run")
    assert distill(config(num_workers=1)) == manifest
    assert files(tmp_path / "run") == before


def test_a_run_cut_off_before_its_manifest_ends_the_same(config, tmp_path, monkeypatch):
    import decoct.synthesis.run as stages

    manifest = distill(config(output_dir=str(tmp_path / "whole"), shard_size=7, crop_fraction=0.5))
    cut = config(output_dir=str(tmp_path / "cut"), shard_size=7, crop_fraction=0.5)
    for stage in ("label_mosaics", "merge_shards", "write_card"):
        with monkeypatch.context() as patch:
            patch.setattr(stages, stage, lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                distill(cut)
        assert not (tmp_path / "cut" / "manifest.json").exists()
    resumed = distill(cut)
    data = {name: digest for name, digest in manifest["files"].items() if name != "README.md"}
    assert data == {name: digest for name, digest in resumed["files"].items() if name != "README.md"}
    assert not (tmp_path / "cut" / "shards").exists()


def test_another_configuration_is_refused_and_overwrite_starts_again(config, tmp_path):
    distill(config(method="random"))
    before = files(tmp_path / "run")
    with pytest.raises(ValueError, match="same configuration") as error:
        distill(config(method="random", seed=1))
    assert "seed: 0 there, 1 now" in str(error.value)
    assert files(tmp_path / "run") == before
    (tmp_path / "run" / "notes.txt").write_text("mine")
    manifest = distill(config(method="random", ipc=[2], seed=1, overwrite=True))
    assert manifest["config"]["seed"] == 1
    assert sorted(path.name for path in (tmp_path / "run" / "data").iterdir()) == ["ipc_2"]
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_retrained_teacher_of_the_same_name_is_noticed(config, tmp_path, teacher):
    copied = decoct.load_classifier(teacher.name)
    copied.model.save_pretrained(tmp_path / "teacher")
    distill(config(teacher=str(tmp_path / "teacher"), method="random"))
    with torch.no_grad():
        copied.head.bias.add_(1)
    copied.model.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="differs in\n.*teacher.*fingerprint"):
        distill(config(teacher=str(tmp_path / "teacher"), method="random"))


# Bad input


def test_a_teacher_of_other_classes_is_an_error_that_shows_both(config, image_folder, tmp_path):
    with pytest.raises(ValueError, match="Label names") as error:
        distill(config(dataset=str(image_folder)))
    assert str(NAMES) in str(error.value)
    assert "['blue', 'green', 'red']" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_class_with_too_few_candidates_is_named(config, tmp_path, sample_part):
    with pytest.raises(ValueError, match=r"Class 'T-shirt/top' must have at least 25 .*Got 24 images.*--ipc"):
        distill(config(ipc=[1, 25], candidates_per_class=0))
    with pytest.raises(
        ValueError, match=r"at least 12 candidates for 4 tiles x IPC 3. Got 11 \(candidates_per_class\)"
    ):
        distill(config(tiles_per_image=4, candidates_per_class=11))
    images = decoct.load_images(str(sample_part))
    few = images.select([row for row, label in enumerate(images["label"][:]) if label != 2 or row % 2])
    few.to_parquet(tmp_path / "few.parquet")
    kept = few["label"][:].count(2)
    with pytest.raises(ValueError, match=f"Class 'Pullover' must have at least 20 candidates .*Got {kept} images"):
        distill(config(dataset=str(tmp_path / "few.parquet"), ipc=[20], candidates_per_class=0))
    assert not (tmp_path / "run").exists()


def test_four_tiles_need_an_even_side(config, tmp_path, teacher):
    values = {**teacher.spec.to_dict(), "image_size": 27}
    odd = decoct.build_classifier("convnet3_w8", decoct.ImageSpec.from_dict(values))
    odd.model.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"tiles_per_image must be 1 for images of odd size \(27 px\). Got 4."):
        distill(config(teacher=str(tmp_path / "teacher"), tiles_per_image=4))


def test_too_few_coalitions_are_an_error_before_any_work(config, tmp_path):
    with pytest.raises(ValueError, match="coalitions must be .*at least 30"):
        distill(config(grid_size=4, coalitions=28))
    assert not (tmp_path / "run").exists()


def test_a_missing_teacher_and_bad_settings(config, tmp_path):
    with pytest.raises(ValueError, match="teacher must be an existing folder"):
        distill(config(teacher=str(tmp_path / "missing")))
    with pytest.raises(ValueError, match="method must be one of .*Got 'sre2l'"):
        config(method="sre2l")
    with pytest.raises(ValueError, match="ipc must be one or more numbers from 1 on"):
        config(ipc=[0])
    with pytest.raises(ValueError, match="coalitions must be even"):
        config(coalitions=15)
    with pytest.raises(ValueError, match="grid_size must be at most 4 for exact_shapley"):
        config(attribution="exact_shapley", grid_size=5)


# Dry run and Python object


@pytest.mark.parametrize("count", [1, 4])
def test_a_dry_run_counts_and_writes_nothing(config, tmp_path, count):
    plan = plan_distill(config(tiles_per_image=count))
    assert (plan["candidates"], plan["distilled_images"], plan["tiles"]) == (64, 16, 16 * count)
    passes = plan["forward_passes"]
    assert passes["attribution"] == 17 * (16 if count == 1 else 64)
    assert passes["labels"] == 16 * (2 * count + VIEWS)
    assert plan["label_bytes"] == 16 * (2 * CLASSES * (count + VIEWS) + 2 * 5 * VIEWS)
    assert plan["estimated_seconds"] >= 0
    assert not (tmp_path / "run").exists()


def test_a_dry_run_finds_bad_input(config):
    with pytest.raises(ValueError, match="at least 25 candidates"):
        plan_distill(config(ipc=[25]))
    with pytest.raises(ValueError, match="teacher must be an existing folder"):
        plan_distill(config(label_teacher="/no/such/teacher"))


def test_the_python_object(config, tmp_path, teacher, sample_part):
    images = decoct.load_images(str(sample_part))
    options = {"candidates_per_class": 16, "grid_size": 3, "coalitions": 16, "views": VIEWS, "batch_size": 16}
    distilled = decoct.InfoUtil(teacher, **options).distill(images, ipc=1)
    assert isinstance(distilled, Dataset)
    distill(config(ipc=[1]))
    by_command = load_dataset(str(tmp_path / "run"), "ipc_1", split="train")
    assert distilled.features == by_command.features
    assert distilled.with_format("arrow")[:] == by_command.with_format("arrow")[:]
    kept = decoct.InfoUtil(teacher, **options).distill(images, ipc=1, output_dir=tmp_path / "kept")
    assert kept.with_format("arrow")[:] == by_command.with_format("arrow")[:]
    assert (tmp_path / "kept" / "manifest.json").is_file()
