"""Diffusion priors with an estimator: as an `IGDSPipeline`, or text-to-image pipelines with a prompt a class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    ModelMixin,
    PixArtTransformer2DModel,
    SchedulerMixin,
    Transformer2DModel,
    UNet2DModel,
)
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from decoct.data.source import SAMPLE, model_location, record_beside
from decoct.data.spec import ImageSpec
from decoct.files import one_line, read_yaml, shown
from decoct.igds.estimator import VariationalEstimator
from decoct.models.classifier import fingerprint_of
from decoct.models.weights import UNLOADABLE, check_finite, check_loaded
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.pipelines.igds.text_to_image import TEXT_TO_IMAGE, TextToImagePrior

__all__ = [
    "SCHEDULERS",
    "GuidedPrior",
    "check_prior",
    "load_pipeline",
    "load_text_to_image",
    "prior_fingerprint",
    "prior_label_names",
    "prompts_of",
    "with_scheduler",
]

GuidedPrior: TypeAlias = IGDSPipeline | TextToImagePrior
MOST_STEPS = 100_000  # of training; usual are 1,000
NETWORKS = {"unet": UNet2DModel, "transformer": DiTTransformer2DModel, "vae": AutoencoderKL}
# What a `Transformer2DModel`, as the transformers of DiT and PixArt were published, is by its `norm_type`.
PUBLISHED = {"ada_norm_zero": DiTTransformer2DModel, "ada_norm_single": PixArtTransformer2DModel}
# One of several text encoders, without which a pipeline works: published so to save memory.
SPARED = {
    "StableDiffusionXLPipeline": ("tokenizer", "text_encoder"),
    "StableDiffusion3Pipeline": ("tokenizer_3", "text_encoder_3"),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpm_solver": DPMSolverMultistepScheduler}


def load_pipeline(
    name_or_path: str | Path,
    estimator: VariationalEstimator | None,
    scheduler: str | None = None,
    variant: str | None = None,
) -> IGDSPipeline:
    """A pipeline around a prior in DDPM or DiT layout, or around that of a saved `IGDSPipeline`.

    Args:
        name_or_path: Folder or Hub id, or `sample` for the embedded one; its weights must be safetensors.
        estimator: Guides the sampling; None samples from the prior alone.
        scheduler: `ddpm`, `ddim` or `dpm_solver`, with the prior's own noise schedule. Default, or `own`: the prior's.
        variant: Of the weights, such as `fp16`.

    Raises:
        ValueError: If there is no such prior, or it cannot be guided.
    """
    name_or_path = model_location(name_or_path, "prior", index="model_index.json")
    try:
        pipeline = _open(name_or_path, estimator, variant)
    except (SafetensorError, *UNLOADABLE) as error:
        raise ValueError(
            f"prior must be a diffusers pipeline in DDPM or DiT layout, with safetensors. Got {str(name_or_path)!r}, "
            f"which cannot be loaded: {one_line(error)}"
        ) from error
    pipeline.scheduler = with_scheduler(pipeline.scheduler, scheduler, latent=pipeline.vae is not None)
    pipeline.set_progress_bar_config(disable=True)
    for network in (pipeline.unet, pipeline.transformer, pipeline.vae):
        if network is not None:
            network.eval().requires_grad_(False)
    return pipeline


def with_scheduler(own: SchedulerMixin, name: str | None, latent: bool = False) -> SchedulerMixin:
    """Another scheduler with the noise schedule of a prior's own; None or `own`: the prior's own.

    Args:
        latent: Whether the prior makes latents, which have no bounds, and not pixels in [-1, 1].

    Raises:
        ValueError: For another name, or if the prior has a noise schedule that the others do not know, of flows or EDM.
    """
    if name in (None, "own"):
        return own
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler must be one of {[*SCHEDULERS, 'own']}. Got {name!r}.")
    if "beta_start" not in own.config or own.config.get("prediction_type") == "flow_prediction":
        raise ValueError(f"scheduler must be 'own' for a prior of {type(own).__name__}. Got {name!r}.")
    kind = SCHEDULERS[name]
    changed: dict[str, Any] = {}
    # A learned variance is of use to DDPM alone.
    if kind is not DDPMScheduler and own.config.get("variance_type") in ("learned", "learned_range"):
        changed["variance_type"] = None
    # DDPM and DDIM clip to [-1, 1] where a configuration, as that of DPM-Solver, does not say.
    if latent and kind is not DPMSolverMultistepScheduler and "clip_sample" not in own.config:
        changed["clip_sample"] = False
    return kind.from_config(own.config, **changed)


def load_text_to_image(
    name_or_path: str | Path,
    estimator: VariationalEstimator,
    prompts: list[str],
    scheduler: str | None = None,
    guidance_vae: str | None = None,
    image_size: int | None = None,
    variant: str | None = None,
    dtype: str | None = None,
) -> TextToImagePrior:
    """A text-to-image pipeline of diffusers as a prior of the estimator's classes.

    Args:
        name_or_path: Folder or Hub id of one of `TEXT_TO_IMAGE`; its weights must be safetensors.
        estimator: Guides the sampling.
        prompts: The prompt of each of its classes.
        scheduler: `ddpm`, `ddim` or `dpm_solver`, with the prior's own noise schedule. Default, or `own`: the prior's.
        guidance_vae: Folder or Hub id of an `AutoencoderTiny` or `AutoencoderKL` that decodes for the guidance.
        image_size: Side of the images, in pixels. Default: the prior's own.
        variant: Of the weights, such as `fp16`.
        dtype: That the weights are loaded in: `float32` (default), `bfloat16` or `float16`.

    Raises:
        ValueError: If there is no such prior or type, or it is of another kind.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype must be one of {[*DTYPES]}. Got {dtype!r}.")
    weights = DTYPES[dtype or "float32"]
    name_or_path = model_location(name_or_path, "prior", index="model_index.json")
    with _loading_text_to_image(name_or_path):
        index = diffusers.DiffusionPipeline.load_config(name_or_path)
    name = index.get("_class_name")
    if name not in TEXT_TO_IMAGE:
        raise ValueError(f"prior must be one of {list(TEXT_TO_IMAGE)} for prompts. Got {name_or_path}, a {name}.")
    kind = getattr(diffusers, name)
    _check_parts(kind, index, name_or_path)
    with _loading_text_to_image(name_or_path):
        steps = diffusers.DDIMScheduler.load_config(name_or_path, subfolder="scheduler")
    _check_steps(steps, name_or_path)
    with _loading_text_to_image(name_or_path):
        parts = {**_left_out(kind, index), **_text_encoders(index, name_or_path, variant, weights)}
        # float32 is what diffusers takes without being told, and before 0.42 it knew no other name for it.
        precision = {} if dtype is None else {"torch_dtype": weights}
        pipeline = kind.from_pretrained(name_or_path, use_safetensors=True, variant=variant, **precision, **parts)
    pipeline.scheduler = with_scheduler(pipeline.scheduler, scheduler, latent=True)
    pipeline.set_progress_bar_config(disable=True)
    vae = None if guidance_vae is None else _load_vae(guidance_vae)
    prior = TextToImagePrior(pipeline, estimator, prompts, vae, image_size)
    for name, network in {**prior.networks, **({} if vae is None else {"guidance_vae": vae})}.items():
        check_finite(network, f"{name} of the prior {str(name_or_path)!r}")
        network.eval().requires_grad_(False)
    return prior


