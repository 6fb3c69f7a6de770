"""The reverse diffusion of a prior: its prediction with and without a class, and what a scheduler makes of it.

A prior is a `UNet2DModel`, or a `DiTTransformer2DModel` with a VAE. It imports nothing of decoct: a copy of it
travels with every saved pipeline.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    ModelMixin,
    SchedulerMixin,
    UNet2DModel,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from .schedulers import clean_coefficients

__all__ = [
    "check_components",
    "check_counts",
    "check_labels",
    "class_entries",
    "clean_prediction",
    "decode_latents",
    "ids_by_name",
    "label_ids",
    "latent_shape",
    "predict",
    "reverse_step",
    "unpacked_latents",
]


def ids_by_name(id2label: Mapping[Any, str], separator: str | None = None) -> dict[str, list[int]]:
    """The class ids that each name has: usually one, but ImageNet's cranes are birds and machines.

    Args:
        separator: Stands between the names of a class where it has several.
    """
    found: dict[str, list[int]] = {}
    for label, text in id2label.items():
        for name in dict.fromkeys([text] if separator is None else map(str.strip, text.split(separator))):
            found.setdefault(str(name), []).append(int(label))
    return found


def label_ids(
    labels: Sequence[int | str] | Tensor,
    ids: Mapping[str, Sequence[int]],
    owner: str,
    argument: str = "class_labels",
) -> list[int]:
    """Class ids of labels that are ids, or names of classes.

    Args:
        labels: A list, a tuple or a tensor; a string alone is none of them.
        ids: The class ids of each name, of `owner`.
        argument: In which the caller can give ids of `owner`, for messages.

    Raises:
        ValueError: for a string or number in place of a list, for entries that are neither whole numbers nor names, and
            for a name that `owner` does not know, or has for several classes.
    """
    if isinstance(labels, str):
        raise ValueError(f"{argument} must be a list, one entry per image. Got {labels!r}: write [{labels!r}].")
    given = labels.tolist() if hasattr(labels, "tolist") else labels
    if not isinstance(given, Sequence):
        raise ValueError(f"{argument} must be a list, one entry per image. Got {labels!r}.")
    unknown = sorted({label for label in given if isinstance(label, str) and label not in ids})
    if unknown:
        some = list(ids)[:10]
        raise ValueError(f"{argument} must be ids, or names of classes of the {owner}, as {some}. Got {unknown}.")
    several = {label: list(ids[label]) for label in given if isinstance(label, str) and len(ids[label]) > 1}
    if several:
        raise ValueError(
            f"{argument} must be ids where several classes of the {owner} have the same name. "
            f"Got {', '.join(f'{name!r}, which is {numbers}' for name, numbers in several.items())}: "
            f"give {argument}=[...], an id of the {owner} for each image."
        )
    try:
        return [ids[label][0] if isinstance(label, str) else operator.index(label) for label in given]
    except TypeError:
        raise ValueError(f"{argument} must be whole numbers, or names of classes. Got {list(given)}.") from None


def check_labels(name: str, labels: Sequence[int], classes: int, owner: str) -> None:
    """Raises ValueError if a label is not a class id of `owner`, which has `classes` of them."""
    wrong = sorted({label for label in labels if not 0 <= label < classes})
    if wrong:
        raise ValueError(f"{name} must be in [0, {classes - 1}], the {classes} classes of the {owner}. Got {wrong}.")


def check_counts(**counts: int | None) -> None:
    """Raises ValueError if a number of steps or of images per pass is below 1; None is a default."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1. Got {value}.")


