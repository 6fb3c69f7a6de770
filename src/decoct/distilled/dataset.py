"""Reading a distilled set, from its run folder or from the Hub, into tensors."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, load_dataset
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
)
from torch import Tensor

from decoct.config import LABEL_MODES
from decoct.data.inspection import DECODE_ERRORS, reason_of
from decoct.data.pixels import to_pixels
from decoct.data.source import LOCATION, location_of
from decoct.data.spec import ImageSpec
from decoct.distilled.logit_codes import code_width, decode_logits, kept_classes, spread
from decoct.distilled.manifest import MANIFEST, check_fields, check_mixed_views
from decoct.distilled.parquet import check_data
from decoct.distilled.schema import spec_fields, spec_of
from decoct.files import one_line, read_json

__all__ = ["DistilledSet", "Slots", "commit_of", "folder_of", "load_distilled", "read_manifest", "spec_of"]


@dataclass(frozen=True)
class Slots:
    """The stored labels of a set's mixed views (`decoct.data.mixed_views`).

    Args:
        codes: `(n, slots, bytes)` uint8, see `decoct.distilled.logit_codes`.
        scales: `(n, slots)` float16.
        bits: Of a logit, 8 or 4.
        seed: Of the views' geometry.
        smallest_area: Of a view's crop, as a share of the image's.
        kept: `(n, slots, k)` int32, the classes whose logits are stored, or None if those of all classes are.
        rest: `(n, slots)` float16, the logit of each other class; given if `kept` is.
    """

    codes: Tensor
    scales: Tensor
    bits: int
    seed: int
    smallest_area: float
    kept: Tensor | None = None
    rest: Tensor | None = None

    def logits(self, images: Tensor, slots: Tensor, classes: int) -> Tensor:
        """Logits `(batch, classes)` float32 of a slot of each image; no others are decoded."""
        codes, scales = self.codes[images, slots], self.scales[images, slots]
        if self.kept is None or self.rest is None:
            return decode_logits(codes, scales, classes, self.bits)
        kept = self.kept[images, slots]
        largest = decode_logits(codes, scales, kept.shape[-1], self.bits)
        return spread(largest, kept, self.rest[images, slots], classes)

    @property
    def top_k(self) -> int:
        """Classes of a view whose logits are stored; 0: all."""
        return 0 if self.kept is None else self.kept.shape[-1]

    def tensors(self) -> dict[str, Any]:
        """What is stored, by field."""
        names = ("codes", "scales", "kept", "rest")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def to(self, device: torch.device) -> Slots:
        """The same on a device."""
        return dataclasses.replace(self, **{name: each.to(device) for name, each in self.tensors().items()})

    def head(self, count: int) -> Slots:
        """Those of the first images."""
        return dataclasses.replace(self, **{name: each[:count] for name, each in self.tensors().items()})


@dataclass(frozen=True)
class DistilledSet:
    """A distilled set of one IPC.

    Args:
        images: `(n, channels, side, side)` uint8.
        labels: `(n,)` int64.
        tile_logits: `(n, tiles, classes)` float32, the teacher's logits of each tile, or None if not stored.
        view_logits: `(n, views, classes)` float16, the teacher's logits of fixed views, or None if not stored.
        view_boxes: `(n, views, 5)` float32: top, left, height, width in shares of the side, and flip (0 or 1).
        ipc: Images per class.
        tiles_per_image: Tiles of an image, row by row: 1 or a square number.
        manifest: The run's `manifest.json`.
        slots: The labels of its mixed views, or None if not stored.
    """

    images: Tensor
    labels: Tensor
    tile_logits: Tensor | None
    view_logits: Tensor | None
    view_boxes: Tensor | None
    ipc: int
    tiles_per_image: int
    manifest: dict[str, Any]
    slots: Slots | None = None

    @classmethod
    def unlabelled(
        cls, images: Tensor, labels: Sequence[int], ipc: int, tiles_per_image: int, spec: ImageSpec
    ) -> DistilledSet:
        """Images in memory without stored labels, to be trained on with labels `online` or `hard`."""
        hard = torch.tensor(labels, dtype=torch.int64)
        return cls(images, hard, None, None, None, ipc, tiles_per_image, spec_fields(spec))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def spec(self) -> ImageSpec:
        """Size, channels, normalisation and label names, from the manifest."""
        return spec_of(self.manifest)

    def fingerprint(self) -> str:
        """Sha256 over images, labels and logits."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels, self.tile_logits, self.view_logits, self.view_boxes):
            if tensor is not None:
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        if self.slots is not None:
            digest.update(f"slots {self.slots.bits} {self.slots.seed} {self.slots.smallest_area}".encode())
            for tensor in self.slots.tensors().values():
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def head(self, count: int) -> DistilledSet:
        """Its first `count` images. Labels of mixed views, whose partners may be left out, no longer fit: time only."""
        return dataclasses.replace(
            self,
            images=self.images[:count],
            labels=self.labels[:count],
            tile_logits=None if self.tile_logits is None else self.tile_logits[:count],
            view_logits=None if self.view_logits is None else self.view_logits[:count],
            view_boxes=None if self.view_boxes is None else self.view_boxes[:count],
            slots=None if self.slots is None else self.slots.head(count),
        )

    def check_labels(self, labels: str) -> None:
        """Raises ValueError if the logits of a label mode are not stored, and says how to get them."""
        stored = {"tiles": self.tile_logits, "views": self.view_logits, "mixed": self.slots}
        if labels not in stored or stored[labels] is not None:
            return
        present = [mode for mode in LABEL_MODES if mode not in stored or stored[mode] is not None]
        if "imported" in self.manifest:
            raise ValueError(
                f"labels must be one of {present} for this set, which was imported. Got {labels!r}: evaluate with "
                f"--labels {'hard' if self.tile_logits is None else 'tiles'}, or --labels online --teacher FOLDER."
            )
        what, how = {
            "tiles": ("tile_logits", "a teacher"),
            "views": ("views", "--views 50"),
            "mixed": ("mixed views", "--slots 300"),
        }[labels]
        instead = "mixed" if self.slots is not None else "online" if self.view_logits is None else "views"
        protocol = " --protocols rded_kd" if instead == "views" else ""  # sets with views alone were made for it
        raise ValueError(
            f"labels must be one of {present} for this set. Got {labels!r}, but it stores no {what}: distil again with "
            f"{how}, or evaluate with --labels {instead}{protocol}."
        )


