"""The tiles of IGDS: how a class is cut into chunks, how chunks are sampled together, and how all are read."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Value

from decoct.data.mosaic import compose
from decoct.data.spec import ImageSpec
from decoct.igds.information import default_beta
from decoct.igds.prior import GuidedPrior
from decoct.pipelines.igds.pipeline import IGDSPipelineOutput
from decoct.pipelines.igds.text_to_image import FlaggedImages, TextToImagePrior
from decoct.run.finite import require_finite
from decoct.run.seeding import item_seed
from decoct.synthesis.guided_prior import SamplingSettings
from decoct.synthesis.tiles import Mosaics, pixels_of, png_bytes

__all__ = ["SAMPLES", "Chunk", "SampledTiles", "batches_of", "betas_of", "chunks_of", "sample_chunks"]

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
BATCHES_HELD = 8
BATCH = 32  # tiles that are sampled together of several classes, at most; more would leave more processes idle
TRIES = 10  # seeds of a tile that a safety checker is shown


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

    def __len__(self) -> int:
        return self.end - self.first


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


def batches_of(chunks: Sequence[Chunk], most: int) -> list[list[Chunk]]:
    """Which chunks are sampled together, so that few tiles of a class fill a device: those of equal tiles and beta.

    Args:
        most: Tiles of a batch; chunks that have more are batches of their own.
    """
    batches: list[list[Chunk]] = []
    for chunk in sorted(chunks, key=lambda each: (each.first, each.label)):
        last = batches[-1] if batches else []
        alike = bool(last) and (chunk.first, chunk.end, chunk.beta) == (last[0].first, last[0].end, last[0].beta)
        if alike and (len(last) + 1) * len(chunk) <= min(most, BATCH):
            last.append(chunk)
        else:
            batches.append([chunk])
    return batches


def betas_of(ipcs: Sequence[int], beta: float | None) -> dict[int, float]:
    """The weight of the contextual information by IPC: the one that is given, or decoct's schedule."""
    return {ipc: default_beta(ipc) if beta is None else beta for ipc in ipcs}


def sample_chunks(pipeline: GuidedPrior, chunks: Sequence[Chunk], settings: SamplingSettings, side: int) -> Dataset:
    """Samples the tiles of chunks of equal beta, each from a generator of its own seed.

    Tiles are compared with those of their own class alone. Where a prior's safety checker blacks out tiles, their
    chunks are sampled again, with other seeds of those.

    Args:
        chunks: Of different classes.
        side: Of the tiles, in pixels; samples of another size are resized (bilinear, antialiased).

    Returns:
        Columns of `SAMPLES`, one chunk after another: PNG bytes, the seeds and both estimates, in nats, of the samples.

    Raises:
        ValueError: If pixels or estimates are not finite, or tiles were blacked out again and again.
    """
    flagged: Counter[tuple[int, int]] = Counter()
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    pending = list(chunks)
    while pending:
        tiles = _tiles_of(pending)
        seeds = [
            item_seed(settings.seed, "sample", *tile, *([flagged[tile]] if flagged[tile] else [])) for tile in tiles
        ]
        again: set[int] = set()
        try:
            output = _sampled(pipeline, [label for label, _ in tiles], seeds, pending[0].beta, settings)
        except FlaggedImages as error:
            output = error.output
            prompts = {tiles[row]: prompt for row, prompt in zip(error.rows, error.prompts, strict=True)}
            flagged.update([*prompts])
            again = {label for label, _ in prompts}
            for label in sorted(again):
                _say_flagged(label, {number: text for (of, number), text in prompts.items() if of == label}, flagged)
        for tile, row in zip(tiles, _rows(output, tiles, seeds, side), strict=True):
            if tile[0] not in again:
                rows[tile] = row
        pending = [chunk for chunk in pending if chunk.label in again]
    return Dataset.from_list([rows[tile] for tile in _tiles_of(chunks)], features=SAMPLES)


def _tiles_of(chunks: Sequence[Chunk]) -> list[tuple[int, int]]:
    """Class and number of each tile."""
    return [(chunk.label, number) for chunk in chunks for number in range(chunk.first, chunk.end)]