def check_components(unet: Any, transformer: Any, vae: Any, scheduler: Any, estimator: Any) -> None:
    """Raises ValueError, in one line, for components that are no prior with an estimator."""
    kinds = {
        "unet": (unet, (UNet2DModel,)),
        "transformer": (transformer, (DiTTransformer2DModel,)),
        "vae": (vae, (AutoencoderKL, AutoencoderTiny)),
        "scheduler": (scheduler, (SchedulerMixin,)),
        "estimator": (estimator, (PreTrainedModel,)),
    }
    for name, (component, expected) in kinds.items():
        module = getattr(component, "_orig_mod", component)  # inside what torch.compile returns
        if not isinstance(module, expected) and (component is not None or name == "scheduler"):
            names = " or ".join(kind.__name__ for kind in expected)
            raise ValueError(f"{name} must be a {names}. Got a {type(component).__name__}.")
    if (unet is None) == (transformer is None) or (transformer is not None and vae is None):
        networks = {"unet": unet, "transformer": transformer, "vae": vae}
        given = [name for name, component in networks.items() if component is not None]
        raise ValueError(f"A prior must be a unet, or a transformer with its vae. Got {given}.")
    name, prior = ("unet", unet) if transformer is None else ("transformer", transformer)
    config = prior.config
    if config.sample_size is None:
        raise ValueError(f"{name} must have its sample_size in its configuration. Got none.")
    if config.out_channels not in (None, config.in_channels, 2 * config.in_channels):
        raise ValueError(
            f"{name} must put out the channels it takes, or twice as many with a learned variance. "
            f"Got {config.in_channels} in and {config.out_channels} out."
        )
    if config.get("class_embed_type") is not None:
        raise ValueError(
            f"class_embed_type of the {name} must be None, with num_class_embeds for a prior of classes. "
            f"Got {config.class_embed_type!r}."
        )
    if vae is not None and vae.config.latent_channels != config.in_channels:
        raise ValueError(
            f"vae must have latents of the prior's {config.in_channels} channels. Got {vae.config.latent_channels}."
        )


def class_entries(prior: ModelMixin) -> int | None:
    """Size of the prior's table of classes, the null class, which is the last, included; None: unconditional."""
    if isinstance(prior, DiTTransformer2DModel):
        return prior.config.num_embeds_ada_norm + 1
    return prior.config.num_class_embeds


def latent_shape(prior: ModelMixin, batch: int) -> tuple[int, int, int, int]:
    """Shape of the noise that the reverse diffusion starts from."""
    size = prior.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return batch, prior.config.in_channels, height, width


def decode_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """The images, about in [-1, 1], that a prior's latents stand for; differentiable."""
    config = vae.config
    scaled = 1 / config.scaling_factor * latents
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (
            torch.tensor(config[name], dtype=latents.dtype, device=latents.device)[:, None, None]
            for name in ("latents_mean", "latents_std")
        )
        scaled = scaled * std + mean
    return vae.decode(scaled + (config.get("shift_factor") or 0)).sample


