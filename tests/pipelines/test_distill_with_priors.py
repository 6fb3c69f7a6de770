"""Distilling with priors of the Hub's layouts: an unconditional DDPM, a DiT with other class ids, text to image."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import text_to_image
import torch
from datasets import load_dataset
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DEISMultistepScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor

import decoct
from decoct.arguments import parse_config
from decoct.config import DistillConfig, SampleConfig, values_for
from decoct.distilled.dataset import load_distilled
from decoct.files import read_json
from decoct.igds.loading import build_estimator
from decoct.igds.prior import load_text_to_image, prior_fingerprint, with_scheduler
from decoct.pipelines.igds.text_to_image import TextToImagePrior
from decoct.run.folder import write_json
from decoct.run.seeding import item_seed
from decoct.synthesis.distill import distill, plan_distill
from decoct.synthesis.guided_prior import PriorSettings, SamplingSettings, open_pipeline, place
from decoct.synthesis.sampled import IGDS
from decoct.synthesis.samples import draw_samples, plan_samples

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True}


@pytest.fixture
def config(image_folder, tmp_path):
    """Settings of a run on 16-pixel colour images, with an untrained teacher and estimator."""
    spec = decoct.measure_spec(decoct.load_images(str(image_folder)))
    decoct.build_classifier("convnet3_w8", spec).model.save_pretrained(tmp_path / "teacher")
    build_estimator("resnet10_w4", spec, 8).save_pretrained(tmp_path / "estimator")

    def make(**options: Any) -> DistillConfig:
        settings: dict[str, Any] = {
            "method": "igds",
            "dataset": str(image_folder),
            "teacher": str(tmp_path / "teacher"),
            "allow_weak_teacher": True,
            "estimator": str(tmp_path / "estimator"),
            "prior": str(tmp_path / "prior"),
            "ipc": [2],
            "sampling_steps": 2,
            "views": 2,
            "slots": 0,
            "batch_size": 8,
            "output_dir": str(tmp_path / "run"),
        }
        return DistillConfig(**{**settings, **options})

    return make


def assert_distilled(folder: Path) -> None:
    distilled = load_distilled(folder, 2)
    assert distilled.images.shape == (6, 3, 16, 16)
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(distilled.images.flatten(1).unique(dim=0)) == 6


def test_an_unconditional_ddpm(config, make_unet, tmp_path):
    DDPMPipeline(make_unet(sample_size=16), DDPMScheduler()).save_pretrained(tmp_path / "prior")
    distill(config())
    assert_distilled(tmp_path / "run")


def test_a_dit_with_other_class_ids(config, make_dit, tmp_path):
    transformer, vae = make_dit(classes=10)
    DiTPipeline(transformer, vae, DDIMScheduler(), id2label={"0": "goldfish"}).save_pretrained(tmp_path / "prior")
    with pytest.raises(ValueError, match="prior_class"):
        distill(config(scheduler="ddim"))
    assert not (tmp_path / "run" / "data").exists()
    manifest = distill(
        config(scheduler="ddim", prior_classes=[7, 0, 3], overwrite=True, classifier_free_guidance_scale=2.0)
    )
    assert_distilled(tmp_path / "run")
    assert manifest["config"]["prior_classes"] == [7, 0, 3]


def test_a_text_to_image_prior_makes_classes_by_their_names(config, tmp_path):
    stable_diffusion = text_to_image.build("stable_diffusion", tmp_path / "tokenizer")
    stable_diffusion.save_pretrained(tmp_path / "prior")
    with pytest.raises(ValueError, match="prompt must be given for a text-to-image prior.*a StableDiffusionPipeline"):
        distill(config())
    options = {"prompt": "a photo of a {label}", "sampling_steps": 3, "micro_batch": 1}
    with pytest.raises(ValueError, match="Got PNDMScheduler, whose step .* carries.*As options: --scheduler ddim.$"):
        distill(config(**{**options, "sampling_steps": 10}))
    with pytest.raises(
        ValueError, match="--prior_image_size. must be a multiple of 8 .*Got 9: the nearest is 8 or 16."
    ):
        distill(config(**options, scheduler="ddim", prior_image_size=9))
    assert not (tmp_path / "run").exists()
    plan_distill(config(**{**options, "sampling_steps": 10}, guidance_scale=0.0))  # the prior alone, as it comes
    manifest = distill(config(scheduler="ddim", **options))
    assert_distilled(tmp_path / "run")
    names = manifest["label_names"]
    assert manifest["prior"]["prompts"] == [f"a photo of a {name}" for name in names]
    assert (manifest["config"]["guide_on"], manifest["config"]["scheduler"]) == ("prediction", "ddim")

    (tmp_path / "prompts.yaml").write_text("".join(f"{name}: a {name}\n" for name in names), "utf-8")
    other = config(scheduler="ddim", **{**options, "prompt": None}, prompts=str(tmp_path / "prompts.yaml"))
    with pytest.raises(ValueError, match="which differs in\n  prior: .*a photo of a blue"):
        distill(other)
    (tmp_path / "prompts.yaml").write_text(f"{names[0]}: a thing\n", "utf-8")
    with pytest.raises(ValueError, match=f"prompts must have a line .* without .*{names[1]}"):
        distill(other)
    stable_diffusion.save_pretrained(tmp_path / "half", variant="fp16")
    estimator = decoct.load_estimator(tmp_path / "estimator")
    assert load_text_to_image(tmp_path / "half", estimator, names, "ddim", variant="fp16").prompts == names
    with pytest.raises(ValueError, match="prior must be a text-to-image pipeline of diffusers.*cannot be loaded"):
        load_text_to_image(tmp_path / "half", estimator, names, "ddim")


def test_a_text_to_image_prior_in_half_precision(config, tmp_path):
    text_to_image.build("stable_diffusion", tmp_path / "tokenizer").save_pretrained(tmp_path / "prior")
    options = {"prompt": "a {label}", "scheduler": "ddim", "prior_dtype": "bfloat16"}
    plan_distill(config(**options))
    manifest = distill(config(**options))
    assert_distilled(tmp_path / "run")
    assert manifest["config"]["prior_dtype"] == "bfloat16"
    estimator, names = decoct.load_estimator(tmp_path / "estimator"), manifest["label_names"]
    prior = load_text_to_image(tmp_path / "prior", estimator, names, "ddim", dtype="bfloat16")
    assert {each.dtype for network in prior.networks.values() for each in network.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in estimator.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match=r"dtype must be one of \['float32', 'bfloat16', 'float16'\]. Got 'half'."):
        load_text_to_image(tmp_path / "prior", estimator, names, dtype="half")
    with pytest.raises(ValueError, match="which differs in(.|\n)* prior_dtype: 'bfloat16' there, None now"):
        distill(config(**{**options, "prior_dtype": None}))


def test_an_offloaded_prior_needs_a_gpu_and_is_moved_by_diffusers(config, tmp_path, monkeypatch):
    text_to_image.build("stable_diffusion", tmp_path / "tokenizer").save_pretrained(tmp_path / "prior")
    options = {"prompt": "a {label}", "scheduler": "ddim"}
    with pytest.raises(ValueError, match="prior_offload must be left out without a GPU. Got True"):
        distill(config(**options, prior_offload=True))
    assert not (tmp_path / "run").exists()
    for name, value in (("prior_offload", True), ("prior_dtype", "float16")):
        with pytest.raises(ValueError, match=f"^{name} must be .* for a prior without --prompt or --prompts. Got"):
            config(**{name: value})
    made = config(**options)
    pipeline = open_pipeline(values_for(PriorSettings, made), values_for(SamplingSettings, made))
    gpu, moved = torch.device("cuda", 1), []
    monkeypatch.setattr(pipeline.pipeline, "enable_model_cpu_offload", lambda device: moved.append(device))
    monkeypatch.setattr(pipeline, "to", moved.append)
    place(pipeline, gpu, offload=True)
    place(pipeline, gpu, offload=False)
    assert moved == [gpu, gpu, gpu]


def test_offloading_changes_no_sample(make_estimator, tmp_path):
    pipeline = text_to_image.build("stable_diffusion", tmp_path)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    prior = TextToImagePrior(pipeline, make_estimator(), ["a", "b", "c"])
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    plain = prior([0, 1], generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)], **options)
    pipeline.enable_model_cpu_offload(device="cpu")
    prior.to("cpu")
    offloaded = prior([0, 1], generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)], **options)
    torch.testing.assert_close(offloaded.images, plain.images)


def test_samples_over_beta_of_a_text_to_image_prior(config, tmp_path):
    text_to_image.build("stable_diffusion", tmp_path / "tokenizer").save_pretrained(tmp_path / "prior")
    words = f"--prior {tmp_path / 'prior'} --estimator {config().estimator} --scheduler ddim --sampling_steps 2 "
    words += f"--betas 0 2 --images_per_class 2 --guidance_scale 2 --output_dir {tmp_path / 'out'} --prompt"
    made = parse_config(SampleConfig, [*words.split(), "a photo of a {label}"])
    assert plan_samples(made)["prior_passes"] == 2 * 3 * 2 * 2
    record = draw_samples(made)
    names = decoct.load_images(config().dataset).features["label"].names
    assert record["prior"]["prompts"] == [f"a photo of a {name}" for name in names]
    assert record["config"]["guide_on"] == "prediction" and set(record["betas"]) == {"0", "2"}
    assert Image.open(tmp_path / "out" / "samples.png").width > 100
    assert draw_samples(made) == record
    with pytest.raises(ValueError, match="which differs in\n.*prompt"):
        draw_samples(dataclasses.replace(made, prompt="a {label}"))


@pytest.fixture
def checked(config, tmp_path, monkeypatch):
    """A run with a prior whose safety checker flags what `flags` says, by the number of images it was shown before."""
    text_to_image.build("stable_diffusion", tmp_path / "tokenizer").save_pretrained(tmp_path / "prior")
    flags: list[Callable[[int], list[bool]]] = []
    seen: list[int] = []

    def check(self: Any, image: Any, device: Any, dtype: Any) -> tuple[Any, list[bool]]:
        seen.append(len(image))
        return image, flags[0](len(seen) - 1)[: len(image)]

    monkeypatch.setattr(StableDiffusionPipeline, "run_safety_checker", check)
    return flags, seen, functools.partial(config, prompt="a {label}", scheduler="ddim")


def test_tiles_that_a_safety_checker_blacks_out_have_another_seed(checked, tmp_path, caplog):
    flags, seen, make = checked
    # The second tile of the second class, twice; its class alone is sampled again.
    flags.append(lambda call: [number == 3 for number in range(6)] if call == 0 else [False, call == 1])
    distill(make())
    assert_distilled(tmp_path / "run")
    assert seen == [6, 2, 2]
    tiles = [row["tiles"][0]["seed"] for row in load_dataset(str(tmp_path / "run"), "ipc_2", split="train")]
    expected = [item_seed(0, "sample", label, number) for label in range(3) for number in range(2)]
    expected[3] = item_seed(0, "sample", 1, 1, 2)
    assert tiles == expected
    assert caplog.text.count("blacked out tiles [1] of class 1 ('a ") == 2


def test_a_safety_checker_does_not_identify_a_prior(make_estimator, tmp_path):
    pipeline = text_to_image.build("stable_diffusion", tmp_path)
    prior = TextToImagePrior(pipeline, make_estimator(), ["a", "b", "c"])
    without = prior_fingerprint(prior)
    pipeline.safety_checker = nn.Linear(1, 1)
    assert "safety_checker" in pipeline.components and prior_fingerprint(prior) == without


def test_a_run_goes_on_without_a_safety_checker_that_passes_nothing(checked, tmp_path):
    flags, seen, make = checked
    flags.append(lambda call: [call > 0] * 2)
    one_by_one = make(micro_batch=2)  # a class at a time
    with pytest.raises(ValueError, match=r"images of class 1. Got tiles \[0, 1\] blacked out with each of 10 seeds: "):
        distill(one_by_one)
    assert len(seen) == 11
    flags[0] = lambda call: [False] * 2
    distill(one_by_one)  # the first class is kept
    assert_distilled(tmp_path / "run")
    assert len(seen) == 13


def without_checker(folder: Path, copy: Path) -> Path:
    """A copy of a prior's folder, as the remedy for a safety checker that passes nothing describes it."""
    shutil.copytree(folder, copy)
    index = read_json(copy / "model_index.json")
    write_json(copy / "model_index.json", {**index, "safety_checker": [None, None]})
    return copy


