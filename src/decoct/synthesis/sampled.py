"""IGDS: tiles sampled from a diffusion prior under information guidance, then packed and labelled like real ones."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset, Features, Value

from decoct.config import DistillConfig, values_for
from decoct.data.loading import check_label_names
from decoct.data.mosaic import compose
from decoct.data.spec import ImageSpec
from decoct.files import one_line
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.information import default_beta
from decoct.igds.loading import label_names, load_estimator
from decoct.igds.prior import (
    SCHEDULERS,
    GuidedPrior,
    check_prior,
    load_pipeline,
    load_text_to_image,
    prior_fingerprint,
    prior_label_names,
    prompts_of,
    with_scheduler,
)
from decoct.models.classifier import Classifier, fingerprint_of
from decoct.models.throughput import throughput
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.pipelines.igds.schedulers import NotCarried
from decoct.pipelines.igds.text_to_image import FlaggedImages, TextToImagePrior
from decoct.run.finite import require_finite
from decoct.run.precision import autocast
from decoct.run.seeding import item_seed
from decoct.run.shards import run_shards
from decoct.synthesis.output import write_samples_preview
from decoct.synthesis.run import (
    DistillRun,
    StoredLabels,
    check_source,
    in_memory,
    label_bytes,
    label_passes,
    read_ipc,
    run_folder,
    with_options,
)
from decoct.synthesis.tiles import Mosaics, pixels_of, png_bytes

__all__ = [
    "IGDS",
    "Chunk",
    "PriorSettings",
    "SamplingSettings",
    "asked_for",
    "betas_of",
    "chunks_of",
    "distill_samples",
    "open_pipeline",
    "plan_sampled",
    "sample_chunk",
]

logger = logging.getLogger(__name__)

SAMPLES = Features(
    {
        "label": Value("int64"),
        "number": Value("int64"),
        "seed": Value("int64"),
        "prototype": Value("float32"),
        "contextual": Value("float32"),
        "image": Value("binary"),
    }
)
CHUNKS_HELD = 8
TRIES = 10  # seeds of a tile that a safety checker is shown
IN_MEMORY = "in memory"  # what is given in Python, by name
# Options of a command that opens a prior; a pipeline that is given has been opened.
SETTLED = ("scheduler", "prior_variant", "prior_image_size", "guidance_vae")


@dataclass(frozen=True)
class Chunk:
    """Tiles of one class that are sampled, and compared with one another, together.

    Args:
        label: Class.
        first: Number of the first tile within the class.
        end: Number after the last one.
        beta: Weight of the contextual information.
    """

    label: int
    first: int
    end: int
    beta: float


@dataclass(frozen=True)
class SamplingSettings:
    """How a prior is sampled under guidance; the fields are those of `SamplingConfig`."""

    prior_classes: list[int]
    guidance_scale: float
    temperature: float
    guide_on: Literal["sample", "x0_pred", "prediction"]
    guidance_reduction: Literal["sum", "mean"]
    guidance_start: float
    guidance_stop: float
    guidance_every: int
    softplus: bool
    classifier_free_guidance_scale: float | None
    sampling_steps: int
    micro_batch: int
    vae_micro_batch: int | None
    estimator_micro_batch: int | None
    seed: int


@dataclass(frozen=True)
class PriorSettings:
    """Which prior is sampled, and with which estimator; the fields are those of `SamplingConfig`."""

    prior: str
    estimator: str
    scheduler: str
    prompt: str | None
    prompts: str | None
    prior_variant: str | None
    prior_image_size: int | None
    guidance_vae: str | None


def chunks_of(classes: int, betas: dict[int, float], tiles_per_image: int, most: int) -> list[Chunk]:
    """How the tiles of a run are sampled: class by class, and for each IPC what it adds to the next smaller one.

    The sets of several IPCs are nested: a set's first tiles are those of the smaller sets, made with their beta.
    Additions of more than `most` tiles are cut into equal parts.

    Args:
        betas: Weight of the contextual information by IPC, smallest IPC first.
    """
    parts: list[tuple[int, int, float]] = []
    first = 0
    for ipc, beta in betas.items():
        count = ipc * tiles_per_image - first
        pieces = math.ceil(count / most)
        bounds = [first + count * piece // pieces for piece in range(pieces + 1)]
        parts += [(low, high, beta) for low, high in zip(bounds, bounds[1:], strict=False)]
        first += count
    return [Chunk(label, *part) for label in range(classes) for part in parts]


def betas_of(ipcs: Sequence[int], beta: float | None) -> dict[int, float]:
    """The weight of the contextual information by IPC: the one that is given, or decoct's schedule."""
    return {ipc: default_beta(ipc) if beta is None else beta for ipc in ipcs}


