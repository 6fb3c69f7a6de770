"""What every distilling run shares, wherever its tiles come from: folder, teachers, labels, manifest."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import Tensor

from decoct.config import DistillConfig, to_dict, values_for, without_effect
from decoct.config.data import HELD_OUT
from decoct.config.distill import SHARED_WORK
from decoct.data.loading import bit_depth_of
from decoct.data.mixed_views import mixed_views, views_digest
from decoct.data.source import dataset_fingerprint, source_record
from decoct.data.spec import ImageSpec
from decoct.distilled.logit_codes import code_width, encode_logits, encode_top_k, kept_classes
from decoct.distilled.schema import SLOT_COLUMNS, image_features, slot_features, spec_fields
from decoct.files import read_json, read_object
from decoct.models.classifier import Classifier
from decoct.models.ensemble import Ensemble
from decoct.models.label_map import read_label_map
from decoct.models.throughput import calibrated_batch_size, teacher_forward
from decoct.pages.report import write_report
from decoct.pages.sources import collect_sources
from decoct.run.finite import require_finite
from decoct.run.folder import check_folder, claim_folder, identity_of, write_json
from decoct.run.lock import one_writer
from decoct.run.outputs import require_space
from decoct.run.precision import lay_out
from decoct.run.processes import device_name
from decoct.run.shards import ShardsMissing, Share, rows_per_shard, run_shards
from decoct.run.versions import installed_versions
from decoct.synthesis.inputs import only_held_out
from decoct.synthesis.label_teachers import label_teacher
from decoct.synthesis.output import merge_shards, write_card, write_pixels
from decoct.synthesis.relabel import mixed_logits
from decoct.synthesis.tiles import LabelSettings, Mosaics, label_mosaics

__all__ = [
    "DistillRun",
    "StoredLabels",
    "label_bytes",
    "label_passes",
    "rank_record",
    "read_ipc",
    "run_folder",
    "shared_batch_size",
]

logger = logging.getLogger(__name__)

WRITTEN = (
    "manifest.json",
    "README.md",
    "preview.png",
    "report.html",
    "results.json",
    "data/ipc_*/train-*.parquet",
    "evaluation/*.json",
    "evaluation/*.safetensors",
    "shards",
)


class DistillRun:
    """A distilling run from the claim of its folder to its manifest.

    Args:
        config: The run's configuration.
        teacher: Says what the images are like, and which tiles it recognises; on the accelerator's device from
            `start` on.
        accelerator: Of this process.

    Raises:
        ValueError: If a label teacher cannot be had, or its label names are not the teacher's.
    """

    def __init__(self, config: DistillConfig, teacher: Classifier, accelerator: Accelerator) -> None:
        self.config, self.teacher, self.accelerator = config, teacher, accelerator
        self.folder = Path(config.output_dir)
        self.shards = self.folder / "shards"
        self.share = Share(config.rank or 0, config.world_size or 1, config.wait)
        self.label_map = read_label_map(config.label_map)
        self.label_teachers = {
            ipc: label_teacher(config.label_teacher, teacher, ipc, self.label_map) for ipc in config.ipc
        }
        self.networks: dict[str, Any] = {"teacher": network_record(teacher)}
        self.networks["label_teachers"] = {str(ipc): network_record(each) for ipc, each in self.label_teachers.items()}

    def check(self, images: Dataset, **networks: dict[str, Any]) -> None:
        """Raises ValueError as `start`, and touches nothing; arguments as for it."""
        check_room(self.config, self.teacher.spec)
        check_folder(self.folder, self._identity(images, networks), self.config.overwrite)

    def _identity(self, images: Dataset, networks: Mapping[str, Any]) -> dict[str, Any]:
        return identity_of(to_dict(self.config), data=dataset_fingerprint(images), **{**self.networks, **networks})

    def start(self, images: Dataset, **networks: dict[str, str]) -> dict[str, Any] | None:
        """Claims the folder, and returns the manifest if the run is finished already.

        Args:
            images: The whole source; its fingerprint is part of the run's identity.
            networks: Name and fingerprint of further networks that the result depends on.

        Raises:
            ValueError: If the folder belongs to another configuration, or the disk has no room.
        """
        self.images = images
        self.networks |= networks
        check_room(self.config, self.teacher.spec)
        if self.accelerator.is_main_process:
            alone = self.share.ranks == 1
            claim_folder(self.folder, self._identity(images, networks), self.config.overwrite, WRITTEN, alone)
        self.accelerator.wait_for_everyone()
        if (self.folder / "manifest.json").is_file():
            logger.info("%s holds this run already.", self.folder)
            if self.accelerator.is_main_process:
                shutil.rmtree(self.shards, ignore_errors=True)  # a kill may have kept the run from it
            return read_object(self.folder / "manifest.json")
        self.source = source_record(self.config.dataset, images.info)
        # Of a run that goes on, or is merged from the shares of several, nobody knows how long it took.
        self._started = None if any(self.shards.rglob("*.parquet")) else time.perf_counter()
        for network in {id(each): each for each in [self.teacher, *self.label_teachers.values()]}.values():
            lay_out(network, self.accelerator.device)
        self.batch_size = shared_batch_size(
            self.config.batch_size,
            self.shards / "batch_size.json",
            self.teacher,
            self.config.mixed_precision,
            self.accelerator,
        )
        return None

    def label(self, ipc: int, count: int, mosaics_of: Callable[[int, int], Mosaics]) -> float:
        """Labels the images of one IPC in shards, and writes `data/ipc_N`.

        Args:
            count: Images of this IPC.
            mosaics_of: `(first image, end)` to the packed images with their provenance.

        Returns:
            The teacher's accuracy on the tiles; 0 where this process is not the main one, or one of several ranks.
        """
        config, precision = self.config, self.config.mixed_precision
        spec = self.teacher.spec
        features = image_features(spec, config.method, config.tiles_per_image, config.views)
        settings = values_for(LabelSettings, config)

        def compute(start: int, end: int) -> Dataset:
            return label_mosaics(
                mosaics_of(start, end),
                features,
                spec.label_names,
                settings,
                teacher_forward(self.label_teachers[ipc], precision),
                teacher_forward(self.teacher, precision),
                self.accelerator.device,
                self.batch_size,
            )

        size = rows_per_shard(count, config.shard_size)
        shards = run_shards(self.shards, f"ipc_{ipc}", count, size, self.accelerator, compute, self.share)
        slot_shards = self._label_slots(ipc, count, shards) if config.slots else []
        if not self.accelerator.is_main_process or self.share.ranks > 1:
            return 0.0
        stored = config.slots, config.label_bits, config.label_top_k
        columns = image_features(spec, config.method, config.tiles_per_image, config.views, *stored)
        return merge_shards(shards, self.folder / f"data/ipc_{ipc}", columns, slot_shards)

    def _label_slots(self, ipc: int, count: int, shards: Sequence[Path]) -> list[Path]:
        """Shards of the labels of the mixed views, for which any image can be a partner: all lie in a file on disk."""
        config, spec = self.config, self.teacher.spec
        file = self.shards / f"pixels-ipc_{ipc}.npy"
        if self.accelerator.is_main_process and not file.is_file():
            write_pixels(file, shards, count, spec)
        self.accelerator.wait_for_everyone()
        images = torch.from_numpy(np.load(file, mmap_mode="c"))
        views_of = partial(
            mixed_views, seed=config.seed, count=count, side=spec.image_size, smallest_area=config.view_scale
        )
        forward = teacher_forward(self.label_teachers[ipc], config.mixed_precision)
        features = slot_features(spec.num_classes, config.slots, config.label_bits, config.label_top_k)
        kept = kept_classes(config.label_top_k, spec.num_classes)

        def encode(members: Tensor, logits: Tensor) -> tuple[np.ndarray, ...]:
            def place_of(view: int) -> str:
                label, number = divmod(int(members[view]), ipc)
                return f"image {number} of class {spec.label_names[label]!r}"

            values, bits = require_finite(logits, "logits of mixed views", place_of).numpy(), config.label_bits
            return encode_top_k(values, bits, kept) if kept else encode_logits(values, bits)

        def compute(start: int, end: int) -> Dataset:
            device, rows = self.accelerator.device, range(start, end)
            batches = mixed_logits(forward, images, views_of, rows, config.slots, device, self.batch_size)
            # Encoded a batch at a time: of many classes, a shard's logits would be most of the memory of a run.
            parts = zip(*(encode(*batch) for batch in batches), strict=True)
            columns = (np.concatenate(each).reshape(len(rows), config.slots, -1) for each in parts)
            return Dataset.from_dict(dict(zip(SLOT_COLUMNS, columns, strict=False)), features=features)

        size = rows_per_shard(count, config.shard_size)
        return run_shards(self.shards, f"slots_{ipc}", count, size, self.accelerator, compute, self.share)

    def digests(self) -> dict[str, str]:
        """By IPC, what tells where its mixed views lie."""
        config, spec = self.config, self.teacher.spec
        geometry = {"seed": config.seed, "side": spec.image_size, "smallest_area": config.view_scale}
        return {
            str(ipc): views_digest(count=ipc * spec.num_classes, slots=config.slots, **geometry)  # type: ignore[arg-type]
            for ipc in config.ipc
        }

    def finish(self, accuracies: dict[int, float], preview: Callable[[], None], **measured: Any) -> dict[str, Any]:
        """Writes preview, report, card and, last, the manifest, and removes the shards; a rank leaves that to others.

        Args:
            accuracies: The teacher's accuracy on each IPC's tiles.
            preview: Writes `preview.png`.
            measured: Further entries of the manifest.

        Returns:
            The manifest, or what a rank says.
        """
        if self.share.ranks > 1:
            return rank_record(self.share)
        versions, spec = installed_versions(), self.teacher.spec
        unused = {*without_effect(self.config), *SHARED_WORK}
        manifest = {
            "decoct_version": versions.get("decoct", "unknown"),
            "config": {name: value for name, value in to_dict(self.config).items() if name not in unused},
            "dataset": self.config.dataset,
            "source": self.source,
            **spec_fields(spec),
            "ipcs": self.config.ipc,
            "batch_size": self.batch_size,
            "versions": versions,
            **self.networks,
            **({"teacher_label_names": self.label_map} if self.label_map else {}),
            **({"bit_depth": depth} if (depth := bit_depth_of(self.images)) else {}),
            **({"eval_split": HELD_OUT} if only_held_out(self.config) else {}),
            **measured,
            **({"mixed_views": self.digests()} if self.config.slots else {}),
            "tile_accuracy": {str(ipc): accuracy for ipc, accuracy in accuracies.items()},
            **({"seconds": round(time.perf_counter() - self._started, 1)} if self._started is not None else {}),
            "device": device_name(self.accelerator.device),
        }
        if self.accelerator.is_main_process:
            preview()
            write_report(self.folder, collect_sources(self.folder, manifest, self.images), manifest)
            write_card(self.folder, manifest)
            shutil.rmtree(self.shards)
        self.accelerator.wait_for_everyone()
        return read_object(self.folder / "manifest.json")


def rank_record(share: Share, missing: ShardsMissing | None = None) -> dict[str, Any]:
    """What a rank says when it ends: which shards of others it would have needed, none if all are there."""
    left = {} if missing is None else {missing.name: f"{missing.missing} of {missing.of}"}
    return {"rank": share.rank, "world_size": share.ranks, "missing": left}


def shared_batch_size(
    asked: int | None, kept: Path, teacher: Classifier, mixed_precision: str, accelerator: Accelerator
) -> int:
    """The forward batch size of all processes: as asked, else calibrated once and kept in a file for a resumed run."""
    sizes = [asked]
    if asked is None and accelerator.is_main_process:
        if not kept.is_file():
            write_json(kept, calibrated_batch_size(teacher, mixed_precision))
        sizes = [read_json(kept)]
    if accelerator.num_processes > 1:
        broadcast_object_list(sizes)
    return int(sizes[0] or 1)


def network_record(classifier: Classifier) -> dict[str, Any]:
    """A network's name and fingerprint, and which of its outputs are the classes, where not all are.

    Of an ensemble, also those of its members.
    """
    record: dict[str, Any] = {"name": classifier.name, "fingerprint": classifier.fingerprint()}
    if isinstance(classifier, Ensemble):
        return {**record, "members": [network_record(each) for each in classifier.classifiers]}
    return record if classifier.classes is None else {**record, "classes": list(classifier.classes)}


@dataclass(frozen=True)
class StoredLabels:
    """The settings that say how many logits are stored of an image; their help is that of `DistillConfig`."""

    tiles_per_image: int
    views: int
    slots: int
    label_bits: int
    label_top_k: int


def label_bytes(images: int, classes: int, stored: StoredLabels) -> int:
    """Bytes of the stored logits and view boxes."""
    kept = kept_classes(stored.label_top_k, classes)
    mixed = stored.slots * (code_width(kept or classes, stored.label_bits) + 2 + (2 * kept + 2 if kept else 0))
    return images * (2 * classes * (stored.tiles_per_image + stored.views) + 10 * stored.views + mixed)


def check_room(config: DistillConfig, spec: ImageSpec) -> None:
    """Raises ValueError if the disk has no room for a run: images and labels, and the shards they come from."""
    images = spec.num_classes * sum(config.ipc)
    labels = label_bytes(images, spec.num_classes, values_for(StoredLabels, config))
    require_space(Path(config.output_dir), 2 * (labels + images * spec.channels * spec.image_size**2))


def label_passes(images: int, teachers: int, stored: StoredLabels) -> int:
    """Images that the teachers look at to label images, and the scoring teacher to say which tiles it gets right."""
    tiles = stored.tiles_per_image
    return images * (tiles + teachers * (tiles + stored.views + stored.slots))


@contextlib.contextmanager
def run_folder(kept: str | Path | None) -> Iterator[Path]:
    """The folder to keep a run in or, without one, a temporary one that is removed afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(kept or Path(temporary) / "run")
        with one_writer(folder):
            yield folder


def read_ipc(folder: Path, ipc: int) -> Dataset:
    """The images of an IPC of a finished run, in memory."""
    paths = sorted(map(str, folder.glob(f"data/ipc_{ipc}/*.parquet")))
    return Dataset.from_parquet(paths, keep_in_memory=True)
