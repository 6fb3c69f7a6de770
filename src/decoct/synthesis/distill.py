"""Distilling a dataset: score, select, cut, pack, label, write. Each stage leaves shards that a rerun takes up."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, Features, List, Value

from decoct.config import DistillConfig, config_hash, to_dict
from decoct.data.loading import check_label_names, class_counts, load_images
from decoct.data.pixels import to_pixels
from decoct.infoutil.processor import (
    InfoUtilProcessor,
    build_attribution,
    calibrated_batch_size,
    reference_of,
    teacher_forward,
)
from decoct.models.classifier import Classifier
from decoct.models.zoo import load_classifier
from decoct.run_folder import claim_folder, identity_of, read_json, write_json
from decoct.seeding import numpy_generator
from decoct.synthesis.output import merge_shards, write_card, write_preview
from decoct.synthesis.selection import draw_candidates
from decoct.synthesis.shards import run_shards
from decoct.synthesis.tiles import Tile, image_features, images_of, label_images, select_tiles
from decoct.training.processes import close, dataset_fingerprint, open_accelerator
from decoct.versions import installed_versions

__all__ = ["InfoUtil", "distill", "distill_images"]

logger = logging.getLogger(__name__)

WRITTEN = (
    "shards",
    "data/ipc_*",
    "README.md",
    "manifest.json",
    "preview.png",
    "report.html",
    "results.json",
    "evaluation",
)
EARLY_IPC = 10  # InfoUtil, App. B.2: early teachers label up to this IPC


class InfoUtil:
    """InfoUtil as a Python object: `InfoUtil(teacher).distill(images, ipc=10)`.

    Args:
        teacher: In eval mode (`load_classifier`).
        options: Fields of `DistillConfig`.
    """

    def __init__(self, teacher: Classifier, **options: Any) -> None:
        self.teacher, self.options = teacher, options

    def distill(self, images: Dataset, ipc: int, output_dir: str | Path | None = None) -> Dataset:
        """The distilled dataset of one IPC, with the columns of the run folder.

        Args:
            images: From `load_images`.
            ipc: Images per class.
            output_dir: Run folder to keep. Default: a temporary one, removed afterwards.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(output_dir or Path(temporary) / "run")
            options = {"method": "infoutil", "dataset": "in memory", "teacher": self.teacher.name, **self.options}
            config = DistillConfig(ipc=[ipc], output_dir=str(folder), **options)
            distill_images(config, images, self.teacher, Accelerator())
            paths = sorted(map(str, folder.glob(f"data/ipc_{ipc}/*.parquet")))
            return Dataset.from_parquet(paths, keep_in_memory=True)


def distill(config: DistillConfig) -> dict[str, Any]:
    """Distils `config.dataset` into the run folder `config.output_dir`; a rerun of a killed run continues.

    Returns:
        The manifest or, for a dry run, what would be computed and about how long it takes.

    Raises:
        ValueError: If the data, the teacher or the configuration cannot be used, or the folder belongs to another
            configuration.
    """
    accelerator = open_accelerator(config)
    teacher = load_classifier(config.teacher)
    with accelerator.main_process_first():
        images = load_images(
            config.dataset,
            config.train_split,
            config_name=config.dataset_config,
            image_column=config.image_column,
            label_column=config.label_column,
            image_size=config.image_size or teacher.spec.image_size,
            skip_unreadable=config.skip_unreadable,
        )
    run = plan if config.dry_run else distill_images
    result = run(config, images, teacher, accelerator)
    close(accelerator)
    return result


