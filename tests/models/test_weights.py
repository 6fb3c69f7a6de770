"""Weights that are not all there, or are no numbers, are refused when they are loaded, with the tensor's name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from worlds import spec_of

from decoct.igds.loading import build_estimator, load_estimator
from decoct.igds.prior import load_pipeline
from decoct.models.zoo import build_classifier, load_classifier


@pytest.fixture(params=["teacher", "estimator"])
def saved(request, tmp_path):
    """A folder with a network, and the function that loads it."""
    if request.param == "teacher":
        build_classifier("convnet3_w8", spec_of()).model.save_pretrained(tmp_path)
        return tmp_path, load_classifier
    build_estimator("resnet10_w4", spec_of(), 8).save_pretrained(tmp_path)
    return tmp_path, load_estimator


def change(folder, edit) -> str:
    """Edits the weights; `edit(tensors, name)` gets the name of one."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(key for key, value in tensors.items() if value.ndim == 4)
    edit(tensors, name)
    save_file(tensors, file, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(saved, value):
    folder, load = saved
    name = change(folder, lambda tensors, key: tensors[key][0, 0].fill_(value))
    with pytest.raises(ValueError, match=rf"{folder.name}.*finite weights. Got NaN or infinite values in .*{name}"):
        load(folder)


def test_missing_tensors(saved):
    folder, load = saved
    name = change(folder, lambda tensors, key: tensors.pop(key))
    with pytest.raises(ValueError, match=rf"(teacher|estimator) '.*' must hold all weights.*Got missing: .*{name}"):
        load(folder)


def test_unexpected_tensors(saved):
    folder, load = saved
    change(folder, lambda tensors, key: tensors.update(extra=torch.zeros(2)))
    with pytest.raises(ValueError, match="no weights that its network does not have. Got unexpected: extra"):
        load(folder)


def test_tensors_of_another_shape(saved):
    folder, load = saved
    change(folder, lambda tensors, key: tensors.update({key: tensors[key][:, :1].clone()}))
    with pytest.raises(ValueError, match="in the shapes of its network"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_float32(saved, dtype):
    folder, load = saved
    change(
        folder,
        lambda tensors, key: tensors.update({k: v.to(dtype) for k, v in tensors.items() if v.is_floating_point()}),
    )
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "dtype": str(dtype).removeprefix("torch.")}))
    network = load(folder)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_std", [0.0, 0.2, 0.2], r"image_mean and image_std of teacher .* Got \[0.3, 0.3, 0.3\] and \[0.0, 0.2"),
        ("image_std", [-0.1, 0.2, 0.2], "the second positive"),
    ],
)
def test_a_configuration_that_cannot_be_meant(tmp_path, field, value, message):
    build_classifier("convnet3_w8", spec_of()).model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, field: value}))
    with pytest.raises(ValueError, match=message):
        load_classifier(tmp_path)


# Priors


@pytest.fixture(params=["unet", "transformer", "vae"])
def prior(request, tmp_path):
    """A folder with a prior in DDPM or DiT layout, and the part whose weights are changed."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

    from decoct.config import PriorConfig
    from decoct.training.prior import build_unet

    if request.param == "unet":
        unet = build_unet(PriorConfig(channels=[8, 16], attention=False), spec_of())
        DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    else:
        transformer = DiTTransformer2DModel(
            num_attention_heads=1,
            attention_head_dim=8,
            num_layers=1,
            sample_size=8,
            num_embeds_ada_norm=3,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=4)
        DiTPipeline(transformer, vae, DDIMScheduler()).save_pretrained(tmp_path)
    return tmp_path, tmp_path / request.param / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors, key: tensors.pop(key), "must hold all weights .* Got missing: "),
        (lambda tensors, key: tensors.update(extra=torch.zeros(2)), "Got unexpected: extra"),
        (lambda tensors, key: tensors.update({key: tensors[key][:, :1].clone()}), "in the shapes of its network"),
        (lambda tensors, key: tensors[key].view(-1)[:1].fill_(torch.nan), "finite weights. Got NaN or infinite values"),
    ],
)
def test_a_priors_weights(prior, edit, message):
    folder, file = prior
    tensors = load_file(file)
    edit(tensors, next(key for key, value in tensors.items() if value.ndim == 4))
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{file.parent.name} of the prior '.*{folder.name}.*{message}"):
        load_pipeline(folder, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_prior_in_half_precision_is_loaded_as_float32(prior, dtype):
    folder, file = prior
    tensors = {name: value.to(dtype) for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    pipeline = load_pipeline(folder, None)
    for network in (pipeline.unet, pipeline.transformer, pipeline.vae):
        assert network is None or {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    loaded = getattr(pipeline, file.parent.name).state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in tensors.items())
