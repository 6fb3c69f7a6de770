"""Grids: many sets, the students trained on each, and one file of records that fills as results come.

A grid is a list of cells, one a student. Cells of the same set share it, and sets of the same candidates share heat
maps and scores (`SharedScores`). What is recorded is not measured again, so a killed grid continues, and one with more
cells adds what is missing. Processes started by `accelerate launch` make the sets together and share the students;
commands that run side by side on parts of a grid share its folder and its records.

A grid folder holds

    heatmaps/, scores/   of the candidates, by what they depend on and the seed
    sets/                distilled run folders
    students/            the accuracies of single students, as an evaluation saves them
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock

from decoct.config import DistillConfig, EvaluateConfig, default_values
from decoct.data.loading import load_split, side_of
from decoct.data.spec import ImageSpec
from decoct.distilled.dataset import read_manifest, spec_of
from decoct.evaluation.accuracy import AccuracyEvaluation
from decoct.evaluation.students import check_student
from decoct.models.label_map import read_label_map, teacher_for
from decoct.models.zoo import load_classifier
from decoct.results.records import read_results
from decoct.run.folder import write_json
from decoct.run.processes import share_out
from decoct.synthesis.inputs import validation_images
from decoct.synthesis.label_teachers import label_teacher
from decoct.synthesis.real import candidates_of, distill_images, forward_passes
from decoct.synthesis.shared import SharedScores, heatmap_settings, score_settings
from decoct.training import protocols

__all__ = ["Cell", "DistilledGrid", "Grid", "agrees", "known_of"]

# What a record has from the evaluation of its student.
MEASURED = (
    *("task", "dataset", "eval_split", "method", "ipc", "tiles", "student", "protocol", "labels", "epoch", "overrides"),
    *(
        "teacher",
        "teacher_accuracy",
        "seeds",
        "accuracies",
        "accuracy_mean",
        "accuracy_std",
        "seconds",
        "device",
        "versions",
    ),
)
# What tells the images of a source, and the teacher that looks at them, from others.
SOURCE = (
    *("dataset", "dataset_config", "train_split", "validation_fraction"),
    *("image_column", "label_column", "image_size", "skip_unreadable", "bit_depth"),
    *("teacher", "label_map"),
)


class Seeded(Protocol):
    """A piece of work that belongs to a seed."""

    @property
    def seed(self) -> int: ...


CellType = TypeVar("CellType", bound=Seeded)


class Grid(ABC, Generic[CellType]):
    """Cells, each a student to train on a set of its own or of several.

    Args:
        cells: In the order in which they are measured; those of a seed stand together.
        accelerator: Of this process.
    """

    def __init__(self, cells: Sequence[CellType], accelerator: Accelerator) -> None:
        self.cells, self.accelerator = cells, accelerator

    @abstractmethod
    def missing(self) -> list[CellType]:
        """The cells that are not measured yet."""

    @abstractmethod
    def make_set(self, cell: CellType) -> None:
        """Makes a cell's set, all processes together, unless it is there."""

    @abstractmethod
    def measure(self, cell: CellType) -> None:
        """Trains a cell's student in this process alone, measures it, and saves the result."""

    def fill(self) -> None:
        """Measures what is missing; a seed is complete before the next one begins."""
        missing = self.missing()
        self.accelerator.wait_for_everyone()  # all processes must see the same list before the first result is saved
        for _, members in itertools.groupby(missing, key=lambda cell: cell.seed):
            cells = list(members)
            for cell in cells:
                self.make_set(cell)
            share_out(self.accelerator, cells, self.measure)


