"""Distilled sets of others, read from their own formats into a run folder beside decoct's own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Features
from torch import Tensor

from decoct.config import ImportConfig, to_dict, without_effect
from decoct.data.columns import listed
from decoct.data.loading import bit_depth_of, load_images, load_split, measure_spec
from decoct.data.opening import open_split
from decoct.data.pixels import to_pixels
from decoct.data.source import dataset_fingerprint, source_record
from decoct.data.spec import ImageSpec
from decoct.data.tensor_files import SUFFIXES, read_statistics, read_tensors
from decoct.distilled.schema import imported_features, spec_fields
from decoct.models.label_map import match_classes, read_label_map
from decoct.pages.report import write_report
from decoct.pages.sources import collect_sources
from decoct.run.files import written_whole
from decoct.run.folder import check_folder, claim_folder, identity_of, sha256
from decoct.run.lock import writes_alone
from decoct.run.versions import installed_versions
from decoct.synthesis.output import BYTES_PER_FILE, write_card, write_samples_preview
from decoct.synthesis.tiles import png_bytes

__all__ = ["Published", "import_set", "plan_import", "read_set"]

WRITTEN = ("manifest.json", "README.md", "preview.png", "report.html", "results.json", "data/ipc_*/train-*.parquet")
IMAGE_NAMES, LABEL_NAMES = ("images", "image", "data", "x"), ("labels", "label", "targets", "y")
SOFT_NAMES = ("soft_labels", "soft_label", "logits", "probabilities")
ROWS = 256  # encoded at a time
ANY_SIZE = 64  # a side to be resized to lets real images be of different sizes
SUM_TOLERANCE = 1e-3  # of probabilities


@dataclass(frozen=True)
class Published:
    """A set as it was read.

    Args:
        images: `(n, channels, side, side)` uint8, class by class.
        labels: `(n,)` int64, in the dataset's label order.
        soft: `(n, classes)` float32, logits of each image, or None if the set has hard labels alone.
        files: sha256 by name of the files that were read; empty if they are many.
        notes: What was changed on the way, for the manifest.
    """

    images: Tensor
    labels: Tensor
    soft: Tensor | None
    files: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self.labels) // len(self.labels.unique())


@writes_alone
def import_set(config: ImportConfig) -> dict[str, Any]:
    """Writes the run folder of a published set; class names, mean and standard deviation are those of the dataset.

    Returns:
        The manifest.

    Raises:
        ValueError: If the set cannot be read, has other classes than the dataset, not as many images of each, or an
            output folder that belongs to something else.
    """
    published, images, spec = read_set(config)
    folder = Path(config.output_dir)
    claim_folder(folder, _identity(config, published, images), config.overwrite, WRITTEN)
    ipc = published.ipc
    write_rows(folder / f"data/ipc_{ipc}", published, spec)
    versions, unused = installed_versions(), without_effect(config)
    manifest = {
        "decoct_version": versions.get("decoct", "unknown"),
        "config": {
            **{name: value for name, value in to_dict(config).items() if name not in unused},
            **{"views": 0, "slots": 0},
        },
        "dataset": config.dataset,
        "source": source_record(config.dataset, images.info),
        **spec_fields(spec),
        "ipcs": [ipc],
        "versions": versions,
        **({"bit_depth": depth} if (depth := bit_depth_of(images)) else {}),
        "imported": {
            "labels": "hard" if published.soft is None else "soft",
            "files": published.files,
            **published.notes,
        },
    }
    write_samples_preview(folder, [ipc], images, spec, config.method)
    write_report(folder, collect_sources(folder, manifest, images), manifest)
    write_card(folder, manifest)
    return manifest


def plan_import(config: ImportConfig) -> dict[str, Any]:
    """What `import_set` would write; nothing is written."""
    published, images, spec = read_set(config)
    check_folder(Path(config.output_dir), _identity(config, published, images), config.overwrite)
    return {
        "method": config.method,
        "images": len(published.images),
        "ipc": published.ipc,
        "image_size": spec.image_size,
        "labels": "hard" if published.soft is None else "soft",
        **published.notes,
        "output_dir": config.output_dir,
    }


def _identity(config: ImportConfig, published: Published, images: Dataset) -> dict[str, Any]:
    tensors = [each for each in (published.images, published.labels, published.soft) if each is not None]
    digest = hashlib.sha256(b"".join(hashlib.sha256(each.numpy().tobytes()).digest() for each in tensors)).hexdigest()
    return identity_of(to_dict(config), data=dataset_fingerprint(images), imported=digest)


def read_set(config: ImportConfig) -> tuple[Published, Dataset, ImageSpec]:
    """The set, the training images of its dataset, and what the set's images are like.

    Raises:
        ValueError: As `import_set`, but for the output folder.
    """
    source = Path(config.source).expanduser()
    file = image_file(source)
    if file is None and (config.mean or config.labels or config.in_class_order):
        raise ValueError(
            "mean, std, labels and in_class_order must be left out where the set holds encoded images in class "
            f"folders or parquet. Got them for {config.source}."
        )
    if file is not None and config.image_size is not None:
        raise ValueError(f"image_size must be left out for tensors, which keep their own. Got {config.image_size}.")
    images = load_split(config, config.train_split, ANY_SIZE)
    names = images.features["label"].names
    read = read_images(config, names) if file is None else read_tensor_set(config, file, len(names))
    check_counts(read.labels, names, config.source)
    order = torch.argsort(read.labels, stable=True)
    soft = None if read.soft is None else read.soft[order]
    if soft is not None and config.tiles_per_image > 1:
        raise ValueError(f"tiles_per_image must be 1 for images with soft labels. Got {config.tiles_per_image}.")
    published = Published(read.images[order], read.labels[order], soft, read.files, read.notes)
    spec = measure_spec(images, published.images.shape[-1])
    if spec.channels != published.images.shape[1]:
        raise ValueError(
            f"The images of {config.source} must have {spec.channels} channels, as those of {config.dataset}. "
            f"Got {published.images.shape[1]}."
        )
    return published, images, spec


# Images in class folders, parquet or a dataset of the Hub


def read_images(config: ImportConfig, names: Sequence[str]) -> Published:
    """Encoded images, and the soft labels in a column or a file beside them; `names` are the dataset's classes."""
    found = load_images(config.source, image_size=config.image_size)
    own = found.features["label"].names
    classes = class_numbers(own, names, config)
    labels = torch.tensor([classes[label] for label in found["label"][:]])
    side, channels = config.image_size or found[0]["image"].size[0], 1 if found.features["image"].mode == "L" else 3
    images = torch.cat([
        to_pixels(found[start : start + ROWS]["image"], side, channels) for start in range(0, len(found), ROWS)
    ])  # fmt: skip
    soft: Tensor | None = None
    notes: dict[str, Any] = {}
    files: dict[str, str] = {}
    if config.soft_labels is not None:
        if Path(config.soft_labels).suffix.lower() in SUFFIXES:
            path = Path(config.soft_labels)
            values, files = one_of(read_tensors(path), SOFT_NAMES + LABEL_NAMES, path), {path.name: sha256(path)}
        else:
            rows = open_split(config.source, "train", None)
            if config.soft_labels not in rows.column_names:
                raise ValueError(
                    f"soft_labels must be one of {rows.column_names}, the columns of {config.source}, or a file of "
                    f"tensors. Got {config.soft_labels!r}."
                )
            values = torch.tensor(np.stack(rows.with_format("numpy")[config.soft_labels][:]))
        soft, notes = to_logits(values[torch.tensor(found["source_index"][:])], len(names), config.source)
        if own != list(names):  # their columns are in the set's own order
            soft = soft[:, torch.argsort(torch.tensor(classes))]
    return Published(images, labels, soft, files, notes)