def test_a_run_goes_on_with_a_copy_of_the_prior_without_its_safety_checker(config, tmp_path, monkeypatch):
    """As the message says; the result is that of the copy alone."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 16, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=small, vision_config=vision, projection_dim=8))
    prior = text_to_image.build("stable_diffusion", tmp_path / "tokenizer")
    side = {"shortest_edge": 16}
    processor = CLIPImageProcessor(size=side, crop_size={"height": 16, "width": 16})
    prior.register_modules(safety_checker=checker, feature_extractor=processor)
    prior.save_pretrained(tmp_path / "prior")
    seen = []

    def flag(self: Any, clip_input: Any, images: Any) -> tuple[Any, list[bool]]:
        seen.append(len(images))
        return images, [len(seen) > 1] * len(images)

    monkeypatch.setattr(StableDiffusionSafetyChecker, "forward", flag)
    options = {"prompt": "a {label}", "scheduler": "ddim", "micro_batch": 2}
    with pytest.raises(
        ValueError, match='blacked out with each of 10 seeds.*--prior a copy of .*"safety_checker": .null'
    ):
        distill(config(**options))
    assert len(seen) == 11
    copy = without_checker(tmp_path / "prior", tmp_path / "copy")
    assert len(list((tmp_path / "run/shards").glob("sampled-*.parquet"))) == 1  # of the first class
    plan_distill(config(**options, prior=str(copy)))
    manifest = distill(config(**options, prior=str(copy)))
    assert (manifest["prior"]["name"], manifest["config"]["prior"]) == (str(copy), str(copy))
    assert len(seen) == 11 and manifest == distill(config(**options))  # it is the same run
    alone = distill(config(**options, prior=str(copy), output_dir=str(tmp_path / "alone")))
    rows = [load_dataset(str(tmp_path / each), "ipc_2", split="train")[:] for each in ("run", "alone")]
    assert rows[0] == rows[1] and manifest["information"] == alone["information"]


def test_a_copy_with_the_scheduler_exchanged_is_another_run(config, make_unet, tmp_path):
    """Its weights are the same, and what it draws is not."""
    DDPMPipeline(make_unet(sample_size=16), DDIMScheduler()).save_pretrained(tmp_path / "prior")
    distill(config(scheduler="own"))
    other = DDIMScheduler(timestep_spacing="trailing")
    DDPMPipeline(make_unet(sample_size=16), other).save_pretrained(tmp_path / "copy")
    with pytest.raises(ValueError, match="which differs in\n  prior: .*DDIMScheduler"):
        distill(config(scheduler="own", prior=str(tmp_path / "copy")))


def test_a_pipeline_of_diffusers_distills_in_python(config, image_folder, tmp_path):
    flux = text_to_image.build("flux", tmp_path / "tokenizer")
    made = config()
    teacher, estimator = decoct.load_classifier(made.teacher), decoct.load_estimator(made.estimator)
    with pytest.raises(ValueError, match="estimator and prompt must be given with a pipeline of diffusers"):
        IGDS(flux, teacher)
    options = {
        "prompt": "a {label}",
        "sampling_steps": 2,
        "views": 2,
        "slots": 0,
        "batch_size": 8,
        "allow_weak_teacher": True,
    }
    igds = IGDS(flux, teacher, estimator=estimator, **options)
    rows = igds.distill(decoct.load_images(str(image_folder)), ipc=1)
    assert len(rows) == 3 and rows[0]["image"].size == (16, 16)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (
            "stable_diffusion",
            {"solver_order": 3},
            "pipe.scheduler = DDIM.* As options: --guide_on sample, or --sch.* ddim",
        ),
        ("flux", FLOW, r"pipe.scheduler = FlowMatchEulerDiscreteScheduler.*shift=pipe.scheduler.config.flow_shift\)"),
    ],
)
def test_the_options_that_help_are_named_and_no_others(config, tmp_path, family, options, message):
    """Flows have no noise schedule that DDIM knows."""
    pipeline = text_to_image.build(family, tmp_path / "tokenizer")
    pipeline.scheduler = DEISMultistepScheduler.from_config(pipeline.scheduler.config, **options)
    pipeline.save_pretrained(tmp_path / "prior")
    with pytest.raises(ValueError, match=f"must carry guidance of every prediction.*: {message}.$"):
        distill(config(prompt="a {label}", sampling_steps=20))


def test_in_python_a_pipeline_keeps_what_it_has_settled(config, image_folder, tmp_path):
    made, images = config(), decoct.load_images(str(image_folder))
    teacher, estimator = decoct.load_classifier(made.teacher), decoct.load_estimator(made.estimator)
    text_to_image.build("stable_diffusion", tmp_path / "tokenizer").save_pretrained(tmp_path / "prior")
    names = decoct.measure_spec(images).label_names
    prior = load_text_to_image(tmp_path / "prior", estimator, list(names), "ddim")
    options = {"sampling_steps": 2, "views": 2, "slots": 0, "batch_size": 8, "allow_weak_teacher": True}
    igds = IGDS(prior, teacher, **options)
    igds.distill(images, ipc=1, output_dir=tmp_path / "run")
    manifest = read_json(tmp_path / "run" / "manifest.json")
    said = [manifest["config"][name] for name in ("guide_on", "classifier_free_guidance_scale", "scheduler")]
    assert said == ["prediction", 7.5, "ddim"]  # of Stable Diffusion
    assert manifest["prior"]["prompts"] == list(names)

    with pytest.raises(ValueError, match="^prompt must be set where the pipeline is made"):
        IGDS(prior, teacher, prompt="a {label}", **options)
    for name, value in (
        ("scheduler", "ddpm"),
        ("prior_image_size", 24),
        ("guidance_vae", "vae"),
        ("prior_variant", "x"),
        ("prior_dtype", "float16"),
        ("prior_offload", True),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be set where the pipeline is made.*Got {value!r} beside a"):
            IGDS(prior.pipeline, teacher, estimator=estimator, prompt="a {label}", **{name: value}, **options)
    parts = {**prior.pipeline.components, "scheduler": PNDMScheduler.from_config(prior.scheduler.config)}
    stock = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    with pytest.raises(ValueError, match="must carry guidance of every sample. Got PNDM.*DDIMScheduler.from"):
        IGDS(stock, teacher, estimator=estimator, prompt="a {label}", guide_on="sample", **options)
    prior.pipeline.scheduler = DDIMScheduler.from_config(prior.scheduler.config, timestep_spacing="trailing")
    with pytest.raises(ValueError, match="which differs in\n  prior: .*DDIMScheduler"):
        IGDS(prior, teacher, **options).distill(images, ipc=1, output_dir=tmp_path / "run")


def test_a_number_of_steps_is_told_only_where_it_is_wrong(config, tmp_path):
    made = config()
    teacher, estimator = decoct.load_classifier(made.teacher), decoct.load_estimator(made.estimator)
    prior = TextToImagePrior(
        text_to_image.build("stable_diffusion", tmp_path / "tokenizer"), estimator, ["a", "b", "c"]
    )
    prior.pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="^scheduler must be one that StableDiffusionPipeline can use. Got FlowMatch"):
        IGDS(prior, teacher)
    prior.pipeline.scheduler = DDIMScheduler()
    with pytest.raises(
        ValueError, match="^sampling_steps must be a number of steps that .* DDIM.* can take. Got 1001: "
    ):
        IGDS(prior, teacher, sampling_steps=1001)


@pytest.mark.parametrize(
    ("own", "latent", "clips"),
    [
        (DPMSolverMultistepScheduler(), True, False),
        (DPMSolverMultistepScheduler(), False, True),
        (DDPMScheduler(clip_sample=False), False, False),
        (DDIMScheduler(clip_sample=True), True, True),
    ],
)
def test_latents_are_not_clipped_by_another_scheduler(own, latent, clips):
    assert [with_scheduler(own, name, latent).config.clip_sample for name in ("ddim", "ddpm")] == [clips, clips]


@pytest.mark.parametrize(
    "own",
    [
        EDMEulerScheduler(),
        FlowMatchEulerDiscreteScheduler(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ],
)
def test_a_noise_schedule_without_betas_keeps_its_scheduler(own):
    with pytest.raises(ValueError, match=f"scheduler must be 'own' for a prior of {type(own).__name__}. Got 'ddpm'."):
        with_scheduler(own, "ddpm")
    with pytest.raises(ValueError, match=r"scheduler must be one of \['ddpm', .*, 'own'\]. Got 'euler'."):
        with_scheduler(own, "euler")


IMAGENETTE = (
    *("tench", "English springer", "cassette player", "chain saw", "church"),
    *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
)


@pytest.mark.parametrize("preset", ["imagenette_dit", "imagenette_text"])
def test_presets_with_a_prior_of_the_hub_are_planned(preset, make_dit, tmp_path):
    """Data and networks are tiny and local; all else is as the preset has it."""
    for number, name in enumerate(IMAGENETTE):
        for split in ("train", "validation"):
            (tmp_path / "data" / split / f"{number} {name}").mkdir(parents=True)
            Image.new("RGB", (16, 16), (20 * number, 50, 0)).save(tmp_path / "data" / split / f"{number} {name}/0.png")
    spec = decoct.measure_spec(decoct.load_images(str(tmp_path / "data")))
    decoct.build_classifier("convnet3_w8", spec).model.save_pretrained(tmp_path / "teacher")
    build_estimator("resnet10_w4", spec, 8).save_pretrained(tmp_path / "estimator")
    config = parse_config(DistillConfig, ["--preset", preset, "--output_dir", str(tmp_path / "run")])
    local = {name: str(tmp_path / name) for name in ("teacher", "estimator", "prior")}
    if preset == "imagenette_dit":
        names = {str(label): name for label, name in zip(config.prior_classes, IMAGENETTE, strict=True)}
        DiTPipeline(*make_dit(classes=1000), DDIMScheduler(), id2label=names).save_pretrained(tmp_path / "prior")
    else:
        text_to_image.build("stable_diffusion", tmp_path / "tokenizer").save_pretrained(tmp_path / "prior")
        AutoencoderTiny(decoder_block_out_channels=(4, 4), num_decoder_blocks=(1, 1)).save_pretrained(tmp_path / "tiny")
        local["guidance_vae"] = str(tmp_path / "tiny")
    small = {"dataset": str(tmp_path / "data"), "dataset_config": None, "image_size": 16, "batch_size": 8, **local}
    plan = plan_distill(dataclasses.replace(config, allow_weak_teacher=True, **small))
    assert plan["tiles"] == 10 * 50 * 4 and plan["distilled_images"] == 10 * (1 + 10 + 20 + 50)
    assert plan["prior_passes"] == plan["tiles"] * config.sampling_steps
    assert not (tmp_path / "run").exists()