def load_distilled(folder_or_hub_id: str | Path, ipc: int, revision: str | None = None) -> DistilledSet:
    """The distilled set of one IPC.

    Args:
        folder_or_hub_id: Run folder or Hub dataset id.
        ipc: Images per class; one of the manifest's `ipcs`.
        revision: Branch, tag or commit on the Hub. Default: the commit that `main` is at now. All is read at one.

    Raises:
        ValueError: If the folder or its manifest does not exist, the IPC is not in it, or an image has another size
            than the manifest says.
    """
    revision = commit_of(folder_or_hub_id, revision)
    manifest = read_manifest(folder_or_hub_id, revision)
    if ipc not in manifest["ipcs"]:
        raise ValueError(f"ipc must be one of {manifest['ipcs']}, those of {folder_or_hub_id}. Got {ipc}.")
    # Not the card's configurations: a card could name any file.
    files = {"train": f"data/ipc_{ipc}/*.parquet"}
    spec = spec_of(manifest)
    folder = folder_of(folder_or_hub_id, ipc, revision)
    check_data(folder, ipc, spec.num_classes, folder_or_hub_id)
    dataset = load_dataset(str(folder), data_files=files, split="train")
    _check_labels(dataset, spec, f"{folder_or_hub_id}, ipc_{ipc}")
    if len(dataset) != ipc * spec.num_classes:
        raise ValueError(
            f"ipc_{ipc} of {folder_or_hub_id} must have {ipc} images of each of {spec.num_classes} classes. "
            f"Got {len(dataset)} images in all; `decoct verify` tells more."
        )
    tile_logits = _array(dataset, "tile_logits", torch.float32)
    tiles = manifest["config"]["tiles_per_image"] if tile_logits is None else tile_logits.shape[1]
    return DistilledSet(
        images=_images(dataset, spec, f"{folder_or_hub_id}, ipc_{ipc}"),
        labels=torch.tensor(dataset["label"][:], dtype=torch.int64),
        tile_logits=tile_logits,
        view_logits=_array(dataset, "view_logits", torch.float16),
        view_boxes=_array(dataset, "view_boxes", torch.float32),
        ipc=ipc,
        tiles_per_image=tiles,
        manifest=manifest,
        slots=_slots(dataset, manifest),
    )


def folder_of(folder_or_hub_id: str | Path, ipc: int, revision: str | None) -> Path:
    """The run folder, or that of the Hub's cache, with the files of one IPC."""
    location = location_of(folder_or_hub_id, "distilled")
    if isinstance(location, Path):
        return location
    pattern = f"data/ipc_{ipc}/*.parquet"
    with _downloading(location):
        return Path(snapshot_download(location, repo_type="dataset", revision=revision, allow_patterns=pattern))


def read_manifest(folder_or_hub_id: str | Path, revision: str | None = None) -> dict[str, Any]:
    """`manifest.json` of a run folder or Hub dataset.

    Args:
        folder_or_hub_id: Run folder or Hub dataset id.
        revision: Branch, tag or commit on the Hub. Default: `main`.

    Raises:
        ValueError: If the folder or the manifest does not exist, or the manifest is not one.
    """
    return _usable(_manifest_file(folder_or_hub_id, revision), folder_or_hub_id)


def commit_of(folder_or_hub_id: str | Path, revision: str | None = None) -> str | None:
    """The commit of a Hub dataset that a revision is at now, so that several readings are of the same one.

    None for a folder.

    Raises:
        ValueError: As `read_manifest`.
    """
    if Path(folder_or_hub_id).is_dir():
        return None
    return _manifest_file(folder_or_hub_id, revision).parent.name  # the cache has a folder for each commit


