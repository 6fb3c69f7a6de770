"""The prior that IGDS samples, guided by an estimator: opened as options say, and checked before any work."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import PartialState

from decoct.data.loading import check_label_names
from decoct.data.spec import ImageSpec
from decoct.files import one_line
from decoct.igds.loading import label_names, load_estimator
from decoct.igds.prior import (
    GuidedPrior,
    check_prior,
    load_pipeline,
    load_text_to_image,
    prior_fingerprint,
    prior_label_names,
    prompts_of,
    with_scheduler,
)
from decoct.models.classifier import Classifier, fingerprint_of
from decoct.pipelines.igds.reverse import class_entries
from decoct.pipelines.igds.schedulers import NotCarried
from decoct.pipelines.igds.text_to_image import TextToImagePrior

__all__ = [
    "PriorSettings",
    "SamplingSettings",
    "check_classes",
    "check_guidance",
    "check_pipeline",
    "open_pipeline",
    "place",
    "sampler_networks",
]


@dataclass(frozen=True)
class PriorSettings:
    """Which prior is sampled, and with which estimator; the fields are those of `SamplingConfig`."""

    prior: str
    estimator: str
    scheduler: str
    prompt: str | None
    prompts: str | None
    prior_variant: str | None
    prior_dtype: str | None
    prior_offload: bool
    prior_image_size: int | None
    guidance_vae: str | None


@dataclass(frozen=True)
class SamplingSettings:
    """How a prior is sampled under guidance; the fields are those of `SamplingConfig`."""

    prior_classes: list[int]
    guidance_scale: float
    temperature: float
    guide_on: Literal["sample", "x0_pred", "prediction"]
    guidance_reduction: Literal["sum", "mean"]
    guidance_start: float
    guidance_stop: float
    guidance_every: int
    softplus: bool
    classifier_free_guidance_scale: float | None
    sampling_steps: int
    micro_batch: int
    vae_micro_batch: int | None
    estimator_micro_batch: int | None
    seed: int


def open_pipeline(settings: PriorSettings, sampling: SamplingSettings) -> GuidedPrior:
    """A prior with an estimator and a scheduler; one of text with the prompts of the estimator's classes.

    Raises:
        ValueError: As `load_pipeline` and `load_text_to_image`, or if the scheduler does not carry the guidance; the
            options that help are named. Also if there is no GPU to offload for.
    """
    if settings.prior_offload and PartialState().device.type == "cpu":
        raise ValueError("prior_offload must be left out without a GPU. Got True, and the device is the CPU.")
    estimator = load_estimator(settings.estimator)
    pipeline: GuidedPrior
    if settings.prompt is None and settings.prompts is None:
        pipeline = load_pipeline(settings.prior, estimator, settings.scheduler, settings.prior_variant)
    else:
        pipeline = load_text_to_image(
            settings.prior,
            estimator,
            prompts_of(settings.prompt, settings.prompts, label_names(estimator)),
            settings.scheduler,
            settings.guidance_vae,
            settings.prior_image_size,
            settings.prior_variant,
            settings.prior_dtype,
        )
    try:
        check_guidance(pipeline, sampling)
    except NotCarried as error:
        remedies = _remedies(pipeline, sampling)
        raise ValueError(f"{error} As options: {', or '.join(remedies)}." if remedies else str(error)) from error
    return pipeline


def place(pipeline: GuidedPrior, device: torch.device, offload: bool) -> None:
    """Brings a prior and its estimator to a device; of one that is offloaded, each network while it computes."""
    if offload:
        pipeline.pipeline.enable_model_cpu_offload(device=device)  # text-to-image priors alone have the option
    pipeline.to(device)


def check_guidance(pipeline: GuidedPrior, settings: SamplingSettings) -> None:
    """Raises ValueError, with the remedy, if the prior's scheduler does not carry the guidance that is asked for."""
    if settings.guidance_scale == 0:
        return
    try:
        pipeline.check_guidance(settings.guide_on, settings.sampling_steps)
    except NotCarried:
        raise
    except ValueError as error:
        with contextlib.suppress(NotCarried):  # what two steps cannot do either is not for their number
            pipeline.check_guidance(settings.guide_on, 2)
        raise ValueError(
            f"sampling_steps must be a number of steps that the prior's {type(pipeline.scheduler).__name__} can take. "
            f"Got {settings.sampling_steps}: {one_line(error)}"
        ) from error


