"""IGDS end to end on a part of the embedded sample, with a tiny prior and a tiny estimator."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Image, load_dataset
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler
from PIL import Image as PILImage
from torch import Tensor

import decoct
from decoct.config import DistillConfig, PriorConfig, values_for
from decoct.data.mosaic import unpack
from decoct.data.pixels import to_pixels
from decoct.data.spec import ImageSpec
from decoct.distilled.dataset import load_distilled
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.information import default_beta
from decoct.igds.loading import build_estimator, load_estimator
from decoct.igds.prior import load_pipeline, prior_fingerprint
from decoct.models.classifier import fingerprint_of
from decoct.pipelines.igds.pipeline import IGDSPipeline, IGDSPipelineOutput
from decoct.run.folder import read_json, write_json
from decoct.run.seeding import item_seed
from decoct.synthesis.distill import distill, plan_distill
from decoct.synthesis.relabel import view_crops
from decoct.synthesis.sampled import Chunk, SamplingSettings, betas_of, chunks_of, sample_chunk
from decoct.synthesis.tiles import pixels_of
from decoct.training.prior import build_unet

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress"]
CLASSES, SIDE, VIEWS, STEPS, SCALE = 4, 28, 2, 3, 20.0
# How the tiles of a class are cut at IPC 1 and 3: first tile, end, and the IPC whose beta they have.
PARTS = {1: [(0, 1, 1), (1, 3, 3)], 4: [(0, 2, 1), (2, 4, 1), (4, 6, 3), (6, 9, 3), (9, 12, 3)]}


@pytest.fixture(scope="module")
def settings(sample_part, trained_teacher, tiny_prior, tiny_estimator) -> dict[str, Any]:
    """A large step size, so that an estimator with random weights moves the pixels."""
    return {
        "method": "igds",
        "dataset": str(sample_part),
        "teacher": str(trained_teacher),
        "prior": str(tiny_prior),
        "estimator": str(tiny_estimator),
        "ipc": [1, 3],
        "guidance_scale": SCALE,
        "guidance_batch": 3,
        "sampling_steps": STEPS,
        "views": VIEWS,
        "batch_size": 16,
    }


@pytest.fixture
def config(settings, tmp_path) -> Callable[..., DistillConfig]:
    return lambda **options: DistillConfig(**{**settings, "output_dir": str(tmp_path / "run"), **options})


@pytest.fixture
def sampling(config) -> Callable[..., SamplingSettings]:
    """How the tiles are sampled."""
    return lambda **options: values_for(SamplingSettings, config(**options))


@pytest.fixture
def quick(config) -> Callable[..., DistillConfig]:
    """The smallest run: a tile of each class, without views."""
    return lambda **options: config(**{"ipc": [1], "views": 0, **options})


@pytest.fixture(scope="module")
def finished(once, settings) -> Callable[[int], Path]:
    """The folder of a finished run with 1 or 4 tiles per image; tests must not change it."""

    def folder(count: int) -> Path:
        def make(parent: Path) -> None:
            distill(DistillConfig(**settings, tiles_per_image=count, output_dir=str(parent / "run")))

        return once(f"igds-{count}", make) / "run"

    return folder


@pytest.fixture(autouse=True)
def quick_preview(monkeypatch, finished):
    """Drawing the preview takes most of a tiny run's time; it is drawn for the finished runs alone."""
    for count in (1, 4):
        finished(count)
    monkeypatch.setattr("decoct.synthesis.output.save_strips", lambda path, *rest: path.write_bytes(b"PNG"))


@pytest.fixture(scope="module")
def estimator(tiny_estimator) -> VariationalEstimator:
    return load_estimator(tiny_estimator)


@pytest.fixture(scope="module")
def pipeline(tiny_prior, estimator) -> IGDSPipeline:
    return load_pipeline(tiny_prior, estimator)


@pytest.fixture(scope="module")
def teacher(trained_teacher) -> decoct.Classifier:
    return decoct.load_classifier(trained_teacher)


