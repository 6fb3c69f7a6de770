"""Runs that sample: their folder, repeated and refused ones, bad input, the plan."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, Image, load_dataset
from PIL import Image as PILImage
from worlds import contents

import decoct
from decoct.config import DistillConfig
from decoct.data.mosaic import unpack
from decoct.data.spec import ImageSpec
from decoct.distilled.dataset import load_distilled
from decoct.files import read_json
from decoct.igds.information import default_beta
from decoct.igds.loading import load_estimator
from decoct.igds.prior import load_pipeline, prior_fingerprint
from decoct.models.classifier import fingerprint_of
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.run.folder import write_json
from decoct.synthesis.chunks import Chunk, betas_of, chunks_of
from decoct.synthesis.distill import distill, plan_distill
from decoct.synthesis.relabel import view_crops

from ..runs import CLASSES, NAMES, SIDE, VIEWS, columns
from .samples import SCALE, STEPS, seeds_of

# The run folder


@pytest.mark.parametrize("count", [1, 4])
def test_the_columns_of_a_run_folder(finished, count):
    for ipc in (1, 3):
        images = load_dataset(str(finished(count)), f"ipc_{ipc}", split="train")
        features = images.features
        assert features["image"] == Image()
        assert features["label"] == ClassLabel(names=NAMES)
        assert (features["tile_logits"].shape, features["tile_logits"].dtype) == ((count, CLASSES), "float16")
        assert (features["view_logits"].shape, features["view_logits"].dtype) == ((VIEWS, CLASSES), "float16")
        assert (features["view_boxes"].shape, features["view_boxes"].dtype) == ((VIEWS, 5), "float16")
        kinds = {name: feature.dtype for name, feature in features["tiles"].feature.items()}
        assert kinds == {"seed": "int64", "prototype": "float32", "contextual": "float32"}
        assert images["label"][:] == np.repeat(range(CLASSES), ipc).tolist()
        assert all(image.size == (SIDE, SIDE) for image in images["image"])
        for number, tiles in enumerate(images["tiles"]):
            label, first = number // ipc, number % ipc * count
            assert [tile["seed"] for tile in tiles] == seeds_of(label, first, first + count)


def test_the_manifest_names_what_made_the_images(finished, settings, pipeline, teacher):
    folder = finished(4)
    manifest = read_json(folder / "manifest.json")
    networks = {
        "prior": {"name": settings["prior"], "fingerprint": prior_fingerprint(pipeline)},
        "estimator": {"name": settings["estimator"], "fingerprint": fingerprint_of({"": pipeline.estimator})},
        "teacher": {"name": teacher.name, "fingerprint": teacher.fingerprint()},
    }
    assert manifest["prior"].pop("scheduler").startswith("DDPMScheduler ")
    assert {name: manifest[name] for name in networks} == networks
    assert manifest["betas"] == {"1": default_beta(1), "3": default_beta(3)}
    assert (manifest["config"]["method"], manifest["config"]["beta"]) == ("igds", None)
    assert (manifest["label_names"], manifest["image_size"], manifest["channels"]) == (NAMES, SIDE, 1)
    for ipc in (1, 3):
        tiles = [tile for members in columns(folder, ipc)["tiles"] for tile in members]
        for name, value in manifest["information"][str(ipc)].items():
            assert value == pytest.approx(np.mean([tile[name] for tile in tiles]), rel=1e-6)
    assert set(manifest["information"]["1"]) == {"prototype", "contextual"}
    written = {name for name in contents(folder) if name not in ("manifest.json", "run.json", "report.html")}
    assert set(manifest["files"]) == written
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    names = {"README.md", "data", "manifest.json", "preview.png", "report.html", "run.json"}
    assert {path.name for path in folder.iterdir()} == names


def test_the_card_and_the_preview(finished, settings, pipeline):
    folder = finished(1)
    card = (folder / "README.md").read_text(encoding="utf-8")
    manifest = read_json(folder / "manifest.json")
    for name in ("prior", "estimator"):
        assert settings[name] in card
        assert manifest[name]["fingerprint"][:12] in card
    assert "distilled by IGDS" in card
    assert "No image is real" in card
    assert f"`guidance_scale` | `{SCALE}`" in card
    assert "coalitions" not in card
    with PILImage.open(folder / "preview.png") as picture:
        assert min(picture.size) > 150
        assert len(picture.convert("L").getcolors()) > 20, "images are shown"


@pytest.mark.parametrize("count", [1, 4])
def test_a_run_folder_loads_for_evaluation(finished, count):
    loaded = load_distilled(str(finished(count)), 3)
    values = columns(finished(count), 3)
    assert torch.equal(loaded.images, values["pixels"])
    assert (loaded.ipc, loaded.tiles_per_image, len(loaded)) == (3, count, 3 * CLASSES)
    assert np.array_equal(loaded.tile_logits, values["tile_logits"].astype(np.float32))
    assert loaded.spec.label_names == tuple(NAMES)


@pytest.mark.parametrize("count", [1, 4])
def test_labels_are_the_teachers(finished, teacher, count):
    folder = finished(count)
    for ipc in (1, 3):
        values = columns(folder, ipc)
        images = values["pixels"].float() / 255
        tiles = unpack(values["pixels"], count).flatten(0, 1).float() / 255
        resized = F.interpolate(tiles, (SIDE, SIDE), mode="bilinear", align_corners=False) if count > 1 else images
        logits = teacher(resized).view(-1, count, CLASSES).numpy()
        assert np.allclose(values["tile_logits"], logits, rtol=2e-3, atol=2e-3)
        right = (logits.argmax(-1) == values["label"][:, None]).mean()
        assert read_json(folder / "manifest.json")["tile_accuracy"][str(ipc)] == pytest.approx(right)
        rows = torch.arange(len(images)).repeat_interleave(VIEWS)
        crops = view_crops(images, rows, torch.from_numpy(values["view_boxes"]).flatten(0, 1))
        views = teacher(crops).view(-1, VIEWS, CLASSES).numpy()
        assert np.allclose(values["view_logits"], views, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("count", [1, 4])
def test_a_smaller_set_is_the_head_of_a_larger_one(finished, count):
    small, large = columns(finished(count), 1), columns(finished(count), 3)
    assert torch.equal(small["pixels"], large["pixels"][::3])
    assert small["tiles"] == large["tiles"][::3]
    assert np.array_equal(small["view_boxes"], large["view_boxes"][::3])
    for name in ("tile_logits", "view_logits"):
        assert np.allclose(small[name], large[name][::3], rtol=2e-3, atol=2e-3)


# Repeated and refused runs


def test_a_finished_run_is_returned_as_it_is(settings, finished):
    folder = finished(1)
    before = contents(folder)
    again = distill(DistillConfig(**settings, tiles_per_image=1, num_workers=1, output_dir=str(folder)))
    assert again == read_json(folder / "manifest.json")
    assert contents(folder) == before


def test_a_run_cut_off_on_the_way_ends_the_same(config, tmp_path, finished, monkeypatch):
    import decoct.synthesis.run as labelling
    import decoct.synthesis.sampled as sampling

    asked: list[list[Chunk]] = []
    original = sampling.sample_chunks

    def counting(pipeline: IGDSPipeline, chunks: list[Chunk], *rest: Any) -> Dataset:
        if len(asked) == 1:
            raise KeyboardInterrupt
        asked.append(chunks)
        return original(pipeline, chunks, *rest)

    monkeypatch.setattr(sampling, "sample_chunks", counting)
    with pytest.raises(KeyboardInterrupt):
        distill(config())
    taken, asked[:] = asked[:], []
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "label_mosaics", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            distill(config())
    assert len(taken) == len(asked) == 1, "a batch of each set"
    assert sorted(map(vars_of, itertools.chain(*taken, *asked))) == sorted(
        map(vars_of, chunks_of(CLASSES, betas_of([1, 3], None), 1, 3))
    )
    asked.clear()
    assert not (tmp_path / "run" / "manifest.json").exists()
    distill(config())
    assert not asked, "no chunk is sampled twice"
    data = {name: content for name, content in contents(tmp_path / "run").items() if name.startswith("data/")}
    assert data == {name: content for name, content in contents(finished(1)).items() if name.startswith("data/")}
    assert not (tmp_path / "run" / "shards").exists()


def vars_of(chunk: Chunk) -> tuple[int, int, int]:
    return chunk.label, chunk.first, chunk.end


@pytest.mark.parametrize("option", [{"seed": 1}, {"beta": 0.3}, {"scheduler": "ddim"}, {"prior_classes": [0, 1, 2, 3]}])
def test_a_folder_of_another_configuration_is_refused(settings, finished, option):
    before = contents(finished(1))
    with pytest.raises(ValueError, match="same configuration.*") as error:
        distill(DistillConfig(**settings, tiles_per_image=1, output_dir=str(finished(1)), **option))
    (name,) = option
    assert f"{name}: " in str(error.value)
    assert contents(finished(1)) == before


def test_changed_weights_of_the_same_name_are_noticed(quick, tmp_path, tiny_prior, tiny_estimator):
    for name, folder in (("prior", tiny_prior), ("estimator", tiny_estimator)):
        shutil.copytree(folder, tmp_path / name)
    options = {name: str(tmp_path / name) for name in ("prior", "estimator")}
    distill(quick(**options))
    estimator = load_estimator(options["estimator"])
    with torch.no_grad():
        estimator.classifier.bias.add_(1)
    estimator.save_pretrained(options["estimator"])
    with pytest.raises(ValueError, match="differs in\n  estimator: .*fingerprint"):
        distill(quick(**options))
    unet = load_pipeline(options["prior"], None).unet
    with torch.no_grad():
        unet.conv_in.bias.add_(1)
    unet.save_pretrained(tmp_path / "prior" / "unet")
    with pytest.raises(ValueError, match="prior: .*fingerprint"):
        distill(quick(**options))
    assert distill(quick(**options, overwrite=True))["config"]["prior"] == options["prior"]


# Bad input


def test_an_estimator_of_other_classes_is_an_error_that_shows_both(quick, tmp_path, other_estimator):
    turned = NAMES[::-1]
    with pytest.raises(ValueError, match="Label names of the estimator .*another order") as error:
        distill(quick(estimator=other_estimator(label_names=turned)))
    assert str(NAMES) in str(error.value)
    assert str(turned) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_prior_of_other_classes_needs_prior_classes(quick, tmp_path, tiny_prior):
    shutil.copytree(tiny_prior, tmp_path / "prior")
    record = read_json(tmp_path / "prior" / "training.json")
    write_json(tmp_path / "prior" / "training.json", {**record, "label_names": NAMES[::-1]})
    with pytest.raises(ValueError, match="Label names of the prior .*another order"):
        distill(quick(prior=str(tmp_path / "prior")))
    assert not (tmp_path / "run").exists()
    assert distill(quick(prior=str(tmp_path / "prior"), prior_classes=[3, 2, 1, 0]))["ipcs"] == [1]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1, 2], "prior_classes must have 4 entries.*Got 3"),
        ([0, 1, 2, 3, 4], "prior_classes must have 4 entries.*Got 5"),
        ([0, 1, 2, 7], r"prior_class\w+ must be in \[0, \d\].*Got \[7\]"),
        ([-1, 1, 2, 3], r"prior_class\w+ must be in \[0, \d\].*Got \[-1\]"),
    ],
)
def test_wrong_prior_classes_are_an_error_before_any_work(quick, tmp_path, ids, message):
    for run in (plan_distill, distill):
        with pytest.raises(ValueError, match=message):
            run(quick(prior_classes=ids))
    assert not (tmp_path / "run").exists()


def test_a_prior_of_another_number_of_classes_is_an_error_before_any_work(quick, tmp_path, untrained_prior):
    prior = untrained_prior(label_names=tuple(f"class {label}" for label in range(9)))
    with pytest.raises(ValueError, match="9 classes of the prior.*prior_class"):
        distill(quick(prior=str(prior)))
    assert not (tmp_path / "run").exists()


def test_networks_of_other_channels_are_an_error_before_any_work(quick, tmp_path, untrained_prior, other_estimator):
    three = {"channels": 3, "mean": (0.3,) * 3, "std": (0.3,) * 3}
    with pytest.raises(ValueError, match="prior must make images of 1 channels. Got .*which makes 3"):
        distill(quick(prior=str(untrained_prior(**three))))
    with pytest.raises(ValueError, match="estimator must take images of 1 channels"):
        distill(quick(estimator=other_estimator(**three)))
    assert not (tmp_path / "run").exists()


def test_missing_folders(quick, tmp_path):
    (tmp_path / "empty").mkdir()
    missing, empty = str(tmp_path / "missing"), str(tmp_path / "empty")
    for name, folder, message in (
        ("prior", missing, "prior must be .*existing folder or a Hub id 'user/name'. Got .*missing"),
        ("prior", empty, "prior must be a diffusers folder with model_index.json. Got .*empty"),
        ("estimator", missing, "estimator must be .*existing folder or a Hub id 'user/name'. Got .*missing"),
        ("estimator", empty, "estimator must be a folder with config.json and model.safetensors. Got .*empty"),
        ("teacher", missing, "teacher must be an existing folder"),
        ("label_teacher", missing, "teacher must be an existing folder"),
    ):
        with pytest.raises(ValueError, match=message):
            distill(quick(**{name: folder}))
    assert not (tmp_path / "run").exists()


def test_four_tiles_need_an_even_side(quick, tmp_path, teacher):
    spec = ImageSpec.from_dict({**teacher.spec.to_dict(), "image_size": 27})
    decoct.build_classifier("convnet3_w8", spec).model.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"tiles_per_image must be 1 for images of odd size \(27 px\). Got 4."):
        distill(quick(teacher=str(tmp_path / "teacher"), tiles_per_image=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.1}, "beta must be at least 0. Got -0.1."),
        ({"guidance_scale": -1.0}, "guidance_scale must be at least 0"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"guide_on": "noise"}, "guide_on must be one of .*Got 'noise'"),
        ({"guidance_start": 0.6, "guidance_stop": 0.5}, "guidance_start and guidance_stop must be increasing shares"),
        ({"guidance_stop": 0.001}, r"some of the \d+ steps between them. Got \(0.0, 0.001\)"),
        ({"guidance_stop": 1.5}, "guidance_start and guidance_stop must be increasing shares"),
        ({"guidance_every": 0}, "guidance_every must be at least 1"),
        ({"sampling_steps": 0}, "sampling_steps must be at least 1"),
        ({"guidance_batch": 0}, "guidance_batch must be at least 1"),
        ({"micro_batch": 0}, "micro_batch must be at least 1"),
        ({"scheduler": "euler"}, "scheduler must be one of .*Got 'euler'"),
    ],
)
def test_bad_settings(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


# Dry run


def test_a_dry_run_plans_and_writes_nothing(config, tmp_path):
    plan = plan_distill(config(tiles_per_image=4))
    assert (plan["distilled_images"], plan["tiles"], plan["batches"]) == (16, 48, 5)
    assert plan["prior_passes"] == 48 * STEPS
    assert plan["label_passes"] == 16 * (8 + VIEWS)
    assert plan["betas"] == {"IPC 1": default_beta(1), "IPC 3": default_beta(3)}
    assert plan["label_bytes"] == 16 * (2 * CLASSES * (4 + VIEWS) + 2 * 5 * VIEWS)
    assert plan["estimated_seconds"] > 0
    assert json.loads(json.dumps(plan)) == plan
    assert not (tmp_path / "run").exists()


def test_a_dry_run_finds_bad_input(quick, tmp_path, other_estimator):
    with pytest.raises(ValueError, match="Label names of the estimator"):
        plan_distill(quick(estimator=other_estimator(label_names=NAMES[::-1])))
    with pytest.raises(ValueError, match="prior must be .*existing folder"):
        plan_distill(quick(prior=str(tmp_path / "missing")))
    with pytest.raises(ValueError, match="teacher must be an existing folder"):
        plan_distill(quick(label_teacher="/no/such/teacher"))
