"""IGDS: tiles sampled from a diffusion prior under information guidance, then packed and labelled like real ones."""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset, Features, Value

from decoct.config import DistillConfig, SamplingConfig
from decoct.data.loading import check_label_names
from decoct.data.mosaic import compose
from decoct.data.spec import ImageSpec
from decoct.igds.information import default_beta
from decoct.igds.loading import label_names, load_estimator
from decoct.igds.prior import SCHEDULERS, check_prior, load_pipeline, prior_fingerprint, prior_label_names
from decoct.models.classifier import Classifier, fingerprint_of
from decoct.models.throughput import throughput
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.run.precision import autocast
from decoct.run.seeding import item_seed
from decoct.run.shards import run_shards
from decoct.synthesis.output import write_samples_preview
from decoct.synthesis.run import DistillRun, label_bytes, label_teacher
from decoct.synthesis.tiles import Mosaics, pixels_of, png_bytes

__all__ = ["IGDS", "Chunk", "chunks_of", "distill_samples", "plan_sampled", "sample_chunk"]

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


def chunks_of(config: DistillConfig, classes: int) -> list[Chunk]:
    """How the tiles of a run are sampled: class by class, and for each IPC what it adds to the next smaller one.

    The sets of several IPCs are nested: a set's first tiles are those of the smaller sets, made with their beta.
    Additions of more than `guidance_batch` tiles are cut into equal parts.
    """
    parts: list[tuple[int, int, float]] = []
    first = 0
    for ipc in config.ipc:
        count = ipc * config.tiles_per_image - first
        pieces = math.ceil(count / config.guidance_batch)
        bounds = [first + count * piece // pieces for piece in range(pieces + 1)]
        parts += [(low, high, beta_of(config, ipc)) for low, high in zip(bounds, bounds[1:], strict=False)]
        first += count
    return [Chunk(label, *part) for label in range(classes) for part in parts]


def beta_of(config: DistillConfig, ipc: int) -> float:
    """The configured beta, or that of decoct's schedule."""
    return default_beta(ipc) if config.beta is None else config.beta


def sample_chunk(pipeline: IGDSPipeline, chunk: Chunk, config: SamplingConfig, side: int) -> Dataset:
    """Samples the tiles of a chunk, each from a generator of its own seed.

    Args:
        side: Of the tiles, in pixels; samples of another size are resized (bilinear, antialiased).

    Returns:
        Columns of `SAMPLES`: PNG bytes, the seeds and both estimates, in nats, of the samples.
    """
    numbers = range(chunk.first, chunk.end)
    seeds = [item_seed(config.seed, "sample", chunk.label, number) for number in numbers]
    prior_class = config.prior_classes[chunk.label] if config.prior_classes else None
    output = pipeline(
        class_labels=[chunk.label] * len(seeds),
        prior_class_labels=None if prior_class is None else [prior_class] * len(seeds),
        beta=chunk.beta,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.sampling_steps,
        temperature=config.temperature,
        guide_on=config.guide_on,
        reduction=config.guidance_reduction,
        guidance_interval=(config.guidance_start, config.guidance_stop, config.guidance_every),
        micro_batch=config.micro_batch,
        softplus=config.softplus,
        classifier_free_guidance_scale=config.classifier_free_guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    )
    images = output.images.float()
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
        pipeline: Prior and estimator (`load_pipeline`), with the scheduler to sample with.
        teacher: In eval mode (`load_classifier`); labels the samples.
        options: Fields of `DistillConfig`.
    """

    def __init__(self, pipeline: IGDSPipeline, teacher: Classifier, **options: Any) -> None:
        self.pipeline, self.teacher, self.options = pipeline, teacher, options

    def distill(self, images: Dataset, ipc: int, output_dir: str | Path | None = None) -> Dataset:
        """The distilled dataset of one IPC, with the columns of the run folder.

        Args:
            images: The source, from `load_images`.
            ipc: Images per class.
            output_dir: Run folder to keep. Default: a temporary one, removed afterwards.
        """
        samplers = [name for name, kind in SCHEDULERS.items() if isinstance(self.pipeline.scheduler, kind)]
        if not samplers:
            found = type(self.pipeline.scheduler).__name__
            raise ValueError(f"The pipeline's scheduler must be one of {list(SCHEDULERS)}. Got {found}.")
        in_memory = {**dict.fromkeys(("dataset", "prior", "estimator"), "in memory"), "scheduler": samplers[0]}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(output_dir or Path(temporary) / "run")
            options = {**in_memory, "teacher": self.teacher.name, **self.options, "method": "igds"}
            config = DistillConfig(ipc=[ipc], output_dir=str(folder), **options)
            distill_samples(config, images, self.teacher, Accelerator(), self.pipeline)
            paths = sorted(map(str, folder.glob(f"data/ipc_{ipc}/*.parquet")))
            return Dataset.from_parquet(paths, keep_in_memory=True)


def distill_samples(
    config: DistillConfig,
    images: Dataset,
    teacher: Classifier,
    accelerator: Accelerator,
    pipeline: IGDSPipeline | None = None,
) -> dict[str, Any]:
    """`distill` by IGDS; `images` are the source, which gives the classes and the real images of the preview.

    Args:
        pipeline: Default: `config.prior` with `config.estimator`.

    Raises:
        ValueError: If the classes of dataset, teacher, estimator and prior do not agree, or the folder belongs to
            another configuration.
    """
    spec = teacher.spec
    pipeline = pipeline or open_pipeline(config)
    check_pipeline(pipeline, config, images, teacher)
    run = DistillRun(config, teacher, accelerator)
    estimator, prior = fingerprint_of({"": pipeline.estimator}), prior_fingerprint(pipeline)
    finished = run.start(
        images,
        estimator={"name": config.estimator, "fingerprint": estimator},
        prior={"name": config.prior, "fingerprint": prior},
    )
    if finished is not None:
        return finished
    pipeline.to(accelerator.device)
    chunks = chunks_of(config, spec.num_classes)
    side = spec.image_size // config.tile_rows

    def compute(start: int, end: int) -> Dataset:
        with autocast(accelerator.device, config.mixed_precision):
            return sample_chunk(pipeline, chunks[start], config, side)

    shards = run_shards(run.shards, "samples", len(chunks), 1, accelerator, compute)
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
        betas={str(ipc): beta_of(config, ipc) for ipc in config.ipc},
        information={str(ipc): tiles.information(ipc * config.tiles_per_image) for ipc in config.ipc},
    )


def open_pipeline(config: DistillConfig) -> IGDSPipeline:
    """The configured prior with the configured estimator and scheduler."""
    return load_pipeline(config.prior, load_estimator(config.estimator), config.scheduler)


def check_pipeline(pipeline: IGDSPipeline, config: DistillConfig, images: Dataset, teacher: Classifier) -> None:
    """Raises ValueError if label names, channels or sizes of dataset, teacher, estimator and prior do not agree."""
    spec, names = teacher.spec, images.features["label"].names
    check_label_names(spec.label_names, names, f"the teacher {teacher.name}", f"the dataset {config.dataset}")
    if spec.image_size % config.tile_rows:
        raise ValueError(f"tiles_per_image must be 1 for images of odd size ({spec.image_size} px). Got 4.")
    if pipeline.estimator is None:
        raise ValueError("pipeline must have an estimator, which guides it. Got one without.")
    found = label_names(pipeline.estimator)
    check_label_names(spec.label_names, found, teacher.name, f"the estimator {config.estimator}")
    check_prior(pipeline, spec, config.prior_classes, config.classifier_free_guidance_scale, config.prior)
    trained_on = prior_label_names(config.prior)
    if trained_on is not None and not config.prior_classes:
        check_label_names(spec.label_names, trained_on, teacher.name, f"the prior {config.prior}")


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


def plan_sampled(
    config: DistillConfig, images: Dataset, teacher: Classifier, accelerator: Accelerator
) -> dict[str, Any]:
    """What `--dry_run` shows: samples, passes, and the seconds they take at the measured speed of a step."""
    spec = teacher.spec
    pipeline = open_pipeline(config).to(accelerator.device)
    check_pipeline(pipeline, config, images, teacher)
    for ipc in config.ipc:
        label_teacher(config, teacher, ipc)
    tiles = spec.num_classes * max(config.ipc) * config.tiles_per_image
    distilled = spec.num_classes * sum(config.ipc)
    views = distilled * (2 * config.tiles_per_image + config.views)
    probe = DistillConfig(**{**vars(config), "sampling_steps": 2, "beta": 0.1})
    batch = min(config.micro_batch, tiles)
    side = spec.image_size // config.tile_rows
    with autocast(accelerator.device, config.mixed_precision):
        sample_chunk(pipeline, Chunk(0, 0, 1, 0.1), probe, side)
        started = time.perf_counter()
        sample_chunk(pipeline, Chunk(0, 0, batch, 0.1), probe, side)
    per_step = (time.perf_counter() - started) / probe.sampling_steps / batch
    seconds = tiles * config.sampling_steps * per_step + views / throughput(
        teacher.to(accelerator.device), config.mixed_precision, config.batch_size
    )
    return {
        "method": config.method,
        "betas": {f"IPC {ipc}": beta_of(config, ipc) for ipc in config.ipc},
        "distilled_images": distilled,
        "tiles": tiles,
        "chunks": len(chunks_of(config, spec.num_classes)),
        "prior_passes": tiles * config.sampling_steps,
        "label_passes": views,
        "estimated_seconds": round(seconds / accelerator.num_processes, 1),
        "label_bytes": label_bytes(config, distilled, spec.num_classes),
        "output_dir": config.output_dir,
    }
