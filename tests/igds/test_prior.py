"""Priors on disk as an `IGDSPipeline`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
)

from decoct.config import PriorConfig
from decoct.data.spec import ImageSpec
from decoct.files import read_json
from decoct.igds.loading import load_estimator
from decoct.igds.prior import SCHEDULERS, check_prior, load_pipeline, prior_fingerprint, prior_label_names
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.training.prior import build_unet

SPEC = ImageSpec(8, 1, (0.5,), (0.5,), ("a", "b", "c"))


@pytest.fixture
def prior(tmp_path) -> Callable[..., Path]:
    """A U-Net with random weights in DDPM layout."""

    def make(**options: Any) -> Path:
        unet = build_unet(PriorConfig(channels=[8, 8], attention=False), SPEC)
        scheduler = DDPMScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2", clip_sample_range=2.0)
        DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "prior", **options)
        return tmp_path / "prior"

    return make


@pytest.fixture
def latent_prior(tmp_path) -> Path:
    """A DiT with random weights and its VAE of 8-pixel colour images."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=3,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=8,
    )
    names = {str(label): name for label, name in enumerate(SPEC.label_names)}
    DiTPipeline(transformer, vae, DDIMScheduler(), id2label=names).save_pretrained(tmp_path / "dit")
    return tmp_path / "dit"