def class_numbers(own: Sequence[str], names: Sequence[str], config: ImportConfig) -> list[int]:
    """The dataset's number of each class of a set: by name, or by the one number in each folder's name.

    Raises:
        ValueError: If they cannot be told, with the names of both.
    """
    numbers = [[int(digits) for digits in "".join(c if c.isdigit() else " " for c in name).split()] for name in own]
    if config.label_map is None and not {*own} & {*names} and all(len(each) == 1 for each in numbers):
        found = [each[0] for each in numbers]
        if sorted(found) == list(range(len(names))):
            return found
    labels = match_classes(
        own, names, f"the set {config.source}", f"the dataset {config.dataset}", read_label_map(config.label_map)
    )
    if len(own) != len(names):
        extra = [name for label, name in enumerate(own) if label not in set(labels)]
        raise ValueError(
            f"{config.source} must have the classes of {config.dataset} and no others. Got {listed(extra)} as well."
        )
    return [labels.index(label) for label in range(len(own))]


# Files of tensors


def image_file(source: Path) -> Path | None:
    """The file with the images' tensor; None where the set is none of tensors.

    Raises:
        ValueError: If a folder has several, or files of tensors of which none is called so.
    """
    if source.suffix.lower() in SUFFIXES:
        if not source.is_file():
            raise ValueError(f"source must be an existing file. Got {source}.")
        return source
    files = [path for path in sorted(source.iterdir()) if path.suffix.lower() in SUFFIXES] if source.is_dir() else []
    named = [path for path in files if "image" in path.name.lower()]
    if files and len(named) != 1:
        raise ValueError(
            f"source must be a folder with one file of tensors that has `image` in its name. Got {source}, with "
            f"{listed([path.name for path in named or files])}: name the file itself."
        )
    return named[0] if named else None