@contextlib.contextmanager
def _loading_text_to_image(name_or_path: str | Path) -> Iterator[None]:
    """Says in one line what libraries raise for a prior that they cannot load."""
    try:
        yield
    except (ValueError, SafetensorError, *UNLOADABLE) as error:
        raise ValueError(
            f"prior must be a text-to-image pipeline of diffusers, with safetensors. Got {str(name_or_path)!r}, which "
            f"cannot be loaded: {one_line(error)}"
        ) from error


def _left_out(kind: type[diffusers.DiffusionPipeline], index: dict[str, Any]) -> dict[str, None]:
    """The components of `SPARED` that a prior does not have, as diffusers wants to be told."""
    return {name: None for name in SPARED.get(kind.__name__, ()) if index.get(name) in (None, [None, None])}


def _text_encoders(
    index: dict[str, Any], name_or_path: str | Path, variant: str | None, dtype: torch.dtype
) -> dict[str, PreTrainedModel]:
    """A prior's text encoders; raises ValueError unless their weights are all there.

    diffusers would fill in those that are not there at random.
    """
    found = {}
    for name, entry in index.items():
        if name.startswith("text_encoder") and entry != [None, None] and entry is not None:
            encoder, info = _load_text_encoder(getattr(transformers, entry[1]), name_or_path, name, variant, dtype)
            # Published ones hold more at times, such as a table of positions, which changes nothing.
            check_loaded({**info, "unexpected_keys": []}, f"{name} of the prior {str(name_or_path)!r}")
            found[name] = encoder
    return found