def distill_images(
    config: DistillConfig,
    images: Dataset,
    teacher: Classifier,
    accelerator: Accelerator,
    scores: list[Path] | None = None,
) -> dict[str, Any]:
    """`distill` for images and a teacher in memory.

    Args:
        scores: Shards that `score` made with the same attribution and utility, to try other selections on.
            Default: they are computed.
    """
    folder = Path(config.output_dir)
    candidates = candidates_of(config, images, teacher)
    label_teachers = {ipc: label_teacher(config, teacher, ipc) for ipc in config.ipc}
    networks: dict[str, Any] = {"teacher": network_record(teacher)}
    networks["label_teachers"] = {str(ipc): network_record(each) for ipc, each in label_teachers.items()}
    if accelerator.is_main_process:
        identity = identity_of(to_dict(config), data=dataset_fingerprint(images), **networks)
        claim_folder(folder, identity, config.overwrite, WRITTEN)
    accelerator.wait_for_everyone()
    if (folder / "manifest.json").is_file():
        logger.info("%s holds this run already.", folder)
        return read_json(folder / "manifest.json")
    started = time.perf_counter()
    for network in {id(each): each for each in [teacher, *label_teachers.values()]}.values():
        network.to(accelerator.device)
    batch_size = shared_batch_size(config, teacher, accelerator, folder / "shards")
    scores = scores or score(config, candidates, teacher, batch_size, accelerator, folder)
    tiles = {ipc: select_tiles(scores, teacher.spec, ipc, config) for ipc in config.ipc}
    tiles = with_heatmaps(config, tiles, candidates, teacher, batch_size, accelerator, folder)
    accuracies = {}
    for ipc in config.ipc:
        labelled = label(config, ipc, tiles[ipc], candidates, teacher, label_teachers[ipc], batch_size, accelerator)
        if accelerator.is_main_process:
            features = image_features(teacher.spec, config)
            accuracies[str(ipc)] = merge_shards(labelled, folder / f"data/ipc_{ipc}", features, config.shard_size)
    manifest = {
        **describe(config, teacher, batch_size),
        **networks,
        "candidates": len(candidates),
        "tile_accuracy": accuracies,
        "seconds": round(time.perf_counter() - started, 1),
        "device": device_name(accelerator.device),
    }
    if accelerator.is_main_process:
        rows = {tile.source_index: tile.row for each in tiles.values() for members in each for tile in members}
        write_preview(folder, config.ipc, candidates, rows, teacher.spec)
        write_card(folder, manifest)
        shutil.rmtree(folder / "shards")
    accelerator.wait_for_everyone()
    return read_json(folder / "manifest.json")


def candidates_of(config: DistillConfig, images: Dataset, teacher: Classifier) -> Dataset:
    """The images that are scored: at most `candidates_per_class` of each class, drawn by the seed.

    Raises:
        ValueError: If teacher and dataset have different label names, the images do not divide into tiles, or a class
            has fewer candidates than the tiles that are asked for.
    """
    spec, names = teacher.spec, images.features["label"].names
    check_label_names(spec.label_names, names, f"the teacher {teacher.name}", f"the dataset {config.dataset}")
    if spec.image_size % config.tile_rows:
        raise ValueError(f"tiles_per_image must be 1 for images of odd size ({spec.image_size} px). Got 4.")
    needed = config.tiles_per_image * max(config.ipc)
    limit = config.candidates_per_class
    for name, count in zip(names, class_counts(images), strict=True):
        if min(count, limit or count) < needed:
            found = f"{count} images" if limit is None or count < limit else f"{limit} (candidates_per_class)"
            raise ValueError(
                f"Class {name!r} must have at least {needed} candidates for {config.tiles_per_image} tiles x IPC "
                f"{max(config.ipc)}. Got {found}. Lower --ipc, or raise --candidates_per_class (0: all images)."
            )
    generators = [numpy_generator(config.seed, "candidates", label) for label in range(len(names))]
    rows = draw_candidates(np.asarray(images["label"][:]), len(names), limit, generators)
    return images.select(rows)