def read_tensor_set(config: ImportConfig, file: Path, classes: int) -> Published:
    """A set whose images are a tensor, with labels in the same file, in one beside it, or in order of the classes."""
    tensors = read_tensors(file)
    images = one_of(tensors, IMAGE_NAMES, file)
    files = {file.name: sha256(file)}
    mean, std = (config.mean, config.std) if config.mean else read_statistics(file)
    pixels, notes = to_uint8(images, mean, std, file)
    labels = next((tensors[name] for name in LABEL_NAMES if name in tensors), None)
    soft = next((tensors[name] for name in SOFT_NAMES if name in tensors), None)
    beside = file.with_name(file.name.replace("images", "labels").replace("image", "label"))
    path = Path(config.labels) if config.labels else beside
    if config.labels or (labels is None and soft is None and beside != file and beside.is_file()):
        labels, files[path.name] = one_of(read_tensors(path), LABEL_NAMES + SOFT_NAMES, path), sha256(path)
    if config.soft_labels:
        path = Path(config.soft_labels)
        soft, files[path.name] = one_of(read_tensors(path), SOFT_NAMES + LABEL_NAMES, path), sha256(path)
    if labels is not None and labels.is_floating_point() and labels.dim() == 2:
        labels, soft = None, labels
    logits, more = (None, {}) if soft is None else to_logits(soft, classes, file)
    hard = hard_labels(labels, logits, len(pixels), classes, config)
    for name, each in (("labels", hard), ("soft labels", logits)):
        if each is not None and len(each) != len(pixels):
            raise ValueError(f"{file} must have {name} for each of its {len(pixels)} images. Got {len(each)}.")
    return Published(pixels, hard, logits, files, {**notes, **more})


def one_of(tensors: dict[str, Tensor], names: Sequence[str], path: Path) -> Tensor:
    """The tensor that has one of some names, or the only one; raises ValueError if it cannot be told."""
    found = next((tensors[name] for name in names if name in tensors), None)
    if found is None and len(tensors) == 1:
        found = next(iter(tensors.values()))
    if found is None:
        raise ValueError(f"{path} must have a tensor called one of {list(names)}. Got {listed(list(tensors))}.")
    return found


def hard_labels(
    labels: Tensor | None, logits: Tensor | None, images: int, classes: int, config: ImportConfig
) -> Tensor:
    """Each image's class: as given, by its place, or the one that its soft label is largest for."""
    if config.in_class_order:
        if images % classes:
            raise ValueError(f"in_class_order must be for as many images of each of {classes} classes. Got {images}.")
        return torch.arange(images) // (images // classes)
    if labels is not None:
        whole = labels.long()
        if labels.dim() != 1 or not bool((whole == labels).all()):
            raise ValueError(
                f"labels of {config.source} must be a class number for each image, or a row of soft labels. "
                f"Got a tensor of shape {tuple(labels.shape)}."
            )
        if len(whole) and not 0 <= int(whole.min()) <= int(whole.max()) < classes:
            raise ValueError(
                f"labels of {config.source} must be from 0 to {classes - 1}, the classes of {config.dataset}. "
                f"Got {int(whole.min())} to {int(whole.max())}."
            )
        return whole
    if logits is None:
        raise ValueError(
            f"{config.source} must have labels. Got images alone: name their file with --labels, or say "
            "--in_class_order if they lie class by class."
        )
    found = logits.argmax(1)
    if len(set(torch.bincount(found, minlength=classes).tolist())) > 1:
        raise ValueError(
            f"The largest soft labels of {config.source} must be as many for each class. Got others: name the classes "
            "with --labels, or say --in_class_order if the images lie class by class."
        )
    return found