def unpacked_latents(pipeline: Any, latents: Tensor, size: tuple[int, int] | None) -> Tensor:
    """The latents of a pipeline as its VAE takes them, `(batch, channels, height, width)`; differentiable.

    Args:
        pipeline: Any; of those that pack their latents into a sequence, Flux is known.
        latents: Of that pipeline, while it samples.
        size: Height and width of the images, in pixels, which packed latents do not tell; None if they are not known.

    Raises:
        ValueError: If the latents have another form than the pipeline's VAE decodes, or their size is not known.
    """
    name, vae = type(pipeline).__name__, pipeline.vae
    if not isinstance(vae, AutoencoderKL | AutoencoderTiny):
        raise ValueError(
            f"A pipeline must have an AutoencoderKL or AutoencoderTiny to be guided. Got {name} with "
            f"{type(vae).__name__}."
        )
    if latents.ndim == 3 and name == "FluxPipeline":
        factor = 2 * pipeline.vae_scale_factor
        if size is None or (size[0] // factor) * (size[1] // factor) != latents.shape[1]:
            raise ValueError(
                f"image_size must be (height, width) of the images for a callback of {name}, which packs its latents. "
                f"Got {size} for {latents.shape[1]} packed latents: give it, or sample in "
                "`with guidance.attached(pipeline):`, which knows the size."
            )
        latents = pipeline._unpack_latents(latents, *size, pipeline.vae_scale_factor)
    if latents.ndim != 4 or latents.shape[1] != vae.config.latent_channels:
        raise ValueError(
            f"A pipeline must sample latents of shape (batch, {vae.config.latent_channels}, height, width), as its VAE "
            f"takes them, to be guided. Got {name}, whose latents are {tuple(latents.shape)}."
        )
    return latents


def predict(
    prior: ModelMixin,
    sample: Tensor,
    timestep: Tensor,
    labels: Tensor | None,
    scale: float = 1.0,
    micro_batch: int | None = None,
) -> Tensor:
    """The prior's output, of shape `(batch, channels or 2 * channels, height, width)`.

    Args:
        prior: The network.
        sample: Shape `(batch, channels, height, width)`.
        timestep: One timestep for all samples, of shape `()`.
        labels: The prior's class ids, of shape `(batch,)`; None for an unconditional prior.
        scale: Weight `s` of classifier-free guidance, `null + s * (conditional - null)` (Ho & Salimans, 2022); 1: off.
            A learned variance is that of the conditional output.
        micro_batch: Samples per pass; None: all.
    """
    rows = torch.arange(len(sample), device=sample.device).split(micro_batch or len(sample))
    chunks = [_predict(prior, sample[row], timestep, None if labels is None else labels[row], scale) for row in rows]
    return torch.cat(chunks)


def _predict(prior: ModelMixin, sample: Tensor, timestep: Tensor, labels: Tensor | None, scale: float) -> Tensor:
    if labels is None or scale == 1:
        return _forward(prior, sample, timestep, labels)
    entries, channels = class_entries(prior), sample.shape[1]
    null = torch.full_like(labels, entries - 1)  # type: ignore[operator]
    output = _forward(prior, torch.cat([sample, sample]), timestep, torch.cat([labels, null]))
    conditional, unconditional = output.chunk(2)
    base = unconditional[:, :channels]
    return torch.cat([base + scale * (conditional[:, :channels] - base), conditional[:, channels:]], dim=1)


def _forward(prior: ModelMixin, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
    if isinstance(prior, DiTTransformer2DModel):
        timestep = timestep.to(sample.device).expand(len(sample))
    return prior(sample, timestep, class_labels=labels).sample


def reverse_step(
    scheduler: SchedulerMixin, output: Tensor, index: int, sample: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """The scheduler's next sample and the clean image it is heading for, both of the shape of `sample`.

    Args:
        scheduler: One that `check_scheduler` accepts.
        output: The prior's output. A learned variance is left to the schedulers that use one.
        index: The present step.
        sample: The present sample.
        **options: Passed on to the schedulers whose `step` takes them.
    """
    channels = sample.shape[1]
    learned = vars(scheduler).get("variance_type") in ("learned", "learned_range")
    accepted = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in options.items() if name in accepted}
    timestep = scheduler.timesteps[index]
    clean = None if _gives_clean_image(scheduler) else clean_prediction(scheduler, output[:, :channels], index, sample)
    step = scheduler.step(output if learned else output[:, :channels], timestep, sample, **options)
    return step.prev_sample, step.pred_original_sample if clean is None else clean


def _gives_clean_image(scheduler: SchedulerMixin) -> bool:
    """Whether `step` returns the clean image, clipped as the scheduler clips it."""
    return isinstance(scheduler, DDPMScheduler | DDIMScheduler)


def clean_prediction(scheduler: SchedulerMixin, output: Tensor, index: int, sample: Tensor) -> Tensor:
    """The image that a prediction stands for (DDPM, Eq. 15, and its kin), clipped if the scheduler's samples are.

    Args:
        output: The prediction, of the shape of `sample`.
        index: The present step.
    """
    of_sample, of_output = clean_coefficients(scheduler, index)
    clean = of_sample * sample + of_output * output
    if scheduler.config.get("thresholding") and hasattr(scheduler, "_threshold_sample"):
        return scheduler._threshold_sample(clean)
    if scheduler.config.get("clip_sample"):
        bound = scheduler.config.get("clip_sample_range", 1.0)
        clean = clean.clamp(-bound, bound)
    return clean
