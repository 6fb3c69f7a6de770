"""What guidance does to the samples of a trained prior: the embedded one, with its estimator."""

from __future__ import annotations

import pytest
import torch

import decoct
from decoct.run.seeding import torch_generator

CLASSES, COUNT, STEPS = (1, 5, 7, 8), 10, 15


@pytest.fixture(scope="module")
def pipeline():
    return decoct.load_pipeline("sample", decoct.load_estimator("sample"), "ddim")


@pytest.fixture(scope="module")
def sample(pipeline):
    """Both estimates, `(classes, samples)`, of the same seeds under other guidance."""
    known: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def draw(guidance_scale: float, beta: float, guide_on: str = "sample") -> tuple[torch.Tensor, torch.Tensor]:
        key = (guidance_scale, beta, guide_on)
        if key not in known:
            output = pipeline(
                class_labels=[label for label in CLASSES for _ in range(COUNT)],
                guidance_scale=guidance_scale,
                beta=beta,
                guide_on=guide_on,
                num_inference_steps=STEPS,
                generator=[torch_generator(0, "effect", number) for number in range(len(CLASSES) * COUNT)],
                output_type="pt",
            )
            shape = (len(CLASSES), COUNT)
            known[key] = (output.prototype.view(shape), output.contextual.view(shape))
        return known[key]

    return draw


def standard_error(difference: torch.Tensor) -> float:
    return float(difference.std() / difference.numel() ** 0.5)


@pytest.mark.parametrize("guide_on", ["sample", "x0_pred"])
def test_beta_zero_lowers_and_a_large_beta_raises_the_contextual_score(sample, guide_on):
    _, unguided = sample(0.0, 0.0)
    _, prototypes_only = sample(0.2, 0.0, guide_on)
    _, with_context = sample(0.2, 10.0, guide_on)
    lowered, raised = unguided - prototypes_only, with_context - unguided
    assert lowered.mean() > 2 * standard_error(lowered)
    assert raised.mean() > 2 * standard_error(raised)


@pytest.mark.parametrize("guide_on", ["sample", "x0_pred"])
def test_guidance_raises_the_prototype_information(sample, guide_on):
    unguided, _ = sample(0.0, 0.0)
    guided, _ = sample(0.2, 0.0, guide_on)
    gain = guided - unguided
    assert gain.mean() > 2 * standard_error(gain)


def test_the_prior_alone_draws_the_classes_it_is_asked_for(pipeline, sample):
    prototype, _ = sample(0.0, 0.0)
    assert prototype.exp().mean() > 0.5, "a guess would give 0.1"
