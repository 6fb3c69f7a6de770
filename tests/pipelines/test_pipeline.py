"""IGDSPipeline: equal to the stock pipelines where it is not guided, and guided by the scheduler of one's choice."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from torch import nn

from decoct.pipelines.igds.guidance import InformationGuidance
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.pipelines.igds.reverse import clean_prediction, predict, reverse_step

LABELS = [0, 1, 1, 2]


def build(unet: Any = None, estimator: Any = None, scheduler: Any = None, dit: Any = (None, None)) -> IGDSPipeline:
    pipeline = IGDSPipeline(scheduler or DDPMScheduler(), unet, *dit, estimator)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: IGDSPipeline, labels: list[int] = LABELS, seed: int = 0, **options: Any) -> Any:
    settings = {"num_inference_steps": 4, "output_type": "pt", "generator": torch.Generator().manual_seed(seed)}
    return pipeline(labels, **{**settings, **options})


def stock(kind: Any, *components: Any, **options: Any) -> torch.Tensor:
    pipeline = kind(*components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**{"num_inference_steps": 4, "output_type": "pt", **options}).images


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("per_image", [False, True])
def test_unguided_is_the_stock_ddpm_bit_for_bit(make_unet, make_estimator, seeded, variance_type, per_image):
    unet = make_unet(out_channels=6 if variance_type == "learned_range" else 3)
    scheduler = DDPMScheduler(variance_type=variance_type)

    def generator() -> Any:
        return seeded(4) if per_image else torch.Generator().manual_seed(5)

    expected = stock(DDPMPipeline, unet, scheduler, batch_size=4, generator=generator())
    without_guidance = sample(build(unet, make_estimator(), scheduler), guidance_scale=0.0, generator=generator())
    without_estimator = sample(build(unet, None, scheduler), generator=generator())
    assert torch.equal(without_guidance.images, expected)
    assert torch.equal(without_estimator.images, expected)
    assert without_estimator.prototype is None and without_estimator.contextual is None


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_unguided_is_the_stock_ddim_bit_for_bit(make_unet, eta):
    unet, scheduler = make_unet(), DDIMScheduler()
    generator = torch.Generator().manual_seed(0)
    expected = stock(DDIMPipeline, unet, scheduler, batch_size=4, generator=generator, eta=eta)
    assert torch.equal(sample(build(unet, None, scheduler), eta=eta).images, expected)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_unguided_is_the_stock_dit_bit_for_bit(make_dit, scale):
    dit, scheduler = make_dit(classes=1000), DDIMScheduler()
    generator = torch.Generator().manual_seed(0)
    labels = [3, 999, 0]
    expected = stock(DiTPipeline, *dit, scheduler, class_labels=labels, guidance_scale=scale, generator=generator)
    images = sample(build(dit=dit, scheduler=scheduler), labels, classifier_free_guidance_scale=scale).images
    assert torch.equal(images, expected)


@pytest.mark.parametrize("scheduler", [DDPMScheduler(), DDIMScheduler(), DPMSolverMultistepScheduler()])
def test_images_do_not_depend_on_their_batch(make_unet, seeded, scheduler):
    pipeline = build(make_unet(entries=4), None, scheduler)
    together = sample(pipeline, generator=seeded(4), output_type="latent").images
    for row, label in enumerate(LABELS):
        alone = sample(pipeline, [label], generator=seeded(1, first=row), output_type="latent").images
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-4)


def test_classes_reach_the_prior(make_unet):
    pipeline = build(make_unet(entries=4))
    one, other = (sample(pipeline, labels).images for labels in ([0, 1], [0, 2]))
    assert torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])
    translated = sample(pipeline, [0, 1], prior_class_labels=[0, 2]).images
    assert torch.equal(translated, other)


class LabelNet(UNet2DModel):
    """Predicts 10 times the class id in every pixel, and the class id as its variance."""

    def forward(self, sample: torch.Tensor, timestep: Any, class_labels: Any = None, **options: Any) -> Any:
        label = class_labels[:, None, None, None].to(sample.dtype).expand(-1, 3, *sample.shape[2:])
        return SimpleNamespace(sample=torch.cat([10 * label, label], dim=1))


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_classifier_free_guidance_starts_from_the_last_class(micro_batch):
    unet = LabelNet(sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",),
                    up_block_types=("UpBlock2D",), num_class_embeds=6)  # fmt: skip
    labels = torch.tensor([0, 2, 4])
    output = predict(unet, torch.zeros(3, 3, 8, 8), torch.tensor(7), labels, 3.0, micro_batch)
    expected = torch.tensor([50 + 3 * (0 - 50), 50 + 3 * (20 - 50), 50 + 3 * (40 - 50)])
    torch.testing.assert_close(output[:, 0, 0, 0], expected.float())
    torch.testing.assert_close(output[:, 3, 0, 0], labels.float())


def test_null_class_of_a_dit_comes_from_its_configuration(make_dit):
    pipeline = build(dit=make_dit(classes=5), scheduler=DDIMScheduler())
    null = sample(pipeline, [5, 5]).images
    # At weight 0 only the unconditional prediction is left.
    torch.testing.assert_close(sample(pipeline, [0, 3], classifier_free_guidance_scale=0.0).images, null)


def test_learned_variance_is_left_out_for_schedulers_without(make_unet):
    unet, scheduler = make_unet(out_channels=6), DDIMScheduler()
    assert sample(build(unet, None, scheduler)).images.shape == (4, 3, 8, 8)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [False, True])
def test_clean_prediction_is_that_of_the_schedulers(kind, prediction_type, clip):
    generator = torch.Generator().manual_seed(4)
    output, noisy = (torch.randn((2, 3, 8, 8), generator=generator) for _ in range(2))
    reference = DDIMScheduler(prediction_type=prediction_type, clip_sample=clip)
    scheduler = kind.from_config(reference.config)
    scheduler.set_timesteps(5)
    reference.set_timesteps(5)
    expected = reference.step(output, scheduler.timesteps[1], noisy).pred_original_sample
    torch.testing.assert_close(clean_prediction(scheduler, output, 1, noisy), expected)
    _, clean = reverse_step(scheduler, output, 1, noisy, generator=generator, eta=0.0)
    torch.testing.assert_close(clean, expected)


GUIDED = [
    *itertools.product([DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler], ["sample", "x0_pred", "prediction"]),
    *itertools.product([DPMSolverMultistepScheduler, UniPCMultistepScheduler, EDMEulerScheduler], ["prediction"]),
    (FlowMatchEulerDiscreteScheduler, "prediction"),
]


@pytest.mark.parametrize(("scheduler", "guide_on"), GUIDED)
def test_guidance_raises_what_it_maximises(make_unet, make_estimator, scheduler, guide_on):
    pipeline = build(make_unet(), make_estimator(), scheduler())
    options = {"beta": 0.0, "guide_on": guide_on, "num_inference_steps": 10}
    plain = sample(pipeline, guidance_scale=0.0, **options)
    guided = sample(pipeline, guidance_scale=0.2, **options)
    assert guided.prototype.mean() > plain.prototype.mean()
    assert torch.isfinite(guided.images).all()


@pytest.mark.parametrize("guide_on", ["sample", "x0_pred", "prediction"])
def test_dit_is_guided_through_its_vae(make_dit, make_estimator, guide_on):
    pipeline = build(dit=make_dit(), estimator=make_estimator(), scheduler=DDIMScheduler())
    options = {"beta": 0.0, "guide_on": guide_on, "num_inference_steps": 10, "classifier_free_guidance_scale": 2.0}
    plain = sample(pipeline, guidance_scale=0.0, **options)
    guided = sample(pipeline, guidance_scale=1.0, **options)
    assert guided.prototype.mean() > plain.prototype.mean()
    assert torch.isfinite(guided.images).all() and guided.images.shape == (4, 3, 8, 8)


class GaussianNetwork(UNet2DModel):
    """The best network, in closed form, for images whose pixels are independent, of a standard deviation of 0.3."""

    deviation = 0.3
    preconditioned = False  # as Karras et al. (2022), Table 1, whose sigma_data is 0.5; else the velocity of a flow

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: Any = None) -> Any:
        if not self.preconditioned:
            noise = float(timestep) / 1000
            variance = (1 - noise) ** 2 * self.deviation**2 + noise**2
            return SimpleNamespace(sample=sample * (noise - (1 - noise) * self.deviation**2) / variance)
        sigma, data = float((4 * timestep.double()).exp()), 0.5
        total = sigma**2 + data**2
        noisy = sample * total**0.5
        clean = noisy * self.deviation**2 / (self.deviation**2 + sigma**2)
        return SimpleNamespace(sample=(clean - noisy * data**2 / total) * total**0.5 / (sigma * data))


@pytest.mark.parametrize(
    "scheduler", [EDMEulerScheduler(), EDMDPMSolverMultistepScheduler(), FlowMatchEulerDiscreteScheduler()]
)
def test_preconditioned_and_flow_priors_draw_what_they_know(scheduler):
    """EDM's preconditioning and conditional flow matching (as SiT's): the samples have the spread of the images."""
    config = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "norm_num_groups": 4}
    network = GaussianNetwork(**config, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    network.preconditioned = type(scheduler).__name__.startswith("EDM")
    pipeline, noise, before = build(network, None, scheduler), [], []

    def follow(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        sigma, signal = float(pipe.scheduler.sigmas[step]), 1.0
        if not network.preconditioned:
            signal = 1 - sigma
        if before:
            variance = signal**2 * network.deviation**2 + sigma**2
            expected = before[-1] * signal * network.deviation**2 / variance
            torch.testing.assert_close(tensors["pred_original_sample"], expected, rtol=1e-3, atol=1e-4)
        noise.append(sigma)
        before.append(tensors["latents"])
        return {}

    options = {"callback_on_step_end_tensor_inputs": ("latents", "pred_original_sample"), "output_type": "latent"}
    images = sample(pipeline, [0] * 100, num_inference_steps=60, callback_on_step_end=follow, **options).images
    assert images.std() == pytest.approx(0.3, abs=0.02)
    assert noise == sorted(noise, reverse=True) and len(noise) == 60


def test_micro_batches_make_the_same_images(make_unet, make_estimator):
    unet, estimator = make_unet(entries=4).double(), make_estimator().double()
    pipeline = build(unet, estimator)
    options = {"classifier_free_guidance_scale": 2.0, "beta": 0.5}
    whole = sample(pipeline, **options)
    parts = sample(pipeline, **options, micro_batch=3)
    for name in ("images", "prototype", "contextual"):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-8, atol=1e-8)


def test_beta_acts_on_the_tiles_of_one_class(make_unet, make_estimator):
    pipeline = build(make_unet(), make_estimator())
    alone = [sample(pipeline, [1], beta=beta).images for beta in (0.0, 1.0)]
    four = [sample(pipeline, [1] * 4, beta=beta).images for beta in (0.0, 1.0)]
    torch.testing.assert_close(alone[0], alone[1], rtol=1e-5, atol=1e-5)
    assert (four[0] - four[1]).abs().max() > 1e-2


def test_guidance_keeps_to_its_interval(make_unet, make_estimator):
    pipeline = build(make_unet(), make_estimator())
    seen: dict[float, list[torch.Tensor]] = {}
    for start in (0.0, 0.5, 1.0):
        interval = (start, 1.0, 1) if start < 1 else (0.0, 1.0, 1)
        latents: list[torch.Tensor] = []

        def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any], latents: Any = latents) -> dict:
            latents.append(tensors["latents"])
            return {}

        scale = 1.0 if start < 1 else 0.0
        sample(pipeline, guidance_interval=interval, guidance_scale=scale, callback_on_step_end=keep)
        seen[start] = latents
    unguided = seen[1.0]
    assert [torch.equal(a, b) for a, b in zip(seen[0.5], unguided, strict=True)] == [True, True, False, False]
    assert not any(torch.equal(a, b) for a, b in zip(seen[0.0], unguided, strict=True))


def test_components_stay_as_they_are(make_dit, make_estimator):
    (transformer, vae), estimator = make_dit(), make_estimator().train()
    components = {"transformer": transformer, "vae": vae, "estimator": estimator}
    weights = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in components.items()}
    sample(build(dit=(transformer, vae), estimator=estimator, scheduler=DDIMScheduler()), return_trace=True)
    for name, part in components.items():
        assert all(torch.equal(value, part.state_dict()[key]) for key, value in weights[name].items()), name
        assert all(parameter.requires_grad and parameter.grad is None for parameter in part.parameters()), name
    assert estimator.training and not vae.training
    assert any(isinstance(layer, nn.ReLU) for layer in estimator.modules())


def test_trace_follows_both_estimates(make_unet, make_estimator):
    pipeline = build(make_unet(), make_estimator())
    output = sample(pipeline, return_trace=True, guidance_scale=0.0, softplus=False)
    assert output.trace["timestep"] == [750, 500, 250, 0]
    assert len(output.trace["prototype"]) == len(output.trace["contextual"]) == 4
    # The last sample is the image but for clipping, which DDPM does already.
    assert output.trace["prototype"][-1] == pytest.approx(float(output.prototype.mean()), abs=1e-5)
    assert output.trace["contextual"][-1] == pytest.approx(float(output.contextual.mean()), abs=1e-5)
    assert sample(pipeline).trace is None


def test_estimates_are_those_of_the_images(make_unet, make_estimator):
    estimator = make_estimator()
    output = sample(build(make_unet(), estimator))
    result = estimator(pixel_values=(output.images - 0.4) / 0.3)
    expected = result.logits.log_softmax(dim=1)[range(4), LABELS]
    torch.testing.assert_close(output.prototype, expected, rtol=1e-4, atol=1e-4)
    shares = (result.embeddings / 0.07).softmax(dim=1)
    means = shares[1:3].mean(dim=0)
    divergences = (shares[1:3] * (shares[1:3] / means).log()).sum(dim=1)
    torch.testing.assert_close(output.contextual[1:3], divergences, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(output.contextual[[0, 3]], torch.zeros(2), rtol=0, atol=1e-5)


def test_callback_sees_every_step_and_changes_the_sample(make_unet):
    pipeline = build(make_unet())
    steps: list[tuple[int, int, int]] = []

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append((step, int(timestep), pipe.num_timesteps))
        assert sorted(tensors) == ["latents", "pred_original_sample"]
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ["latents", "pred_original_sample"]
    output = sample(pipeline, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert steps == [(0, 750, 4), (1, 500, 4), (2, 250, 4), (3, 0, 4)]
    assert torch.equal(output.images, torch.full((4, 3, 8, 8), 0.5))


@pytest.mark.parametrize("guide_on", ["sample", "x0_pred"])
def test_guidance_as_a_callback_is_the_pipelines_own(make_unet, make_estimator, guide_on):
    unet, estimator = make_unet(), make_estimator()
    expected = sample(build(unet, estimator), beta=0.4, guide_on=guide_on).images
    guidance = InformationGuidance(estimator=estimator, class_labels=LABELS, beta=0.4, guide_on=guide_on)
    assert torch.equal(sample(build(unet), callback_on_step_end=guidance).images, expected)


def test_output_types(make_unet):
    pipeline = build(make_unet())
    tensor, array, pictures, raw = (sample(pipeline, output_type=kind).images for kind in ("pt", "np", "pil", "latent"))
    assert tensor.shape == raw.shape == (4, 3, 8, 8) and array.shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(np.asarray(pictures[2]), (array[2] * 255).round().astype("uint8"))
    torch.testing.assert_close((raw / 2 + 0.5).clamp(0, 1), tensor)
    images, prototype, contextual, trace = sample(pipeline, return_dict=False)
    assert torch.equal(images, tensor) and prototype is contextual is trace is None


def test_latent_output_is_not_decoded(make_dit, make_estimator):
    pipeline = build(dit=make_dit(), estimator=make_estimator(), scheduler=DDIMScheduler())
    output = sample(pipeline, output_type="latent")
    assert output.images.shape == (4, 4, 4, 4) and output.prototype.shape == (4,)


def test_grey_images(make_unet, make_estimator):
    pipeline = build(make_unet(channels=1), make_estimator(channels=1))
    pictures = sample(pipeline, output_type="pil").images
    assert [(picture.mode, picture.size) for picture in pictures] == [("L", (8, 8))] * 4


def test_labels_may_be_a_tensor(make_unet):
    pipeline = build(make_unet(entries=4))
    assert torch.equal(sample(pipeline, torch.tensor(LABELS)).images, sample(pipeline, LABELS).images)


def test_progress_bar_can_be_turned_off_and_on(make_unet, capsys):
    pipeline = build(make_unet())
    sample(pipeline)
    assert capsys.readouterr().err == ""
    pipeline.set_progress_bar_config(disable=False)
    sample(pipeline)
    assert "4/4" in capsys.readouterr().err


def test_pipelines_share_components(make_unet, make_estimator):
    stock_pipeline = DDPMPipeline(make_unet(), DDPMScheduler())
    estimator = make_estimator()
    pipeline = IGDSPipeline.from_pipe(stock_pipeline, transformer=None, vae=None, estimator=estimator)
    assert pipeline.unet is stock_pipeline.unet and pipeline.estimator is estimator


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "class_labels must have at least one entry"),
        ({"labels": [0, 3]}, r"class_labels must be in \[0, 2\], the 3 classes of the estimator. Got \[3\]"),
        ({"guide_on": "noise"}, "guide_on must be one of"),
        ({"reduction": "max"}, "reduction must be one of"),
        ({"output_type": "jpeg"}, r"output_type must be one of \['pil', 'np', 'pt', 'latent'\]. Got 'jpeg'"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"guidance_scale": -1.0}, "guidance_scale must be at least 0"),
        ({"classifier_free_guidance_scale": -1.0}, "classifier_free_guidance_scale must be at least 0"),
        ({"guidance_interval": (0.6, 0.4, 1)}, "guidance interval must be"),
        ({"micro_batch": 0}, "micro_batch must be at least 1. Got 0"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1. Got 0"),
        ({"eta": 0.5}, "eta must be 0 for DDPMScheduler"),
        ({"prior_class_labels": [0, 1]}, "prior_class_labels must have 4 entries, one per class label. Got 2"),
        ({"prior_class_labels": [0, 1, 2, 4]}, r"prior_class_labels must be in \[0, 3\]"),
        ({"prior_class_labels": [0, 1, 2, 3], "classifier_free_guidance_scale": 2.0}, r"must be in \[0, 2\]"),
        ({"generator": [torch.Generator()]}, "generator must be one, or a list of 4, one per class label. Got 1"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"must be in \['latents', .*Got \['noise'\]"),
    ],
)
def test_settings_out_of_range_are_refused(make_unet, make_estimator, options, message):
    with pytest.raises(ValueError, match=message):
        sample(build(make_unet(entries=4), make_estimator()), **options)


@pytest.mark.parametrize("eta", [-1.0, 2.0])
def test_an_eta_that_is_no_share_is_refused(make_unet, eta):
    with pytest.raises(ValueError, match=rf"eta must be in \[0, 1\]. Got {eta}"):
        sample(build(make_unet(), None, DDIMScheduler()), eta=eta)


def test_estimators_that_do_not_fit_the_prior_are_refused(make_unet, make_estimator, make_dit):
    with pytest.raises(ValueError, match="estimator must take images of 3 channels, as the prior .* Got one for 1"):
        sample(build(make_unet(), make_estimator(channels=1)))
    five = make_estimator(classes=5)
    with pytest.raises(ValueError, match="estimator must have the 3 classes of the prior. Got 5: pass prior_class"):
        sample(build(make_unet(entries=4), five))
    with pytest.raises(ValueError, match="estimator must have the 4 classes of the prior. Got 5"):
        sample(build(dit=make_dit(classes=4), estimator=five, scheduler=DDIMScheduler()))
    assert sample(build(make_unet(entries=4), five), [4], prior_class_labels=[0]).images.shape == (1, 3, 8, 8)
    broken = make_estimator()
    broken.config.image_std = [0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="image_std in the estimator's configuration must be a list of 3 positive"):
        sample(build(make_unet(), broken))


def test_classifier_free_guidance_needs_a_null_class(make_unet, make_estimator):
    with pytest.raises(ValueError, match="must be 1 for an unconditional prior. Got 2"):
        sample(build(make_unet()), classifier_free_guidance_scale=2.0)
    pipeline = build(make_unet(entries=3), make_estimator())
    assert sample(pipeline).images.shape == (4, 3, 8, 8)
    with pytest.raises(ValueError, match="must be 1 for a prior without a null class, .* 3 entries for 3 classes"):
        sample(pipeline, classifier_free_guidance_scale=2.0)


def test_a_prior_is_needed(make_unet, make_dit):
    with pytest.raises(ValueError, match=r"A prior must be a unet, or a transformer with its vae. Got \[\]"):
        build()
    with pytest.raises(ValueError, match=r"Got \['transformer'\]"):
        build(dit=(make_dit()[0], None))
    with pytest.raises(ValueError, match=r"Got \['unet', 'transformer', 'vae'\]"):
        build(make_unet(), dit=make_dit())


def test_guidance_that_is_not_finite_is_refused(make_unet, make_estimator):
    estimator = make_estimator()
    with torch.no_grad():
        estimator.classifier.weight[1].fill_(float("inf"))
    with pytest.raises(ValueError, match="information gradient must be finite. Got another value at step 0 for class"):
        sample(build(make_unet(), estimator))
