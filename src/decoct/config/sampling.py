"""Sampling from a diffusion prior under information guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoct.config.data import RunConfig
from decoct.config.options import option, require

__all__ = ["UNPROMPTED", "SampleConfig", "SamplingConfig"]

# What is left at None in a run without prompts.
UNPROMPTED = {"guide_on": "sample", "classifier_free_guidance_scale": 1.0, "scheduler": "ddpm"}


@dataclass(kw_only=True)
class SamplingConfig(RunConfig):
    """Prior, estimator and guidance of IGDS (Algorithm 2)."""

    prior: str = option(
        "runs/prior",
        "Diffusion prior in DDPM or DiT layout, or with --prompt a text-to-image one: folder, Hub id, or `sample` "
        "(embedded).",
        matters="sampling",
    )
    prompt: str | None = option(
        None,
        "What a text-to-image prior is asked for, with {label} in the place of a class's name, such as "
        '"a photo of a {label}". Default: none, the prior is no text-to-image one.',
        matters="sampling",
    )
    prompts: str | None = option(
        None,
        "YAML file with the prompt of each class (`golden_retriever: a photo of a golden retriever`), in place of "
        "--prompt. Default: none.",
        matters="sampling",
    )
    prior_variant: str | None = option(
        None, "Variant of the prior's weights, such as fp16. Default: those without one.", matters="sampling"
    )
    prior_dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        None,
        "Type that a text-to-image prior's weights are loaded in; half the memory with bfloat16, as Flux and Stable "
        "Diffusion 3 are published, or float16. Default: float32.",
        matters="sampling",
    )
    prior_offload: bool = option(
        False,
        "Keep a text-to-image prior's networks in main memory, and on the GPU only the one that computes, beside the "
        "estimator and the VAE that guide: slower, for GPUs that do not hold all.",
        matters="command",
        group="sampling",
    )
    prior_image_size: int | None = option(
        None, "Side of the images that a text-to-image prior makes. Default: its own.", matters="sampling"
    )
    guidance_vae: str | None = option(
        None,
        "Folder or Hub id of the VAE that decodes a text-to-image prior's latents for the guidance, such as an "
        "AutoencoderTiny. Default: the prior's own.",
        matters="sampling",
    )
    estimator: str = option(
        "runs/estimator", "Variational estimator: folder, Hub id, or `sample` (embedded).", matters="sampling"
    )
    prior_classes: list[int] = option(
        [], "The prior's class id of each of the dataset's classes. Default: the same ids.", matters="sampling"
    )
    guidance_scale: float = option(
        0.2, "Step size of the information guidance (eta); 0 turns it off.", matters="sampling"
    )
    temperature: float = option(0.07, "Temperature of the softmax over features (tau).", matters="sampling")
    guide_on: Literal["sample", "x0_pred", "prediction"] | None = option(
        None,
        "Where the guidance is taken and where it enters: both at the next noisy sample (Algorithm 2); taken at the "
        "predicted clean image, entering the next sample; or both at the prediction, which most solvers of higher "
        "order carry too. What a scheduler does not carry is refused. Default: sample, and prediction with --prompt.",
        matters="sampling",
    )
    guidance_reduction: Literal["sum", "mean"] = option(
        "sum",
        "Sum over a class's batch, so that the step size does not depend on the IPC, or its mean (Eq. 29).",
        matters="sampling",
    )
    guidance_start: float = option(0.0, "Share of the steps after which the guidance starts.", matters="sampling")
    guidance_stop: float = option(1.0, "Share of the steps after which it stops.", matters="sampling")
    guidance_every: int = option(1, "Guide every n-th step of that interval.", matters="sampling")
    softplus: bool = option(
        True, "Softplus in place of ReLU in the estimator that guides (section 5.1).", matters="sampling"
    )
    classifier_free_guidance_scale: float | None = option(
        None,
        "Weight of the conditional prediction against the unconditional one; 1 is off. Default: 1, and the prior's own "
        "with --prompt.",
        matters="sampling",
    )
    scheduler: Literal["ddpm", "ddim", "dpm_solver", "own"] | None = option(
        None, "Sampler of the prior. Default: ddpm, and the prior's own with --prompt.", matters="sampling"
    )
    sampling_steps: int = option(250, "Reverse steps.", matters="sampling")
    guidance_batch: int = option(
        100, "Most tiles of a class that are sampled, and compared with one another, at a time.", matters="sampling"
    )
    micro_batch: int = option(
        100,
        "Images per pass of the prior, at most. With classifier-free guidance a text-to-image prior makes two of each.",
        matters="sampling",
    )
    vae_micro_batch: int | None = option(
        None, "Latents per pass of the VAE in the guidance. Default: micro_batch.", matters="sampling"
    )
    estimator_micro_batch: int | None = option(
        None, "Images per pass of the estimator. Default: micro_batch.", matters="sampling"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        prompted = self.prompt is not None or self.prompts is not None
        require(self.prompt is None or "{label}" in self.prompt, "prompt", "a text with {label} in it", self.prompt)
        require(
            self.prompt is None or self.prompts is None, "prompt", "None where prompts are given in a file", self.prompt
        )
        for name in ("prior_image_size", "prior_dtype", "guidance_vae"):
            value = getattr(self, name)
            require(value is None or prompted, name, "None for a prior without --prompt or --prompts", value)
        require(
            prompted or not self.prior_offload,
            "prior_offload",
            "left out for a prior without --prompt or --prompts",
            self.prior_offload,
        )
        require(not (prompted and self.prior_classes), "prior_classes", "left out with prompts", self.prior_classes)
        defaults = {"guide_on": "prediction", "scheduler": "own"} if prompted else UNPROMPTED
        for name, default in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, default)
        scale = self.classifier_free_guidance_scale
        require(scale is None or scale >= 0, "classifier_free_guidance_scale", "at least 0", scale)
        require(self.guidance_scale >= 0, "guidance_scale", "at least 0", self.guidance_scale)
        require(self.temperature > 0, "temperature", "positive", self.temperature)
        require(
            0 <= self.guidance_start < self.guidance_stop <= 1,
            "guidance_start and guidance_stop",
            "increasing shares in [0, 1]",
            (self.guidance_start, self.guidance_stop),
        )
        require(self.guidance_every >= 1, "guidance_every", "at least 1", self.guidance_every)
        require(self.sampling_steps >= 1, "sampling_steps", "at least 1", self.sampling_steps)
        require(
            round(self.guidance_start * self.sampling_steps) < round(self.guidance_stop * self.sampling_steps),
            "guidance_start and guidance_stop",
            f"shares with some of the {self.sampling_steps} steps between them",
            (self.guidance_start, self.guidance_stop),
        )
        require(self.guidance_batch >= 1, "guidance_batch", "at least 1", self.guidance_batch)
        for name in ("micro_batch", "vae_micro_batch", "estimator_micro_batch", "prior_image_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "at least 1", value)


@dataclass(kw_only=True)
class SampleConfig(SamplingConfig):
    """A picture of samples over beta (IGDS, Fig. 4)."""

    SHOWN_FIRST: ClassVar[list[str]] = (
        "prior estimator betas classes images_per_class guidance_scale scheduler sampling_steps output_dir dry_run"
    ).split()

    output_dir: str = option("runs/samples", "Folder for samples.png and samples.json.", matters="command")
    betas: list[float] = option([0.0, 1.0, 5.0], "Weights of the contextual information, side by side.")
    classes: list[int] = option([], "Class ids to sample. Default: the first ten.")
    images_per_class: int = option(8, "Samples of a class, which are compared with one another.")

    def __post_init__(self) -> None:
        super().__post_init__()
        different = len({f"{beta:g}" for beta in self.betas}) == len(self.betas)  # as the record names them
        valid = bool(self.betas) and min(self.betas) >= 0 and different
        require(valid, "betas", "one or more different numbers from 0 on", self.betas)
        require(self.images_per_class >= 1, "images_per_class", "at least 1", self.images_per_class)
