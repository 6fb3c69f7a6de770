"""The guidance against its definition: Algorithm 2 of the IGDS paper, written again here."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from decoct.pipelines.igds.estimates import as_estimate, estimator_input, frozen_copy
from decoct.pipelines.igds.guidance import InformationGuidance
from decoct.pipelines.igds.information import (
    class_means,
    contextual_terms,
    information_gradient,
    information_terms,
    prototype_terms,
    soft_assignments,
)

LABELS = [0, 2, 2, 0, 2]
BETA, TEMPERATURE = 0.7, 0.3
START = 900  # first timestep of ten


@pytest.fixture
def estimator(make_estimator) -> Any:
    return make_estimator().double()


@pytest.fixture
def images() -> Tensor:
    """Another size than the estimator's, so that they are resized."""
    return torch.rand((5, 3, 12, 12), generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1


def smooth(network: nn.Module) -> nn.Module:
    """The network with Softplus for ReLU, made by hand."""
    import copy

    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.Softplus(beta=3))
    return network


def information(network: Any, images: Tensor, labels: list[int], beta: float = BETA) -> Tensor:
    """The estimate that the guidance raises, class by class, with Q part of the function."""
    pixels = images / 2 + 0.5
    side = network.config.image_size
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    output = network(pixel_values=(pixels - 0.4) / 0.3)
    total = torch.zeros((), dtype=images.dtype)
    for label in set(labels):
        rows = [row for row, other in enumerate(labels) if other == label]
        distributions = torch.softmax(output.embeddings[rows] / TEMPERATURE, dim=1)
        mean = distributions.mean(dim=0)
        total = total + torch.log_softmax(output.logits[rows], dim=1)[:, label].sum()
        total = total + beta * (distributions * (distributions / mean).log()).sum()
    return total


def directional_difference(function: Any, point: Tensor, direction: Tensor, width: float = 1e-5) -> float:
    with torch.no_grad():
        return float(function(point + width * direction) - function(point - width * direction)) / (2 * width)


def directions(like: Tensor, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(like.shape, generator=generator, dtype=like.dtype) for _ in range(count)]


def pipeline_of(steps: int = 10, **components: Any) -> Any:
    """What the guidance asks of a pipeline."""
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(steps)
    return SimpleNamespace(scheduler=scheduler, **components)


def test_soft_assignments_are_the_softmax_at_a_temperature():
    embeddings = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    expected = (embeddings / 0.5).exp() / (embeddings / 0.5).exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(soft_assignments(embeddings, 0.5), expected)
    assert soft_assignments(embeddings.half(), 0.5).dtype == torch.float32


def test_class_means_are_those_of_each_rows_class():
    assignments = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.2, 0.8]])
    means = class_means(assignments, torch.tensor([7, 3, 7, 3]))
    torch.testing.assert_close(means, torch.tensor([[0.5, 0.5], [0.35, 0.65], [0.5, 0.5], [0.35, 0.65]]))


def test_contextual_terms_are_divergences_in_nats():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    means = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    share = 1 / (1 + math.exp(-2))
    expected = share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share))
    torch.testing.assert_close(contextual_terms(embeddings, means, 0.5), torch.full((2,), expected))
    # At temperatures where whole shares round to zero, the divergence is that of one-hot distributions.
    torch.testing.assert_close(contextual_terms(embeddings, means, 1e-4), torch.full((2,), math.log(2)))
    one_hot = soft_assignments(embeddings, 1e-4)
    torch.testing.assert_close(contextual_terms(embeddings, one_hot, 1e-4), torch.zeros(2))


def test_prototype_terms_are_log_probabilities_of_the_labels():
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([1 - math.log(math.e + math.e**2 + math.e**4), -math.log(3)])
    torch.testing.assert_close(prototype_terms(logits, torch.tensor([0, 2])), expected)


def test_estimator_input_normalises_and_resizes(estimator):
    white = torch.ones(2, 3, 20, 14)
    prepared = estimator_input(white, estimator.config)
    assert prepared.shape == (2, 3, 8, 8)
    torch.testing.assert_close(prepared, torch.full((2, 3, 8, 8), (1 - 0.4) / 0.3))
    same_size = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(estimator_input(same_size, estimator.config), (same_size / 2 + 0.5 - 0.4) / 0.3)


