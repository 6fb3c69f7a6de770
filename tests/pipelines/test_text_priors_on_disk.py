"""Folders that are no text-to-image prior, each refused in one line when it is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import text_to_image
import torch
from safetensors.torch import load_file, save_file

from decoct.igds.prior import load_text_to_image
from decoct.pipelines.igds.text_to_image import TextToImagePrior

PROMPTS = ["a cat", "a dog", "a tree"]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a prior of a family; tests must not change it."""
    root = tmp_path_factory.mktemp("priors")

    def saved(family: str) -> Path:
        if not (root / family).exists():
            text_to_image.build(family, root / "tokenizer").save_pretrained(root / family)
        return root / family

    return saved


@pytest.fixture
def changed(published, tmp_path) -> Callable[..., Path]:
    """A copy of a prior's folder with a change of a file of JSON, or without a part."""

    def make(family: str, file: str = "model_index.json", without: str | None = None, **values: Any) -> Path:
        folder = tmp_path / "prior"
        shutil.copytree(published(family), folder)
        if without is not None:
            shutil.rmtree(folder / without) if (folder / without).is_dir() else (folder / without).unlink()
        if values:
            content = json.loads((folder / file).read_text("utf-8"))
            (folder / file).write_text(json.dumps({**content, **values}), "utf-8")
        return folder

    return make


def refusal(folder: Path, estimator: Any) -> str:
    with pytest.raises(ValueError, match="Got ") as refused:
        load_text_to_image(folder, estimator, PROMPTS)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("family", "number", "changes"),
    [("stable_diffusion_3", "_3", {}), ("stable_diffusion_xl", "", {"cross_attention_dim": text_to_image.WIDTH})],
)
def test_a_text_encoder_can_be_left_out_where_there_are_others(family, number, changes, make_estimator, tmp_path):
    """As Stable Diffusion 3 is published without its T5, and SDXL's refiner without the first CLIP."""
    pipeline = text_to_image.build(family, tmp_path)
    if changes:
        unet = type(pipeline.unet).from_config({**pipeline.unet.config, **changes})
        pipeline.register_modules(unet=unet)
    pipeline.register_modules(**{f"text_encoder{number}": None, f"tokenizer{number}": None})
    pipeline.save_pretrained(tmp_path / "prior")
    prior = load_text_to_image(tmp_path / "prior", make_estimator(), PROMPTS, image_size=16)
    options = {"guide_on": "prediction", "num_inference_steps": 2}
    assert torch.isfinite(prior([0, 2], guidance_scale=1.0, **options).images).all()


@pytest.mark.parametrize("family", ["pixart", "pixart_alpha"])
def test_pixart_is_loaded_as_it_is_published(published, changed, make_estimator, family):
    """By the name that its transformer had in diffusers of that time; it makes the images of today's name."""
    folder = changed(family, transformer=["diffusers", "Transformer2DModel"])
    config = json.loads((folder / "transformer/config.json").read_text("utf-8"))
    assert config["norm_type"] == "ada_norm_single"
    (folder / "transformer/config.json").write_text(
        json.dumps({**config, "_class_name": "Transformer2DModel"}), "utf-8"
    )
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    images = []
    for each in (folder, published(family)):
        prior = load_text_to_image(each, make_estimator(), PROMPTS)
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        images.append(prior([0, 2], generator=generators, **options).images)
    assert torch.equal(*images)


@pytest.mark.parametrize("family", ["pixart", "flux"])
def test_another_transformer_by_that_name(changed, make_estimator, family):
    folder = changed(family, transformer=["diffusers", "Transformer2DModel"])
    config = json.loads((folder / "transformer/config.json").read_text("utf-8"))
    (folder / "transformer/config.json").write_text(json.dumps({**config, "norm_type": "ada_norm_zero"}), "utf-8")
    message = "Got diffusers.Transformer2DModel with norm_type 'ada_norm_zero' in the model_index.json of"
    assert message in refusal(folder, make_estimator())


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("stable_diffusion", {"tokenizer": [None, None]}, "tokenizer of a StableDiffusionPipeline must be one of"),
        (
            "stable_diffusion",
            {"text_encoder": ["transformers", "T5EncoderModel"]},
            "one of ['CLIPTextModel']. Got trans",
        ),
        (
            "stable_diffusion",
            {"unet": ["diffusers", "UNet2DModel"]},
            "one of ['UNet2DConditionModel']. Got diffusers.UN",
        ),
        (
            "stable_diffusion",
            {"vae": ["diffusers", "VQModel"]},
            "one of ['AutoencoderKL', 'AutoencoderTiny']. Got diff",
        ),
        ("stable_diffusion", {"vae": ["elsewhere", "AutoencoderKL"]}, "Got elsewhere.AutoencoderKL in the model_index"),
        ("stable_diffusion", {"scheduler": ["diffusers", "UNet2DModel"]}, "prior must have a scheduler of diffusers"),
        (
            "stable_diffusion",
            {"vae": ["diffusers", "AutoencoderTiny"]},
            "hold all weights of its network. Got none for",
        ),
        ("pixart", {"text_encoder": 7}, "text_encoder of a PixArtSigmaPipeline must be one of ['T5EncoderModel']"),
        ("flux", {"transformer": ["diffusers", "PixArtTransformer2DModel"]}, "one of ['FluxTransformer2DModel']"),
    ],
)
def test_components_of_another_kind(changed, make_estimator, family, values, message):
    assert message in refusal(changed(family, **values), make_estimator())


