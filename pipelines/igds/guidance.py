"""Information guidance, the extra step that IGDS adds to a reverse diffusion (Algorithm 2 of the IGDS paper).

Its equations are those of `information`. It imports nothing of decoct: a copy of it travels with every saved pipeline.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.callbacks import PipelineCallback
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from .estimates import as_estimate, check_estimator, class_names, decoded, frozen_copy
from .information import information_gradient, information_terms, precise_dtype
from .reverse import check_labels, clean_prediction, label_ids, unpacked_latents
from .schedulers import (
    PredictionSteps,
    check_guidance,
    check_scheduler,
    prediction_steps,
    sample_scale,
    with_timesteps,
)

__all__ = ["InformationGuidance"]


class InformationGuidance(PipelineCallback):
    """Moves the samples along the gradient of the information estimate in each reverse step (IGDS, Algorithm 2).

    It guides any diffusers pipeline of pixels in [-1, 1], or of latents that an `AutoencoderKL` or `AutoencoderTiny`
    decodes, for as long as it is `attached` to it. With `guide_on="sample"` it is a `callback_on_step_end` as well.
    `IGDSPipeline` guides itself by it.

    Args:
        estimator: A variational estimator: maps normalised pixels to `embeddings` (unit vectors) and `logits`. It is
            copied, never changed.
        class_labels: The estimator's class of each image of the batch, by id or by name.
        beta: Weight of the contextual term, at least 0.
        guidance_scale: Step size along the gradient (the paper's eta), at least 0; 0 turns the guidance off.
        temperature: Temperature of the softmax over the embedding's dimensions.
        guide_on: `sample`: take the gradient at the next noisy sample, and move that. `x0_pred`: take it at the clean
            image that is predicted, and move the next sample. `prediction`: take it there, and move the prediction
            itself, so far that the final sample moves as in the other two; every scheduler carries that which
            `prediction_steps` accepts.
        reduction: `sum` over the images of a class, or their `mean`.
        interval: Start and stop as shares of the steps, and n, to guide every n-th step between them.
        micro_batch: Images per pass of the estimator; None: all. The result does not depend on it.
        vae_micro_batch: Latents per pass of the VAE; None: as many. Another number decodes once more a step.
        softplus: Guide with `Softplus` in place of `ReLU`.
        vae: Decodes the latents in place of the pipeline's own VAE: a small one of the same latents, such as
            `AutoencoderTiny`, makes the guidance cheap.
        image_size: Height and width of the images, for a callback of a pipeline that packs its latents; while it is
            `attached`, the guidance knows them.
    """

    ignore_for_config = ["estimator", "vae"]

    @register_to_config
    def __init__(
        self,
        *,
        estimator: PreTrainedModel,
        class_labels: Sequence[int | str],
        beta: float = 1.0,
        guidance_scale: float = 0.2,
        temperature: float = 0.07,
        guide_on: str = "sample",
        reduction: str = "sum",
        interval: tuple[float, float, int] = (0.0, 1.0, 1),
        micro_batch: int | None = None,
        vae_micro_batch: int | None = None,
        softplus: bool = True,
        vae: nn.Module | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        places = ["sample", "x0_pred", "prediction"]
        _require(guide_on in places, "guide_on", f"one of {places}", guide_on)
        _require(reduction in ("sum", "mean"), "reduction", "one of ['sum', 'mean']", reduction)
        _require(beta >= 0, "beta", "at least 0", beta)
        _require(guidance_scale >= 0, "guidance_scale", "at least 0", guidance_scale)
        _require(temperature > 0, "temperature", "positive", temperature)
        for name, value in (("micro_batch", micro_batch), ("vae_micro_batch", vae_micro_batch)):
            _require(value is None or value >= 1, name, "at least 1", value)
        valid = len(interval) == 3 and 0 <= interval[0] < interval[1] <= 1 and interval[2] >= 1
        _require(valid, "guidance interval", "(start, stop, every), 0 <= start < stop <= 1, every >= 1", interval)
        check_estimator(estimator)
        self.labels = label_ids(class_labels, class_names(estimator), "estimator")
        check_labels("class_labels", self.labels, estimator.config.num_labels, "estimator")
        self.estimator = frozen_copy(estimator, softplus)
        self._own_vae = vae
        self._vae: nn.Module | None = None
        self._copied: nn.Module | None = None  # what `_vae` is a copy of
        self._checked: tuple[Any, Any] | None = None
        self._steps: PredictionSteps | None = None
        self._image_size = image_size

    @property
    def tensor_inputs(self) -> list[str]:
        """The tensors that a pipeline must hand over."""
        return ["latents"] if self.config.guide_on == "sample" else ["latents", "pred_original_sample"]

    def callback_fn(
        self, pipeline: DiffusionPipeline, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Changes `callback_kwargs["latents"]`, of shape `(batch, channels, height, width)`, where the step is guided.

        Raises:
            ValueError: if there is not one label per image, or no tensor to guide on, or the pipeline started late, or
                the scheduler does not carry the guidance, or the gradient is not finite.
        """
        if self.config.guidance_scale == 0:
            return callback_kwargs
        if self.config.guide_on == "prediction":
            raise ValueError(
                "guide_on must be 'sample' for a callback, which comes after the prediction. Got 'prediction': sample "
                "in `with guidance.attached(pipeline):` instead of passing the callback."
            )
        steps = getattr(pipeline, "num_timesteps", len(pipeline.scheduler.timesteps))
        # In the first step, be it guided or not: half of the work would be lost to a refusal in the first guided one.
        if self._checked is None or self._checked[0] is not pipeline or self._checked[1] is not pipeline.scheduler:
            check_scheduler(pipeline.scheduler)
            check_guidance(with_timesteps(pipeline.scheduler, steps), self.config.guide_on)
            self._checked = (pipeline, pipeline.scheduler)
        _check_timestep(pipeline, step_index, timesteps)
        if not self.is_guided(step_index, steps):
            return callback_kwargs
        return self.guide(pipeline, step_index, callback_kwargs)

    def guide(self, pipeline: DiffusionPipeline, step_index: int, tensors: dict[str, Any]) -> dict[str, Any]:
        """What the callback does after a guided step, for a scheduler that is known to carry it."""
        images, labels = self.inputs(pipeline, step_index, tensors)
        gradient = self._gradient(pipeline, images, labels, step_index)
        latents = tensors["latents"]
        step = self.config.guidance_scale * sample_scale(pipeline.scheduler, step_index + 1)
        tensors["latents"] = latents + step * gradient.to(latents.dtype)
        return tensors

    def prepare_predictions(self, scheduler: SchedulerMixin, **options: Any) -> None:
        """Measures how guidance enters the predictions of a scheduler, which has timesteps and took no step yet.

        Args:
            scheduler: Of the pipeline to guide.
            **options: Of its `step`, such as `eta`.
        """
        self._steps = prediction_steps(scheduler, **options)

    def guide_prediction(self, pipeline: DiffusionPipeline, step_index: int, output: Tensor, sample: Tensor) -> Tensor:
        """The network's output for a guided step, moved along the gradient at the clean image that it stands for.

        Args:
            pipeline: Whose scheduler `prepare_predictions` has seen.
            step_index: The present step.
            output: The prediction, of the shape of `sample`, or followed by a learned variance.
            sample: The present sample.
        """
        steps: Any = self._steps
        predicted, variance = output.split([sample.shape[1], output.shape[1] - sample.shape[1]], dim=1)
        clean = clean_prediction(pipeline.scheduler, predicted.to(precise_dtype(predicted)), step_index, sample)
        images, labels = self.inputs(pipeline, step_index, {"pred_original_sample": clean.to(sample.dtype)})
        gradient = self._gradient(pipeline, images, labels, step_index)
        step = self.config.guidance_scale * float(steps.shift[step_index] / steps.of_output[step_index])
        return torch.cat([predicted + step * gradient.to(predicted.dtype), variance], dim=1)

    @contextlib.contextmanager
    def attached(self, pipeline: DiffusionPipeline) -> Iterator[None]:
        """Guides what a pipeline samples within, by its scheduler's `step`, whatever it hands to callbacks.

        One scheduler step after the other is guided, from the first of a call to the last. Batches of another size than
        `class_labels` are refused.

        Raises:
            ValueError: If the pipeline's scheduler does not carry the guidance.
        """
        scheduler = pipeline.scheduler
        check_scheduler(scheduler)
        step, wrapped = scheduler.step, "step" in vars(scheduler)
        taken = 0

        @functools.wraps(step)
        def guided_step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
            nonlocal taken
            steps = len(scheduler.timesteps)
            index = taken % steps
            if float(timestep) == float(scheduler.timesteps[0]) != float(scheduler.timesteps[index]):
                index = 0  # the call before was interrupted
            taken = index + 1
            if self.config.guidance_scale == 0:
                return step(model_output, timestep, sample, *args, **options)
            _check_timestep(pipeline, index, timestep)
            measured = {"eta": options["eta"]} if "eta" in options else {}
            on_prediction = self.config.guide_on == "prediction"
            if index == 0 and on_prediction:
                self.prepare_predictions(scheduler, **measured)
            elif index == 0:
                check_guidance(scheduler, self.config.guide_on, **measured)
            guided = self.is_guided(index, steps)
            if guided and on_prediction:
                model_output = self.guide_prediction(pipeline, index, model_output, sample)
            tensors = {}
            if guided and self.config.guide_on == "x0_pred":
                predicted = model_output[:, : sample.shape[1]]
                tensors["pred_original_sample"] = clean_prediction(scheduler, predicted, index, sample)
            result = step(model_output, timestep, sample, *args, **options)
            if guided and not on_prediction:
                moved = self.guide(pipeline, index, {**tensors, "latents": result[0]})["latents"]
                result = (moved, *result[1:]) if isinstance(result, tuple) else _with_sample(result, moved)
            return result

        scheduler.step = guided_step
        told = self._told_sizes(pipeline)
        try:
            yield
        finally:
            if told is not None:
                told.remove()
            self._image_size = self.config.image_size
            if wrapped:
                scheduler.step = step
            else:
                del scheduler.step

    def _told_sizes(self, pipeline: DiffusionPipeline) -> RemovableHandle | None:
        """Has a pipeline that packs its latents tell the size of its images, which it does by the tokens' positions."""
        if type(pipeline).__name__ != "FluxPipeline":
            return None

        def told(network: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            tokens = options["img_ids"]  # of each, its row and column, after a number that says nothing here
            columns = int((tokens[:, 1] == 0).sum())  # exact in half precision as well, unlike the last position
            side = 2 * pipeline.vae_scale_factor
            self._image_size = (len(tokens) // columns * side, columns * side)

        return pipeline.transformer.register_forward_pre_hook(told, with_kwargs=True)

    def is_guided(self, step_index: int, steps: int) -> bool:
        """Whether step `step_index` of `steps`, counted from 0, lies in the guidance interval.

        Raises:
            ValueError: If none of the steps does, so that nothing would be guided.
        """
        if self.config.guidance_scale == 0:
            return False
        start, stop, every = self.config.interval
        first, last = round(start * steps), round(stop * steps)
        _require(first < last, "guidance interval", f"one with some of the {steps} steps in it", self.config.interval)
        return first <= step_index < last and (step_index - first) % every == 0

    def measure(
        self, pipeline: DiffusionPipeline, step_index: int, callback_kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The prototype and contextual term of each image that the guidance works on, of shape `(batch,)`, in nats."""
        images, labels = self.inputs(pipeline, step_index, callback_kwargs)
        with _autocast(images):
            estimate = as_estimate(self.estimator, self._vae)
            return information_terms(
                images.to(precise_dtype(images)), labels, estimate, self.config.temperature, self.config.micro_batch
            )

    def inputs(
        self, pipeline: DiffusionPipeline, step_index: int, callback_kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The tensor to guide on, on the scale of DDPM's samples, and its labels; the networks are on its device."""
        name = self.tensor_inputs[-1]
        if callback_kwargs.get(name) is None:
            raise ValueError(
                f"guide_on must be 'sample' for {type(pipeline).__name__}, which does not offer the callback tensor "
                f"'{name}'. Got '{self.config.guide_on}': set it so, or use IGDSPipeline, or sample in "
                "`with guidance.attached(pipeline):`."
            )
        images = callback_kwargs[name]
        if len(images) != len(self.labels):
            raise ValueError(
                f"class_labels must have one entry per image of the batch, {len(images)}. Got {len(self.labels)}."
            )
        scale = sample_scale(pipeline.scheduler, step_index + 1) if self.config.guide_on == "sample" else 1.0
        if scale != 1:
            images = images / scale
        vae = getattr(pipeline, "vae", None)
        vae = None if vae is None else self._own_vae or vae
        if vae is not self._copied:
            self._vae = None if vae is None else frozen_copy(vae)
            self._copied = vae
        for network in filter(None, (self.estimator, self._vae)):
            network.to(images.device)
        return images, torch.as_tensor(self.labels, device=images.device)

    def _gradient(self, pipeline: DiffusionPipeline, images: Tensor, labels: Tensor, step_index: int) -> Tensor:
        """The information gradient with respect to the images or latents of a pipeline, of their shape."""
        config = self.config
        settings = (config.beta, config.temperature, config.reduction, config.micro_batch)
        vae = self._vae
        with _autocast(images):
            latents = images.to(precise_dtype(images))
            if vae is None:
                gradient, _, _ = information_gradient(latents, labels, as_estimate(self.estimator), *settings)
            else:
                gradient = self._latent_gradient(pipeline, vae, latents, labels, settings)
        self._check_finite(gradient, labels, step_index)
        return gradient

    def _latent_gradient(
        self, pipeline: DiffusionPipeline, vae: nn.Module, latents: Tensor, labels: Tensor, settings: tuple[Any, ...]
    ) -> Tensor:
        """The gradient through the VAE; in passes of other sizes than the estimator's, it is pulled back by itself."""

        def unpacked(part: Tensor) -> Tensor:
            return unpacked_latents(pipeline, part, self._image_size)

        size = self.config.vae_micro_batch
        if size in (None, self.config.micro_batch):
            estimate = as_estimate(self.estimator, vae)
            gradient, _, _ = information_gradient(latents, labels, lambda part: estimate(unpacked(part)), *settings)
            return gradient
        parts = latents.detach().split(size)
        with torch.no_grad():
            images = torch.cat([decoded(vae, unpacked(part)) for part in parts])
        at_images, _, _ = information_gradient(
            images.to(precise_dtype(images)), labels, as_estimate(self.estimator), *settings
        )
        gradients = []
        for part, outer in zip(parts, at_images.split(size), strict=True):
            with torch.enable_grad():
                leaf = part.clone().requires_grad_(True)
                image = decoded(vae, unpacked(leaf))
            gradients.append(torch.autograd.grad(image, leaf, outer.to(image.dtype))[0])
        return torch.cat(gradients)

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


def _check_timestep(pipeline: DiffusionPipeline, step_index: int, timestep: Any) -> None:
    """Raises ValueError if a pipeline takes another timestep than that of its scheduler which is due."""
    due = float(pipeline.scheduler.timesteps[step_index])
    if float(timestep) != due:
        raise ValueError(
            f"{type(pipeline).__name__} must take every timestep of its scheduler, from the first. "
            f"Got {float(timestep):g} where {due:g} is due: pipelines that start from an image start late, and cannot "
            "be guided; take the text-to-image pipeline of the same components."
        )


def _with_sample(result: Any, sample: Tensor) -> Any:
    """A scheduler's output with another next sample."""
    result.prev_sample = sample
    return result


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}. Got {value!r}.")
