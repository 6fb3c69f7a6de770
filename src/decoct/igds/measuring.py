"""Measuring the information of datasets, real or distilled, with a variational estimator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from datasets.utils import tqdm
from torch import Tensor
from torch.utils.data import DataLoader

from decoct.config import InformationConfig, to_dict
from decoct.data.loading import check_label_names, load_split
from decoct.data.mosaic import unpack
from decoct.data.pixels import to_pixels
from decoct.distilled.dataset import DistilledSet, commit_of, load_distilled, read_manifest, spec_of
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.information import class_references, contextual_score, label_entropy, prototype_information
from decoct.igds.loading import label_names, load_estimator
from decoct.pipelines.igds.estimates import estimator_input
from decoct.run.finite import require_finite
from decoct.run.folder import write_json
from decoct.run.lock import writes_alone
from decoct.run.precision import autocast
from decoct.run.processes import close, device_name, open_accelerator
from decoct.run.versions import installed_versions

__all__ = [
    "Embedded",
    "InformationReport",
    "embed",
    "information",
    "measure",
    "plan_information",
    "report_of",
]


@dataclass(frozen=True)
class Embedded:
    """What an estimator says about every image (or tile) of a set, on the CPU.

    Args:
        embeddings: `(rows, dim)` float32 unit vectors.
        logits: `(rows, classes)` float32.
        labels: `(rows,)` int64.
    """

    embeddings: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def correct(self) -> Tensor:
        """`(rows,)` bool, whether the classifier recognises the row."""
        return self.logits.argmax(dim=1) == self.labels


@dataclass(frozen=True)
class InformationReport:
    """Both estimates of a set, in nats; lists are in label order, with None for a class without images.

    Args:
        images: Images, or tiles of composites.
        label_entropy: H(Y), the most that the prototype information can be.
        prototype: Prototype information.
        prototype_per_class: By class; see `prototype_information`.
        contextual: Contextual score against the set's own class means.
        contextual_per_class: By class.
        contextual_to_reference: Contextual score against the class means of another set, or None.
        contextual_to_reference_per_class: By class.
        accuracy: Share that the estimator's classifier recognises.
    """

    images: int
    label_entropy: float
    prototype: float
    prototype_per_class: list[float | None]
    contextual: float
    contextual_per_class: list[float | None]
    contextual_to_reference: float | None
    contextual_to_reference_per_class: list[float | None] | None
    accuracy: float


def measure(
    images: datasets.Dataset, estimator: VariationalEstimator, temperature: float = 0.07, **options: Any
) -> InformationReport:
    """Both estimates of a labelled image dataset, real or distilled.

    Args:
        images: Dataset with columns `image` and `label`.
        estimator: In eval mode.
        temperature: Temperature of the softmax over features (tau).
        options: Those of `embed`; the result does not depend on the batch size.
    """
    return report_of(embed(images, estimator, **options), temperature)


def report_of(embedded: Embedded, temperature: float, reference: Tensor | None = None) -> InformationReport:
    """Both estimates of embedded images; with `(classes, dim)` class means as reference, the score against them too."""
    labels = embedded.labels
    prototype = prototype_information(embedded.logits, labels)
    own = class_references(embedded.embeddings, labels, temperature, embedded.logits.shape[1])
    contextual = contextual_score(embedded.embeddings, labels, temperature, own)
    other = None if reference is None else contextual_score(embedded.embeddings, labels, temperature, reference)
    return InformationReport(
        images=len(labels),
        label_entropy=label_entropy(labels),
        prototype=prototype.overall,
        prototype_per_class=prototype.by_class(),
        contextual=contextual.overall,
        contextual_per_class=contextual.by_class(),
        contextual_to_reference=None if other is None else other.overall,
        contextual_to_reference_per_class=None if other is None else other.by_class(),
        accuracy=float(embedded.correct.double().mean()),
    )


@torch.no_grad()
def embed(
    images: datasets.Dataset | DistilledSet,
    estimator: VariationalEstimator,
    *,
    batch_size: int = 256,
    image_size: int | None = None,
    tiles_per_image: int = 1,
    device: torch.device | str = "cpu",
    mixed_precision: str = "no",
    num_workers: int = 0,
) -> Embedded:
    """Embeddings and logits of every image, or of every tile of composites, image by image; pixels are not kept.

    Args:
        images: Dataset with columns `image` and `label`, or a distilled set.
        estimator: In eval mode; it is moved to the device. Images are resized and normalised as its config says.
        batch_size: Tiles per forward pass, at least one image's.
        image_size: Side in pixels to which images are resized first. Default: that of the first image.
        tiles_per_image: Tiles of a composite, a square number, which are cut apart.
        device: Where the forward passes run.
        mixed_precision: `no`, `bf16` or `fp16`.
        num_workers: Processes that decode images.

    Raises:
        ValueError: If there are no images.
    """
    if len(images) == 0:
        raise ValueError("images must have at least one row. Got none.")
    device = torch.device(device)
    estimator.to(device).eval()  # type: ignore[arg-type]
    config: Any = estimator.config
    per_pass = max(1, batch_size // tiles_per_image)
    if isinstance(images, DistilledSet):
        batches = _batches_of_set(images, per_pass, image_size, config.num_channels)
    else:
        side = image_size or images[0]["image"].size[0]
        batches = _batches(images, per_pass, side, config.num_channels, num_workers)
    embeddings: list[Tensor] = []
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    names = label_names(estimator)
    for pixels, given in batches:
        tiles = unpack(pixels, tiles_per_image).flatten(0, 1).to(device)
        with autocast(device, mixed_precision):
            output = estimator(estimator_input(tiles.float() / 127.5 - 1, config))
        classes = given.repeat_interleave(tiles_per_image)
        place_of = partial(_place_of_tile, sum(len(each) for each in labels), classes, names)
        require_finite(output.embeddings, "embeddings of the estimator", place_of)
        require_finite(output.logits, "logits of the estimator", place_of)
        embeddings.append(output.embeddings.float().cpu())
        logits.append(output.logits.float().cpu())
        labels.append(classes)
    return Embedded(torch.cat(embeddings), torch.cat(logits), torch.cat(labels))


def _place_of_tile(first: int, classes: Tensor, names: list[str], row: int) -> str:
    return f"tile {first + row} of class {names[int(classes[row])]!r}"


def _batches(
    images: datasets.Dataset, size: int, side: int, channels: int, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of uint8 pixels and labels, in order, decoded when they are read."""
    rows: Any = images.select_columns(["image", "label"]).with_format(None)
    decode = partial(_decode, side=side, channels=channels)
    loader = DataLoader(rows, batch_size=size, collate_fn=decode, num_workers=num_workers)
    yield from tqdm(loader, desc="Measuring information", unit="batch")