def _load_text_encoder(
    kind: type[PreTrainedModel], name_or_path: str | Path, part: str, variant: str | None, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A text encoder and what transformers says of its weights; as in diffusers, plain ones for want of the variant."""
    loaded: Any
    try:
        loaded = kind.from_pretrained(
            name_or_path,
            subfolder=part,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the info, and refused with their names
            dtype=dtype,
            variant=variant,
        )
    except OSError:
        if variant is None:
            raise
        loaded = _load_text_encoder(kind, name_or_path, part, None, dtype)
    return loaded


def _check_parts(kind: type[diffusers.DiffusionPipeline], index: dict[str, Any], name_or_path: str | Path) -> None:
    """Raises ValueError for a text-to-image prior that lacks a component that its pipeline needs, or has another kind.

    Args:
        index: Content of its `model_index.json`.
    """
    _scheduler_class(index.get("scheduler"), name_or_path)
    annotations, left_out = kind._get_signature_types(), _left_out(kind, index)
    for name, annotated in annotations.items():
        if name in left_out:
            continue
        if name.startswith("tokenizer"):
            expected: tuple[type, ...] = (PreTrainedTokenizerBase,)
        elif name.startswith("text_encoder") or name in ("unet", "transformer"):
            expected = annotated
        elif name == "vae":
            expected = (AutoencoderKL, AutoencoderTiny)
        else:  # what stock pipelines do without, and settings
            continue
        entry = index.get(name)
        library, named = map(str, entry) if isinstance(entry, list) and len(entry) == 2 else ("none", "none")
        found = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), named, None)
        got = f"{library}.{named}"
        if (library, named) == ("diffusers", Transformer2DModel.__name__):
            with _loading_text_to_image(name_or_path):
                norm = Transformer2DModel.load_config(name_or_path, subfolder=name).get("norm_type")
            found, got = PUBLISHED.get(norm, found), f"{got} with norm_type {norm!r}"
        if not (isinstance(found, type) and issubclass(found, expected)):
            kinds = [each.__name__ for each in expected]
            raise ValueError(
                f"{name} of a {kind.__name__} must be one of {kinds}. Got {got} in the model_index.json of "
                f"{str(name_or_path)!r}."
            )


def _load_vae(name_or_path: str) -> AutoencoderKL | AutoencoderTiny:
    """The VAE of a folder or Hub id."""
    kinds = {kind.__name__: kind for kind in (AutoencoderTiny, AutoencoderKL)}
    location = model_location(name_or_path, "guidance_vae")
    try:
        kind = AutoencoderTiny.load_config(location).get("_class_name")
        if kind in kinds:
            return kinds[kind].from_pretrained(location, use_safetensors=True)
    except (SafetensorError, *UNLOADABLE) as error:
        raise ValueError(
            f"guidance_vae must have safetensors. Got {name_or_path!r}, which cannot be loaded: {one_line(error)}"
        ) from error
    raise ValueError(f"guidance_vae must be one of {list(kinds)}. Got {name_or_path!r}, a {kind}.")


def prompts_of(prompt: str | None, file: str | None, label_names: list[str]) -> list[str]:
    """The prompt of each class.

    Args:
        prompt: With `{label}` in the place of the class's name, verbatim; or
        file: A YAML file of `class name: prompt`.
        label_names: Names of the classes.

    Raises:
        ValueError: If the file cannot be read, or classes have no prompt in it.
    """
    if file is None:
        return [str(prompt).replace("{label}", name) for name in label_names]
    try:
        found = read_yaml(Path(file))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"prompts must be a YAML file. Got {file!r}, which cannot be read: {one_line(error)}"
        ) from error
    given = {str(name): text for name, text in found.items()} if isinstance(found, dict) else {}
    missing = [name for name in label_names if not isinstance(given.get(name), str)]
    if missing:
        raise ValueError(
            f"prompts must have a line `class name: prompt` for each class. Got {file!r}, without {missing[:5]}."
        )
    return [given[name] for name in label_names]


def _open(name_or_path: str | Path, estimator: VariationalEstimator | None, variant: str | None) -> IGDSPipeline:
    """The components that `model_index.json` names. Code that comes with a saved `IGDSPipeline` is not run."""
    index = IGDSPipeline.load_config(name_or_path)
    if index["_class_name"] in TEXT_TO_IMAGE:
        raise ValueError(
            f"prompt must be given for a text-to-image prior, such as --prompt 'a photo of a {{label}}'. "
            f"Got none for {name_or_path}, a {index['_class_name']}."
        )
    named = [name for name, entry in index.items() if isinstance(entry, list) and not name.startswith("_")]
    unknown = [name for name in named if name not in (*NETWORKS, "scheduler", "estimator")]
    if unknown:
        raise ValueError(
            f"prior must consist of a unet, or a transformer with its vae, and a scheduler. Got {name_or_path} with "
            f"{unknown}."
        )
    scheduler = _scheduler_class(index.get("scheduler"), name_or_path)
    _check_steps(scheduler.load_config(name_or_path, subfolder="scheduler"), name_or_path)
    networks = {**NETWORKS, **({"vae": AutoencoderTiny} if "AutoencoderTiny" in (index.get("vae") or ()) else {})}
    components: dict[str, Any] = {
        name: _load_network(network, name_or_path, name, variant) if index.get(name, [None])[0] is not None else None
        for name, network in networks.items()
    }
    if not isinstance(index["_class_name"], list):
        present = {name: network for name, network in components.items() if network is not None}
        return IGDSPipeline.from_pretrained(name_or_path, estimator=estimator, use_safetensors=True, **present)
    own = scheduler.from_pretrained(name_or_path, subfolder="scheduler")
    return IGDSPipeline(scheduler=own, estimator=estimator, id2label=index.get("id2label"), **components)


def _load_network(kind: type[ModelMixin], name_or_path: str | Path, part: str, variant: str | None) -> ModelMixin:
    """A network of a prior, in float32; raises ValueError unless its weights are all there and finite."""
    loaded: Any = kind.from_pretrained(
        name_or_path,
        subfolder=part,
        use_safetensors=True,
        low_cpu_mem_usage=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the info, and refused with their names
        torch_dtype=torch.float32,
        variant=variant,
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


def prior_fingerprint(pipeline: GuidedPrior) -> str:
    """Sha256 over the prior's weights, those of its VAE and its text encoders included."""
    if isinstance(pipeline, TextToImagePrior):
        guiding = {} if pipeline.guidance_vae is None else {"guidance_vae": pipeline.guidance_vae}
        return fingerprint_of({**pipeline.networks, **guiding})
    networks = {"prior": pipeline.prior, **({} if pipeline.vae is None else {"vae": pipeline.vae})}
    return fingerprint_of(networks)


def prior_label_names(name_or_path: str | Path) -> list[str] | None:
    """Label names that `train_prior` wrote beside a prior, in a folder or on the Hub; None for others."""
    record = record_beside(SAMPLE / "prior" if name_or_path == "sample" else name_or_path, "training.json")
    return None if record is None else record.get("label_names")


def check_prior(
    pipeline: GuidedPrior,
    spec: ImageSpec,
    prior_classes: list[int],
    classifier_free_guidance_scale: float | None,
    name: str,
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
    if isinstance(pipeline, TextToImagePrior):
        return
    if prior_classes and len(prior_classes) != spec.num_classes:
        raise ValueError(
            f"prior_classes must have {spec.num_classes} entries, one per class of the dataset. "
            f"Got {len(prior_classes)}."
        )
    scale = 1.0 if classifier_free_guidance_scale is None else classifier_free_guidance_scale
    pipeline.check(range(spec.num_classes), prior_classes or None, scale)
