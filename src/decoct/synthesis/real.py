"""Sets of real images: score the candidates, select the best tiles, cut, pack and label them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, List, Value
from torch import Tensor

from decoct.config import DistillConfig, values_for
from decoct.data.inspection import named_rows
from decoct.data.loading import class_counts
from decoct.data.pixels import to_pixels
from decoct.data.spec import ImageSpec
from decoct.infoutil.cropping import window_side
from decoct.infoutil.processor import Attribution, HeatmapSettings, InfoUtilProcessor, build_attribution, reference_of
from decoct.models.classifier import Classifier
from decoct.models.throughput import throughput
from decoct.run.finite import require_finite
from decoct.run.seeding import numpy_generator
from decoct.run.shards import ALL, Share, rows_per_shard, run_shards
from decoct.synthesis.inputs import check_classifier, check_source, in_memory, one_ipc, with_options
from decoct.synthesis.output import write_preview
from decoct.synthesis.run import DistillRun, StoredLabels, label_bytes, label_passes, read_ipc, run_folder
from decoct.synthesis.selection import draw_candidates
from decoct.synthesis.tiles import Mosaics, SelectionSettings, Tile, cut_mosaics, images_of, select_tiles
from decoct.synthesis.tune import (
    SELECTIONS,
    best_of,
    passes_of,
    plan_trials,
    run_trials,
    steps_of,
    too_short,
    tuning_budget,
)
from decoct.training.forgetting import check_forgetting_events, forgetting_scores

__all__ = ["InfoUtil", "candidates_of", "distill_images", "forward_passes", "heatmaps_of", "plan_selection", "score"]

logger = logging.getLogger(__name__)

READ_AT_ONCE = 16  # images that a thread decodes before it takes others


class InfoUtil:
    """InfoUtil as a Python object: `InfoUtil(teacher).distill(images, ipc=10)`.

    Args:
        teacher: From `load_classifier`; it is put into eval mode.
        options: Fields of `DistillConfig`.

    Raises:
        ValueError: For an option that there is not, or that has another type or range, and for a teacher that is none.
    """

    def __init__(self, teacher: Classifier, **options: Any) -> None:
        check_classifier(teacher)
        if options.get("method") == "igds":
            raise ValueError("method must be one that chooses among real images. Got 'igds': use decoct.IGDS.")
        self.teacher = teacher
        self.options = {"method": "infoutil", "dataset": "in memory", "teacher": teacher.name, **options}
        with_options(self.options, options)

    def distill(
        self, images: Dataset, ipc: int, output_dir: str | Path | None = None, validation: Dataset | None = None
    ) -> Dataset:
        """The distilled dataset of one IPC, with the columns of the run folder.

        Args:
            images: From `load_images`, or as it takes them.
            ipc: Images per class.
            output_dir: Run folder to keep. Default: a temporary one, removed afterwards.
            validation: Images that the teacher has not seen, from `load_images`; for `tune` alone.

        Raises:
            ValueError: As `load_images` and `decoct.synthesis.distill.distill`.
        """
        with run_folder(output_dir) as folder:
            config = with_options({**self.options, "ipc": [one_ipc(ipc)], "output_dir": str(folder)})
            accelerator = Accelerator()
            images, teacher = in_memory(config, images, self.teacher, accelerator)
            distill_images(config, images, teacher, accelerator, validation=validation)
            return read_ipc(folder, ipc)


def distill_images(
    config: DistillConfig,
    images: Dataset,
    teacher: Classifier,
    accelerator: Accelerator,
    scores: list[Path] | None = None,
    validation: Dataset | None = None,
) -> dict[str, Any]:
    """`distill` by choosing among real images, for images and a teacher in memory.

    Args:
        scores: Shards that `score` made with the same attribution and utility, to try other selections on.
            Default: they are computed.
        validation: Images that the teacher has not seen, by which `tune` chooses the selection of each IPC.

    Raises:
        ValueError: If `tune` has no such images.
    """
    if config.tune and validation is None:
        raise ValueError("validation must be given for tune: images that the teacher has not seen. Got None.")
    candidates = candidates_of(config, images, teacher)
    run = DistillRun(config, teacher, accelerator)
    if (finished := run.start(images)) is not None:
        return finished
    scores = scores or score(config, candidates, teacher, run.batch_size, accelerator, run.shards, share=run.share)
    spec, selecting = teacher.spec, values_for(SelectionSettings, config)
    selections = dict.fromkeys(config.ipc, selecting)
    tried: dict[str, Any] = {}
    if config.tune and validation is not None:
        selections, tried = tuned_selections(config, len(images), candidates, validation, scores, run)
    tiles = {ipc: select_tiles(scores, spec.label_names, ipc, selections[ipc]) for ipc in config.ipc}
    heatmaps = values_for(HeatmapSettings, config)
    attribution = build_attribution(teacher, heatmaps, run.batch_size) if config.whole_images else None
    if attribution is not None:  # the crops did not need the heat maps; those of the chosen images are kept
        rows = sorted({tile.row for each in tiles.values() for members in each for tile in members})
        size, per_shard = config.shard_size, rows_per_shard(len(rows), config.shard_size)
        maps = heatmaps_of(rows, attribution, candidates, spec, size, per_shard, accelerator, run.shards, run.share)
        tiles = {ipc: with_heatmaps(each, maps) for ipc, each in tiles.items()}
    accuracies = {}
    for ipc in config.ipc:
        members = images_of(tiles[ipc], config.tiles_per_image, strided=config.method == "rded")

        def mosaics_of(start: int, end: int, members: list[Any] = members) -> Mosaics:
            return cut_mosaics(members[start:end], candidates, spec, spec.image_size // config.tile_rows)

        accuracies[ipc] = run.label(ipc, len(members), mosaics_of)
    shown = {tile.source_index: tile.row for each in tiles.values() for ranked in each for tile in ranked}

    def preview() -> None:
        write_preview(run.folder, config.ipc, candidates, shown, spec)

    return run.finish(accuracies, preview, candidates=len(candidates), **tried)


def tuned_selections(
    config: DistillConfig,
    images: int,
    candidates: Dataset,
    validation: Dataset,
    scores: Sequence[Path],
    run: DistillRun,
) -> tuple[dict[int, SelectionSettings], dict[str, Any]]:
    """The selection of each IPC by `decoct.synthesis.tune`, and what the manifest says of it.

    Args:
        images: Of the training split.
        scores: Score shards of the candidates, with features.
    """
    selecting = values_for(SelectionSettings, config)
    classes, budget = run.teacher.spec.num_classes, tuning_budget(config.tune_budget, run.teacher, images)
    trials = plan_trials(config.ipc, classes, budget, len(validation))
    if run.accelerator.is_main_process and (warning := too_short(trials, classes)):
        logger.warning(warning)
    precision = config.mixed_precision
    found = run_trials(
        trials, scores, candidates, validation, selecting, run.label_teachers, precision, run.accelerator, run.shards
    )
    best = {ipc: best_of(accuracies, len(validation)) for ipc, accuracies in found.items()}
    tried = {str(ipc): {"selection": best[ipc], "tried": accuracies} for ipc, accuracies in found.items()}
    return {ipc: dataclasses.replace(selecting, **SELECTIONS[name]) for ipc, name in best.items()}, {"tuned": tried}


def candidates_of(config: DistillConfig, images: Dataset, teacher: Classifier) -> Dataset:
    """The images that are scored: at most `candidates_per_class` of each class, drawn by the seed.

    Raises:
        ValueError: If teacher and dataset have different label names, the images do not divide into tiles, all windows
            of an image are the same, a class has fewer candidates than the tiles that are asked for, or the forgetting
            events that should score them are not in the teacher's folder.
    """
    check_source(images, config.dataset, teacher, config.tile_rows)
    check_windows(config, teacher.spec.image_size)
    names = teacher.spec.label_names
    needed = config.tiles_per_image * max(config.ipc)
    limit = config.candidates_per_class
    for name, count in zip(names, class_counts(images), strict=True):
        if min(count, limit or count) < needed:
            found, remedy = f"{limit} (candidates_per_class)", "or raise --candidates_per_class (0: all images)"
            if count < needed:
                share = config.validation_fraction
                held_out = f", {share:g} of each class being held out (validation_fraction)" if share else ""
                found, remedy = f"{count} images{held_out}", "or add images of the class"
            raise ValueError(
                f"Class {name!r} must have at least {needed} candidates for {config.tiles_per_image} tiles x IPC "
                f"{max(config.ipc)}. Got {found}. Lower --ipc, {remedy}."
            )
    if config.utility == "forgetting":
        check_forgetting_events(teacher.name, images)
    generators = [numpy_generator(config.seed, "candidates", label) for label in range(len(names))]
    rows = draw_candidates(np.asarray(images["label"][:]), len(names), limit, generators)
    return images.select(rows)


def check_windows(config: DistillConfig, side: int) -> None:
    """Raises ValueError if heat maps would be made to choose among windows of which there is only one.

    Args:
        side: Of the images, in pixels.
    """
    fraction = config.crop_fraction or 1.0
    if config.attribution != "random" and not config.whole_images and window_side(side, fraction) == side:
        raise ValueError(
            f"crop_fraction must leave more than one window of an image of {side} px. Got {fraction}, whose only "
            "window is the whole image. Use a smaller one, or 1, which needs no heat map to choose."
        )


def score(
    config: DistillConfig,
    candidates: Dataset,
    teacher: Classifier,
    batch_size: int,
    accelerator: Accelerator,
    folder: Path,
    heatmaps: Mapping[int, np.ndarray] | None = None,
    share: Share = ALL,
) -> list[Path]:
    """Attribution, crops and utility of all candidates, as shards of the processor's columns in `folder`.

    Args:
        heatmaps: Heat maps by source index that were computed before. Default: they are computed.
        share: Of this machine.
    """
    reference = None
    if config.utility == "gradient_flow":
        generator = numpy_generator(config.seed, "gradient_flow")
        count = min(config.gradient_flow_references, len(candidates))
        chosen = candidates.select(np.sort(generator.choice(len(candidates), count, replace=False)))
        with named_rows(chosen, range(count)):
            pixels = to_pixels(chosen["image"][:], teacher.spec.image_size, teacher.spec.channels)
        reference = reference_of(teacher, pixels, np.asarray(chosen["label"][:]), config.mixed_precision)
    forgetting = forgetting_scores(teacher.name, config.utility_order) if config.utility == "forgetting" else None
    processor = InfoUtilProcessor(teacher, config, batch_size, reference, forgetting, heatmaps)
    spec = teacher.spec
    size = rows_per_shard(len(candidates), config.shard_size)
    step = max(1, batch_size)

    with ThreadPoolExecutor(max(1, config.num_workers)) as readers:

        def read(start: int, end: int) -> CandidateRows:
            return read_candidates(candidates, range(start, end), spec, readers)

        def compute(start: int, end: int, rows: CandidateRows) -> Dataset:
            columns: dict[str, list[Any]] = {name: [] for name in processor.features}
            for first in range(0, end - start, step):
                part = slice(first, first + step)
                for name, values in processor.scored(rows.pixels[part], rows.labels[part], rows.sources[part]).items():
                    columns[name] += list(values)
            return Dataset.from_dict(columns, features=processor.features)

        return run_shards(folder, "scores", len(candidates), size, accelerator, compute, share, read)


@dataclass(frozen=True)
class CandidateRows:
    """Candidates as they are scored: uint8 pixels `(rows, channels, side, side)`, their classes and source indices."""

    pixels: Tensor
    labels: list[int]
    sources: list[int]


def read_candidates(images: Dataset, rows: range, spec: ImageSpec, readers: ThreadPoolExecutor) -> CandidateRows:
    """Decodes a few candidates by threads: Pillow lets others work while it decodes.

    Rows are read as they are: `select` would look through all of the table.

    Raises:
        ValueError: If one cannot be used; it is named.
    """

    def decoded(first: int) -> tuple[Tensor, list[int], list[int]]:
        part = images[first : min(first + READ_AT_ONCE, rows.stop)]
        return to_pixels(part["image"], spec.image_size, spec.channels), part["label"], part["source_index"]

    with named_rows(images, rows):
        parts = list(readers.map(decoded, range(rows.start, rows.stop, READ_AT_ONCE)))
    pixels, labels, sources = zip(*parts, strict=True)
    return CandidateRows(torch.cat(pixels), sum(labels, []), sum(sources, []))


def heatmaps_of(
    rows: Sequence[int],
    attribution: Attribution,
    candidates: Dataset,
    spec: ImageSpec,
    batch_size: int,
    shard_size: int,
    accelerator: Accelerator,
    folder: Path,
    share: Share = ALL,
) -> dict[int, list[list[float]]]:
    """Heat maps by row of the candidates; shards go to `folder`.

    Args:
        rows: Of the candidates, in order.
        batch_size: Images that are attributed at once.
    """
    features = Features({"row": Value("int64"), "heatmap": List(List(Value("float32")))})

    def compute(start: int, end: int) -> Dataset:
        heatmaps = []
        for first in range(start, end, batch_size):
            chosen = candidates[list(rows[first : min(first + batch_size, end)])]
            pixels = to_pixels(chosen["image"], spec.image_size, spec.channels)
            targets = torch.tensor(chosen["label"], device=accelerator.device)
            found = attribution.attribute(pixels.to(accelerator.device).float() / 255, targets).cpu()
            place_of = partial(place_of_source, chosen["source_index"], chosen["label"], spec.label_names)
            heatmaps.append(require_finite(found, "values of heat maps", place_of))
        return Dataset.from_dict({"row": rows[start:end], "heatmap": torch.cat(heatmaps).numpy()}, features=features)

    paths = run_shards(folder, "heatmaps", len(rows), shard_size, accelerator, compute, share)
    table = Dataset.from_parquet(list(map(str, paths)), keep_in_memory=True)
    return dict(zip(table["row"][:], table["heatmap"][:], strict=True))


def place_of_source(sources: Sequence[int], labels: Sequence[int], names: Sequence[str], row: int) -> str:
    """A source image for a message."""
    return f"image {sources[row]} of class {names[labels[row]]!r}"


def with_heatmaps(tiles: list[list[Tile]], heatmaps: Mapping[int, list[list[float]]]) -> list[list[Tile]]:
    """The tiles of an IPC with the heat maps of their images."""
    return [[dataclasses.replace(tile, heatmap=heatmaps[tile.row]) for tile in members] for members in tiles]


def plan_selection(
    config: DistillConfig,
    images: Dataset,
    teacher: Classifier,
    accelerator: Accelerator,
    validation: Dataset | None = None,
) -> dict[str, Any]:
    """What `--dry_run` shows: images, forward passes, and the seconds they take at the measured throughput."""
    candidates = candidates_of(config, images, teacher)
    spec = teacher.spec
    DistillRun(config, teacher, accelerator).check(images)
    per_second = throughput(teacher.to(accelerator.device), config.mixed_precision, config.batch_size)
    passes = forward_passes(config, len(candidates), spec.num_classes)
    distilled = spec.num_classes * sum(config.ipc)
    return {
        "method": config.method,
        "candidates": len(candidates),
        "distilled_images": distilled,
        "tiles": distilled * config.tiles_per_image,
        "forward_passes": passes,
        "images_per_second": round(per_second),
        "estimated_seconds": round(sum(passes.values()) / per_second / accelerator.num_processes, 1),
        **({"tuning": plan_tuning(config, teacher, len(images), len(validation), per_second)} if validation else {}),
        "label_bytes": label_bytes(distilled, spec.num_classes, values_for(StoredLabels, config)),
        "output_dir": config.output_dir,
    }


def plan_tuning(
    config: DistillConfig, teacher: Classifier, images: int, validation: int, per_second: float
) -> dict[str, Any]:
    """The students that `tune` trains, for how many steps, what that costs, and about how long it takes.

    Args:
        images: Of the training split.
        validation: Images that each student is measured on.
        per_second: Images of the teacher's forward pass.
    """
    classes = teacher.spec.num_classes
    trials = plan_trials(config.ipc, classes, tuning_budget(config.tune_budget, teacher, images), validation)
    passes = passes_of(trials, classes, validation)
    return {
        "students": len(trials),
        "share_of_the_teachers_training": round(passes / tuning_budget(1, teacher, images), 3),
        "steps": {str(ipc): steps for ipc, steps in steps_of(trials, classes).items()},
        "estimated_seconds": round(passes / per_second, 1),
        **({"note": note} if (note := too_short(trials, classes)) else {}),
    }


def forward_passes(config: DistillConfig, candidates: int, classes: int) -> dict[str, int]:
    """Images that the teacher looks at for one set, by what for."""
    count = {"kernel_shap": config.coalitions + 1, "captum_kernel_shap": config.coalitions + 2, "grad_cam": 3}
    count["exact_shapley"] = 2 ** (config.grid_size**2)
    distilled = classes * sum(config.ipc)
    attributed = distilled * config.tiles_per_image if config.whole_images else candidates
    crops = 1 if config.whole_images else config.crops_per_image
    forwards = {"random": 0, "forgetting": 0, "grad_norm": 4}.get(config.utility or "", 1)
    # Other scores give the features that a diverse selection needs on the way.
    forwards += config.selection not in ("top", "random") and config.utility in ("random", "forgetting", "grad_norm")
    return {
        "attribution": attributed * count.get(config.attribution or "", 0),
        "utility": candidates * crops * forwards,
        "labels": label_passes(distilled, len(config.label_teacher), values_for(StoredLabels, config)),
    }
