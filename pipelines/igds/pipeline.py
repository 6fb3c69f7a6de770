"""IGDS, information-guided diffusion sampling: a prior whose reverse steps also follow a variational estimator.

Load it from a folder that `save_pretrained` wrote, or around any prior in DDPM or DiT layout:

    DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    DiffusionPipeline.from_pretrained(prior, custom_pipeline="pipelines/igds", estimator=estimator,
                                      trust_remote_code=True)
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    DiTTransformer2DModel,
    SchedulerMixin,
    UNet2DModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import PreTrainedModel

from .estimates import as_estimate, check_estimator, class_names, frozen_copy
from .guidance import InformationGuidance
from .information import information_terms
from .reverse import (
    check_components,
    check_counts,
    check_labels,
    class_entries,
    decode_latents,
    ids_by_name,
    label_ids,
    latent_shape,
    predict,
    reverse_step,
)
from .schedulers import check_guidance, check_scheduler, with_timesteps

__all__ = ["IGDSPipeline", "IGDSPipelineOutput"]

# What this file imports, each by itself: of a local pipeline, diffusers copies what its first file imports, no more.
CODE = ("pipeline.py", "guidance.py", "estimates.py", "information.py", "reverse.py", "schedulers.py")
COMPONENTS = ("unet", "transformer", "vae", "estimator")


@dataclass
class IGDSPipelineOutput(BaseOutput):
    """Images, and what the estimator says about them.

    Args:
        images: PIL images, an array `(batch, height, width, channels)`, or a tensor `(batch, channels, height, width)`;
            the last two in [0, 1], or the raw result of the reverse diffusion for `output_type="latent"`.
        prototype: `log P(label | image)` of each image, in nats, of shape `(batch,)`; None without an estimator.
        contextual: `KL(softmax(f / temperature) || mean of its class in this call)`, likewise.
        trace: With `return_trace`: `timestep`, and the batch's mean `prototype` and `contextual` term after each step,
            of what the guidance works on.
    """

    images: list[PIL.Image.Image] | np.ndarray | Tensor
    prototype: Tensor | None = None
    contextual: Tensor | None = None
    trace: dict[str, list[float]] | None = None


class IGDSPipeline(DiffusionPipeline):
    """Class-wise images from a diffusion prior under information guidance (IGDS, Algorithm 2).

    Args:
        scheduler: Of the kinds in `schedulers.SERVED`.
        unet: A prior of pixels, unconditional or with classes; or
        transformer: a DiT prior of the latents of `vae`.
        vae: Decodes the latents; None for a prior of pixels.
        estimator: A variational estimator; None samples from the prior alone.
        id2label: The names of the prior's classes, separated by commas where a class has several, as of DiT.

    Raises:
        ValueError: for components of another kind, or that do not fit together.
    """

    model_cpu_offload_seq = "unet->transformer->vae"
    _exclude_from_cpu_offload = ["estimator"]
    # Optional components without a default: diffusers ignores what is passed for those that have one.
    _optional_components = ["unet", "transformer", "vae", "estimator"]
    _callback_tensor_inputs = ["latents", "pred_original_sample"]

    def __init__(
        self,
        scheduler: SchedulerMixin,
        unet: UNet2DModel | None,
        transformer: DiTTransformer2DModel | None,
        vae: AutoencoderKL | AutoencoderTiny | None,
        estimator: PreTrainedModel | None,
        id2label: dict[int, str] | None = None,
    ) -> None:
        super().__init__()
        check_components(unet, transformer, vae, scheduler, estimator)
        self.register_modules(unet=unet, transformer=transformer, vae=vae, scheduler=scheduler, estimator=estimator)
        check_scheduler(scheduler, self.prior.config.in_channels)
        if id2label is not None:
            self.register_to_config(id2label=id2label)
        self._named = ids_by_name(id2label or {}, ",")
        self._interrupt = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Any:
        """As `DiffusionPipeline.from_pretrained`, but only safetensors: pickled weights may run code.

        Raises:
            ValueError: for `use_safetensors=False`.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError(
                "use_safetensors must be True or left out: pickled weights may run code. Got False; the weights' own "
                "pipeline writes others with save_pretrained(..., safe_serialization=True)."
            )
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """As `DiffusionPipeline.from_pipe`; components that neither `pipeline` nor `kwargs` have are None.

        Names of a prior's classes come along. `DiTPipeline.labels` has kept the last id alone of a name that several
        classes have, as ImageNet's `crane`, which cannot be told here: pass the prior's `id2label` as well, and such a
        name is refused with its ids.
        """
        named: dict[int, str] = {}
        for name, label in getattr(pipeline, "labels", {}).items():
            named[label] = f"{named[label]}, {name}" if label in named else name
        if named and "id2label" not in pipeline.config:
            kwargs.setdefault("id2label", named)
        absent = {name: None for name in COMPONENTS if name not in pipeline.components}
        return super().from_pipe(pipeline, **{**absent, **kwargs})

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """The prior's class ids of names of its classes (as `DiTPipeline`'s), or the estimator's if it has no names.

        Raises:
            ValueError: for a name that is unknown, or that several classes have.
        """
        names = [label] if isinstance(label, str) else list(label)
        return label_ids(names, *self._named_classes(), "label")

    @property
    def labels(self) -> dict[str, int]:
        """The prior's class id of each name that one class has, as `DiTPipeline.labels`."""
        return {name: ids[0] for name, ids in self._named.items() if len(ids) == 1}

    def _named_classes(self) -> tuple[dict[str, list[int]], str]:
        """Class ids by name of the prior, or of the estimator where the prior has no names, and whose they are."""
        if self._named or self.estimator is None:
            return self._named, "prior"
        return class_names(self.estimator), "estimator"

    @property
    def prior(self) -> UNet2DModel | DiTTransformer2DModel:
        """The network that predicts the noise."""
        return self.transformer if self.unet is None else self.unet

    @property
    def num_timesteps(self) -> int:
        """Number of reverse steps of the present or last call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the present call is to stop guiding and denoising: set `_interrupt` in a callback."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int | str] | Tensor,
        beta: float = 1.0,
        guidance_scale: float = 0.2,
        num_inference_steps: int = 250,
        temperature: float = 0.07,
        guide_on: str = "sample",
        reduction: str = "sum",
        guidance_interval: tuple[float, float, int] = (0.0, 1.0, 1),
        micro_batch: int | None = None,
        vae_micro_batch: int | None = None,
        estimator_micro_batch: int | None = None,
        softplus: bool = True,
        classifier_free_guidance_scale: float = 1.0,
        prior_class_labels: Sequence[int | str] | Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        return_trace: bool = False,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> IGDSPipelineOutput | tuple[Any, ...]:
        """Samples one image per class label.

        Args:
            class_labels: The class of each image: the estimator's ids, and the prior's unless `prior_class_labels` are
                given; or names, which are looked up in both. Images of one class in a call are compared with one
                another, so pass all tiles of a class.
            beta: Weight of the contextual information against the prototype information, at least 0.
            guidance_scale: Step size of the information guidance (the paper's eta), at least 0; 0 turns it off.
            num_inference_steps: Reverse steps.
            temperature: Temperature of the softmax over the embedding's dimensions.
            guide_on: `sample`, the next noisy sample (Algorithm 2), or `x0_pred`, the prediction of the clean image;
                both move the next sample. Or `prediction`, which moves the network's prediction: schedulers that would
                lose a change of the next sample, or add to it, need this.
            reduction: `sum` over a class's images, so that the step does not depend on their number, or `mean`.
            guidance_interval: Start and stop as shares of the steps, and n, to guide every n-th step between them.
            micro_batch: Images per pass of the prior; None: all. The guidance is the same for any value.
            vae_micro_batch: Latents per pass of the VAE. Default: `micro_batch`; likewise `estimator_micro_batch`.
            softplus: Guide with `Softplus(beta=3)` in place of `ReLU` in a copy of the estimator.
            classifier_free_guidance_scale: Weight of the class-conditional prediction; 1 is off.
            prior_class_labels: The prior's class of each image, by id or name, where they are not the estimator's.
            generator: One generator, or a list with one per image, whose noise then does not depend on the batch.
            eta: Noise of DDIM, in [0, 1].
            output_type: `pil`, `np`, `pt` or `latent`.
            return_dict: Return an `IGDSPipelineOutput`, or its four fields as a tuple.
            return_trace: Also measure both estimates after each step, at the price of one pass of the estimator.
            callback_on_step_end: Called as `f(pipeline, step, timestep, tensors)` after each step and its guidance; the
                `latents` it returns are used, and `pipeline._interrupt = True` ends the sampling.
            callback_on_step_end_tensor_inputs: Of `latents` and `pred_original_sample`.

        Returns:
            An `IGDSPipelineOutput`.

        Raises:
            ValueError: for settings out of range, classes unknown to the prior or the estimator, an estimator of other
                channels or without normalisation, a scheduler that does not carry the guidance, and guidance that is
                not finite.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        labels, prior_labels, own_ids = self._class_ids(class_labels, prior_class_labels)
        check_counts(
            num_inference_steps=num_inference_steps,
            micro_batch=micro_batch,
            vae_micro_batch=vae_micro_batch,
            estimator_micro_batch=estimator_micro_batch,
        )
        estimator_micro_batch, vae_micro_batch = estimator_micro_batch or micro_batch, vae_micro_batch or micro_batch
        self._check_inputs(labels, prior_labels, generator, output_type, callback_on_step_end_tensor_inputs)
        self.check(labels, prior_labels if own_ids else None, classifier_free_guidance_scale)
        self._check_eta(eta)
        guidance = None
        if self.estimator is not None:
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
                vae_micro_batch=vae_micro_batch,
                softplus=softplus,
            )

        device = self._execution_device
        conditions = None if class_entries(self.prior) is None else torch.tensor(prior_labels, device=device)
        check_scheduler(self.scheduler, self.prior.config.in_channels)
        self.scheduler.set_timesteps(num_inference_steps)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        self._interrupt = False
        on_prediction = guide_on == "prediction"
        if guidance is not None and guidance_scale > 0:
            if on_prediction:
                guidance.prepare_predictions(self.scheduler, eta=eta)
            else:
                check_guidance(self.scheduler, guide_on, eta=eta)
        latents = self._noise(len(labels), generator, device)
        trace: dict[str, list[float]] = {"timestep": [], "prototype": [], "contextual": []}

        for index, timestep in enumerate(self.progress_bar(timesteps)):
            if self.interrupt:
                continue
            guided = guidance is not None and guidance.is_guided(index, len(timesteps))
            scaled = latents
            if hasattr(self.scheduler, "scale_model_input"):
                scaled = self.scheduler.scale_model_input(latents, timestep)
            output = predict(self.prior, scaled, timestep, conditions, classifier_free_guidance_scale, micro_batch)
            if guided and on_prediction:
                output = guidance.guide_prediction(self, index, output, latents)
            latents, clean = reverse_step(self.scheduler, output, index, latents, generator=generator, eta=eta)
            tensors = {"latents": latents, "pred_original_sample": clean}
            if guided and not on_prediction:
                tensors = guidance.guide(self, index, tensors)
            if guidance is not None and return_trace:
                trace["timestep"].append(int(timestep))
                measured = zip(("prototype", "contextual"), guidance.measure(self, index, tensors), strict=True)
                for name, terms in measured:
                    trace[name].append(float(terms.mean()))
            latents = tensors["latents"]
            if callback_on_step_end is not None:
                offered = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                latents = callback_on_step_end(self, index, timestep, offered).get("latents", latents)

        result = self._output(latents, labels, temperature, vae_micro_batch, estimator_micro_batch, output_type)
        result.trace = trace if return_trace and guidance is not None else None
        self.maybe_free_model_hooks()
        return result if return_dict else (result.images, result.prototype, result.contextual, result.trace)

    def _class_ids(self, class_labels: Any, prior_class_labels: Any) -> tuple[list[int], list[int], bool]:
        """The estimator's id of each image, the prior's, and whether the latter were chosen by themselves."""
        own = class_names(self.estimator) if self.estimator is not None else self._named
        labels = label_ids(class_labels, own, "prior" if self.estimator is None else "estimator")
        if prior_class_labels is not None:
            return labels, label_ids(prior_class_labels, *self._named_classes(), "prior_class_labels"), True
        named = [label for label in class_labels if isinstance(label, str)]
        if named and len(named) == len(labels) and self._named:
            # Ids in class_labels would be the estimator's as well, which may number the classes otherwise.
            return labels, label_ids(named, self._named, "prior", "prior_class_labels"), True
        if named and len(named) != len(labels) and self._named:
            raise ValueError(
                "class_labels must be all names or all ids where prior and estimator number their classes apart. "
                f"Got both: {list(class_labels)}."
            )
        return labels, labels, False

    def _noise(self, batch: int, generator: Any, device: torch.device) -> Tensor:
        """The start of the reverse diffusion, drawn as the stock pipelines draw it."""
        # Generators do not work reproducibly on mps.
        drawn_on = torch.device("cpu") if device.type == "mps" else device
        shape = latent_shape(self.prior, batch)
        noise = randn_tensor(shape, generator=generator, device=drawn_on, dtype=self.prior.dtype).to(device)
        sigma = float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        return noise if sigma == 1 else noise * sigma

    def _output(
        self,
        latents: Tensor,
        labels: list[int],
        temperature: float,
        vae_micro_batch: int | None,
        estimator_micro_batch: int | None,
        output_type: str,
    ) -> IGDSPipelineOutput:
        """The images as asked for, with the estimator's own (not smoothed) terms of them."""
        images = latents
        if self.vae is not None and (output_type != "latent" or self.estimator is not None):
            chunks = latents.split(vae_micro_batch or len(latents))
            images = torch.cat([decode_latents(self.vae, chunk) for chunk in chunks])
        images = (images / 2 + 0.5).clamp(0, 1)
        prototype, contextual = None, None
        if self.estimator is not None:
            estimate = as_estimate(frozen_copy(self.estimator).to(latents.device))
            targets = torch.tensor(labels, device=latents.device)
            prototype, contextual = information_terms(
                images * 2 - 1, targets, estimate, temperature, estimator_micro_batch
            )
        if output_type == "latent":
            return IGDSPipelineOutput(latents, prototype, contextual)
        if output_type == "pt":
            return IGDSPipelineOutput(images, prototype, contextual)
        pixels = images.cpu().permute(0, 2, 3, 1).float().numpy()
        return IGDSPipelineOutput(self.numpy_to_pil(pixels) if output_type == "pil" else pixels, prototype, contextual)

    def _check_inputs(
        self, labels: list[int], prior_labels: list[int], generator: Any, output_type: str, tensors: Sequence[str]
    ) -> None:
        if not labels:
            raise ValueError("class_labels must have at least one entry. Got none.")
        if len(prior_labels) != len(labels):
            raise ValueError(
                f"prior_class_labels must have {len(labels)} entries, one per class label. Got {len(prior_labels)}."
            )
        if isinstance(generator, list) and len(generator) != len(labels):
            raise ValueError(
                f"generator must be one, or a list of {len(labels)}, one per class label. Got {len(generator)}."
            )
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type must be one of ['pil', 'np', 'pt', 'latent']. Got {output_type!r}.")
        unknown = [name for name in tensors if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be in {self._callback_tensor_inputs}. Got {unknown}."
            )

    def check(
        self,
        class_labels: Sequence[int],
        prior_class_labels: Sequence[int] | None = None,
        classifier_free_guidance_scale: float = 1.0,
    ) -> None:
        """Raises ValueError if classes or channels of prior and estimator do not fit together, or a class is unknown.

        A call does this by itself; the arguments are those of the call.
        """
        if self.estimator is not None:
            check_estimator(self.estimator)
            check_labels("class_labels", class_labels, self.estimator.config.num_labels, "estimator")
            channels = self.prior.config.in_channels if self.vae is None else self.vae.config.out_channels
            if channels != self.estimator.config.num_channels:
                raise ValueError(
                    f"estimator must take images of {channels} channels, as the prior makes them. "
                    f"Got one for {self.estimator.config.num_channels}."
                )
        own_ids = prior_class_labels is not None
        prior_labels = list(class_labels if prior_class_labels is None else prior_class_labels)
        self._check_classes(prior_labels, classifier_free_guidance_scale, own_ids)

    def _check_classes(self, labels: list[int], scale: float, own_ids: bool) -> None:
        """Checks the prior's class ids; `own_ids` says that they are not the estimator's."""
        entries = class_entries(self.prior)
        if scale < 0:
            raise ValueError(f"classifier_free_guidance_scale must be at least 0. Got {scale}.")
        if entries is None:
            if scale != 1:
                raise ValueError(f"classifier_free_guidance_scale must be 1 for an unconditional prior. Got {scale}.")
            if own_ids:
                raise ValueError("prior_class_labels must be None for an unconditional prior. Got class ids.")
            return
        classes = entries - 1
        if self.estimator is not None and not own_ids:
            number = self.estimator.config.num_labels
            # A U-Net's table may lack the null class.
            if number != classes and not (number == entries and self.unet is not None):
                raise ValueError(
                    f"estimator must have the {classes} classes of the prior. Got {number}: pass prior_class_labels, "
                    "the prior's class id of each image."
                )
            if number == entries and scale != 1:
                raise ValueError(
                    f"classifier_free_guidance_scale must be 1 for a prior without a null class, as this one with "
                    f"{entries} entries for {number} classes. Got {scale}."
                )
        # Without this guidance, the null class may be asked for.
        check_labels(
            "prior_class_labels" if own_ids else "class_labels", labels, entries if scale == 1 else classes, "prior"
        )

    def _check_eta(self, eta: float) -> None:
        if eta and "eta" not in inspect.signature(self.scheduler.step).parameters:
            raise ValueError(f"eta must be 0 for {type(self.scheduler).__name__}, which has none. Got {eta}.")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1]. Got {eta}.")

    def check_guidance(self, guide_on: str, num_inference_steps: int) -> None:
        """Raises ValueError, with the remedy, if the scheduler does not carry guidance of that kind; see `__call__`."""
        check_guidance(with_timesteps(self.scheduler, num_inference_steps), guide_on)

    def save_config(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Writes `model_index.json` and the code it names; `save_pretrained` calls this before it uploads anything.

        So the folder loads where decoct is not installed.
        """
        super().save_config(save_directory, **kwargs)
        folder = Path(save_directory)
        index_file = folder / self.config_name
        index = json.loads(index_file.read_text("utf-8"))
        index["_class_name"] = ["pipeline", "IGDSPipeline"]
        if self.estimator is not None:
            source = Path(inspect.getfile(type(self.estimator)))
            index["estimator"] = [source.stem, type(self.estimator).__name__]
            _copy(source, folder / "estimator")
        index_file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
        for name in CODE:
            _copy(Path(__file__).with_name(name), folder)


def _copy(source: Path, folder: Path) -> None:
    """Copies a file into a folder, unless it is there already as the very file."""
    folder.mkdir(parents=True, exist_ok=True)
    if source.resolve() != (folder / source.name).resolve():
        shutil.copyfile(source, folder / source.name)