def to_uint8(images: Tensor, mean: Sequence[float], std: Sequence[float], file: Path) -> tuple[Tensor, dict[str, Any]]:
    """Pixels `(n, channels, side, side)` uint8 of a tensor, and how many values left [0, 1] and were clipped.

    Args:
        images: Pixels as bytes, or numbers that `mean` and `std` were taken from; without them, in [0, 1].

    Raises:
        ValueError: If they have another shape, are not finite, or seem to be normalised by numbers that are not given.
    """
    if images.dim() != 4 or images.shape[2] != images.shape[3] or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            f"{file} must hold square images (n, channels, side, side) of 1 or 3 channels. Got {tuple(images.shape)}."
        )
    if images.dtype == torch.uint8 and not mean:
        return images.contiguous(), {}
    values = images.float()
    if not bool(torch.isfinite(values).all()):
        row = int((~torch.isfinite(values)).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"The pixels of {file} must be finite. Got others in image {row}.")
    channels = images.shape[1]
    if mean and len(mean) not in (1, channels):
        raise ValueError(f"mean must have a number for each of the {channels} channels of {file}. Got {list(mean)}.")
    if mean:
        shape = (1, -1, 1, 1)
        values = values * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    elif float(values.min()) < 0 or float(values.max()) > 1:
        raise ValueError(
            f"The pixels of {file} must be in [0, 1] where no mean and std are given. Got {float(values.min()):.3g} to "
            f"{float(values.max()):.3g}: give those that its method normalised by, with --mean and --std."
        )
    outside = (values < 0) | (values > 1)
    beyond = float(torch.maximum(-values, values - 1).max().clamp_min(0))
    notes: dict[str, Any] = {
        "values": values.numel(),
        "clipped": int(outside.sum()),
        "clipped_by_at_most": round(beyond, 4),
    }
    if mean:
        notes |= {"mean": list(mean), "std": list(std)}
    return (values.clamp(0, 1) * 255).round().to(torch.uint8), notes


def to_logits(soft: Tensor, classes: int, source: object) -> tuple[Tensor, dict[str, Any]]:
    """Soft labels as logits that float16 can hold, and what they were: of probabilities, their logarithms.

    Raises:
        ValueError: If they are no rows of that many numbers, or not finite.
    """
    if soft.dim() != 2 or soft.shape[1] != classes:
        raise ValueError(f"Soft labels of {source} must have {classes} numbers a row. Got {tuple(soft.shape)}.")
    values = soft.float()
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"Soft labels of {source} must be finite. Got others.")
    probable = bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < SUM_TOLERANCE).all())
    if probable:
        # The smallest number of float32 has the logarithm -87; a class of no probability is as improbable.
        return values.clamp_min(torch.finfo(torch.float32).tiny).log(), {"soft_labels": "probabilities"}
    most = float(values.abs().max())
    if most > torch.finfo(torch.float16).max:
        raise ValueError(f"Soft labels of {source} must be logits that float16 can hold. Got up to {most:.3g}.")
    return values, {"soft_labels": "logits"}


# Writing


def check_counts(labels: Tensor, names: Sequence[str], source: str) -> None:
    """Raises ValueError unless each class has as many images."""
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    if len(set(counts)) > 1:
        shown = [f"{name} ({count})" for name, count in zip(names, counts, strict=True)]
        raise ValueError(f"{source} must have as many images of each class. Got {listed(shown)}.")


def write_rows(folder: Path, published: Published, spec: ImageSpec) -> None:
    """Writes `train-*.parquet`, few encoded images at a time."""
    features: Features = imported_features(spec, published.soft is not None)
    count, schema = len(published.images), features.arrow_schema
    files = max(1, math.ceil(published.images.nbytes / (2 * BYTES_PER_FILE)))  # PNG takes about half
    per_file = math.ceil(count / files)
    for number, first in enumerate(range(0, count, per_file)):
        path = folder / f"train-{number:05d}-of-{math.ceil(count / per_file):05d}.parquet"
        with written_whole(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for start in range(first, min(first + per_file, count), ROWS):
                rows = slice(start, min(start + ROWS, first + per_file, count))
                columns: dict[str, Any] = {
                    "image": [{"bytes": png_bytes(each), "path": None} for each in published.images[rows]],
                    "label": published.labels[rows].tolist(),
                }
                if published.soft is not None:
                    columns["tile_logits"] = published.soft[rows][:, None].half().numpy()
                table = Dataset.from_dict(columns, features=features).with_format("arrow")[:]
                writer.write_table(table.select(list(features)).cast(schema))