@pytest.mark.parametrize(
    ("family", "without", "message"),
    [
        ("stable_diffusion", "tokenizer", "tokenizer of the prior must have its vocabulary. Got CLIPTokenizer without"),
        ("stable_diffusion", "tokenizer/tokenizer_config.json", "model_max_length of the prior's tokenizer must be at"),
        ("flux", "tokenizer_2", "prior must be a text-to-image pipeline of diffusers, with safetensors. Got"),
        ("flux", "tokenizer", "check the prior's folder 'tokenizer'."),
        ("pixart", "transformer", "which cannot be loaded"),
        ("pixart", "model_index.json", "must be a diffusers folder with model_index.json"),
    ],
)
def test_parts_that_are_missing(changed, make_estimator, family, without, message):
    assert message in refusal(changed(family, without=without), make_estimator())


@pytest.mark.parametrize(("family", "part"), [("stable_diffusion", "text_encoder"), ("flux", "text_encoder_2")])
@pytest.mark.parametrize("change", ["missing", "mismatched"])
def test_text_encoders_without_all_their_weights(changed, make_estimator, family, part, change):
    """transformers would fill them in at random, and say so in a warning alone."""
    folder = changed(family)
    file = folder / part / "model.safetensors"
    tensors = load_file(file)
    name = next(each for each in tensors if each.endswith(("q_proj.weight", "q.weight")))
    kept = {key: tensor for key, tensor in tensors.items() if key != name}
    halved = {**kept, name: tensors[name][:1].clone()}
    save_file(kept if change == "missing" else halved, file, {"format": "pt"})
    message = refusal(folder, make_estimator())
    assert f"{part} of the prior {str(folder)!r} must hold" in message
    assert f"Got {change}: " in message and name.rpartition("layer")[2] in message


def test_text_encoders_with_more_than_their_weights(changed, make_estimator):
    """As Stable Diffusion 1 was published with, from a version whose tables of positions were stored."""
    folder = changed("stable_diffusion")
    file = folder / "text_encoder/model.safetensors"
    more = {"text_model.embeddings.position_ids": torch.arange(77)[None], "logit_scale": torch.ones(())}
    save_file({**load_file(file), **more}, file, {"format": "pt"})
    assert load_text_to_image(folder, make_estimator(), PROMPTS).prompts == PROMPTS


def test_a_variant_that_not_all_networks_have(make_estimator, tmp_path):
    """As diffusers loads it: those without have their plain weights."""
    text_to_image.build("stable_diffusion", tmp_path).save_pretrained(tmp_path / "prior", variant="fp16")
    text_encoder = tmp_path / "prior/text_encoder"
    (text_encoder / "model.fp16.safetensors").rename(text_encoder / "model.safetensors")
    assert load_text_to_image(tmp_path / "prior", make_estimator(), PROMPTS, variant="fp16").prompts == PROMPTS
    (text_encoder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="which cannot be loaded: .*model.safetensors"):
        load_text_to_image(tmp_path / "prior", make_estimator(), PROMPTS, variant="fp16")


def test_a_tokenizer_of_t5_without_files_knows_no_words(make_estimator, tmp_path):
    from transformers import T5Tokenizer

    pipeline = text_to_image.build("pixart", tmp_path)
    (tmp_path / "config.json").write_text("{}", "utf-8")
    pipeline.tokenizer = T5Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="tokenizer of the prior must have its vocabulary. Got T5Tokenizer without words"
    ):
        TextToImagePrior(pipeline, make_estimator(), PROMPTS)


@pytest.mark.parametrize("steps", [10**9, 0, "1000"])
def test_schedules_beyond_measure(changed, make_estimator, steps):
    """A table of a billion steps would fill the memory."""
    folder = changed("stable_diffusion", "scheduler/scheduler_config.json", num_train_timesteps=steps)
    message = (
        f"num_train_timesteps must be a whole number from 1 to 100,000 in the scheduler_config.json of {str(folder)!r}"
    )
    assert message in refusal(folder, make_estimator())


@pytest.mark.parametrize("family", text_to_image.FAMILIES)
def test_what_diffusers_saves_is_loaded(published, make_estimator, family):
    assert load_text_to_image(published(family), make_estimator(), PROMPTS).prompts == PROMPTS