def sample_chunk(pipeline: GuidedPrior, chunk: Chunk, settings: SamplingSettings, side: int) -> Dataset:
    """Samples the tiles of a chunk, each from a generator of its own seed.

    Where a prior's safety checker blacks out tiles, the chunk is sampled again, with other seeds of those.

    Args:
        side: Of the tiles, in pixels; samples of another size are resized (bilinear, antialiased).

    Returns:
        Columns of `SAMPLES`: PNG bytes, the seeds and both estimates, in nats, of the samples.

    Raises:
        ValueError: If pixels or estimates are not finite, or tiles were blacked out again and again.
    """
    flagged: Counter[int] = Counter()
    while True:
        try:
            return _sampled_once(pipeline, chunk, settings, side, flagged)
        except FlaggedImages as error:
            tiles = [chunk.first + row for row in error.rows]
            flagged.update(tiles)
            if lost := [tile for tile in tiles if flagged[tile] >= TRIES]:
                raise ValueError(
                    f"The prior's safety checker must pass the images of class {chunk.label}. Got tiles {lost} blacked "
                    f"out with each of {TRIES} seeds: give the class another prompt than {error.prompts[0]!r}, in a "
                    "YAML file --prompts, with --overwrite; or go on without the checker, by the same command with "
                    '--prior a copy of the folder whose model_index.json has "safety_checker": [null, null].'
                ) from error
            logger.warning(
                "The prior's safety checker blacked out tiles %s of class %d (%r): sampled again with other seeds.",
                tiles, chunk.label, error.prompts[0],
            )  # fmt: skip


def _sampled_once(
    pipeline: GuidedPrior, chunk: Chunk, settings: SamplingSettings, side: int, flagged: Mapping[int, int]
) -> Dataset:
    """`sample_chunk`, where tiles that were `flagged` so many times before have a further seed."""
    numbers = range(chunk.first, chunk.end)
    seeds = [
        item_seed(settings.seed, "sample", chunk.label, number, *([flagged[number]] if flagged[number] else []))
        for number in numbers
    ]
    options: dict[str, Any] = {}
    if not isinstance(pipeline, TextToImagePrior):
        options = {"output_type": "pt"}
        if settings.prior_classes:
            options["prior_class_labels"] = [settings.prior_classes[chunk.label]] * len(seeds)
    output = pipeline(
        class_labels=[chunk.label] * len(seeds),
        beta=chunk.beta,
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.sampling_steps,
        temperature=settings.temperature,
        guide_on=settings.guide_on,
        reduction=settings.guidance_reduction,
        guidance_interval=(settings.guidance_start, settings.guidance_stop, settings.guidance_every),
        micro_batch=settings.micro_batch,
        vae_micro_batch=settings.vae_micro_batch,
        estimator_micro_batch=settings.estimator_micro_batch,
        softplus=settings.softplus,
        classifier_free_guidance_scale=settings.classifier_free_guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **options,
    )

    def place_of(tile: int) -> str:
        return f"tile {chunk.first + tile} of class {chunk.label} (seed {seeds[tile]})"

    images = require_finite(output.images.float(), "pixels of the prior's samples", place_of)
    for name in ("prototype", "contextual"):
        require_finite(getattr(output, name), f"estimates of the {name} information", place_of)
    if images.shape[-1] != side:
        images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    columns = {
        "label": [chunk.label] * len(seeds),
        "number": list(numbers),
        "seed": seeds,
        "prototype": output.prototype.cpu().tolist(),
        "contextual": output.contextual.cpu().tolist(),
        "image": [png_bytes(each) for each in pixels],
    }
    return Dataset.from_dict(columns, features=SAMPLES)


