"""The reverse diffusion of a prior: its prediction with and without a class, and what a scheduler makes of it.

A prior is a `UNet2DModel`, or a `DiTTransformer2DModel` with a VAE. The file stands alone: a copy of it travels with
every saved pipeline.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, ModelMixin, SchedulerMixin
from torch import Tensor, nn

__all__ = [
    "check_labels",
    "class_entries",
    "clean_prediction",
    "decode_latents",
    "latent_shape",
    "predict",
    "reverse_step",
]


def check_labels(name: str, labels: Sequence[int], classes: int, owner: str) -> None:
    """Raises ValueError if a label is not a class id of `owner`, which has `classes` of them."""
    wrong = sorted({label for label in labels if not 0 <= label < classes})
    if wrong:
        raise ValueError(f"{name} must be in [0, {classes - 1}], the {classes} classes of the {owner}. Got {wrong}.")


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
    return vae.decode(1 / vae.config.scaling_factor * latents + (vae.config.get("shift_factor") or 0)).sample


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
    scheduler: SchedulerMixin, output: Tensor, timestep: Tensor, sample: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """The scheduler's next sample and the clean image it is heading for, both of the shape of `sample`.

    Args:
        scheduler: One whose samples are `sqrt(alpha) * image + sqrt(1 - alpha) * noise`, as of DDPM.
        output: The prior's output. A learned variance is left to the schedulers that use one.
        timestep: The present timestep.
        sample: The present sample.
        **options: Passed on to the schedulers whose `step` takes them.
    """
    channels = sample.shape[1]
    learned = scheduler.config.get("variance_type") in ("learned", "learned_range")
    accepted = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in options.items() if name in accepted}
    step = scheduler.step(output if learned else output[:, :channels], timestep, sample, **options)
    clean = getattr(step, "pred_original_sample", None)
    if clean is None:
        clean = clean_prediction(scheduler, output[:, :channels], timestep, sample)
    return step.prev_sample, clean


def clean_prediction(scheduler: SchedulerMixin, output: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
    """The image that a prediction stands for (DDPM, Eq. 15, and its kin), clipped if the scheduler's samples are.

    Raises:
        ValueError: if the prior predicts neither the noise, nor the image, nor the velocity.
    """
    alpha = scheduler.alphas_cumprod[timestep]
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        clean = (sample - (1 - alpha) ** 0.5 * output) / alpha**0.5
    elif kind == "sample":
        clean = output
    elif kind == "v_prediction":
        clean = alpha**0.5 * sample - (1 - alpha) ** 0.5 * output
    else:
        raise ValueError(
            f"prediction_type of the scheduler must be one of ['epsilon', 'sample', 'v_prediction']. Got {kind!r}."
        )
    if scheduler.config.get("clip_sample"):
        bound = scheduler.config.get("clip_sample_range", 1.0)
        clean = clean.clamp(-bound, bound)
    return clean