def _batches_of_set(
    distilled: DistilledSet, size: int, side: int | None, channels: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Likewise of a distilled set, whose images are read already."""
    spec = distilled.spec
    if spec.channels not in (1, channels) or side not in (None, spec.image_size):
        raise ValueError(
            f"A distilled set must have images of {channels} channels, as the estimator, and its own size. Got "
            f"{spec.channels} channels, and {side} px for {spec.image_size} px."
        )
    images = distilled.images.expand(-1, channels, -1, -1)
    parts = zip(images.split(size), distilled.labels.split(size), strict=True)
    yield from tqdm(parts, desc="Measuring information", unit="batch")


def _decode(rows: list[dict[str, Any]], side: int, channels: int) -> tuple[Tensor, Tensor]:
    labels = torch.tensor([row["label"] for row in rows], dtype=torch.int64)
    return to_pixels([row["image"] for row in rows], side, channels), labels


@writes_alone
def information(config: InformationConfig) -> dict[str, Any]:
    """Both estimates of a dataset and, with `config.distilled`, of every IPC of a distilled set beside it.

    Returns:
        `source` and `distilled` (by IPC) as `InformationReport` fields, with the settings they were measured with;
        with `output_dir` it is also written to information.json.

    Raises:
        ValueError: If the estimator, the dataset and the distilled set do not have the same label names, or several
            processes were launched.
    """
    accelerator = _one_process(config.mixed_precision)
    estimator, images, distilled, tiles = _load(config)
    result = _measure_all(config, estimator, images, distilled, tiles, accelerator.device)
    close(accelerator)
    if config.output_dir is not None:
        write_json(Path(config.output_dir) / "information.json", result)
    return result


def plan_information(config: InformationConfig) -> dict[str, Any]:
    """What `information` would do; a forward pass is one image's. Nothing is written."""
    accelerator = _one_process(config.mixed_precision)
    _, images, distilled, tiles = _load(config)
    close(accelerator)
    passes = {f"IPC {ipc}": len(each) * tiles for ipc, each in distilled.items()}
    return {
        "dataset": config.dataset,
        "images": len(images),
        "distilled": config.distilled or "none",
        **({"tiles": passes} if passes else {}),
        "forward_passes": len(images) + sum(passes.values()),
        "batch_size": config.batch_size,
    }


def _one_process(mixed_precision: str) -> Accelerator:
    accelerator = open_accelerator(mixed_precision)
    if accelerator.num_processes > 1:
        raise ValueError(f"information must run in one process. Got {accelerator.num_processes}.")
    return accelerator


def _load(
    config: InformationConfig,
) -> tuple[VariationalEstimator, datasets.Dataset, dict[int, DistilledSet], int]:
    """The estimator, the dataset, the distilled sets by IPC and their tiles per image, with label names that agree."""
    estimator = load_estimator(config.estimator)
    images = load_split(config, config.train_split)
    names = images.features["label"].names
    check_label_names(label_names(estimator), names, config.estimator, config.dataset)
    return estimator, images, *_distilled_sets(config.distilled, names, config.dataset)


def _distilled_sets(folder_or_hub_id: str | None, names: list[str], source: str) -> tuple[dict[int, DistilledSet], int]:
    """The images of a distilled set by IPC, and its tiles per image; none without a set."""
    if folder_or_hub_id is None:
        return {}, 1
    revision = commit_of(folder_or_hub_id)
    manifest = read_manifest(folder_or_hub_id, revision)
    check_label_names(names, spec_of(manifest).label_names, source, folder_or_hub_id)
    sets = {ipc: load_distilled(folder_or_hub_id, ipc, revision) for ipc in manifest["ipcs"]}
    return sets, next(iter(sets.values())).tiles_per_image


def _measure_all(
    config: InformationConfig,
    estimator: VariationalEstimator,
    images: datasets.Dataset,
    distilled: dict[int, DistilledSet],
    tiles: int,
    device: torch.device,
) -> dict[str, Any]:
    """Measures the source and every IPC."""
    options: dict[str, Any] = {
        "batch_size": config.batch_size,
        "device": device,
        "mixed_precision": config.mixed_precision,
        "num_workers": config.num_workers,
    }
    embedded = embed(images, estimator, image_size=config.image_size, **options)
    source = report_of(embedded, config.temperature)
    means = class_references(embedded.embeddings, embedded.labels, config.temperature, embedded.logits.shape[1])
    reports = {
        str(ipc): report_of(embed(each, estimator, tiles_per_image=tiles, **options), config.temperature, means)
        for ipc, each in distilled.items()
    }
    return {
        "label_names": images.features["label"].names,
        "contextual_bound": math.log(embedded.embeddings.shape[1]),
        "source": dataclasses.asdict(source),
        "distilled": {ipc: dataclasses.asdict(report) for ipc, report in reports.items()},
        "tiles_per_image": tiles,
        "config": to_dict(config),
        "device": device_name(device),
        "versions": installed_versions(),
    }