class IGDS:
    """IGDS as a Python object: `IGDS(pipeline, teacher).distill(images, ipc=10)`.

    Args:
        pipeline: Prior and estimator (`load_pipeline`, `load_text_to_image`), with the scheduler to sample with; or a
            text-to-image pipeline of diffusers, with an `estimator` and a `prompt` or `prompts` among the options.
        teacher: In eval mode (`load_classifier`); labels the samples.
        estimator: Guides a text-to-image pipeline of diffusers; other pipelines have their own.
        options: Fields of `DistillConfig`, but those that `pipeline` has settled, such as `scheduler`.

    Raises:
        ValueError: For an option that there is not, that has another type or range, or that the pipeline has settled,
            and a pipeline of diffusers without what it needs, or whose scheduler does not carry the guidance.
    """

    def __init__(
        self, pipeline: Any, teacher: Classifier, estimator: VariationalEstimator | None = None, **options: Any
    ) -> None:
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
        _check_guidance(pipeline, values_for(SamplingSettings, with_options(self.options, options)))

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
            config = with_options({**self.options, "ipc": [ipc], "output_dir": str(folder)})
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
        _check_guidance(pipeline, settings)  # its scheduler may have been exchanged
    check_source(images, config.dataset, teacher, config.tile_rows)
    check_pipeline(pipeline, settings, teacher, config.prior, config.estimator)
    run = DistillRun(config, teacher, accelerator)
    if (finished := run.start(images, **sampler_networks(config, pipeline))) is not None:
        return finished
    pipeline.to(accelerator.device)
    betas = betas_of(config.ipc, config.beta)
    chunks = chunks_of(spec.num_classes, betas, config.tiles_per_image, config.guidance_batch)
    side = spec.image_size // config.tile_rows

    def compute(start: int, end: int) -> Dataset:
        with autocast(accelerator.device, config.mixed_precision):
            return sample_chunk(pipeline, chunks[start], settings, side)

    shards = run_shards(run.shards, "samples", len(chunks), 1, accelerator, compute, run.share)
    tiles = SampledTiles(shards, chunks, spec)
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


def open_pipeline(settings: PriorSettings, sampling: SamplingSettings) -> GuidedPrior:
    """A prior with an estimator and a scheduler; one of text with the prompts of the estimator's classes.

    Raises:
        ValueError: As `load_pipeline` and `load_text_to_image`, or if the scheduler does not carry the guidance; the
            options that help are named.
    """
    estimator = load_estimator(settings.estimator)
    pipeline: GuidedPrior
    if settings.prompt is None and settings.prompts is None:
        pipeline = load_pipeline(settings.prior, estimator, settings.scheduler, settings.prior_variant)
    else:
        pipeline = load_text_to_image(
            settings.prior,
            estimator,
            prompts_of(settings.prompt, settings.prompts, label_names(estimator)),
            settings.scheduler,
            settings.guidance_vae,
            settings.prior_image_size,
            settings.prior_variant,
        )
    try:
        _check_guidance(pipeline, sampling)
    except NotCarried as error:
        remedies = _remedies(pipeline, sampling)
        raise ValueError(f"{error} As options: {', or '.join(remedies)}." if remedies else str(error)) from error
    return pipeline


