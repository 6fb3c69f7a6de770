"""Stock text-to-image pipelines as priors of classes: a prompt a class, guided at the steps of their scheduler.

Nothing of a stock pipeline is replaced: its own `__call__` samples, and `InformationGuidance` is attached to its
scheduler for as long. Without guidance the images are those of the stock pipeline, bit for bit.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .estimates import as_estimate, check_estimator, class_names, frozen_copy
from .guidance import InformationGuidance
from .information import information_terms
from .pipeline import IGDSPipelineOutput
from .reverse import check_counts, check_labels, label_ids
from .schedulers import TRIAL_STEPS, check_guidance, check_scheduler, is_flow, with_timesteps

__all__ = ["TEXT_TO_IMAGE", "FlaggedImages", "TextToImagePrior", "in_passes"]

TEXT_TO_IMAGE = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "PixArtAlphaPipeline",
    "PixArtSigmaPipeline",
)
# Sizes of latents for which PixArt brings images of any size to the nearest that it was trained on, and back.
BINNED = {"PixArtAlphaPipeline": (32, 64, 128), "PixArtSigmaPipeline": (32, 64, 128, 256)}
FLOWS = ("StableDiffusion3Pipeline", "FluxPipeline")
OWN_OPTIONS = ("prompt", "num_images_per_prompt", "output_type", "return_dict")  # of the stock call, set by the prior's
WITHOUT_BATCH = ("img_ids", "txt_ids")  # Flux: positions, the same for all images


class FlaggedImages(ValueError):
    """A prior's safety checker blacked images out.

    Args:
        rows: The blacked out images of the batch.
        prompts: Of these images.
        output: What was sampled, these images among it.
    """

    def __init__(self, rows: Sequence[int], prompts: Sequence[str], output: IGDSPipelineOutput) -> None:
        super().__init__(rows, prompts, output)  # what pickle makes it from again
        self.rows, self.prompts, self.output = list(rows), list(prompts), output

    def __str__(self) -> str:
        found = (f"image {row} ({prompt!r})" for row, prompt in zip(self.rows, self.prompts, strict=True))
        return (
            f"The prior's safety checker must pass all images, since it blacks them out. Got {', '.join(found)}: "
            "change the prompt or the seed, or load the pipeline without its safety_checker."
        )


class TextToImagePrior:
    """A text-to-image pipeline of diffusers that samples classes by prompts, under information guidance.

    It is called as `IGDSPipeline` is, and holds its components in the same attributes.

    Args:
        pipeline: One of `TEXT_TO_IMAGE`; it stays as it is.
        estimator: A variational estimator, whose classes are sampled.
        prompts: The prompt of each class of the estimator.
        guidance_vae: Decodes the latents for the guidance in place of the pipeline's own VAE, as `AutoencoderTiny`.
        image_size: Side of the images, in pixels. Default: the pipeline's own.

    Raises:
        ValueError: for another pipeline, tokenizers without vocabulary or length, an estimator without normalisation or
            not of colour images, a scheduler that cannot be guided or that the pipeline cannot use, prompts that are
            not one per class, or a size of images that the pipeline does not make.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        estimator: PreTrainedModel,
        prompts: Sequence[str],
        guidance_vae: nn.Module | None = None,
        image_size: int | None = None,
    ) -> None:
        name = type(pipeline).__name__
        if name not in TEXT_TO_IMAGE:
            raise ValueError(f"A text-to-image prior must be one of {list(TEXT_TO_IMAGE)}. Got a {name}.")
        check_estimator(estimator)
        if isinstance(prompts, str) or len(prompts) != estimator.config.num_labels:
            got = repr(prompts) if isinstance(prompts, str) else len(prompts)
            raise ValueError(
                f"prompts must have {estimator.config.num_labels} entries, one per class of the estimator. Got {got}."
            )
        for vae in filter(None, (pipeline.vae, guidance_vae)):
            if vae.config.latent_channels != pipeline.vae.config.latent_channels:
                raise ValueError(
                    f"guidance_vae must decode the {pipeline.vae.config.latent_channels} channels of the prior's "
                    f"latents. Got one of {vae.config.latent_channels}."
                )
            if vae.config.out_channels != estimator.config.num_channels:
                raise ValueError(
                    f"estimator must take images of {vae.config.out_channels} channels, as the prior makes them. "
                    f"Got one for {estimator.config.num_channels}."
                )
        _check_tokenizers(pipeline)
        check_scheduler(pipeline.scheduler)
        _as_sampled(pipeline, TRIAL_STEPS)
        if image_size is not None:
            _check_size(pipeline, image_size)
        self.pipeline, self.estimator, self.prompts = pipeline, estimator, list(prompts)
        self.guidance_vae, self.image_size = guidance_vae, image_size

    @property
    def prior(self) -> ModelMixin:
        """The network that predicts noise or velocity."""
        return self.pipeline.unet if hasattr(self.pipeline, "unet") else self.pipeline.transformer

    @property
    def vae(self) -> ModelMixin:
        """Decodes the latents to images."""
        return self.pipeline.vae

    @property
    def scheduler(self) -> SchedulerMixin:
        """The pipeline's scheduler, which may be exchanged there."""
        return self.pipeline.scheduler

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What the images depend on, by the names of the components; a safety checker makes none."""
        parts = self.pipeline.components
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module) and name != "safety_checker"}

    def to(self, device: torch.device | str) -> TextToImagePrior:
        """Moves pipeline and estimator, unless the pipeline is offloaded and moves itself."""
        if not any(hasattr(part, "_hf_hook") for part in self.networks.values()):
            self.pipeline.to(device)
        self.estimator.to(device)  # type: ignore[arg-type]
        return self

    def check_guidance(self, guide_on: str, num_inference_steps: int, **options: Any) -> None:
        """Raises ValueError, with the remedy, if the scheduler does not carry guidance of that kind.

        Args:
            **options: Of its `step`, such as `eta`.
        """
        check_guidance(_as_sampled(self.pipeline, num_inference_steps), guide_on, **options)

    def __call__(
        self,
        class_labels: Sequence[int | str] | Tensor,
        beta: float = 1.0,
        guidance_scale: float = 0.2,
        num_inference_steps: int = 50,
        temperature: float = 0.07,
        guide_on: str = "prediction",
        reduction: str = "sum",
        guidance_interval: tuple[float, float, int] = (0.0, 1.0, 1),
        micro_batch: int | None = None,
        vae_micro_batch: int | None = None,
        estimator_micro_batch: int | None = None,
        softplus: bool = True,
        classifier_free_guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        **options: Any,
    ) -> IGDSPipelineOutput:
        """Samples one image per class label; the arguments are those of `IGDSPipeline`, but for these.

        Args:
            micro_batch: Samples per pass of the prior, where classifier-free guidance makes two of an image.
            classifier_free_guidance_scale: The stock pipeline's `guidance_scale`. Default: its own.
            **options: Of the stock pipeline, such as `negative_prompt` (of all images, or one each) or
                `attention_kwargs`; but not its prompts, images per prompt and kind of output.

        Returns:
            Images in [0, 1] of shape `(batch, channels, height, width)`, with both estimates of each.

        Raises:
            ValueError: for settings out of range, unknown classes, options that the prior sets, a scheduler that does
                not carry the guidance, and guidance that is not finite.
            FlaggedImages: for images that the pipeline's safety checker blacked out, a ValueError.
        """
        check_counts(
            num_inference_steps=num_inference_steps,
            micro_batch=micro_batch,
            vae_micro_batch=vae_micro_batch,
            estimator_micro_batch=estimator_micro_batch,
        )
        taken = sorted(options.keys() & {*OWN_OPTIONS})
        if taken:
            raise ValueError(
                f"options of the stock pipeline must leave out {list(OWN_OPTIONS)}: prompts are those of the classes, "
                f"one image each, and images are tensors. Got {taken}."
            )
        estimator_micro_batch = estimator_micro_batch or micro_batch
        labels = label_ids(class_labels, class_names(self.estimator), "estimator")
        if not labels:
            raise ValueError("class_labels must have at least one entry. Got none.")
        check_labels("class_labels", labels, len(self.prompts), "estimator")
        guidance = InformationGuidance(
            estimator=self.estimator,
            class_labels=labels,
            beta=beta,
            guidance_scale=guidance_scale,
            temperature=temperature,
            guide_on=guide_on,
            reduction=reduction,
            interval=guidance_interval,
            micro_batch=estimator_micro_batch,
            vae_micro_batch=vae_micro_batch or micro_batch,
            softplus=softplus,
            vae=self.guidance_vae,
        )
        # Before text encoders run; another schedule than the pipeline's own is checked in its first step.
        if guidance_scale > 0 and not {"timesteps", "sigmas"} & options.keys():
            self.check_guidance(guide_on, num_inference_steps, **{"eta": options["eta"]} if "eta" in options else {})
        if self.image_size is not None:
            options = {"height": self.image_size, "width": self.image_size, **options}
        if type(self.pipeline).__name__ in BINNED and not _is_binned(self.pipeline):
            options = {"use_resolution_binning": False, **options}
        if classifier_free_guidance_scale is not None:
            options["guidance_scale"] = classifier_free_guidance_scale
        if isinstance(options.get("negative_prompt"), str):  # some stock pipelines take no single one beside a list
            options["negative_prompt"] = [options["negative_prompt"]] * len(labels)
        prompts = [self.prompts[label] for label in labels]
        with guidance.attached(self.pipeline), in_passes(self.prior, micro_batch):
            output = self.pipeline(
                prompt=prompts,
                num_inference_steps=num_inference_steps,
                generator=generator,
                output_type="pt",
                **options,
            )
        images = output.images
        with torch.no_grad():
            estimate = as_estimate(frozen_copy(self.estimator).to(images.device))
            targets = torch.tensor(labels, device=images.device)
            terms = information_terms(images.float() * 2 - 1, targets, estimate, temperature, estimator_micro_batch)
        sampled = IGDSPipelineOutput(images, *terms)
        flags = getattr(output, "nsfw_content_detected", None) or []
        if any(flags):
            rows = [row for row, flag in enumerate(flags) if flag]
            raise FlaggedImages(rows, [prompts[row] for row in rows], sampled)
        return sampled


def _is_binned(pipeline: DiffusionPipeline) -> bool:
    """Whether a PixArt takes images of any size; its own call fails where it should and has no sizes of training."""
    return pipeline.transformer.config.sample_size in BINNED[type(pipeline).__name__]


def _check_tokenizers(pipeline: DiffusionPipeline) -> None:
    """Raises ValueError for tokenizers that know no words, or do not know how many their text encoder takes.

    A folder that is missing, or lacks files, is loaded as such by transformers, without a word.
    """
    for name, tokenizer in pipeline.components.items():
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            continue
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        if len(words) < 2:  # T5's has the mark of a space
            raise ValueError(
                f"{name} of the prior must have its vocabulary. Got {type(tokenizer).__name__} without words: check "
                f"the prior's folder {name!r}."
            )
        encoder = getattr(pipeline, name.replace("tokenizer", "text_encoder"), None)
        most = None if encoder is None else getattr(encoder.config, "max_position_embeddings", None)
        if most is not None and tokenizer.model_max_length > most:
            raise ValueError(
                f"model_max_length of the prior's {name} must be at most {most}, what its text encoder takes. "
                f"Got {tokenizer.model_max_length}: check tokenizer_config.json in the prior's folder {name!r}."
            )


def _check_size(pipeline: DiffusionPipeline, side: int) -> None:
    """Raises ValueError, with the nearest side, for a side that a pipeline refuses, or makes another of."""
    name, most = type(pipeline).__name__, None
    if name in BINNED and _is_binned(pipeline):
        return
    step = 8
    if name in BINNED:  # the network cuts the latents into patches, and the pipeline says nothing of it
        step = math.lcm(step, pipeline.vae_scale_factor * pipeline.transformer.config.patch_size)
    elif name == "FluxPipeline":
        step = 2 * pipeline.vae_scale_factor
    elif name == "StableDiffusion3Pipeline":
        step = pipeline.vae_scale_factor * pipeline.patch_size
        most = step * pipeline.transformer.config.pos_embed_max_size
    if side % step or side < step or side > (most or side):
        sides = {max(step, side // step * step), (side // step + 1) * step}
        nearest = sorted({min(each, most or each) for each in sides})
        raise ValueError(
            f"image_size of the prior (--prior_image_size) must be a multiple of {step}"
            f"{f' up to {most}' if most else ''} for {name}. Got {side}: the nearest is "
            f"{' or '.join(map(str, nearest))}."
        )


def _as_sampled(pipeline: DiffusionPipeline, steps: int) -> SchedulerMixin:
    """A copy of a pipeline's scheduler, with timesteps as the pipeline's own call sets them.

    Raises:
        ValueError: If the pipeline cannot use the scheduler.
    """
    scheduler, name = pipeline.scheduler, type(pipeline).__name__
    options: dict[str, Any] = {}
    shifted, flows = scheduler.config.get("use_dynamic_shifting"), name in FLOWS
    if name == "FluxPipeline" or (flows and shifted):
        options["mu"] = 1.0  # follows from the size of the images, and is about 0.5 to 1.15
    if name == "FluxPipeline" and not scheduler.config.get("use_flow_sigmas"):
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    unknown = sorted(options.keys() - inspect.signature(scheduler.set_timesteps).parameters.keys())
    if flows and not is_flow(scheduler):
        wrong = "which is not of flows"
    elif unknown:
        wrong = f"whose set_timesteps takes no {' and no '.join(unknown)}"
    elif not flows and shifted:
        wrong = "with use_dynamic_shifting, whose shift this pipeline does not know"
    elif not flows and not hasattr(scheduler, "init_noise_sigma"):
        wrong = "which does not say how noisy samples start"
    else:
        try:
            return with_timesteps(scheduler, steps, **options)
        except AssertionError:  # solvers of flows have no other words for it
            wrong = "which takes a shift (mu) with use_dynamic_shifting and an exponential time_shift_type alone"
    usual = "FlowMatchEulerDiscreteScheduler" if flows else "DDIMScheduler"
    raise ValueError(
        f"scheduler must be one that {name} can use. Got {type(scheduler).__name__}, {wrong}: take {usual}, or "
        "the one that the pipeline was published with."
    )


@contextlib.contextmanager
def in_passes(network: nn.Module, size: int | None) -> Iterator[None]:
    """Has a network take its batches in passes of at most `size` samples within, whoever calls it; None: as they are.

    The arguments that have a row per sample are cut, in dictionaries and lists too.
    """
    if size is None:
        yield
        return
    forward = network.forward

    @functools.wraps(forward)
    def cut(*args: Any, **options: Any) -> Any:
        batch = len(args[0] if args else options["hidden_states"])
        bounds = [slice(start, start + size) for start in range(0, batch, size)]
        return _joined([forward(*_rows(args, rows, batch), **_rows(options, rows, batch)) for rows in bounds])

    own = vars(network).get("forward")
    network.forward = cut  # type: ignore[method-assign]
    try:
        yield
    finally:
        del network.forward
        if own is not None:  # of a network that is offloaded
            network.forward = own


def _rows(value: Any, rows: slice, batch: int) -> Any:
    """Rows of all tensors of a batch in an argument."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and len(value) == batch else value
    if isinstance(value, Mapping):
        return {name: each if name in WITHOUT_BATCH else _rows(each, rows, batch) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_rows(each, rows, batch) for each in value)
    return value


def _joined(outputs: list[Any]) -> Any:
    """One output of a network, a tuple or a `BaseOutput` of tensors, from those of its passes."""
    if isinstance(outputs[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
    return type(outputs[0])(**{name: torch.cat([each[name] for each in outputs]) for name in outputs[0]})
