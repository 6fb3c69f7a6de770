"""The networks that guide: frozen copies, and the estimator as a function of the images or latents that are guided.

It imports nothing of decoct: a copy of it travels with every saved pipeline.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .information import Estimate
from .reverse import decode_latents, ids_by_name

__all__ = ["as_estimate", "check_estimator", "class_names", "decoded", "estimator_input", "frozen_copy"]

OFFLOADING = ("_hf_hook", "_old_forward", "forward")  # what accelerate adds to a module
Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(module: Network, softplus: bool = False) -> Network:
    """A copy in evaluation mode, of at least float32, whose parameters need no gradient; `module` stays as it is.

    Args:
        module: Any network, one that is offloaded to the CPU included: the copy is not.
        softplus: Puts `Softplus(beta=3)` in place of every `ReLU`, which smooths the gradient (IGDS, section 5.1).

    The copy shares the memory of its weights where they need no conversion.
    """
    shared: dict[int, Any] = {}
    for part in module.modules():
        hooks = [vars(part)[name] for name in OFFLOADING if "_hf_hook" in vars(part) and name in vars(part)]
        shared.update({id(hook): hook for hook in hooks})
        for name, parameter in part.named_parameters(recurse=False):
            weight = _loaded(part, name, parameter.detach())
            shared[id(parameter)] = nn.Parameter(weight, requires_grad=False)
        shared.update(
            {id(each): _loaded(part, name, each.detach()) for name, each in part.named_buffers(recurse=False)}
        )
    frozen = copy.deepcopy(module, shared).eval()
    for part in frozen.modules():
        if "_hf_hook" in vars(part):
            for name in OFFLOADING:
                vars(part).pop(name, None)
    if softplus:
        for name, layer in list(frozen.named_modules(remove_duplicate=False)):
            if isinstance(layer, nn.ReLU):
                frozen.set_submodule(name, nn.Softplus(beta=3))
    dtype = next(frozen.parameters()).dtype
    precise = torch.promote_types(dtype, torch.float32)
    if dtype != precise:
        frozen.to(dtype=precise)
    return frozen.to(memory_format=torch.channels_last)


def _loaded(part: nn.Module, name: str, weight: Tensor) -> Tensor:
    """A weight, or what sequential offloading keeps in its place."""
    if not weight.is_meta:
        return weight
    hook: Any = vars(part).get("_hf_hook")
    for each in getattr(hook, "hooks", (hook,)):
        weights = getattr(each, "weights_map", None)
        if weights is not None:
            return torch.as_tensor(weights[name])
    raise ValueError(
        f"{type(part).__name__} must have its weights loaded to guide. Got a parameter {name!r} without any."
    )


def class_names(estimator: PreTrainedModel) -> dict[str, list[int]]:
    """The class ids of each class name of an estimator."""
    return ids_by_name(estimator.config.id2label)


def check_estimator(estimator: PreTrainedModel) -> None:
    """Raises ValueError if the configuration of an estimator does not say how pixels are normalised."""
    channels = estimator.config.num_channels
    for name in ("image_mean", "image_std"):
        values = getattr(estimator.config, name, None)
        if values is None or len(values) != channels or (name == "image_std" and min(values) <= 0):
            positive = "positive " if name == "image_std" else ""
            raise ValueError(
                f"{name} in the estimator's configuration must be a list of {channels} {positive}numbers, one per "
                f"channel of pixels in [0, 1]. Got {values}."
            )


def estimator_input(images: Tensor, estimator_config: PreTrainedConfig) -> Tensor:
    """Images in [-1, 1] of any size as the estimator's normalised input; differentiable.

    Args:
        images: Pixels of shape `(batch, channels, height, width)`; values outside [-1, 1] are not clipped.
        estimator_config: Has `image_size`, `num_channels`, and `image_mean` and `image_std` of pixels in [0, 1].

    Returns:
        Shape `(batch, channels, image_size, image_size)`; resized bilinearly with antialiasing where the sizes differ.

    Raises:
        ValueError: if the number of channels is not the estimator's.
    """
    if images.shape[1] != estimator_config.num_channels:
        raise ValueError(
            f"images must have the {estimator_config.num_channels} channels of the estimator. Got {images.shape[1]}."
        )
    size = (estimator_config.image_size, estimator_config.image_size)
    if images.shape[-2:] != size:
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    mean, std = (
        torch.tensor(value, dtype=images.dtype, device=images.device)[:, None, None]
        for value in (estimator_config.image_mean, estimator_config.image_std)
    )
    return (images / 2 + 0.5 - mean) / std


def decoded(vae: nn.Module, latents: Tensor) -> Tensor:
    """`decode_latents` in the VAE's precision; one that overflows in float16 (`force_upcast`) runs in float32."""
    device = latents.device.type
    overflows = bool(vae.config.get("force_upcast")) and torch.get_autocast_dtype(device) == torch.float16
    enabled = torch.is_autocast_enabled(device) and not overflows
    with torch.autocast(device, enabled=enabled):
        return decode_latents(vae, latents.to(vae.dtype))


def as_estimate(estimator: PreTrainedModel, vae: nn.Module | None = None) -> Estimate:
    """The estimator as a function of images in [-1, 1], or of the latents that `vae` decodes to such images."""

    def estimate(batch: Tensor) -> tuple[Tensor, Tensor]:
        images = batch if vae is None else decoded(vae, batch)
        pixels = estimator_input(images.to(estimator.dtype), estimator.config)
        output = estimator(pixel_values=pixels.contiguous(memory_format=torch.channels_last))
        return output.embeddings, output.logits

    return estimate