def _remedies(pipeline: GuidedPrior, settings: SamplingSettings) -> list[str]:
    """The options with which a prior's scheduler, or another, carries the guidance that its own does not."""
    found = []
    for place in ("prediction", "sample"):
        with contextlib.suppress(NotCarried):
            pipeline.check_guidance(place, settings.sampling_steps)
            found.append(f"--guide_on {place}")
    with contextlib.suppress(ValueError):
        with_scheduler(pipeline.scheduler, "ddim")
        found.append("--scheduler ddim")
    return found


def _check_guidance(pipeline: GuidedPrior, settings: SamplingSettings) -> None:
    """Raises ValueError, with the remedy, if the prior's scheduler does not carry the guidance that is asked for."""
    if settings.guidance_scale == 0:
        return
    try:
        pipeline.check_guidance(settings.guide_on, settings.sampling_steps)
    except NotCarried:
        raise
    except ValueError as error:
        with contextlib.suppress(NotCarried):  # what two steps cannot do either is not for their number
            pipeline.check_guidance(settings.guide_on, 2)
        raise ValueError(
            f"sampling_steps must be a number of steps that the prior's {type(pipeline.scheduler).__name__} can take. "
            f"Got {settings.sampling_steps}: {one_line(error)}"
        ) from error


def asked_for(pipeline: GuidedPrior) -> dict[str, Any]:
    """What the result depends on beside weights: the scheduler as it is configured, and the prompts of a prior of text.

    The configuration of a prior's own scheduler lies in its folder, which may be exchanged under the same weights.
    """
    config = json.loads(pipeline.scheduler.to_json_string())
    config.pop("_diffusers_version")
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    asked: dict[str, Any] = {"scheduler": f"{type(pipeline.scheduler).__name__} {digest}"}
    return {**asked, "prompts": pipeline.prompts} if isinstance(pipeline, TextToImagePrior) else asked


def check_pipeline(
    pipeline: GuidedPrior,
    settings: SamplingSettings,
    teacher: Classifier,
    prior: str,
    estimator: str,
) -> None:
    """Raises ValueError if label names, channels or sizes of teacher, estimator and prior do not agree.

    Args:
        prior, estimator: Their names.
    """
    spec = teacher.spec
    if pipeline.estimator is None:
        raise ValueError("pipeline must have an estimator, which guides it. Got one without.")
    found = label_names(pipeline.estimator)
    check_label_names(spec.label_names, found, teacher.name, f"the estimator {estimator}")
    check_prior(pipeline, spec, settings.prior_classes, settings.classifier_free_guidance_scale, prior)
    trained_on = None if isinstance(pipeline, TextToImagePrior) else prior_label_names(prior)
    if trained_on is not None and not settings.prior_classes:
        check_label_names(spec.label_names, trained_on, teacher.name, f"the prior {prior}")


class SampledTiles:
    """The tiles in sample shards, read as they are needed.

    Args:
        shards: One per chunk.
        chunks: As `chunks_of` returns them.
        spec: The images to pack.
    """

    def __init__(self, shards: Sequence[Path], chunks: Sequence[Chunk], spec: ImageSpec) -> None:
        self.spec = spec
        self._chunks: dict[int, list[tuple[Chunk, Path]]] = {}
        for chunk, path in zip(chunks, shards, strict=True):
            self._chunks.setdefault(chunk.label, []).append((chunk, path))
        self._read = functools.lru_cache(maxsize=CHUNKS_HELD)(lambda path: pq.read_table(path).to_pylist())

    def rows(self, label: int, first: int, end: int) -> list[dict[str, Any]]:
        """Tiles `first` … `end - 1` of a class, as rows of `SAMPLES`."""
        rows: list[dict[str, Any]] = []
        for chunk, path in self._chunks[label]:
            low, high = max(first, chunk.first), min(end, chunk.end)
            if low < high:
                rows += self._read(path)[low - chunk.first : high - chunk.first]
        return rows

    def mosaics(self, ipc: int, tiles_per_image: int, start: int, end: int) -> Mosaics:
        """Images `start` … `end - 1` of an IPC's set, class by class; image j takes tiles jk … jk + k - 1."""
        places = [divmod(image, ipc) for image in range(start, end)]
        tiles = [self.rows(label, n * tiles_per_image, (n + 1) * tiles_per_image) for label, n in places]
        stacks = [pixels_of([tile["image"] for tile in each], self.spec.channels) for each in tiles]
        return Mosaics(
            compose(torch.stack(stacks)),
            [label for label, _ in places],
            [number for _, number in places],
            [[{key: tile[key] for key in ("seed", "prototype", "contextual")} for tile in each] for each in tiles],
        )

    def information(self, count: int) -> dict[str, float]:
        """Mean prototype and contextual term, in nats, of the first `count` tiles of every class."""
        terms = {"prototype": [], "contextual": []}  # type: dict[str, list[float]]
        for paths in self._chunks.values():
            for chunk, path in paths:
                if chunk.first < count:
                    table = pq.read_table(path, columns=list(terms))
                    for name, values in terms.items():
                        values += table[name].to_pylist()
        return {name: float(np.mean(values)) for name, values in terms.items()}