@dataclass(frozen=True)
class Cell:
    """A student trained on a distilled set.

    Args:
        distil: How the set is made; `output_dir` is its folder. None: it is there, as `evaluate.distilled` says.
        evaluate: How the student is trained: one IPC, architecture, protocol and label mode.
        protocol: Training protocol.
        identity: Fields of its record, JSON-ready, that no other record of the grid shares all of.
        stated: Further fields of its record.
        defaults: Options of distilling that are as they are unless said otherwise: a record that says so is another's.
    """

    distil: DistillConfig | None
    evaluate: EvaluateConfig
    protocol: protocols.Protocol
    identity: Mapping[str, Any]
    stated: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def is_recorded_by(self, known: Mapping[str, Any]) -> bool:
        """Whether what is known of a record (`known_of`) is the result of this cell."""
        return agrees(known, {**self.defaults, **self.identity})

    @property
    def seed(self) -> int:
        """Draws the set's candidates or samples, and starts the student."""
        return self.evaluate.seed

    @property
    def ipc(self) -> int:
        """Images per class that the student is trained on."""
        return self.evaluate.ipc[0]

    def epochs(self, classes: int) -> int:
        """Epochs that the student is trained for, on so many classes."""
        return self.evaluate.epochs or protocols.epoch_count(self.protocol, self.ipc, classes, self.ipc * classes)


