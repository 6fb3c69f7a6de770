"""Information guidance, the extra step that IGDS adds to a reverse diffusion (Algorithm 2 of the IGDS paper).

The two estimates of a labelled image `x` with class `y`, under a variational estimator with unit embeddings `f(x)` and
logits `g(f(x))`, are the prototype term `log P(y | g(f(x)))` and the contextual term `KL(softmax(f(x) / tau) || Q)`,
where `Q` is the mean of `softmax(f(x) / tau)` over the images of the class. The file stands alone: a copy of it travels
with every saved pipeline.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.callbacks import PipelineCallback
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .reverse import check_labels, decode_latents

__all__ = [
    "Estimate",
    "InformationGuidance",
    "as_estimate",
    "check_estimator",
    "class_means",
    "contextual_terms",
    "estimator_input",
    "frozen_copy",
    "information_gradient",
    "information_terms",
    "prototype_terms",
    "soft_assignments",
]

Estimate = Callable[[Tensor], tuple[Tensor, Tensor]]
Network = TypeVar("Network", bound=nn.Module)


def soft_assignments(embeddings: Tensor, temperature: float) -> Tensor:
    """Distributions over the embedding's dimensions, `softmax(embeddings / temperature)`, of shape `(batch, dim)`."""
    return F.softmax(embeddings / temperature, dim=-1, dtype=_precise(embeddings))


def class_means(assignments: Tensor, labels: Tensor) -> Tensor:
    """For each row of `(batch, dim)`, the mean over the rows that have its label (`Q` of the paper's Algorithm 2)."""
    _, classes, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = assignments.new_zeros(len(counts), assignments.shape[1]).index_add(0, classes, assignments)
    return (sums / counts[:, None])[classes]


def contextual_terms(embeddings: Tensor, means: Tensor, temperature: float) -> Tensor:
    """`KL(softmax(embeddings / temperature) || means)` of each row, in nats, of shape `(batch,)`."""
    logs = F.log_softmax(embeddings / temperature, dim=-1, dtype=_precise(embeddings))
    return (logs.exp() * (logs - means.clamp_min(torch.finfo(means.dtype).tiny).log())).sum(dim=-1)


def prototype_terms(logits: Tensor, labels: Tensor) -> Tensor:
    """`log P(label | logits)` of each row, in nats, of shape `(batch,)`."""
    return F.log_softmax(logits, dim=-1, dtype=_precise(logits)).gather(-1, labels[:, None]).squeeze(-1)


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


def _precise(values: Tensor) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(values.dtype, torch.float32)