def test_estimator_input_refuses_other_channels(estimator):
    with pytest.raises(ValueError, match="must have the 3 channels of the estimator. Got 1"):
        estimator_input(torch.zeros(2, 1, 8, 8), estimator.config)


def test_gradient_is_that_of_finite_differences(estimator, images):
    network = smooth(estimator)
    estimate = as_estimate(frozen_copy(estimator, softplus=True))
    gradient, _, _ = information_gradient(images, torch.tensor(LABELS), estimate, BETA, TEMPERATURE)
    for direction in directions(images):
        expected = directional_difference(lambda x: information(network, x, LABELS), images, direction)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("softplus", [True, False])
def test_a_constant_mean_has_the_gradient_of_the_full_estimate(estimator, images, softplus):
    network = smooth(estimator) if softplus else estimator
    estimate = as_estimate(frozen_copy(estimator, softplus))
    detached, _, _ = information_gradient(images, torch.tensor(LABELS), estimate, BETA, TEMPERATURE)
    leaf = images.clone().requires_grad_(True)
    attached = torch.autograd.grad(information(network, leaf, LABELS), leaf)[0]
    torch.testing.assert_close(detached, attached, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_micro_batches_change_nothing(estimator, images, micro_batch, dtype, tolerance):
    estimate = as_estimate(frozen_copy(estimator.to(dtype), softplus=True))
    arguments = (images.to(dtype), torch.tensor(LABELS), estimate, BETA, TEMPERATURE, "sum")
    whole, parts = information_gradient(*arguments), information_gradient(*arguments, micro_batch)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=tolerance)


def test_terms_are_those_of_the_definition(estimator, images):
    labels = torch.tensor(LABELS)
    estimate = as_estimate(frozen_copy(estimator))
    _, prototype, contextual = information_gradient(images, labels, estimate, BETA, TEMPERATURE, micro_batch=2)
    expected = information(estimator, images, LABELS)
    torch.testing.assert_close((prototype + BETA * contextual).sum(), expected.detach())
    for measured, term in zip(
        information_terms(images, labels, estimate, TEMPERATURE), (prototype, contextual), strict=True
    ):
        torch.testing.assert_close(measured, term)


def test_mean_divides_by_the_number_of_images_of_the_class(estimator, images):
    estimate = as_estimate(frozen_copy(estimator))
    arguments = (images, torch.tensor(LABELS), estimate, BETA, TEMPERATURE)
    total, _, _ = information_gradient(*arguments, "sum")
    mean, _, _ = information_gradient(*arguments, "mean")
    for row, count in enumerate([2, 3, 3, 2, 3]):
        torch.testing.assert_close(mean[row], total[row] / count)


def test_classes_of_a_batch_do_not_touch_each_other(estimator, images):
    estimate = as_estimate(frozen_copy(estimator))
    together, _, _ = information_gradient(images, torch.tensor(LABELS), estimate, BETA, TEMPERATURE)
    alone, _, _ = information_gradient(images[[0, 3]], torch.tensor([0, 0]), estimate, BETA, TEMPERATURE)
    torch.testing.assert_close(together[[0, 3]], alone)


def test_beta_acts_on_four_tiles_of_a_class_and_not_on_one(estimator, images):
    estimate = as_estimate(frozen_copy(estimator))

    def gradient(count: int, beta: float) -> Tensor:
        labels = torch.zeros(count, dtype=torch.long)
        return information_gradient(images[:count], labels, estimate, beta, TEMPERATURE)[0]

    torch.testing.assert_close(gradient(1, 0.5), gradient(1, 0.0), rtol=1e-10, atol=1e-12)
    assert (gradient(4, 0.5) - gradient(4, 0.0)).abs().max() > 1e-3 * gradient(4, 0.0).abs().max()


def test_frozen_copy_leaves_the_network_as_it_is(estimator):
    estimator.train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    frozen = frozen_copy(estimator, softplus=True)
    assert not any(isinstance(layer, nn.ReLU) for layer in frozen.modules())
    assert not frozen.training and not any(parameter.requires_grad for parameter in frozen.parameters())
    assert any(isinstance(layer, nn.ReLU) for layer in estimator.modules())
    assert estimator.training and all(parameter.requires_grad for parameter in estimator.parameters())
    assert not any(isinstance(layer, nn.Softplus) for layer in estimator.modules())
    frozen(pixel_values=torch.randn(2, 3, 8, 8, dtype=torch.float64))
    frozen.to(torch.float32)
    for name, tensor in estimator.state_dict().items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name]), name