@pytest.fixture(scope="module")
def untrained_prior(tmp_path_factory) -> Callable[..., Path]:
    """A prior with random weights in DDPM layout, without a record of its training."""

    def make(conditional: bool = True, **changes: Any) -> Path:
        values = {"image_size": SIDE, "channels": 1, "mean": (0.3,), "std": (0.3,), "label_names": tuple(NAMES)}
        unet = build_unet(
            PriorConfig(channels=[8, 16], attention=False, conditional=conditional), ImageSpec(**{**values, **changes})
        )
        folder = tmp_path_factory.mktemp("prior")
        DDPMPipeline(unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def other_estimator(teacher, tmp_path) -> Callable[..., str]:
    """A saved estimator of images that differ in some way from the teacher's."""

    def make(**changes: Any) -> str:
        spec = ImageSpec.from_dict({**teacher.spec.to_dict(), **changes})
        build_estimator("resnet10_w4", spec, 16).save_pretrained(tmp_path / "estimator")
        return str(tmp_path / "estimator")

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def columns(folder: Path, ipc: int) -> dict[str, Any]:
    """The columns of an IPC as `load_dataset` reads the run folder, arrays where they can be."""
    images = load_dataset(str(folder), f"ipc_{ipc}", split="train")
    arrays = images.with_format("numpy")
    values = {name: arrays[name][:] for name in images.column_names if name not in ("image", "tiles")}
    first = np.asarray(images[0]["image"])
    channels = 1 if first.ndim == 2 else 3
    return {**values, "pixels": to_pixels(images["image"][:], len(first), channels), "tiles": images["tiles"][:]}


def drawn(pipeline: IGDSPipeline, label: int, seeds: list[int], **options: Any) -> IGDSPipelineOutput:
    """Samples of a class from generators with these seeds."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    settings = {"guidance_scale": SCALE, "num_inference_steps": STEPS, "output_type": "pt", "generator": generators}
    return pipeline(class_labels=[label] * len(seeds), **{**settings, **options})


def seeds_of(label: int, first: int, end: int, seed: int = 0) -> list[int]:
    return [item_seed(seed, "sample", label, number) for number in range(first, end)]


def eight_bit(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def pixels(rows: Dataset, channels: int = 1) -> Tensor:
    return pixels_of(rows["image"][:], channels)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Mean difference in grey levels."""
    return float((ours.int() - theirs.int()).abs().float().mean())


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
    assert {name: manifest[name] for name in networks} == networks
    assert manifest["betas"] == {"1": default_beta(1), "3": default_beta(3)}
    assert (manifest["config"]["method"], manifest["config"]["beta"]) == ("igds", None)
    assert (manifest["label_names"], manifest["image_size"], manifest["channels"]) == (NAMES, SIDE, 1)
    for ipc in (1, 3):
        tiles = [tile for members in columns(folder, ipc)["tiles"] for tile in members]
        for name, value in manifest["information"][str(ipc)].items():
            assert value == pytest.approx(np.mean([tile[name] for tile in tiles]), rel=1e-6)
    assert set(manifest["information"]["1"]) == {"prototype", "contextual"}
    written = {name for name in files(folder) if name not in ("manifest.json", "run.json", "report.html")}
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


# Chunks


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("ipcs", [[1], [5], [1, 3], [2, 3, 50]])
@pytest.mark.parametrize("batch", [1, 3, 7, 1000])
def test_chunks_cover_every_tile_once(ipcs, count, batch):
    chunks = chunks_of(3, betas_of(ipcs, None), count, batch)
    for label in range(3):
        mine = [chunk for chunk in chunks if chunk.label == label]
        numbers = [number for chunk in mine for number in range(chunk.first, chunk.end)]
        assert numbers == list(range(max(ipcs) * count))
        assert max(chunk.end - chunk.first for chunk in mine) <= batch
        ends = {chunk.end for chunk in mine}
        assert {ipc * count for ipc in ipcs} <= ends, "no chunk reaches over the end of a smaller set"
        for smaller, ipc in zip([0, *ipcs], ipcs, strict=False):
            inside = [chunk for chunk in mine if smaller * count <= chunk.first < ipc * count]
            sizes = [chunk.end - chunk.first for chunk in inside]
            assert max(sizes) - min(sizes) <= 1
            assert {chunk.beta for chunk in inside} == {default_beta(ipc)}


def test_a_beta_that_is_given_holds_for_every_set():
    for beta in (0.3, 0.0):
        chunks = chunks_of(2, betas_of([1, 10, 50], beta), tiles_per_image=1, most=100)
        assert {chunk.beta for chunk in chunks} == {beta}


# The tiles


@pytest.mark.parametrize("count", [1, 4])
def test_tiles_are_those_sampled_by_hand(finished, pipeline, count):
    values = columns(finished(count), 3)
    tiles = unpack(values["pixels"], count).unflatten(0, (CLASSES, 3)).flatten(1, 2)
    stored = [
        [tile for members in values["tiles"][3 * label : 3 * label + 3] for tile in members] for label in range(4)
    ]
    for label in (0, 3):
        for first, end, ipc in PARTS[count]:
            seeds = [tile["seed"] for tile in stored[label][first:end]]
            images = drawn(pipeline, label, seeds, beta=default_beta(ipc)).images
            if count == 4:
                images = F.interpolate(images, (14, 14), mode="bilinear", align_corners=False, antialias=True)
            assert torch.equal(tiles[label, first:end], eight_bit(images))


def test_stored_estimates_are_the_estimators(finished, pipeline, estimator):
    stored = [tile for members in columns(finished(4), 3)["tiles"][:3] for tile in members]
    mean, std = (
        torch.tensor(value)[:, None, None] for value in (estimator.config.image_mean, estimator.config.image_std)
    )
    for first, end, ipc in PARTS[4]:
        tiles = stored[first:end]
        images = drawn(pipeline, 0, [tile["seed"] for tile in tiles], beta=default_beta(ipc)).images
        with torch.no_grad():
            output = estimator((images - mean) / std)
        prototype = output.logits.double().log_softmax(-1)[:, 0]
        assignments = (output.embeddings.double() / 0.07).softmax(-1)
        contextual = (assignments * (assignments / assignments.mean(0)).log()).sum(-1)
        assert [tile["prototype"] for tile in tiles] == pytest.approx(prototype.tolist(), abs=1e-5)
        assert [tile["contextual"] for tile in tiles] == pytest.approx(contextual.tolist(), abs=1e-5)
        assert contextual.min() > 1e-4, "tiles must differ for the check to mean something"


def test_without_guidance_tiles_are_the_priors_own(sampling, tiny_prior, pipeline):
    unguided = drawn(load_pipeline(tiny_prior, None), 1, seeds_of(1, 0, 4)).images
    tiles = pixels(sample_chunk(pipeline, Chunk(1, 0, 4, 0.5), sampling(guidance_scale=0.0), SIDE))
    assert torch.equal(tiles, eight_bit(unguided))
    part = pixels(sample_chunk(pipeline, Chunk(1, 2, 4, 0.5), sampling(guidance_scale=0.0), SIDE))
    assert (part.int() - tiles[2:].int()).abs().max() <= 1, "a tile's noise does not depend on its chunk"
    guided = pixels(sample_chunk(pipeline, Chunk(1, 0, 4, 0.5), sampling(), SIDE))
    assert difference(guided, tiles) > 0.5


@pytest.mark.parametrize(("count", "matters"), [(1, False), (4, True)])
def test_beta_matters_at_ipc_1_where_an_image_has_several_tiles(sampling, pipeline, count, matters):
    tiles = []
    for beta in (0.0, 2.0):
        (chunk,) = chunks_of(1, betas_of([1], beta), count, most=100)
        tiles.append(sample_chunk(pipeline, chunk, sampling(), SIDE))
    assert (difference(*map(pixels, tiles)) > 0.5) == matters
    plain, spread = (np.mean(rows["contextual"][:]) for rows in tiles)
    assert (spread > 1.1 * plain) if matters else (abs(spread - plain) < 1e-5)


def test_the_seed_changes_the_tiles(sampling, pipeline):
    rows = [sample_chunk(pipeline, Chunk(0, 0, 2, 0.1), sampling(seed=seed), SIDE) for seed in (0, 7, 0)]
    assert torch.equal(pixels(rows[0]), pixels(rows[2]))
    assert difference(pixels(rows[0]), pixels(rows[1])) > 5
    assert rows[1]["seed"][:] == seeds_of(0, 0, 2, seed=7)


def test_the_micro_batch_changes_nothing(sampling, pipeline):
    whole, *others = (
        sample_chunk(pipeline, Chunk(2, 0, 5, 1.0), sampling(micro_batch=size), SIDE) for size in (100, 1, 2)
    )
    for rows in others:
        assert (pixels(rows).int() - pixels(whole).int()).abs().max() <= 1
        for name in ("prototype", "contextual"):
            assert rows[name][:] == pytest.approx(whole[name][:], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"guide_on": "x0_pred"}, {"guide_on": "x0_pred"}),
        ({"guidance_reduction": "mean"}, {"reduction": "mean"}),
        ({"guidance_start": 0.5}, {"guidance_interval": (0.5, 1.0, 1)}),
        ({"guidance_stop": 0.5}, {"guidance_interval": (0.0, 0.5, 1)}),
        ({"guidance_every": 2}, {"guidance_interval": (0.0, 1.0, 2)}),
        ({"no_softplus": True}, {"softplus": False}),
        ({"classifier_free_guidance_scale": 3.0}, {"classifier_free_guidance_scale": 3.0}),
        ({"sampling_steps": 2}, {"num_inference_steps": 2}),
    ],
)
def test_every_setting_of_the_guidance_is_used(sampling, pipeline, options, passed):
    options = {"softplus": False} if "no_softplus" in options else options
    tiles = pixels(sample_chunk(pipeline, Chunk(0, 0, 2, 0.5), sampling(**options), SIDE))
    assert torch.equal(tiles, eight_bit(drawn(pipeline, 0, seeds_of(0, 0, 2), beta=0.5, **passed).images))
    assert not torch.equal(tiles, pixels(sample_chunk(pipeline, Chunk(0, 0, 2, 0.5), sampling(), SIDE)))