def _say_flagged(label: int, prompts: Mapping[int, str], flagged: Mapping[tuple[int, int], int]) -> None:
    """Warns of a class's tiles that were blacked out.

    Args:
        prompts: By the tiles' numbers.
        flagged: How often each tile was blacked out.

    Raises:
        ValueError: If it was so with all seeds that are tried.
    """
    prompt = next(iter(prompts.values()))
    if lost := [number for number in prompts if flagged[label, number] >= TRIES]:
        raise ValueError(
            f"The prior's safety checker must pass the images of class {label}. Got tiles {lost} blacked "
            f"out with each of {TRIES} seeds: give the class another prompt than {prompt!r}, in a "
            "YAML file --prompts, with --overwrite; or go on without the checker, by the same command with "
            '--prior a copy of the folder whose model_index.json has "safety_checker": [null, null].'
        )
    logger.warning(
        "The prior's safety checker blacked out tiles %s of class %d (%r): sampled again with other seeds.",
        list(prompts), label, prompt,
    )  # fmt: skip


def _sampled(
    pipeline: GuidedPrior, labels: Sequence[int], seeds: Sequence[int], beta: float, settings: SamplingSettings
) -> IGDSPipelineOutput:
    """A sample of each label, from a generator of its seed."""
    options: dict[str, Any] = {}
    if not isinstance(pipeline, TextToImagePrior):
        options = {"output_type": "pt"}
        if settings.prior_classes:
            options["prior_class_labels"] = [settings.prior_classes[label] for label in labels]
    return pipeline(
        class_labels=labels,
        beta=beta,
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


def _rows(
    output: IGDSPipelineOutput, tiles: Sequence[tuple[int, int]], seeds: Sequence[int], side: int
) -> list[dict[str, Any]]:
    """Rows of `SAMPLES`.

    Raises:
        ValueError: If pixels or estimates are not finite.
    """

    def place_of(row: int) -> str:
        label, number = tiles[row]
        return f"tile {number} of class {label} (seed {seeds[row]})"

    images = require_finite(output.images.float(), "pixels of the prior's samples", place_of)
    for name in ("prototype", "contextual"):
        require_finite(getattr(output, name), f"estimates of the {name} information", place_of)
    if images.shape[-2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    values = zip(tiles, seeds, output.prototype.tolist(), output.contextual.tolist(), pixels, strict=True)
    return [
        dict(zip(SAMPLES, (*tile, seed, prototype, contextual, png_bytes(image)), strict=True))
        for tile, seed, prototype, contextual, image in values
    ]


class SampledTiles:
    """The tiles in sample shards, read as they are needed.

    Args:
        shards: One per batch.
        batches: As `batches_of` returns them.
        spec: The images to pack.
    """

    def __init__(self, shards: Sequence[Path], batches: Sequence[Sequence[Chunk]], spec: ImageSpec) -> None:
        self.spec = spec
        self._chunks: dict[int, list[tuple[Chunk, Path, int]]] = {}  # of a class, with the row that one begins at
        for batch, path in zip(batches, shards, strict=True):
            row = 0
            for chunk in batch:
                self._chunks.setdefault(chunk.label, []).append((chunk, path, row))
                row += len(chunk)
        self._read = functools.lru_cache(maxsize=BATCHES_HELD)(lambda path: pq.read_table(path).to_pylist())

    def rows(self, label: int, first: int, end: int) -> list[dict[str, Any]]:
        """Tiles `first` … `end - 1` of a class, as rows of `SAMPLES`."""
        rows: list[dict[str, Any]] = []
        for chunk, path, row in self._chunks[label]:
            low, high = max(first, chunk.first), min(end, chunk.end)
            if low < high:
                rows += self._read(path)[row + low - chunk.first : row + high - chunk.first]
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
        for chunks in self._chunks.values():
            for chunk, path, row in chunks:
                if chunk.first < count:
                    table = pq.read_table(path, columns=list(terms)).slice(row, len(chunk))
                    for name, values in terms.items():
                        values += table[name].to_pylist()
        return {name: float(np.mean(values)) for name, values in terms.items()}