def label_teacher(config: DistillConfig, teacher: Classifier, ipc: int) -> Classifier:
    """The teacher that labels an IPC's images.

    Raises:
        ValueError: If an early teacher is asked for and none lies beside the teacher, or its label names differ.
    """
    choice = config.label_teacher
    if choice == "by_ipc":
        choice = "early" if ipc <= EARLY_IPC else "converged"
    if choice == "converged":
        return teacher
    if choice == "early":
        early = sorted(Path(teacher.name).glob("epoch_*"), key=lambda path: int(path.name.removeprefix("epoch_")))
        if not early:
            raise ValueError(
                f"label_teacher must be 'converged' where no early teacher was saved. Got {config.label_teacher!r}, "
                f"but {teacher.name} has no epoch_N folder: train it with --save_epochs 10."
            )
        choice = str(early[0])
    chosen = load_classifier(choice)
    check_label_names(teacher.spec.label_names, chosen.spec.label_names, teacher.name, f"the label teacher {choice}")
    return chosen


def shared_batch_size(config: DistillConfig, teacher: Classifier, accelerator: Accelerator, folder: Path) -> int:
    """The forward batch size: as configured, else calibrated once and kept, so that a resumed run computes alike."""
    kept = folder / "batch_size.json"
    sizes: list[int | None] = [config.batch_size]
    if config.batch_size is None and accelerator.is_main_process:
        if not kept.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(kept, calibrated_batch_size(teacher, config.mixed_precision))
        sizes = [read_json(kept)]
    if accelerator.num_processes > 1:
        broadcast_object_list(sizes)
    return int(sizes[0] or 1)


def score(
    config: DistillConfig,
    candidates: Dataset,
    teacher: Classifier,
    batch_size: int,
    accelerator: Accelerator,
    folder: Path,
) -> list[Path]:
    """Attribution, crops and utility of all candidates, as shards of the processor's columns."""
    reference = None
    if config.utility == "gradient_flow":
        generator = numpy_generator(config.seed, "gradient_flow")
        count = min(config.gradient_flow_references, len(candidates))
        chosen = candidates.select(np.sort(generator.choice(len(candidates), count, replace=False)))
        pixels = to_pixels(chosen["image"][:], teacher.spec.image_size, teacher.spec.channels)
        reference = reference_of(teacher, pixels, np.asarray(chosen["label"][:]), config)
    processor = InfoUtilProcessor(teacher, config, batch_size, reference)
    fingerprint = config_hash({**to_dict(config), "teacher": teacher.fingerprint(), "batch_size": batch_size})

    def compute(start: int, end: int) -> Dataset:
        return candidates.select(range(start, end)).map(
            processor,
            batched=True,
            batch_size=max(1, batch_size),
            with_indices=True,
            features=processor.features,
            remove_columns=candidates.column_names,
            keep_in_memory=True,
            load_from_cache_file=False,
            new_fingerprint=f"{fingerprint}{start:x}",
        )

    return run_shards(folder / "shards", "scores", len(candidates), config.shard_size, accelerator, compute)


def with_heatmaps(
    config: DistillConfig,
    tiles: dict[int, list[list[Tile]]],
    candidates: Dataset,
    teacher: Classifier,
    batch_size: int,
    accelerator: Accelerator,
    folder: Path,
) -> dict[int, list[list[Tile]]]:
    """The tiles with heat maps of the chosen images, where the crops did not need them."""
    attribution = build_attribution(teacher, config, batch_size) if config.whole_images else None
    if attribution is None:
        return tiles
    rows = sorted({tile.row for each in tiles.values() for members in each for tile in members})
    features = Features({"row": Value("int64"), "heatmap": List(List(Value("float32")))})

    def compute(start: int, end: int) -> Dataset:
        chosen = candidates.select(rows[start:end])
        pixels = to_pixels(chosen["image"][:], teacher.spec.image_size, teacher.spec.channels)
        targets = torch.tensor(chosen["label"][:], device=accelerator.device)
        heatmaps = attribution.attribute(pixels.to(accelerator.device).float() / 255, targets)
        return Dataset.from_dict({"row": rows[start:end], "heatmap": heatmaps.cpu().numpy()}, features=features)

    paths = run_shards(folder / "shards", "heatmaps", len(rows), config.shard_size, accelerator, compute)
    table = Dataset.from_parquet(list(map(str, paths)), keep_in_memory=True)
    heatmaps = dict(zip(table["row"][:], table["heatmap"][:], strict=True))
    return {
        ipc: [[dataclasses.replace(tile, heatmap=heatmaps[tile.row]) for tile in members] for members in each]
        for ipc, each in tiles.items()
    }