class DistilledGrid(Grid[Cell]):
    """A grid of distilled sets.

    Args:
        cells: See `Grid`.
        folder: Grid folder.
        file: JSON file of the records; other grids may have records there too.
        accelerator: Of this process.
    """

    def __init__(self, cells: Sequence[Cell], folder: Path, file: Path, accelerator: Accelerator) -> None:
        super().__init__(cells, accelerator)
        self.folder, self.file = folder, file
        self._sources: dict[tuple[Any, ...], SharedScores] = {}

    def source(self, config: DistillConfig) -> SharedScores:
        """Images, teacher and shared scores of a set, loaded once."""
        key = tuple(getattr(config, name) for name in SOURCE)
        if key not in self._sources:
            teacher = load_classifier(config.teacher)
            with self.accelerator.main_process_first():
                side = side_of(config.image_size, teacher.spec.image_size, "the teacher")
                channels = teacher.spec.channels
                images = load_split(config, config.train_split, side, channels=channels, read_unchecked=0)
            names = images.features["label"].names
            teacher = teacher_for(teacher, names, config.dataset, read_label_map(config.label_map))
            self._sources[key] = SharedScores(self.folder, images, teacher, self.accelerator)
        return self._sources[key]

    def spec(self, cell: Cell) -> ImageSpec:
        """The images and classes of a cell."""
        if cell.distil is None:
            return spec_of(read_manifest(cell.evaluate.distilled))
        return self.source(cell.distil).teacher.spec

    def check(self) -> None:
        """Raises ValueError for what would stop a missing cell later: labels, students, teachers, candidates."""
        missing = self.missing()
        for cell in missing:
            cell.protocol.check_labels(cell.evaluate.labels[0])
        for config in sets_of(missing).values():
            source = self.source(config)
            for ipc in config.ipc:
                label_teacher(config.label_teacher, source.teacher, ipc, read_label_map(config.label_map))
            if config.method != "igds":
                candidates_of(config, source.images, source.teacher)
        for cell in missing:
            if cell.distil is None:
                AccuracyEvaluation(cell.evaluate, {cell.protocol.name: cell.protocol}).check()
        for cell in {(cell.evaluate.students[0], cell.evaluate.distilled): cell for cell in missing}.values():
            check_student(cell.evaluate.students[0], self.spec(cell))

    def images_seen(self, cell: Cell) -> int:
        """Images that a cell's student sees while it is trained."""
        classes = self.spec(cell).num_classes
        return classes * cell.ipc * cell.epochs(classes)

    # Sets

    def make_set(self, cell: Cell) -> None:
        if (config := cell.distil) is None:
            return
        folder, main = Path(config.output_dir), self.accelerator.is_main_process
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Other parts of the grid may need the same set at the same time.
        with FileLock(f"{folder}.lock") if main else nullcontext():
            made = [is_made(config)]
            if self.accelerator.num_processes > 1:
                broadcast_object_list(made)
            if not made[0]:
                self.distil(config)

    def distil(self, config: DistillConfig) -> None:
        """Distils one set, all processes together."""
        source = self.source(config)
        if config.method == "igds":
            from decoct.synthesis.sampled import distill_samples  # diffusers takes seconds to import

            distill_samples(config, source.images, source.teacher, self.accelerator)
        else:
            scores = source.scores(config) if forward_passes(config, 1, 1)["utility"] else None
            validation = validation_images(config, source.teacher)
            distill_images(config, source.images, source.teacher, self.accelerator, scores, validation)

    # Students

    def measure(self, cell: Cell) -> None:
        evaluation = AccuracyEvaluation(cell.evaluate, {cell.protocol.name: cell.protocol})
        evaluation.check()
        (unit,) = evaluation.units
        if not evaluation.is_done(unit):
            evaluation.train(unit, self.accelerator)
        (result,) = evaluation.make_records(self.accelerator.device)
        record = self.record(cell, result, evaluation)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_suffix(".lock")):
            others = [each for each in self.records() if not cell.is_recorded_by(known_of(each))]
            write_json(self.file, self.ordered([*others, record]))
        self.recorded(record)

    def record(self, cell: Cell, result: dict[str, Any], evaluation: AccuracyEvaluation) -> dict[str, Any]:
        """A student's record, from the evaluation's."""
        tiles = evaluation.manifest["tile_accuracy"].get(str(cell.ipc))
        return {**{name: result[name] for name in MEASURED}, "tile_accuracy": tiles, **cell.identity, **cell.stated}

    def recorded(self, record: dict[str, Any]) -> None:
        """Called after a record was written."""

    def ordered(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Records in the order of the file."""
        return records

    # Records

    def records(self) -> list[dict[str, Any]]:
        """All records so far."""
        return read_results(self.file)

    def missing(self) -> list[Cell]:
        known = list(map(known_of, self.records()))
        return [cell for cell in self.cells if not any(cell.is_recorded_by(each) for each in known)]

    def plan(self) -> dict[str, Any]:
        """What is missing, what its sets share, and the images that teachers and students would see."""
        missing = self.missing()
        sets = [config for config in sets_of(missing).values() if not is_made(config)]
        passes = {"attribution": 0, "scores": 0, "labels": 0}
        samples, shared = 0, {"heatmaps": set[str](), "scorings": set[str]()}
        for config in sets:
            source = self.source(config)
            classes = source.teacher.spec.num_classes
            if config.method == "igds":
                samples += classes * config.tiles_per_image * max(config.ipc)
                passes["labels"] += forward_passes(config, 0, classes)["labels"]
                continue
            count = forward_passes(config, len(candidates_of(config, source.images, source.teacher)), classes)
            passes["labels"] += count["labels"]
            heatmaps, scores = (source.key(settings(config), config) for settings in (heatmap_settings, score_settings))
            if config.whole_images:  # only the chosen images have heat maps
                passes["attribution"] += count["attribution"]
            elif count["attribution"] and heatmaps not in shared["heatmaps"]:
                shared["heatmaps"].add(heatmaps)
                passes["attribution"] += count["attribution"]
            if count["utility"] and scores not in shared["scorings"]:
                shared["scorings"].add(scores)
                passes["scores"] += count["utility"]
        return {
            "students": len(missing),
            "done": len(self.cells) - len(missing),
            "sets": len(sets),
            **{name: len(keys) for name, keys in shared.items()},
            "samples": samples,
            "forward_passes": passes,
            "images_seen": sum(map(self.images_seen, missing)),
        }


def sets_of(cells: Iterable[Cell]) -> dict[str, DistillConfig]:
    """The sets to make for cells, by folder."""
    return {cell.distil.output_dir: cell.distil for cell in cells if cell.distil is not None}


def is_made(config: DistillConfig) -> bool:
    """Whether a set is there."""
    return (Path(config.output_dir) / "manifest.json").is_file()


def known_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """All that a record says, `options` included; an option of distilling that it does not state has its default.

    Where an evaluation split was not named, records of earlier versions have none; it is read as `setting_of` does.
    """
    options = record.get("options", {})
    known = {**default_values(record["method"], options.get("tiles_per_image", 1)), **options, **record}
    return {**known, "eval_split": known["eval_split"] or "test"}


def agrees(known: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether nothing that is known of a record (`known_of`) differs from an identity; of `settings`, field by field.

    Fingerprints are no part of an identity, so that a grid can be completed with networks made anew.
    """
    trained, stated = identity.get("settings", {}), known.get("settings", {})
    pairs = [(known, name, value) for name, value in identity.items() if name != "settings"]
    pairs += [(stated, name, value) for name, value in trained.items()]
    return all(says[name] == value for says, name, value in pairs if name in says)