def _manifest_file(folder_or_hub_id: str | Path, revision: str | None) -> Path:
    """Where the manifest lies: in the run folder, or in the Hub's cache."""
    location = location_of(folder_or_hub_id, "distilled")
    if isinstance(location, Path):
        if not (location / MANIFEST).is_file():
            raise ValueError(
                f"distilled must be a folder with manifest.json, which distilling ends with. Got {location}."
            )
        return location / MANIFEST
    with _downloading(location):
        return Path(hf_hub_download(location, MANIFEST, repo_type="dataset", revision=revision))


@contextmanager
def _downloading(repository: str) -> Iterator[None]:
    """Raises ValueError for what the Hub does not have, and for one that cannot be asked."""
    try:
        yield
    except RemoteEntryNotFoundError as error:
        raise ValueError(
            f"distilled must be a dataset published by decoct. Got {repository}, which has no manifest.json."
        ) from error
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ValueError(
            f"distilled must be {LOCATION}. Got {repository}, which cannot be downloaded: {one_line(error)}"
        ) from error


def _usable(file: Path, source: str | Path) -> dict[str, Any]:
    """The manifest in a file; raises ValueError unless it has what reading needs."""
    manifest = read_json(file)
    if problems := check_fields(manifest):
        raise ValueError(f"{source}: manifest.json cannot be used. {problems[0]}")
    return manifest


def _check_labels(dataset: Dataset, spec: ImageSpec, where: str) -> None:
    """Raises ValueError if the label column's names are not the manifest's."""
    feature = dataset.features["label"]
    names = feature.names if isinstance(feature, ClassLabel) else None
    if names != list(spec.label_names):
        raise ValueError(
            f"The label column of {where} must have the manifest's label names {list(spec.label_names)}. Got {names}."
        )


def _images(dataset: Dataset, spec: ImageSpec, where: str) -> Tensor:
    """All images as uint8 pixels; raises ValueError for one that is damaged, or of another size."""
    rows, side, images = [], spec.image_size, dataset.select_columns(["image"])
    for row in range(len(images)):
        try:
            image = images[row]["image"]
        except DECODE_ERRORS as error:
            raise ValueError(
                f"Images of {where} must be readable. Got one in row {row} that is not ({reason_of(error)}): download "
                "or distil them again; `decoct verify` tells more."
            ) from error
        if image.size != (side, side):
            raise ValueError(f"Images must be {side} x {side} px, as in the manifest. Got {image.size} in row {row}.")
        rows.append(to_pixels([image], side, spec.channels))
    return torch.cat(rows)


def _slots(dataset: Dataset, manifest: dict[str, Any]) -> Slots | None:
    """The labels of the mixed views, None if they are not stored; raises ValueError unless they are the manifest's."""
    config, classes = manifest["config"], len(manifest["label_names"])
    codes, scales = _array(dataset, "slot_codes", torch.uint8), _array(dataset, "slot_scales", torch.float16)
    if codes is None or scales is None or not config.get("slots"):
        return None
    if problems := check_mixed_views(config):
        raise ValueError(f"{MANIFEST} cannot be used. {problems[0]}")
    kept = kept_classes(config.get("label_top_k", 0), classes)
    columns = {"slot_classes": torch.int32, "slot_rest": torch.float16} if kept else {}
    names, rest = (_array(dataset, name, dtype) for name, dtype in columns.items()) if kept else (None, None)
    slots = config["slots"]
    wanted = {"slot_codes": (slots, code_width(kept or classes, config["label_bits"])), "slot_scales": (slots, 1)}
    wanted |= {"slot_classes": (slots, kept), "slot_rest": (slots, 1)} if kept else {}
    found = {"slot_codes": codes, "slot_scales": scales, "slot_classes": names, "slot_rest": rest}
    for name, shape in wanted.items():
        got = found[name]
        if got is None or got.shape[1:] != shape:
            raise ValueError(
                f"{name} must be of shape {shape}, by the manifest's slots, label_bits and label_top_k. "
                f"Got {'none' if got is None else tuple(got.shape[1:])}."
            )
    if names is not None and not 0 <= int(names.min()) <= int(names.max()) < classes:
        raise ValueError(f"slot_classes must be below the {classes} classes. Got {int(names.max())}.")
    stored = Slots(codes, scales[..., 0], config["label_bits"], config["seed"], config["view_scale"])
    return stored if names is None or rest is None else dataclasses.replace(stored, kept=names, rest=rest[..., 0])


def _array(dataset: Dataset, column: str, dtype: torch.dtype) -> Tensor | None:
    """A column of equally shaped arrays as one tensor; None if it is absent or has no rows per image."""
    if column not in dataset.column_names:
        return None
    # As it is stored: without the argument `datasets` makes of each code eight bytes, one value at a time.
    array = np.asarray(dataset.select_columns([column]).with_format("numpy", dtype=None)[:][column])
    return torch.from_numpy(array).to(dtype) if array.dtype != object and array.ndim == 3 and array.shape[1] else None
