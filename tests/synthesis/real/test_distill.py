"""Runs that choose from real images: their folder, their labels, repeated and refused ones, bad input, the plan."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Image, load_dataset
from PIL import Image as PILImage
from worlds import contents

import decoct
from decoct.config import DistillConfig
from decoct.files import read_json
from decoct.run.seeding import numpy_generator
from decoct.synthesis.distill import distill, plan_distill

from ..runs import CLASSES, NAMES, SIDE, VIEWS, columns
from .images import check_images


def test_the_run_folder_describes_itself_and_has_a_preview(config, tmp_path, teacher):
    manifest = distill(config())
    folder = tmp_path / "run"
    assert read_json(folder / "manifest.json") == manifest
    written = {name for name in contents(folder) if name not in ("manifest.json", "report.html", "run.json")}
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
    options["allow_weak_teacher"] = True  # it is not trained
    distill(DistillConfig(ipc=[2], tiles_per_image=4, views=1, slots=0, coalitions=30, batch_size=16, **options))
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
    # An epoch or two are near the bound of a weak teacher, on which side depends on how a processor rounds.
    settings = {"ipc": [1, 11], "candidates_per_class": 12, "allow_weak_teacher": True}
    manifest = distill(config(label_teacher=given, **settings))
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
    before = contents(tmp_path / "run")
    assert distill(config(num_workers=1)) == manifest
    assert contents(tmp_path / "run") == before


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
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="same configuration") as error:
        distill(config(method="random", seed=1))
    assert "seed: 0 there, 1 now" in str(error.value)
    assert contents(tmp_path / "run") == before
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
    with pytest.raises(ValueError, match="3 of 3 that are unknown to it: blue, green, red") as error:
        distill(config(dataset=str(image_folder)))
    assert ", ".join(NAMES) in str(error.value) and "--label_map" in str(error.value)
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
    with pytest.raises(
        ValueError, match=f"Class 'Pullover' must have at least 20 candidates .*Got {kept} images. Lower --ipc, or add"
    ):
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
    options = {"candidates_per_class": 16, "grid_size": 3, "coalitions": 16, "views": VIEWS, "slots": 0}
    options["batch_size"] = 16
    distilled = decoct.InfoUtil(teacher, **options).distill(images, ipc=1)
    assert isinstance(distilled, Dataset)
    distill(config(ipc=[1]))
    by_command = load_dataset(str(tmp_path / "run"), "ipc_1", split="train")
    assert distilled.features == by_command.features
    assert distilled.with_format("arrow")[:] == by_command.with_format("arrow")[:]
    trained = teacher.train()  # as a training loop leaves it
    formatted = images.with_format("torch")  # as one reads it for a training loop
    kept = decoct.InfoUtil(trained, **options).distill(formatted, ipc=1, output_dir=tmp_path / "kept")
    assert kept.with_format("arrow")[:] == by_command.with_format("arrow")[:]
    assert (tmp_path / "kept" / "manifest.json").is_file()
