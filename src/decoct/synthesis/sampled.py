"""IGDS: tiles sampled from a diffusion prior under information guidance, then packed and labelled like real ones."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset

from decoct.config import DistillConfig, values_for
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.loading import label_names
from decoct.igds.prior import SCHEDULERS, GuidedPrior, prompts_of
from decoct.models.classifier import Classifier
from decoct.models.throughput import throughput
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.pipelines.igds.text_to_image import TextToImagePrior
from decoct.run.precision import autocast
from decoct.run.shards import run_shards
from decoct.synthesis.chunks import Chunk, SampledTiles, batches_of, betas_of, chunks_of, sample_chunks
from decoct.synthesis.guided_prior import (
    PriorSettings,
    SamplingSettings,
    check_guidance,
    check_pipeline,
    open_pipeline,
    place,
    sampler_networks,
)
from decoct.synthesis.inputs import check_classifier, check_source, in_memory, one_ipc, with_options
from decoct.synthesis.output import write_samples_preview
from decoct.synthesis.run import DistillRun, StoredLabels, label_bytes, label_passes, read_ipc, run_folder

__all__ = ["IGDS", "distill_samples", "plan_sampled"]

IN_MEMORY = "in memory"  # what is given in Python, by name
# Options of a command that opens a prior; a pipeline that is given has been opened.
SETTLED = ("scheduler", "prior_variant", "prior_dtype", "prior_offload", "prior_image_size", "guidance_vae")


class IGDS:
    """IGDS as a Python object: `IGDS(pipeline, teacher).distill(images, ipc=10)`.

    Args:
        pipeline: Prior and estimator (`load_pipeline`, `load_text_to_image`), with the scheduler to sample with; or a
            text-to-image pipeline of diffusers, with an `estimator` and a `prompt` or `prompts` among the options.
        teacher: From `load_classifier`; labels the samples, and is put into eval mode.
        estimator: Guides a text-to-image pipeline of diffusers; other pipelines have their own.
        options: Fields of `DistillConfig`, but those that `pipeline` has settled, such as `scheduler`.

    Raises:
        ValueError: For an option that there is not, that has another type or range, or that the pipeline has settled,
            a teacher that is none, and a pipeline of diffusers without what it needs, or whose scheduler does not carry
            the guidance.
    """

    def __init__(
        self, pipeline: Any, teacher: Classifier, estimator: VariationalEstimator | None = None, **options: Any
    ) -> None:
        check_classifier(teacher)
        ready = isinstance(pipeline, (IGDSPipeline, TextToImagePrior))
        if settled := sorted(options.keys() & {*SETTLED, *(("prompt", "prompts") if ready else ())}):
            raise ValueError(
                f"{settled[0]} must be set where the pipeline is made, by load_pipeline, load_text_to_image or "
                f"TextToImagePrior. Got {options[settled[0]]!r} beside a {type(pipeline).__name__}."
            )
        if not ready:
            prompt, prompts = options.get("prompt"), options.get("prompts")
            if estimator is None or (prompt is None and prompts is None):
                raise ValueError(
                    f"estimator and prompt must be given with a pipeline of diffusers: IGDS(pipeline, teacher, "
                    f"estimator=..., prompt='a photo of a {{label}}'). Got a {type(pipeline).__name__} without."
                )
            pipeline = TextToImagePrior(pipeline, estimator, prompts_of(prompt, prompts, label_names(estimator)))
        samplers = [name for name, kind in SCHEDULERS.items() if isinstance(pipeline.scheduler, kind)]
        self.pipeline, self.teacher = pipeline, teacher
        names = {**dict.fromkeys(("dataset", "prior", "estimator"), IN_MEMORY), "scheduler": [*samplers, "own"][0]}
        # A prior of text may have its prompts already: its defaults are those of a run with prompts.
        prompted: dict[str, Any] = {}
        if ready and isinstance(pipeline, TextToImagePrior):
            own = inspect.signature(pipeline.pipeline.__call__).parameters["guidance_scale"].default
            prompted = {"guide_on": "prediction", "classifier_free_guidance_scale": own}
        self.options = {**names, **prompted, "teacher": teacher.name, **options, "method": "igds"}
        check_guidance(pipeline, values_for(SamplingSettings, with_options(self.options, options)))

    def distill(self, images: Dataset, ipc: int, output_dir: str | Path | None = None) -> Dataset:
        """The distilled dataset of one IPC, with the columns of the run folder.

        Args:
            images: The source, from `load_images`, or as it takes them.
            ipc: Images per class.
            output_dir: Run folder to keep. Default: a temporary one, removed afterwards.

        Raises:
            ValueError: As `load_images` and `decoct.synthesis.distill.distill`.
        """
        with run_folder(output_dir) as folder:
            config = with_options({**self.options, "ipc": [one_ipc(ipc)], "output_dir": str(folder)})
            accelerator = Accelerator()
            images, teacher = in_memory(config, images, self.teacher, accelerator)
            distill_samples(config, images, teacher, accelerator, self.pipeline)
            return read_ipc(folder, ipc)


def distill_samples(
    config: DistillConfig,
    images: Dataset,
    teacher: Classifier,
    accelerator: Accelerator,
    pipeline: GuidedPrior | None = None,
) -> dict[str, Any]:
    """`distill` by IGDS; `images` are the source, which gives the classes and the real images of the preview.

    Args:
        pipeline: Default: `config.prior` with `config.estimator`.

    Raises:
        ValueError: If the classes of dataset, teacher, estimator and prior do not agree, or the folder belongs to
            another configuration.
    """
    spec = teacher.spec
    settings = values_for(SamplingSettings, config)
    if pipeline is None:
        pipeline = open_pipeline(values_for(PriorSettings, config), settings)
    else:
        check_guidance(pipeline, settings)  # its scheduler may have been exchanged
    check_source(images, config.dataset, teacher, config.tile_rows)
    check_pipeline(pipeline, settings, teacher, config.prior, config.estimator)
    run = DistillRun(config, teacher, accelerator)
    if (finished := run.start(images, **sampler_networks(pipeline, config.prior, config.estimator))) is not None:
        return finished
    place(pipeline, accelerator.device, config.prior_offload)
    betas, batches = planned_batches(config, spec.num_classes)
    side = spec.image_size // config.tile_rows

    def compute(start: int, end: int) -> Dataset:
        with autocast(accelerator.device, config.mixed_precision):
            return sample_chunks(pipeline, batches[start], settings, side)

    shards = run_shards(run.shards, "sampled", len(batches), 1, accelerator, compute, run.share)
    tiles = SampledTiles(shards, batches, spec)
    accuracies = {
        ipc: run.label(ipc, ipc * spec.num_classes, functools.partial(tiles.mosaics, ipc, config.tiles_per_image))
        for ipc in config.ipc
    }

    def preview() -> None:
        write_samples_preview(run.folder, config.ipc, images, spec)

    return run.finish(
        accuracies,
        preview,
        betas={str(ipc): beta for ipc, beta in betas.items()},
        information={str(ipc): tiles.information(ipc * config.tiles_per_image) for ipc in config.ipc},
    )


def planned_batches(config: DistillConfig, classes: int) -> tuple[dict[int, float], list[list[Chunk]]]:
    """The weight of the contextual information by IPC, and the chunks that are sampled together."""
    betas = betas_of(config.ipc, config.beta)
    chunks = chunks_of(classes, betas, config.tiles_per_image, config.guidance_batch)
    return betas, batches_of(chunks, config.micro_batch)


def plan_sampled(
    config: DistillConfig, images: Dataset, teacher: Classifier, accelerator: Accelerator
) -> dict[str, Any]:
    """What `--dry_run` shows: samples, passes, and the seconds they take at the measured speed of a step."""
    spec = teacher.spec
    settings = values_for(SamplingSettings, config)
    pipeline = open_pipeline(values_for(PriorSettings, config), settings)
    place(pipeline, accelerator.device, config.prior_offload)
    check_source(images, config.dataset, teacher, config.tile_rows)
    check_pipeline(pipeline, settings, teacher, config.prior, config.estimator)
    DistillRun(config, teacher, accelerator).check(images, **sampler_networks(pipeline, config.prior, config.estimator))
    betas, batches = planned_batches(config, spec.num_classes)
    tiles = spec.num_classes * max(config.ipc) * config.tiles_per_image
    distilled = spec.num_classes * sum(config.ipc)
    labelled = label_passes(distilled, len(config.label_teacher), values_for(StoredLabels, config))
    per_second = throughput(teacher.to(accelerator.device), config.mixed_precision, config.batch_size)
    with autocast(accelerator.device, config.mixed_precision):
        per_step = seconds_per_step(pipeline, settings, tiles, spec.image_size // config.tile_rows)
    sampling = tiles * config.sampling_steps * per_step / min(accelerator.num_processes, len(batches))
    seconds = sampling + labelled / per_second / accelerator.num_processes
    return {
        "method": config.method,
        "betas": {f"IPC {ipc}": beta for ipc, beta in betas.items()},
        "distilled_images": distilled,
        "tiles": tiles,
        "batches": len(batches),
        "prior_passes": tiles * config.sampling_steps,
        "label_passes": labelled,
        "estimated_seconds": round(seconds, 1),
        "label_bytes": label_bytes(distilled, spec.num_classes, values_for(StoredLabels, config)),
        "output_dir": config.output_dir,
    }


def seconds_per_step(pipeline: GuidedPrior, settings: SamplingSettings, tiles: int, side: int) -> float:
    """Seconds that a guided step takes for a tile, by a timing of two steps with at most a micro-batch of tiles."""
    probe = dataclasses.replace(settings, sampling_steps=2)
    batch = min(settings.micro_batch, tiles)
    sample_chunks(pipeline, [Chunk(0, 0, 1, 0.1)], probe, side)
    started = time.perf_counter()
    sample_chunks(pipeline, [Chunk(0, 0, batch, 0.1)], probe, side)
    return (time.perf_counter() - started) / probe.sampling_steps / batch