def test_frozen_copy_of_half_precision_computes_in_float32(make_estimator):
    assert frozen_copy(make_estimator().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("guide_on", ["sample", "x0_pred"])
def test_callback_moves_the_sample_along_the_gradient(estimator, images, guide_on):
    guidance = InformationGuidance(
        estimator=estimator,
        class_labels=LABELS,
        beta=BETA,
        guidance_scale=2.5,
        temperature=TEMPERATURE,
        guide_on=guide_on,
    )
    latents = images.flip(0).clone()
    tensors = {"latents": latents, "pred_original_sample": images}
    with torch.no_grad():
        moved = guidance(pipeline_of(), 0, START, dict(tensors))["latents"]
    point = latents if guide_on == "sample" else images
    network = smooth(estimator)
    for direction in directions(images):
        expected = directional_difference(lambda x: information(network, x, LABELS), point, direction)
        assert float(((moved - latents) * direction).sum()) == pytest.approx(2.5 * expected, rel=1e-5, abs=1e-7)


def test_callback_guides_latents_through_a_vae(make_estimator, make_dit):
    estimator, (_, vae) = make_estimator().double(), make_dit()
    vae = vae.double()
    latents = torch.randn((5, 4, 4, 4), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    guidance = InformationGuidance(
        estimator=estimator,
        class_labels=LABELS,
        beta=BETA,
        guidance_scale=1.0,
        temperature=TEMPERATURE,
        micro_batch=2,
    )
    moved = guidance(pipeline_of(vae=vae), 0, START, {"latents": latents})["latents"]
    network = smooth(estimator)

    def function(point: Tensor) -> Tensor:
        return information(network, vae.decode(point / vae.config.scaling_factor).sample, LABELS)

    for direction in directions(latents):
        expected = directional_difference(function, latents, direction)
        assert float(((moved - latents) * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in vae.parameters())


def test_a_step_raises_the_information(estimator, images):
    guidance = InformationGuidance(
        estimator=estimator,
        class_labels=LABELS,
        beta=BETA,
        guidance_scale=1e-3,
        temperature=TEMPERATURE,
        softplus=False,
    )
    moved = guidance(pipeline_of(), 0, START, {"latents": images})["latents"]
    assert information(estimator, moved, LABELS) > information(estimator, images, LABELS)


def test_interval_is_counted_in_steps(estimator):
    def guided(interval: tuple[float, float, int], scale: float = 1.0) -> list[int]:
        guidance = InformationGuidance(
            estimator=estimator, class_labels=LABELS, interval=interval, guidance_scale=scale
        )
        return [step for step in range(10) if guidance.is_guided(step, 10)]

    assert guided((0.0, 1.0, 1)) == list(range(10))
    assert guided((0.3, 0.7, 1)) == [3, 4, 5, 6]
    assert guided((0.1, 1.0, 4)) == [1, 5, 9]
    assert guided((0.0, 1.0, 1), scale=0.0) == guided((0.0, 0.01, 1), scale=0.0) == []
    with pytest.raises(ValueError, match=r"guidance interval must be one with some of the 10 steps in it"):
        guided((0.0, 0.01, 1))


def test_half_precision_samples_are_guided(make_estimator, images):
    tensors = {"latents": images.bfloat16()}
    guidance = InformationGuidance(estimator=make_estimator().bfloat16(), class_labels=LABELS, temperature=TEMPERATURE)
    moved = guidance(pipeline_of(), 0, START, tensors)["latents"]
    precise = InformationGuidance(estimator=make_estimator().bfloat16(), class_labels=LABELS, temperature=TEMPERATURE)
    expected = precise(pipeline_of(), 0, START, {"latents": images.bfloat16().float()})["latents"]
    assert moved.dtype == torch.bfloat16
    torch.testing.assert_close(moved.float(), expected, rtol=0.02, atol=0.02)


class ForeignPipeline(DiffusionPipeline):
    """Somebody else's pipeline: it knows callbacks, and nothing of the guidance."""

    _callback_tensor_inputs = ["latents"]

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, latents: Tensor, callback_on_step_end: Any) -> Tensor:
        self.scheduler.set_timesteps(4)
        for index, timestep in enumerate(self.scheduler.timesteps):
            noise = torch.zeros_like(latents)
            generator = torch.Generator().manual_seed(0)
            latents = self.scheduler.step(noise, timestep, latents, generator=generator).prev_sample
            offered = {"latents": latents}
            tensors = {name: offered.get(name) for name in callback_on_step_end.tensor_inputs}
            latents = callback_on_step_end(self, index, timestep, tensors)["latents"]
        return latents


def test_guidance_attaches_to_another_pipeline(make_estimator, images):
    estimator = make_estimator()
    options = {"estimator": estimator, "class_labels": LABELS, "temperature": TEMPERATURE, "softplus": False}
    pipeline = ForeignPipeline(DDPMScheduler(clip_sample=False))
    plain = pipeline(images.float(), InformationGuidance(guidance_scale=0.0, **options))
    guided = pipeline(images.float(), InformationGuidance(guidance_scale=0.02, beta=BETA, **options))
    assert information(estimator, guided, LABELS) > information(estimator, plain, LABELS)


def test_clean_prediction_must_be_offered(make_estimator, images):
    guidance = InformationGuidance(estimator=make_estimator(), class_labels=LABELS, guide_on="x0_pred")
    with pytest.raises(ValueError, match="'sample' for ForeignPipeline, .* 'pred_original_sample'. Got 'x0_pred'"):
        ForeignPipeline(DDPMScheduler())(images.float(), guidance)


def test_settings_are_kept_as_a_configuration(estimator):
    config = InformationGuidance(estimator=estimator, class_labels=LABELS, beta=0.3).config
    assert (config.beta, config.class_labels, config.guide_on) == (0.3, LABELS, "sample")
    assert "estimator" not in config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide_on": "noise"}, r"guide_on must be one of \['sample', 'x0_pred', 'prediction'\]. Got 'noise'"),
        ({"reduction": "max"}, r"reduction must be one of \['sum', 'mean'\]. Got 'max'"),
        ({"beta": -0.1}, "beta must be at least 0. Got -0.1"),
        ({"guidance_scale": -1.0}, "guidance_scale must be at least 0"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"micro_batch": 0}, "micro_batch must be at least 1"),
        ({"interval": (0.5, 0.5, 1)}, "guidance interval must be"),
        ({"interval": (0.0, 1.0, 0)}, "guidance interval must be"),
        ({"interval": (0.2, 0.8)}, r"guidance interval must be \(start, stop, every\).* Got \(0.2, 0.8\)"),
        ({"class_labels": [0, 3]}, r"class_labels must be in \[0, 2\], the 3 classes of the estimator. Got \[3\]"),
        ({"class_labels": [-1]}, r"Got \[-1\]"),
    ],
)
def test_settings_out_of_range_are_refused(estimator, options, message):
    with pytest.raises(ValueError, match=message):
        InformationGuidance(**{"estimator": estimator, "class_labels": LABELS, **options})


@pytest.mark.parametrize(
    ("name", "values"), [("image_mean", None), ("image_std", [0.3]), ("image_std", [0.3, 0.0, 0.3])]
)
def test_estimators_without_normalisation_are_refused(make_estimator, name, values):
    estimator = make_estimator()
    setattr(estimator.config, name, values)
    with pytest.raises(ValueError, match=f"{name} in the estimator's configuration must be a list of 3"):
        InformationGuidance(estimator=estimator, class_labels=LABELS)


def test_another_batch_is_refused(estimator, images):
    guidance = InformationGuidance(estimator=estimator, class_labels=LABELS)
    with pytest.raises(ValueError, match="one entry per image of the batch, 2. Got 5"):
        guidance(pipeline_of(), 0, START, {"latents": images[:2]})


def test_gradients_that_are_not_finite_are_refused(estimator, images):
    guidance = InformationGuidance(estimator=estimator, class_labels=LABELS)
    images[1] = math.nan
    with pytest.raises(ValueError, match="step 7 for class 2:"):
        guidance(pipeline_of(), 7, 200, {"latents": images})
