"""Sampling from a diffusion prior under information guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoct.config.data import RunConfig
from decoct.config.options import option, require

__all__ = ["SampleConfig", "SamplingConfig"]


@dataclass(kw_only=True)
class SamplingConfig(RunConfig):
    """Prior, estimator and guidance of IGDS (Algorithm 2)."""

    prior: str = option(
        "runs/prior",
        "Diffusion prior in DDPM or DiT layout: folder, Hub id, or `sample` (embedded).",
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
    guide_on: Literal["sample", "x0_pred"] = option(
        "sample",
        "Guide on the next noisy sample (Algorithm 2), or on the prediction of the clean image.",
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
    classifier_free_guidance_scale: float = option(
        1.0, "Weight of the class-conditional prediction against the unconditional one; 1 is off.", matters="sampling"
    )
    scheduler: Literal["ddpm", "ddim", "dpm_solver"] = option("ddpm", "Sampler of the prior.", matters="sampling")
    sampling_steps: int = option(250, "Reverse steps.", matters="sampling")
    guidance_batch: int = option(
        100, "Most tiles of a class that are sampled, and compared with one another, at a time.", matters="sampling"
    )
    micro_batch: int = option(100, "Images per pass of the prior and the estimator.", matters="sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
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
        require(self.guidance_batch >= 1, "guidance_batch", "at least 1", self.guidance_batch)
        require(self.micro_batch >= 1, "micro_batch", "at least 1", self.micro_batch)


@dataclass(kw_only=True)
class SampleConfig(SamplingConfig):
    """A picture of samples over beta (IGDS, Fig. 4)."""

    SHOWN_FIRST: ClassVar = (
        "prior estimator betas classes images_per_class guidance_scale scheduler sampling_steps output_dir dry_run"
    ).split()

    output_dir: str = option("runs/samples", "Folder for samples.png and samples.json.", matters="command")
    betas: list[float] = option([0.0, 1.0, 5.0], "Weights of the contextual information, side by side.")
    classes: list[int] = option([], "Class ids to sample. Default: the first ten.")
    images_per_class: int = option(8, "Samples of a class, which are compared with one another.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.betas) and min(self.betas) >= 0, "betas", "one or more numbers from 0 on", self.betas)
        require(self.images_per_class >= 1, "images_per_class", "at least 1", self.images_per_class)