# Other priors


@pytest.mark.parametrize(("name", "scheduler"), [("ddim", DDIMScheduler), ("dpm_solver", DPMSolverMultistepScheduler)])
def test_other_samplers(quick, finished, tmp_path, tiny_prior, estimator, name, scheduler):
    manifest = distill(quick(scheduler=name))
    assert manifest["config"]["scheduler"] == name
    stock = DDPMPipeline.from_pretrained(tiny_prior)
    parts = {"transformer": None, "vae": None, "estimator": estimator}
    by_hand = IGDSPipeline(scheduler.from_config(stock.scheduler.config), stock.unet.eval(), **parts)
    tiles = columns(tmp_path / "run", 1)["pixels"]
    for label in (0, 3):
        assert torch.equal(tiles[label : label + 1], eight_bit(drawn(by_hand, label, seeds_of(label, 0, 1)).images))
    assert difference(tiles, columns(finished(1), 1)["pixels"]) > 1


def test_an_unconditional_prior_is_led_by_the_guidance_alone(quick, tmp_path, untrained_prior):
    prior = untrained_prior(conditional=False)
    runs = []
    for scale in (0.0, SCALE):
        folder = tmp_path / str(scale)
        manifest = distill(quick(prior=str(prior), tiles_per_image=4, guidance_scale=scale, output_dir=str(folder)))
        runs.append(manifest["information"]["1"]["prototype"])
    assert runs[1] > runs[0] + 0.01, "guided samples look more like their classes to the estimator"
    with pytest.raises(ValueError, match="classifier_free_guidance_scale must be 1 for an unconditional prior"):
        distill(quick(prior=str(prior), classifier_free_guidance_scale=2.0, output_dir=str(tmp_path / "other")))


