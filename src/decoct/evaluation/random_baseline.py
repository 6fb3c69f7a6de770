"""The honest baseline: random real images with the labels, teacher and protocol of the distilled set beside them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from filelock import FileLock

from decoct.config import DistillConfig, config_hash
from decoct.data.held_out import split_off_validation
from decoct.data.loading import check_label_names, class_counts, load_images
from decoct.data.source import dataset_fingerprint
from decoct.data.spec import ImageSpec
from decoct.distilled.dataset import DistilledSet, load_distilled
from decoct.evaluation.teachers import STORED, Teachers
from decoct.models.classifier import Classifier
from decoct.synthesis.real import distill_images

__all__ = ["SOURCE_FIELDS", "RandomBaseline"]

# What names a source's images; their size is the distilled set's.
SOURCE_FIELDS = (
    *("dataset", "dataset_config", "train_split", "eval_split", "validation_fraction"),
    *("image_column", "label_column", "skip_unreadable", "bit_depth"),
)

# Fixed, since the fastest one differs from run to run, and logits with it in their last digits.
BATCH_SIZE = 64


class RandomBaseline:
    """Draws of random training images, as many and labelled as a distilled set's, in run folders of their own.

    The students of seed s are trained on draw s, so the spread over the seeds includes that of the draws. A draw lies
    in `<root>/ipc_N-draw_S-<hash of all it depends on>`; every set of the same source finds it there, and so do other
    IPCs, seeds and labels theirs.

    Args:
        source: Where the training images are: `SOURCE_FIELDS`, as a configuration has them.
        manifest: The distilled set's.
        sets: The distilled set by IPC: tiles and views are like theirs.
        teachers: The set's; its labellers label the draws.
        beside: Folder beside which the draws lie, unless `folder` is given.
        folder: Folder of all draws of the source.
    """

    def __init__(
        self,
        source: dict[str, Any],
        manifest: dict[str, Any],
        sets: dict[int, DistilledSet],
        teachers: Teachers,
        beside: Path,
        folder: Path | None = None,
    ) -> None:
        self.source, self.manifest, self.sets, self.teachers = source, manifest, sets, teachers
        self.spec: ImageSpec = teachers.spec
        self.beside, self.folder = beside, folder
        self._fingerprints: dict[tuple[int, int], str] = {}
        self._loaded: tuple[tuple[int, int], DistilledSet] | None = None

    def note(self, ipc: int, labels: str) -> str:
        """Why a setting has no random images beside it; empty where it has.

        Raises:
            ValueError: If the source's training split cannot be read or has other label names.
        """
        if self.manifest["config"]["method"] == "random":
            return "the set is itself a draw of random images"
        teacher = self.teachers.labeller(ipc) if labels in STORED else self._teacher(ipc)
        if isinstance(teacher, str):
            return f"the teacher is out of reach: {teacher}"
        sizes = [(spec.image_size, spec.channels) for spec in (teacher.spec, self.spec)]
        if sizes[0] != sizes[1]:
            return f"the teacher takes images of {sizes[0]} px and channels, and the set has {sizes[1]}"
        needed, fewest = self._needed(ipc), min(self._counts)
        if fewest < needed:
            name = self.spec.label_names[self._counts.index(fewest)]
            return f"class {name!r} has {fewest} training images, and IPC {ipc} takes {needed}"
        return ""

    def make(self, draws: Iterable[tuple[int, int]], accelerator: Accelerator) -> None:
        """Makes the draws (pairs of IPC and seed) that are not there yet, all processes together."""
        wanted = list(dict.fromkeys(draws))
        if not wanted:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        # Evaluations of other sets may need the same draws at the same time.
        with FileLock(self.root / "draws.lock") if accelerator.is_main_process else nullcontext():
            missing = [[draw for draw in wanted if not self.is_made(*draw)]]
            if accelerator.num_processes > 1:
                broadcast_object_list(missing)
            for ipc, seed in missing[0]:
                teacher = self._teacher(ipc)
                if isinstance(teacher, Classifier):
                    distill_images(self._draw_config(ipc, seed, teacher), self.images, teacher, accelerator)

    def is_made(self, ipc: int, seed: int) -> bool:
        """Whether a draw is there."""
        return (self.draw_folder(ipc, seed) / "manifest.json").is_file()

    def load(self, ipc: int, seed: int) -> DistilledSet:
        """A draw that is there; the last one is kept."""
        if self._loaded is None or self._loaded[0] != (ipc, seed):
            self._loaded = (ipc, seed), load_distilled(self.draw_folder(ipc, seed), ipc)
        return self._loaded[1]

    def fingerprint(self, ipc: int, seed: int) -> str:
        """Fingerprint of a draw that is there."""
        if (ipc, seed) not in self._fingerprints:
            self._fingerprints[ipc, seed] = self.load(ipc, seed).fingerprint()
        return self._fingerprints[ipc, seed]

    @cached_property
    def images(self) -> Dataset:
        """The training split of the source.

        Raises:
            ValueError: If it cannot be read or has other label names.
        """
        source = self.source
        try:
            images = load_images(
                source["dataset"],
                source["train_split"],
                config_name=source["dataset_config"],
                image_column=source["image_column"],
                label_column=source["label_column"],
                image_size=self.spec.image_size,
                skip_unreadable=source["skip_unreadable"],
                bit_depth=source["bit_depth"],
                label_names=self.spec.label_names,
                channels=self.spec.channels,
                read_unchecked=0,
            )
            if source["validation_fraction"]:
                images, _ = split_off_validation(images, source["validation_fraction"])
            names = images.features["label"].names
            split = f"the training split of {source['dataset']}"
            check_label_names(self.spec.label_names, names, self.teachers.distilled, split)
        except ValueError as error:
            raise ValueError(
                f"train_split must be readable and have the classes of the set, for random images of it are the "
                f"baseline. {error} Name the source with --dataset and --train_split, or leave the baseline out with "
                "--no_baseline."
            ) from error
        return images

    @cached_property
    def _counts(self) -> list[int]:
        return class_counts(self.images)

    @cached_property
    def _data(self) -> dict[str, Any]:
        """What all draws of a source depend on."""
        return {"data": dataset_fingerprint(self.images), "spec": self.spec.to_dict()}

    @cached_property
    def root(self) -> Path:
        """Folder of all draws of the source, and of the results of their students."""
        if self.folder is not None:
            return self.folder
        return self.beside.resolve().parent / f"random-{config_hash(self._data)}"

    def draw_folder(self, ipc: int, seed: int) -> Path:
        """Run folder of one draw."""
        teacher = self._teacher(ipc)
        labeller = self.teachers.fingerprint(teacher) if isinstance(teacher, Classifier) else None
        depends = config_hash({**self._data, **self._labelling(ipc), "teacher": labeller})
        return self.root / f"ipc_{ipc}-draw_{seed}-{depends}"

    def _teacher(self, ipc: int) -> Classifier | str:
        """What labels the draws: the labeller or, for labels that are not stored, the network that is asked now."""
        labeller = self.teachers.labeller(ipc)
        return self.teachers.current(ipc) if isinstance(labeller, str) else labeller

    def _needed(self, ipc: int) -> int:
        return ipc * self.sets[ipc].tiles_per_image

    def _labelling(self, ipc: int) -> dict[str, Any]:
        """Tiles, views and mixed views as the distilled set has them."""
        distilled, made, slots = self.sets[ipc], self.manifest["config"], self.sets[ipc].slots
        return {
            "tiles_per_image": distilled.tiles_per_image,
            "views": 0 if distilled.view_boxes is None else distilled.view_boxes.shape[1],
            "view_scale": made.get("view_scale", DistillConfig.view_scale),
            "mixed_precision": made.get("mixed_precision", "no"),
            **({} if slots is None else {"slots": slots.scales.shape[1], "label_bits": slots.bits}),
            **({} if slots is None or not slots.top_k else {"label_top_k": slots.top_k}),
        }

    def _draw_config(self, ipc: int, seed: int, teacher: Classifier) -> DistillConfig:
        return DistillConfig(
            **{
                **self.source,
                "slots": 0,
                **self._labelling(ipc),
                "method": "random",
                "teacher": teacher.name,
                "ipc": [ipc],
                "seed": seed,
                "image_size": self.spec.image_size,
                "candidates_per_class": self._needed(ipc),  # as many as are drawn; which ones, the seed says
                "batch_size": BATCH_SIZE,
                "output_dir": str(self.draw_folder(ipc, seed)),
                "overwrite": True,  # a draw that was left unfinished, say, with the teacher under another path
            }
        )