def _remedies(pipeline: GuidedPrior, settings: SamplingSettings) -> list[str]:
    """The options with which a prior's scheduler, or DDIM, was seen to carry the guidance that its own does not."""
    here, by_ddim = _places(pipeline, settings), []
    with contextlib.suppress(ValueError):  # a prior whose noise schedule DDIM does not know
        by_ddim = _places(_with_ddim(pipeline), settings)
    found = [f"--guide_on {place}" for place in here]
    if settings.guide_on in by_ddim:
        return [*found, "--scheduler ddim"]
    return [*found, *(f"--scheduler ddim --guide_on {place}" for place in by_ddim if place not in here)]


def _places(pipeline: GuidedPrior, settings: SamplingSettings) -> list[str]:
    """Where guidance may work that a prior's scheduler carries in the steps that are asked for."""
    places: list[str] = []
    for place in dict.fromkeys(("prediction", "sample", settings.guide_on)):
        with contextlib.suppress(ValueError):  # not carried, or more steps than the scheduler has
            pipeline.check_guidance(place, settings.sampling_steps)
            places.append(place)
    return places


def _with_ddim(pipeline: GuidedPrior) -> GuidedPrior:
    """A copy of a prior that is sampled as with `--scheduler ddim`; its networks are the same."""
    other, scheduler = copy.copy(pipeline), with_scheduler(pipeline.scheduler, "ddim", latent=pipeline.vae is not None)
    if isinstance(other, TextToImagePrior):
        other.pipeline = copy.copy(other.pipeline)
        other.pipeline.scheduler = scheduler
    else:
        other.scheduler = scheduler
    return other


def asked_for(pipeline: GuidedPrior) -> dict[str, Any]:
    """What the result depends on beside weights: the scheduler as it is configured, and the prompts of a prior of text.

    The configuration of a prior's own scheduler lies in its folder, which may be exchanged under the same weights.
    """
    config = json.loads(pipeline.scheduler.to_json_string())
    config.pop("_diffusers_version")
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    asked: dict[str, Any] = {"scheduler": f"{type(pipeline.scheduler).__name__} {digest}"}
    return {**asked, "prompts": pipeline.prompts} if isinstance(pipeline, TextToImagePrior) else asked


def sampler_networks(pipeline: GuidedPrior, prior: str, estimator: str) -> dict[str, dict[str, Any]]:
    """Estimator and prior as a run notes them: by fingerprints of their weights, and the prior by `asked_for` too.

    Args:
        prior, estimator: Their names.
    """
    return {
        "estimator": {"name": estimator, "fingerprint": fingerprint_of({"": pipeline.estimator})},
        "prior": {"name": prior, "fingerprint": prior_fingerprint(pipeline), **asked_for(pipeline)},
    }


def check_pipeline(
    pipeline: GuidedPrior,
    settings: SamplingSettings,
    teacher: Classifier,
    prior: str,
    estimator: str,
) -> None:
    """Raises ValueError if label names, channels or sizes of teacher, estimator and prior do not agree.

    Args:
        prior, estimator: Their names.
    """
    spec = teacher.spec
    if pipeline.estimator is None:
        raise ValueError("pipeline must have an estimator, which guides it. Got one without.")
    found = label_names(pipeline.estimator)
    check_label_names(spec.label_names, found, teacher.name, f"the estimator {estimator}")
    check_classes(pipeline, settings, spec, teacher.name, prior)


def check_classes(pipeline: GuidedPrior, settings: SamplingSettings, spec: ImageSpec, of: str, prior: str) -> None:
    """Raises ValueError if a prior's channels or classes are not those of the images to make.

    Args:
        spec: The images to make.
        of: Whose images these are, for the message.
        prior: Its name.
    """
    check_prior(pipeline, spec, settings.prior_classes, settings.classifier_free_guidance_scale, prior)
    if isinstance(pipeline, TextToImagePrior) or class_entries(pipeline.prior) is None or settings.prior_classes:
        return
    trained_on = prior_label_names(prior)
    if trained_on is not None:
        check_label_names(spec.label_names, trained_on, of, f"the prior {prior}")