def sampled(pipeline: IGDSPipeline, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    settings = {"class_labels": [0, 2], "guidance_scale": 0.0, "num_inference_steps": 2, "output_type": "pt"}
    return pipeline(**settings, generator=generator, **options).images


def test_a_trained_prior_is_loaded_frozen_with_its_estimator(tiny_prior, tiny_estimator):
    estimator = load_estimator(tiny_estimator)
    pipeline = load_pipeline(tiny_prior, estimator)
    assert isinstance(pipeline, IGDSPipeline)
    assert pipeline.estimator is estimator
    assert not pipeline.unet.training
    assert not any(parameter.requires_grad for parameter in pipeline.unet.parameters())
    stock = DDPMPipeline.from_pretrained(tiny_prior)
    assert all(torch.equal(value, stock.unet.state_dict()[key]) for key, value in pipeline.unet.state_dict().items())
    assert dict(pipeline.scheduler.config) == dict(stock.scheduler.config)


@pytest.mark.parametrize(
    ("name", "kind"), [("ddpm", DDPMScheduler), ("ddim", DDIMScheduler), ("dpm_solver", DPMSolverMultistepScheduler)]
)
def test_another_sampler_keeps_the_priors_noise_schedule(prior, name, kind):
    folder = prior()
    own, pipeline = load_pipeline(folder, None), load_pipeline(folder, None, name)
    assert type(pipeline.scheduler) is kind
    assert type(own.scheduler) is DDPMScheduler
    assert torch.equal(pipeline.scheduler.alphas_cumprod, own.scheduler.alphas_cumprod)
    assert pipeline.scheduler.config.num_train_timesteps == 50
    if name != "dpm_solver":
        assert pipeline.scheduler.config.clip_sample_range == 2.0
    images = sampled(pipeline)
    assert images.shape == (2, 1, 8, 8)
    assert torch.equal(images, sampled(own)) == (name == "ddpm")
    assert set(SCHEDULERS) == {"ddpm", "ddim", "dpm_solver"}


def test_a_latent_prior_decodes_to_images(latent_prior):
    pipeline = load_pipeline(latent_prior, None, "ddim")
    assert sampled(pipeline).shape == (2, 3, 8, 8)
    assert not pipeline.transformer.training
    assert not any(
        parameter.requires_grad for part in (pipeline.transformer, pipeline.vae) for parameter in part.parameters()
    )
    colour = ImageSpec(8, 3, (0.5,) * 3, (0.5,) * 3, SPEC.label_names)
    check_prior(pipeline, colour, [], 1.0, "dit")
    with pytest.raises(ValueError, match="prior must make images of 1 channels. Got dit, which makes 3"):
        check_prior(pipeline, SPEC, [], 1.0, "dit")


def test_a_saved_pipeline_is_a_prior_too(prior, tmp_path):
    pipeline = load_pipeline(prior(), None)
    pipeline.save_pretrained(tmp_path / "igds")
    again = load_pipeline(tmp_path / "igds", None)
    assert prior_fingerprint(again) == prior_fingerprint(pipeline)
    assert torch.equal(sampled(again), sampled(pipeline))


def test_the_fingerprint_is_that_of_the_weights(prior, latent_prior, tmp_path):
    folder = prior()
    first = prior_fingerprint(load_pipeline(folder, None))
    assert len(first) == 64
    shutil.copytree(folder, tmp_path / "copy")
    copied = load_pipeline(tmp_path / "copy", None, "ddim")
    assert prior_fingerprint(copied) == first, "neither the name nor the sampler counts"
    with torch.no_grad():
        copied.unet.conv_out.bias.add_(1)
    assert prior_fingerprint(copied) != first
    latent = load_pipeline(latent_prior, None)
    before = prior_fingerprint(latent)
    with torch.no_grad():
        next(latent.vae.decoder.parameters()).add_(1)
    assert prior_fingerprint(latent) != before, "the VAE counts"


def test_label_names_are_known_of_priors_trained_here(tiny_prior, prior):
    assert prior_label_names(tiny_prior) == read_json(tiny_prior / "training.json")["label_names"]
    assert len(prior_label_names(str(tiny_prior))) == 4
    assert prior_label_names(prior()) is None
    assert prior_label_names("someone/on-the-hub") is None


def test_prior_classes_need_an_entry_per_class(prior):
    pipeline = load_pipeline(prior(), None)
    check_prior(pipeline, SPEC, [], 1.0, "mine")
    check_prior(pipeline, SPEC, [2, 0, 0], 1.0, "mine")
    with pytest.raises(ValueError, match="prior_classes must have 3 entries, one per class of the dataset. Got 2"):
        check_prior(pipeline, SPEC, [2, 0], 1.0, "mine")
    colour = ImageSpec(8, 3, (0.5,) * 3, (0.5,) * 3, SPEC.label_names)
    with pytest.raises(ValueError, match="prior must make images of 3 channels. Got mine, which makes 1"):
        check_prior(pipeline, colour, [], 1.0, "mine")


def test_what_is_no_prior_is_an_error(prior, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="prior must be a diffusers folder with model_index.json. Got .*empty"):
        load_pipeline(tmp_path / "empty", None)
    for name in (str(tmp_path / "missing"), "no-such-prior", "a/b/c"):
        with pytest.raises(ValueError, match=f"prior must be .*existing folder or a Hub id 'user/name'. Got '{name}'"):
            load_pipeline(name, None)
    with pytest.raises(ValueError, match="DDPM or DiT layout.*Got 'nobody/no-such-prior', which cannot be loaded"):
        load_pipeline("nobody/no-such-prior", None)
    folder = prior()
    for part in ("unet/config.json", "scheduler/scheduler_config.json"):
        shutil.copytree(folder, tmp_path / "broken")
        (tmp_path / "broken" / part).unlink()
        with pytest.raises(ValueError, match="prior must be a diffusers pipeline .*broken', which cannot be loaded"):
            load_pipeline(tmp_path / "broken", None)
        shutil.rmtree(tmp_path / "broken")


def test_a_scheduler_that_is_none_is_refused(prior):
    folder = prior()
    index = json.loads((folder / "model_index.json").read_text())
    for name in ("DiffusionPipeline", "logging", "nothing"):
        (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
        with pytest.raises(ValueError, match=f"prior must have a scheduler of diffusers. Got .*{name}"):
            load_pipeline(folder, None)


def test_pickled_weights_are_not_loaded(prior):
    folder = prior(safe_serialization=False)
    assert list((folder / "unet").glob("*.bin"))
    with pytest.raises(ValueError, match="with safetensors. Got .*which cannot be loaded"):
        load_pipeline(folder, None)


def test_files_at_the_root_load_like_those_in_folders(prior, tmp_path):
    """The layout of google/ddpm-cifar10-32, where network and scheduler lie beside the index."""
    folder, root = prior(), tmp_path / "root"
    root.mkdir()
    for path in [folder / "model_index.json", *folder.glob("unet/*"), *folder.glob("scheduler/*")]:
        shutil.copy(path, root)
    assert torch.equal(sampled(load_pipeline(root, None)), sampled(load_pipeline(folder, None)))


def test_a_prior_with_other_components_is_refused(prior, tmp_path):
    shutil.copytree(prior(), tmp_path / "other")
    index = tmp_path / "other" / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(ValueError, match=r"prior must consist of.*vqvae"):
        load_pipeline(tmp_path / "other", None)