def information_terms(
    images: Tensor, labels: Tensor, estimate: Estimate, temperature: float, micro_batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """The prototype and contextual term of each image, both of shape `(batch,)`, in nats, without any gradient."""
    with torch.no_grad():
        parts = [estimate(chunk) for chunk in images.split(micro_batch or len(images))]
        embeddings, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        means = class_means(soft_assignments(embeddings, temperature), labels)
        return prototype_terms(logits, labels), contextual_terms(embeddings, means, temperature)


def information_gradient(
    images: Tensor,
    labels: Tensor,
    estimate: Estimate,
    beta: float,
    temperature: float,
    reduction: str = "sum",
    micro_batch: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the information estimate with respect to the images (IGDS, Algorithm 2, lines 8 to 13).

    The estimate is `sum_i [log P(y | g(f(x_i))) + beta * KL(softmax(f(x_i) / tau) || Q)]` over the images of a class in
    the batch. `Q`, their mean, counts as a constant: `sum_i dKL_i/dQ` is the same number in every dimension, and the
    entries of `Q` add up to one, so that their gradient vanishes.

    Args:
        images: Shape `(batch, channels, height, width)`: whatever `estimate` accepts, pixels or latents.
        labels: The class of each image, of shape `(batch,)`; several classes may be mixed.
        estimate: Maps images to unit embeddings `(batch, dim)` and logits `(batch, classes)`, differentiably.
        beta: Weight of the contextual term, at least 0.
        temperature: Temperature of the softmax over the embedding's dimensions, positive.
        reduction: `sum` over the images of a class, or their `mean` (the paper's Eq. 29).
        micro_batch: Images per pass; `Q` is of the whole batch all the same, so the result does not depend on it.

    Returns:
        The gradient, of the shape of `images`, and the prototype and contextual terms, of shape `(batch,)`, in nats.
    """
    images = images.detach()
    size = micro_batch or len(images)
    means = None
    if size < len(images) and beta:
        with torch.no_grad():
            assignments = [soft_assignments(estimate(chunk)[0], temperature) for chunk in images.split(size)]
        means = class_means(torch.cat(assignments), labels)

    gradients, embeddings, logits = [], [], []
    for rows in torch.arange(len(images), device=images.device).split(size):
        with torch.enable_grad():
            leaf = images[rows].requires_grad_(True)
            embedding, logit = estimate(leaf)
            objective = prototype_terms(logit, labels[rows]).sum()
            if beta:
                if means is None:
                    means = class_means(soft_assignments(embedding.detach(), temperature), labels)
                objective = objective + beta * contextual_terms(embedding, means[rows], temperature).sum()
            gradients.append(torch.autograd.grad(objective, leaf)[0])
        embeddings.append(embedding.detach())
        logits.append(logit.detach())

    gradient, embedding, logit = torch.cat(gradients), torch.cat(embeddings), torch.cat(logits)
    if reduction == "mean":
        counts = (labels[:, None] == labels[None, :]).sum(dim=1)
        gradient = gradient / counts.to(gradient.dtype)[:, None, None, None]
    if means is None:
        means = class_means(soft_assignments(embedding, temperature), labels)
    return gradient, prototype_terms(logit, labels), contextual_terms(embedding, means, temperature)


def frozen_copy(module: Network, softplus: bool = False) -> Network:
    """A copy in evaluation mode, of at least float32, whose parameters need no gradient; `module` stays as it is.

    Args:
        module: Any network. The copy shares the memory of its weights where they need no conversion.
        softplus: Puts `Softplus(beta=3)` in place of every `ReLU`, which smooths the gradient (IGDS, section 5.1).
    """
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    shared.update({id(buffer): buffer.detach() for buffer in module.buffers()})
    frozen = copy.deepcopy(module, shared).eval()
    if softplus:
        for name, layer in list(frozen.named_modules(remove_duplicate=False)):
            if isinstance(layer, nn.ReLU):
                frozen.set_submodule(name, nn.Softplus(beta=3))
    dtype = next(frozen.parameters()).dtype
    return frozen.to(dtype=torch.promote_types(dtype, torch.float32), memory_format=torch.channels_last)


def as_estimate(estimator: PreTrainedModel, vae: nn.Module | None = None) -> Estimate:
    """The estimator as a function of images in [-1, 1], or of the latents that `vae` decodes to such images."""

    def estimate(batch: Tensor) -> tuple[Tensor, Tensor]:
        images = batch if vae is None else decode_latents(vae, batch.to(vae.dtype))
        pixels = estimator_input(images.to(estimator.dtype), estimator.config)
        output = estimator(pixel_values=pixels.contiguous(memory_format=torch.channels_last))
        return output.embeddings, output.logits

    return estimate


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


class InformationGuidance(PipelineCallback):
    """Moves the samples along the gradient of the information estimate after each reverse step (IGDS, Algorithm 2).

    Attach it to any diffusers pipeline by `callback_on_step_end`: one of pixels in [-1, 1], or of latents with a `vae`,
    which is then decoded differentiably. `IGDSPipeline` does so by itself.

    Args:
        estimator: A variational estimator: maps normalised pixels to `embeddings` (unit vectors) and `logits`. It is
            copied, never changed.
        class_labels: The estimator's class id of each image of the batch.
        beta: Weight of the contextual term, at least 0.
        guidance_scale: Step size along the gradient (the paper's eta), at least 0; 0 turns the guidance off.
        temperature: Temperature of the softmax over the embedding's dimensions.
        guide_on: Take the gradient at the next noisy `sample`, or at `x0_pred`, the prediction of the clean image,
            which the pipeline must offer as the tensor `pred_original_sample`.
        reduction: `sum` over the images of a class, or their `mean`.
        interval: Start and stop as shares of the steps, and n, to guide every n-th step between them.
        micro_batch: Images per pass of the estimator; None: all. The result does not depend on it.
        softplus: Guide with `Softplus` in place of `ReLU`.
    """

    ignore_for_config = ["estimator"]

    @register_to_config
    def __init__(
        self,
        *,
        estimator: PreTrainedModel,
        class_labels: Sequence[int],
        beta: float = 1.0,
        guidance_scale: float = 0.2,
        temperature: float = 0.07,
        guide_on: str = "sample",
        reduction: str = "sum",
        interval: tuple[float, float, int] = (0.0, 1.0, 1),
        micro_batch: int | None = None,
        softplus: bool = True,
    ) -> None:
        super().__init__()
        _require(guide_on in ("sample", "x0_pred"), "guide_on", "one of ['sample', 'x0_pred']", guide_on)
        _require(reduction in ("sum", "mean"), "reduction", "one of ['sum', 'mean']", reduction)
        _require(beta >= 0, "beta", "at least 0", beta)
        _require(guidance_scale >= 0, "guidance_scale", "at least 0", guidance_scale)
        _require(temperature > 0, "temperature", "positive", temperature)
        _require(micro_batch is None or micro_batch >= 1, "micro_batch", "at least 1", micro_batch)
        start, stop, every = interval
        valid = 0 <= start < stop <= 1 and every >= 1
        _require(valid, "guidance interval", "(start, stop, every), 0 <= start < stop <= 1, every >= 1", interval)
        check_estimator(estimator)
        check_labels("class_labels", class_labels, estimator.config.num_labels, "estimator")
        self.estimator = frozen_copy(estimator, softplus)
        self._vae: nn.Module | None = None

    @property
    def tensor_inputs(self) -> list[str]:
        """The tensors that a pipeline must hand over."""
        return ["latents"] if self.config.guide_on == "sample" else ["latents", "pred_original_sample"]

    def callback_fn(
        self, pipeline: DiffusionPipeline, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Changes `callback_kwargs["latents"]`, of shape `(batch, channels, height, width)`, where the step is guided.

        Raises:
            ValueError: if there is not one label per image, or no tensor to guide on, or the gradient is not finite.
        """
        steps = getattr(pipeline, "num_timesteps", len(pipeline.scheduler.timesteps))
        if not self.is_guided(step_index, steps):
            return callback_kwargs
        images, labels, estimate = self.inputs(pipeline, callback_kwargs)
        with _autocast(images):
            gradient, _, _ = information_gradient(
                images.to(_precise(images)),
                labels,
                estimate,
                self.config.beta,
                self.config.temperature,
                self.config.reduction,
                self.config.micro_batch,
            )
        self._check_finite(gradient, labels, step_index)
        latents = callback_kwargs["latents"]
        callback_kwargs["latents"] = latents + self.config.guidance_scale * gradient.to(latents.dtype)
        return callback_kwargs

    def is_guided(self, step_index: int, steps: int) -> bool:
        """Whether step `step_index` of `steps`, counted from 0, lies in the guidance interval."""
        start, stop, every = self.config.interval
        first, last = round(start * steps), round(stop * steps)
        inside = first <= step_index < last and (step_index - first) % every == 0
        return inside and self.config.guidance_scale > 0

    def measure(self, pipeline: DiffusionPipeline, callback_kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The prototype and contextual term of each image that the guidance works on, of shape `(batch,)`, in nats."""
        images, labels, estimate = self.inputs(pipeline, callback_kwargs)
        with _autocast(images):
            return information_terms(
                images.to(_precise(images)), labels, estimate, self.config.temperature, self.config.micro_batch
            )

    def inputs(self, pipeline: DiffusionPipeline, callback_kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Estimate]:
        """The tensor to guide on, its labels, and the estimator as a function of that tensor."""
        name = self.tensor_inputs[-1]
        if callback_kwargs.get(name) is None:
            raise ValueError(
                f"guide_on='{self.config.guide_on}' needs the callback tensor '{name}', which "
                f"{type(pipeline).__name__} does not offer. Use guide_on='sample', or IGDSPipeline."
            )
        images = callback_kwargs[name]
        if len(images) != len(self.config.class_labels):
            raise ValueError(
                f"class_labels must have one entry per image of the batch, {len(images)}. "
                f"Got {len(self.config.class_labels)}."
            )
        vae = getattr(pipeline, "vae", None)
        if vae is not None and self._vae is None:
            self._vae = frozen_copy(vae)
        for network in filter(None, (self.estimator, self._vae)):
            network.to(images.device)
        labels = torch.as_tensor(self.config.class_labels, device=images.device)
        return images, labels, as_estimate(self.estimator, self._vae)

    def _check_finite(self, gradient: Tensor, labels: Tensor, step_index: int) -> None:
        if not torch.isfinite(gradient).all():
            broken = labels[~torch.isfinite(gradient).flatten(1).all(dim=1)].unique().tolist()
            raise ValueError(
                f"The information gradient must be finite. Got another value at step {step_index} for class "
                f"{', '.join(map(str, broken))}: check the estimator's weights, or lower guidance_scale."
            )


def _autocast(images: Tensor) -> torch.autocast:
    """Passes of half-precision samples run in their precision, with the gradient in float32."""
    half = images.dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(images.device.type, dtype=images.dtype if half else None, enabled=half)


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}. Got {value!r}.")