def test_prior_classes_say_what_the_prior_is_asked_for(quick, sampling, tmp_path, tiny_prior, pipeline):
    manifest = distill(quick(prior_classes=[3, 2, 1, 0], guidance_scale=0.0))
    tiles, plain = columns(tmp_path / "run", 1)["pixels"], load_pipeline(tiny_prior, None)
    for label in range(CLASSES):
        seeds = seeds_of(label, 0, 1)
        assert torch.equal(tiles[label : label + 1], eight_bit(drawn(plain, 3 - label, seeds).images))
        assert not torch.equal(tiles[label : label + 1], eight_bit(drawn(plain, label, seeds).images))
    assert manifest["config"]["prior_classes"] == [3, 2, 1, 0]
    guided = pixels(sample_chunk(pipeline, Chunk(0, 0, 2, 0.5), sampling(prior_classes=[3, 2, 1, 0]), SIDE))
    by_hand = drawn(pipeline, 0, seeds_of(0, 0, 2), beta=0.5, prior_class_labels=[3, 3]).images
    assert torch.equal(guided, eight_bit(by_hand)), "the guidance follows the dataset's class"


def test_a_prior_of_more_classes(quick, tmp_path, untrained_prior):
    prior = untrained_prior(label_names=tuple(f"class {label}" for label in range(9)))
    distill(quick(prior=str(prior), prior_classes=[8, 0, 5, 5]))
    plain = load_pipeline(prior, load_estimator(quick().estimator))
    tiles = columns(tmp_path / "run", 1)["pixels"]
    by_hand = drawn(plain, 0, seeds_of(0, 0, 1), prior_class_labels=[8]).images
    assert torch.equal(tiles[:1], eight_bit(by_hand))


