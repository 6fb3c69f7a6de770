"""Diffusion priors, wrapped with an estimator into an `IGDSPipeline`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    ModelMixin,
    SchedulerMixin,
    UNet2DModel,
)
from safetensors import SafetensorError

from decoct.data.source import SAMPLE, model_location
from decoct.data.spec import ImageSpec
from decoct.files import read_object, shown
from decoct.igds.estimator import VariationalEstimator
from decoct.models.classifier import fingerprint_of
from decoct.models.weights import UNLOADABLE, check_finite, check_loaded
from decoct.pipelines.igds.pipeline import IGDSPipeline

__all__ = ["SCHEDULERS", "check_prior", "load_pipeline", "prior_fingerprint", "prior_label_names"]

MOST_STEPS = 100_000  # of training; usual are 1,000
NETWORKS = {"unet": UNet2DModel, "transformer": DiTTransformer2DModel, "vae": AutoencoderKL}
SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpm_solver": DPMSolverMultistepScheduler}


def load_pipeline(
    name_or_path: str | Path, estimator: VariationalEstimator | None, scheduler: str | None = None
) -> IGDSPipeline:
    """A pipeline around a prior in DDPM or DiT layout, or around that of a saved `IGDSPipeline`.

    Args:
        name_or_path: Folder or Hub id, or `sample` for the embedded one; its weights must be safetensors.
        estimator: Guides the sampling; None samples from the prior alone.
        scheduler: `ddpm`, `ddim` or `dpm_solver`, with the prior's own noise schedule. Default: the prior's own.

    Raises:
        ValueError: If there is no such prior.
    """
    name_or_path = model_location(name_or_path, "prior", index="model_index.json")
    try:
        pipeline = _open(name_or_path, estimator)
    except (SafetensorError, *UNLOADABLE) as error:
        raise ValueError(
            f"prior must be a diffusers pipeline in DDPM or DiT layout, with safetensors. Got {str(name_or_path)!r}, "
            f"which cannot be loaded: {error}"
        ) from error
    if scheduler is not None:
        pipeline.scheduler = SCHEDULERS[scheduler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    for network in (pipeline.unet, pipeline.transformer, pipeline.vae):
        if network is not None:
            network.eval().requires_grad_(False)
    return pipeline


def _open(name_or_path: str | Path, estimator: VariationalEstimator | None) -> IGDSPipeline:
    """The components that `model_index.json` names. Code that comes with a saved `IGDSPipeline` is not run."""
    index = IGDSPipeline.load_config(name_or_path)
    named = [name for name, entry in index.items() if isinstance(entry, list) and not name.startswith("_")]
    unknown = [name for name in named if name not in (*NETWORKS, "scheduler", "estimator")]
    if unknown:
        raise ValueError(
            f"prior must consist of a unet, or a transformer with its vae, and a scheduler. Got {name_or_path} with "
            f"{unknown}."
        )
    scheduler = _scheduler_class(index.get("scheduler"), name_or_path)
    _check_steps(scheduler.load_config(name_or_path, subfolder="scheduler"), name_or_path)
    components: dict[str, Any] = {
        name: _load_network(network, name_or_path, name) if index.get(name, [None])[0] is not None else None
        for name, network in NETWORKS.items()
    }
    if not isinstance(index["_class_name"], list):
        present = {name: network for name, network in components.items() if network is not None}
        return IGDSPipeline.from_pretrained(name_or_path, estimator=estimator, use_safetensors=True, **present)
    return IGDSPipeline(
        scheduler=scheduler.from_pretrained(name_or_path, subfolder="scheduler"), estimator=estimator, **components
    )


def _load_network(kind: type[ModelMixin], name_or_path: str | Path, part: str) -> ModelMixin:
    """A network of a prior, in float32; raises ValueError unless its weights are all there and finite."""
    loaded: Any = kind.from_pretrained(
        name_or_path,
        subfolder=part,
        use_safetensors=True,
        low_cpu_mem_usage=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the info, and refused with their names
        torch_dtype=torch.float32,
    )
    network, info = loaded
    where = f"{part} of the prior {str(name_or_path)!r}"
    # Buffers that are computed anew were stored by older versions.
    buffers = dict(network.named_buffers())
    check_loaded({**info, "unexpected_keys": [name for name in info["unexpected_keys"] if name not in buffers]}, where)
    check_finite(network, where)
    return network


def _scheduler_class(entry: Any, name_or_path: str | Path) -> type[SchedulerMixin]:
    """The class that an index names as its scheduler."""
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    named = getattr(diffusers, str(name), None)
    if isinstance(named, type) and issubclass(named, SchedulerMixin):
        return named
    raise ValueError(f"prior must have a scheduler of diffusers. Got {name_or_path} with {entry}.")


def _check_steps(settings: Any, name_or_path: str | Path) -> None:
    """Raises ValueError for a schedule of so many steps that its table of noise would fill the memory."""
    steps = settings.get("num_train_timesteps", 1000) if isinstance(settings, dict) else None
    if not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise ValueError(
            f"num_train_timesteps must be a whole number from 1 to {MOST_STEPS:,} in the scheduler_config.json of "
            f"{str(name_or_path)!r}. Got {shown(steps)}."
        )


def prior_fingerprint(pipeline: IGDSPipeline) -> str:
    """Sha256 over the prior's weights, those of its VAE included."""
    networks = {"prior": pipeline.prior, **({} if pipeline.vae is None else {"vae": pipeline.vae})}
    return fingerprint_of(networks)


def prior_label_names(name_or_path: str | Path) -> list[str] | None:
    """Label names that `train_prior` wrote beside a prior; None for others."""
    record = (SAMPLE / "prior" if name_or_path == "sample" else Path(name_or_path)) / "training.json"
    return read_object(record).get("label_names") if record.is_file() else None


def check_prior(
    pipeline: IGDSPipeline, spec: ImageSpec, prior_classes: list[int], classifier_free_guidance_scale: float, name: str
) -> None:
    """Raises ValueError if a prior's channels or classes are not those of the images to make, or of the estimator.

    Args:
        pipeline: From `load_pipeline`.
        spec: The teacher's images.
        prior_classes: The prior's class id of each class; empty for the same ids.
        name: Of the prior, for the message.
    """
    channels = pipeline.prior.config.in_channels if pipeline.vae is None else pipeline.vae.config.out_channels
    if channels != spec.channels:
        raise ValueError(f"prior must make images of {spec.channels} channels. Got {name}, which makes {channels}.")
    if prior_classes and len(prior_classes) != spec.num_classes:
        raise ValueError(
            f"prior_classes must have {spec.num_classes} entries, one per class of the dataset. "
            f"Got {len(prior_classes)}."
        )
    pipeline.check(range(spec.num_classes), prior_classes or None, classifier_free_guidance_scale)