def label(
    config: DistillConfig,
    ipc: int,
    tiles: list[list[Tile]],
    candidates: Dataset,
    teacher: Classifier,
    labeller: Classifier,
    batch_size: int,
    accelerator: Accelerator,
) -> list[Path]:
    """The images of one IPC with their labels, as shards."""
    images = images_of(tiles, config)
    precision = config.mixed_precision

    def compute(start: int, end: int) -> Dataset:
        return label_images(
            images[start:end],
            candidates,
            teacher.spec,
            config,
            teacher_forward(labeller, precision),
            teacher_forward(teacher, precision),
            accelerator.device,
            batch_size,
        )

    folder = Path(config.output_dir) / "shards"
    return run_shards(folder, f"ipc_{ipc}", len(images), config.shard_size, accelerator, compute)


def describe(config: DistillConfig, teacher: Classifier, batch_size: int) -> dict[str, Any]:
    """The manifest's part that follows from the configuration and the teacher."""
    versions, spec = installed_versions(), teacher.spec
    return {
        "decoct_version": versions.get("decoct", "unknown"),
        "config": to_dict(config),
        "dataset": config.dataset,
        "label_names": list(spec.label_names),
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "image_size": spec.image_size,
        "channels": spec.channels,
        "ipcs": config.ipc,
        "batch_size": batch_size,
        "versions": versions,
    }


def network_record(classifier: Classifier) -> dict[str, str]:
    """A network's name and fingerprint."""
    return {"name": classifier.name, "fingerprint": classifier.fingerprint()}


def device_name(device: torch.device) -> str:
    """The accelerator's model, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def plan(config: DistillConfig, images: Dataset, teacher: Classifier, accelerator: Accelerator) -> dict[str, Any]:
    """What `--dry_run` shows: images, forward passes, and the seconds they take at the measured throughput."""
    candidates = candidates_of(config, images, teacher)
    for ipc in config.ipc:
        label_teacher(config, teacher, ipc)
    teacher.to(accelerator.device)
    batch_size = config.batch_size or calibrated_batch_size(teacher, config.mixed_precision)
    spec = teacher.spec
    batch = torch.rand(batch_size, spec.channels, spec.image_size, spec.image_size, device=accelerator.device)
    forward = teacher_forward(teacher, config.mixed_precision)
    forward(batch)
    started = time.perf_counter()
    for _ in range(3):
        forward(batch).sum().item()
    per_second = 3 * batch_size / (time.perf_counter() - started)
    count = {"kernel_shap": config.coalitions + 1, "captum_kernel_shap": config.coalitions + 2, "grad_cam": 3}
    count["exact_shapley"] = 2 ** (config.grid_size**2)
    attributed = spec.num_classes * sum(config.ipc) * config.tiles_per_image if config.whole_images else len(candidates)
    distilled = spec.num_classes * sum(config.ipc)
    crops = 1 if config.whole_images else config.crops_per_image
    passes = {
        "attribution": attributed * count.get(config.attribution or "", 0),
        "utility": len(candidates) * crops * {"random": 0, "grad_norm": 4}.get(config.utility or "", 1),
        "labels": distilled * (2 * config.tiles_per_image + config.views),
    }
    return {
        "method": config.method,
        "candidates": len(candidates),
        "distilled_images": distilled,
        "tiles": distilled * config.tiles_per_image,
        "forward_passes": passes,
        "images_per_second": round(per_second),
        "estimated_seconds": round(sum(passes.values()) / per_second / accelerator.num_processes, 1),
        "label_bytes": distilled * (2 * spec.num_classes * (config.tiles_per_image + config.views) + 10 * config.views),
        "output_dir": config.output_dir,
    }