def test_colour_images_and_a_prior_of_another_size(quick, tmp_path, untrained_prior, image_folder):
    spec = decoct.measure_spec(decoct.load_images(str(image_folder)))
    decoct.build_classifier("convnet3_w8", spec).model.save_pretrained(tmp_path / "teacher")
    build_estimator("resnet10_w4", spec, 16).save_pretrained(tmp_path / "estimator")
    changes = {"image_size": 32, "channels": 3, "mean": spec.mean, "std": spec.std, "label_names": spec.label_names}
    prior = untrained_prior(**changes)
    networks = {name: str(tmp_path / name) for name in ("teacher", "estimator")}
    distill(quick(dataset=str(image_folder), prior=str(prior), **networks))
    image = load_dataset(str(tmp_path / "run"), "ipc_1", split="train")[0]["image"]
    assert (image.mode, image.size) == ("RGB", (16, 16))
    pipeline = load_pipeline(prior, load_estimator(networks["estimator"]))
    by_hand = drawn(pipeline, 0, seeds_of(0, 0, 1)).images
    assert by_hand.shape[-1] == 32
    resized = F.interpolate(by_hand, (16, 16), mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(to_pixels([image], 16, 3), eight_bit(resized))


def test_half_precision(quick, tmp_path, finished):
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision
    try:
        distill(quick(mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    tiles, exact = columns(tmp_path / "run", 1), columns(finished(1), 1)
    assert 0 < difference(tiles["pixels"], exact["pixels"]) < 5
    assert np.isfinite([members[0]["prototype"] for members in tiles["tiles"]]).all()


# Repeated and refused runs


def test_a_finished_run_is_returned_as_it_is(settings, finished):
    folder = finished(1)
    before = files(folder)
    again = distill(DistillConfig(**settings, tiles_per_image=1, num_workers=1, output_dir=str(folder)))
    assert again == read_json(folder / "manifest.json")
    assert files(folder) == before


def test_a_run_cut_off_on_the_way_ends_the_same(config, tmp_path, finished, monkeypatch):
    import decoct.synthesis.run as labelling
    import decoct.synthesis.sampled as sampling

    asked: list[Chunk] = []
    original = sampling.sample_chunk

    def counting(pipeline: IGDSPipeline, chunk: Chunk, *rest: Any) -> Dataset:
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(chunk)
        return original(pipeline, chunk, *rest)

    monkeypatch.setattr(sampling, "sample_chunk", counting)
    with pytest.raises(KeyboardInterrupt):
        distill(config())
    taken, asked[:] = asked[:], []
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "label_mosaics", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            distill(config())
    assert sorted(map(vars_of, [*taken, *asked])) == sorted(
        map(vars_of, chunks_of(CLASSES, betas_of([1, 3], None), 1, 3))
    )
    asked.clear()
    assert not (tmp_path / "run" / "manifest.json").exists()
    distill(config())
    assert not asked, "no chunk is sampled twice"
    data = {name: content for name, content in files(tmp_path / "run").items() if name.startswith("data/")}
    assert data == {name: content for name, content in files(finished(1)).items() if name.startswith("data/")}
    assert not (tmp_path / "run" / "shards").exists()


def vars_of(chunk: Chunk) -> tuple[int, int, int]:
    return chunk.label, chunk.first, chunk.end


@pytest.mark.parametrize("option", [{"seed": 1}, {"beta": 0.3}, {"scheduler": "ddim"}, {"prior_classes": [0, 1, 2, 3]}])
def test_a_folder_of_another_configuration_is_refused(settings, finished, option):
    before = files(finished(1))
    with pytest.raises(ValueError, match="same configuration.*") as error:
        distill(DistillConfig(**settings, tiles_per_image=1, output_dir=str(finished(1)), **option))
    (name,) = option
    assert f"{name}: " in str(error.value)
    assert files(finished(1)) == before


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
    assert (plan["distilled_images"], plan["tiles"], plan["chunks"]) == (16, 48, 20)
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