def sampler_networks(config: DistillConfig, pipeline: GuidedPrior) -> dict[str, dict[str, Any]]:
    """Estimator and prior as a run notes them."""
    estimator, prior = fingerprint_of({"": pipeline.estimator}), prior_fingerprint(pipeline)
    return {
        "estimator": {"name": config.estimator, "fingerprint": estimator},
        "prior": {"name": config.prior, "fingerprint": prior, **asked_for(pipeline)},
    }


def plan_sampled(
    config: DistillConfig, images: Dataset, teacher: Classifier, accelerator: Accelerator
) -> dict[str, Any]:
    """What `--dry_run` shows: samples, passes, and the seconds they take at the measured speed of a step."""
    spec = teacher.spec
    settings = values_for(SamplingSettings, config)
    pipeline = open_pipeline(values_for(PriorSettings, config), settings).to(accelerator.device)
    check_source(images, config.dataset, teacher, config.tile_rows)
    check_pipeline(pipeline, settings, teacher, config.prior, config.estimator)
    DistillRun(config, teacher, accelerator).check(images, **sampler_networks(config, pipeline))
    betas = betas_of(config.ipc, config.beta)
    tiles = spec.num_classes * max(config.ipc) * config.tiles_per_image
    distilled = spec.num_classes * sum(config.ipc)
    labelled = label_passes(distilled, len(config.label_teacher), values_for(StoredLabels, config))
    per_second = throughput(teacher.to(accelerator.device), config.mixed_precision, config.batch_size)
    with autocast(accelerator.device, config.mixed_precision):
        per_step = seconds_per_step(pipeline, settings, tiles, spec.image_size // config.tile_rows)
    seconds = tiles * config.sampling_steps * per_step + labelled / per_second
    return {
        "method": config.method,
        "betas": {f"IPC {ipc}": beta for ipc, beta in betas.items()},
        "distilled_images": distilled,
        "tiles": tiles,
        "chunks": len(chunks_of(spec.num_classes, betas, config.tiles_per_image, config.guidance_batch)),
        "prior_passes": tiles * config.sampling_steps,
        "label_passes": labelled,
        "estimated_seconds": round(seconds / accelerator.num_processes, 1),
        "label_bytes": label_bytes(distilled, spec.num_classes, values_for(StoredLabels, config)),
        "output_dir": config.output_dir,
    }


def seconds_per_step(pipeline: GuidedPrior, settings: SamplingSettings, tiles: int, side: int) -> float:
    """Seconds that a guided step takes for a tile, by a timing of two steps with at most a micro-batch of tiles."""
    probe = dataclasses.replace(settings, sampling_steps=2)
    batch = min(settings.micro_batch, tiles)
    sample_chunk(pipeline, Chunk(0, 0, 1, 0.1), probe, side)
    started = time.perf_counter()
    sample_chunk(pipeline, Chunk(0, 0, batch, 0.1), probe, side)
    return (time.perf_counter() - started) / probe.sampling_steps / batch
