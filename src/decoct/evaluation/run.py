"""What the students of one evaluation share, whatever its task: their sets, teachers, names, files, sharing, records.

A task (`accuracy`, `continual`, `transfer`) is a subclass of `Evaluation` that adds what differs: which students there
are, what identifies one, how it is trained and measured, and the fields of its records.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import datasets
import torch
from accelerate import Accelerator, PartialState
from torch import nn
from tqdm.auto import tqdm

from decoct.config import EvaluateConfig, config_hash
from decoct.config.options import require
from decoct.data.held_out import check_share
from decoct.distilled.dataset import DistilledSet, commit_of, load_distilled, read_manifest, spec_of
from decoct.evaluation.eval_split import EvalSplit
from decoct.evaluation.random_baseline import SOURCE_FIELDS, RandomBaseline
from decoct.evaluation.students import check_student
from decoct.evaluation.teachers import Teachers
from decoct.evaluation.units import Setting, Unit
from decoct.files import read_object
from decoct.models.accuracy import accuracy
from decoct.models.chance import weakness
from decoct.models.classifier import Classifier
from decoct.models.label_map import read_label_map
from decoct.models.weak_teacher import sample_accuracy
from decoct.models.zoo import architecture_of
from decoct.results.statistics import accuracies_of
from decoct.run.folder import write_json
from decoct.run.processes import device_name, share_out
from decoct.run.versions import installed_versions
from decoct.training.protocols import Protocol, epoch_count, epochs_with, load_protocols, own_settings, student_name
from decoct.training.student import train_student

__all__ = ["Evaluation"]

logger = logging.getLogger(__name__)

UnitType = TypeVar("UnitType", bound=Unit)


class Evaluation(ABC, Generic[UnitType]):
    """The students of one call; data and teachers are loaded on first use.

    Args:
        config: What is evaluated, and how.
        protocols: In place of those that `config.protocols` names, by the name that records state.

    Raises:
        ValueError: If the distilled set cannot be read, or a protocol is unknown or defined for no label mode asked
            for; `check` looks at the rest.
    """

    def __init__(self, config: EvaluateConfig, protocols: dict[str, Protocol] | None = None) -> None:
        revision = commit_of(config.distilled)
        self.manifest = read_manifest(config.distilled, revision)
        self.config = config = as_the_set_was_made(config, self.manifest)
        self.protocols = protocols or load_protocols(config.protocols)
        self.spec = spec_of(self.manifest)
        if config.output_dir is None and not Path(config.distilled).is_dir():
            raise ValueError(
                f"output_dir must be given for a distilled set from the Hub ({config.distilled}). Got None."
            )
        self.folder = Path(config.output_dir or config.distilled)
        self.ipcs = list(dict.fromkeys(config.ipc)) or list(self.manifest["ipcs"])
        self.settings = self._settings()
        self.sets: dict[int, DistilledSet] = {ipc: load_distilled(config.distilled, ipc, revision) for ipc in self.ipcs}
        self.fingerprints = {ipc: distilled.fingerprint() for ipc, distilled in self.sets.items()}
        label_map = read_label_map(config.label_map)
        self.split = EvalSplit(config, self.spec)
        self.teachers = Teachers(config.distilled, self.manifest, self.spec, config.teacher, label_map)
        draws = None if config.baseline_dir is None else Path(config.baseline_dir)
        self.baseline = RandomBaseline(self.source, self.manifest, self.sets, self.teachers, self.folder, draws)

    def _settings(self) -> list[Setting]:
        """All settings: a label mode is trained by the protocols that are defined for it."""
        asked, settings = self.config.labels, []
        for protocol in self.protocols.values():
            if not set(asked) & set(protocol.labels):
                raise ValueError(
                    f"labels must hold one of {list(protocol.labels)}, which protocol {protocol.name!r} is defined "
                    f"for. Got {asked}. Name others with --labels."
                )
        for ipc, student, protocol in itertools.product(self.ipcs, self.config.students, self.protocols.values()):
            name = student_name(protocol, student)
            modes = [mode for mode in self.label_modes if mode in protocol.labels]
            settings += [Setting(ipc, name, protocol.name, mode) for mode in modes]
        return list(dict.fromkeys(settings))

    def check(self) -> None:
        """Raises ValueError for what would stop a unit later: labels not stored, no teacher, other label names."""
        for setting in self.settings:
            self.sets[setting.ipc].check_labels(setting.labels)
            check_student(setting.student, self.spec)
        if "online" in self.config.labels or self.config.teacher is not None:
            for ipc in self.ipcs:
                self.teachers.online(ipc)
        self.check_data()
        for fault in self.weak_teachers():
            logger.warning(fault)
        _ = self.notes

    def weak_teachers(self) -> list[str]:
        """What is to be said of teachers that hardly know the classes: by the stored labels, and where one is asked."""
        faults, classes = [], self.spec.num_classes
        for ipc, distilled in self.sets.items():
            if distilled.tile_logits is not None:
                right = distilled.tile_logits.argmax(dim=-1) == distilled.labels[:, None]
                whose, what = f"The teacher that labelled {self.config.distilled}", f"its tiles (IPC {ipc})"
                faults.append(weakness(float(right.double().mean()), classes, whose, what))
        asked = "online" in self.config.labels or self.config.teacher is not None
        if asked and (images := self.teacher_images) is not None:
            for teacher in {id(each): each for each in map(self.teachers.online, self.ipcs)}.values():
                device, precision = PartialState().device, self.config.mixed_precision
                found, count = sample_accuracy(teacher, images, device, precision)
                what = f"{count:,} images of the split {self.split.name!r}"
                faults.append(weakness(found, classes, f"The teacher {teacher.name}", what))
        return [fault for fault in faults if fault is not None]

    # What a task may say otherwise

    @property
    def label_modes(self) -> list[str]:
        """Label modes that are trained, wherever a protocol has them."""
        return self.config.labels

    @property
    def seeds(self) -> list[int]:
        """Seeds of the students of one setting."""
        return list(range(self.config.seed, self.config.seed + self.config.seeds))

    @property
    def source(self) -> dict[str, Any]:
        """Where the distilled images come from (`SOURCE_FIELDS`), and random images beside them."""
        return {name: getattr(self.config, name) for name in SOURCE_FIELDS}

    @property
    def teacher_images(self) -> datasets.Dataset | None:
        """Real images that teachers are measured on; None: none are read."""
        return self.split.images

    def check_data(self) -> None:
        """Raises ValueError unless the evaluation split has the set's label names."""
        self.split.check(str(self.config.distilled))

    def extent(self, unit: UnitType) -> int:
        """Images that a student sees while it is trained."""
        setting = unit.setting
        return len(self.sets[setting.ipc]) * self.epochs(setting, self.spec.num_classes)

    def measured(self, setting: Setting, random: bool = False) -> dict[str, Any]:
        """Accuracies of a setting's students."""
        return accuracies_of(self.results(self.units_of(setting, random)), self.seeds)

    def fields(self, setting: Setting, device: torch.device) -> dict[str, Any]:
        """Fields that records of this task alone have."""
        return {}

    # What a task is

    @abstractmethod
    def units_of(self, setting: Setting, random: bool = False) -> list[UnitType]:
        """The students of a setting that are trained on the distilled images, or on random ones."""

    @abstractmethod
    def name(self, unit: UnitType) -> str:
        """Name of the file of a student's accuracy, which identifies all that it depends on."""

    @abstractmethod
    def train_and_measure(self, unit: UnitType, accelerator: Accelerator) -> dict[str, Any]:
        """Trains one student; returns its `accuracy`, the `seconds` of its training, and what else is to be saved."""

    @abstractmethod
    def record_identity(self, setting: Setting, images: list[str]) -> dict[str, Any]:
        """Everything that a setting's accuracies depend on, the fingerprints of the images among it."""

    # Units

    @cached_property
    def notes(self) -> dict[Setting, str]:
        """Why a setting has no random images beside it; empty where it has."""
        if not self.config.baseline:
            return dict.fromkeys(self.settings, "turned off by --no_baseline")
        return {setting: self.baseline.note(setting.ipc, setting.labels) for setting in self.settings}

    @cached_property
    def units(self) -> list[UnitType]:
        """All students: of the distilled set, then of random images."""
        compared = [setting for setting in self.settings if not self.notes[setting]]
        return [
            unit
            for settings, random in ((self.settings, False), (compared, True))
            for setting in settings
            for unit in self.units_of(setting, random)
        ]

    def images_of(self, unit: UnitType) -> DistilledSet:
        """What a unit's student is trained on; random images have been drawn."""
        ipc = unit.setting.ipc
        return self.baseline.load(ipc, unit.seed) if unit.random else self.sets[ipc]

    def fingerprint_of(self, unit: UnitType) -> str:
        """Fingerprint of `images_of`."""
        ipc = unit.setting.ipc
        return self.baseline.fingerprint(ipc, unit.seed) if unit.random else self.fingerprints[ipc]

    def identity(self, setting: Setting, images: str | list[str]) -> dict[str, Any]:
        """Everything that training on images with these fingerprints depends on, but the seed."""
        teacher = self.teacher(setting)
        return {
            "distilled": images,
            "spec": self.spec.to_dict(),
            "protocol": self.protocols[setting.protocol].to_dict(),
            "overrides": self.overrides(setting),
            "teacher": None if teacher is None else self.teachers.fingerprint(teacher),
        }

    def teacher(self, setting: Setting) -> Classifier | None:
        """The teacher of `online` labels; None for other labels."""
        return self.teachers.online(setting.ipc) if setting.labels == "online" else None

    def epochs(self, setting: Setting, classes: int) -> int:
        """Epochs of training on so many classes."""
        full, most = self.full_epochs(setting, classes), self.config.max_steps
        protocol, ipc = self.protocols[setting.protocol], setting.ipc
        return full if most is None else min(full, epochs_with(most, protocol, ipc, classes, ipc * classes))

    def full_epochs(self, setting: Setting, classes: int) -> int:
        """`epochs` without a limit of steps."""
        protocol, ipc = self.protocols[setting.protocol], setting.ipc
        return self.config.epochs or epoch_count(protocol, ipc, classes, ipc * classes)

    def overrides(self, setting: Setting) -> dict[str, Any]:
        """What is not trained as the protocol says."""
        config, protocol, classes = self.config, self.protocols[setting.protocol], self.spec.num_classes
        # A number of epochs is never what a protocol with steps says: on fewer classes, the steps take more of them.
        usual = epoch_count(protocol, setting.ipc, classes, setting.ipc * classes) if protocol.steps is None else None
        limited = self.epochs(setting, classes) < self.full_epochs(setting, classes)
        values = {
            "epochs": None if config.epochs == usual else config.epochs,
            "max_steps": config.max_steps if limited else None,
            # Stored views bring their own boxes.
            "rrc_scale": None if setting.labels in ("views", "mixed") else config.rrc_scale,
            "mixed_precision": None if config.mixed_precision == "no" else config.mixed_precision,
        }
        return {key: value for key, value in values.items() if value is not None}

    def beside(self, random: bool, name: str) -> Path:
        """A file of a student; those of random images lie with them, for all distilled sets of their source."""
        return (self.baseline.root if random else self.folder) / "evaluation" / name

    def file(self, unit: UnitType) -> Path:
        """Where a unit's accuracy is saved."""
        return self.beside(unit.random, self.name(unit))

    def is_drawn(self, unit: UnitType) -> bool:
        """Whether the images that a unit is trained on are there; distilled ones are."""
        return not unit.random or self.baseline.is_made(unit.setting.ipc, unit.seed)

    def is_done(self, unit: UnitType) -> bool:
        """Whether a unit's accuracy is saved."""
        return self.is_drawn(unit) and self.file(unit).is_file()

    # Training

    def run(self, accelerator: Accelerator) -> list[dict[str, Any]]:
        """Draws random images and trains the students that are missing, all processes together.

        Returns:
            The records; none where this process is not the main one.
        """
        draws = dict.fromkeys((unit.setting.ipc, unit.seed) for unit in self.units if unit.random)
        self.baseline.make(draws, accelerator)
        with accelerator.main_process_first():
            missing = [unit for unit in self.units if not self.is_done(unit)]
        share_out(accelerator, missing, lambda unit: self.train(unit, accelerator))
        return self.make_records(accelerator.device) if accelerator.is_main_process else []

    def train(self, unit: UnitType, accelerator: Accelerator) -> None:
        """Trains and measures one student, and saves its accuracy."""
        result = {
            **unit.to_dict(),
            **self.train_and_measure(unit, accelerator),
            "device": device_name(accelerator.device),
            "versions": installed_versions(),
        }
        file = self.file(unit)
        write_json(file, {**result, "seconds": round(result["seconds"], 2)})

    def fit(
        self,
        student: nn.Module,
        images: DistilledSet,
        unit: UnitType,
        teacher: Classifier | None,
        accelerator: Accelerator,
        title: str,
        after_epoch: Callable[[int, nn.Module], None] | None = None,
    ) -> float:
        """`train_student` as the unit's setting says, with a progress bar.

        Args:
            after_epoch: Called with the number of epochs done and the network to measure.

        Returns:
            The seconds it took, without those of `after_epoch`.
        """
        config, setting, apart = self.config, unit.setting, 0.0
        epochs = self.epochs(setting, images.spec.num_classes)
        bar = tqdm(total=epochs, desc=title, unit="epoch", disable=not accelerator.is_main_process)

        def on_epoch_end(epoch: int, loss: float, network: nn.Module) -> None:
            nonlocal apart
            bar.update()
            before = time.perf_counter()
            if after_epoch is not None:
                after_epoch(epoch + 1, network)
            apart += time.perf_counter() - before

        start = time.perf_counter()
        with bar:
            train_student(
                student,
                images,
                self.protocols[setting.protocol],
                setting.labels,
                teacher,
                seed=unit.seed,
                device=accelerator.device,
                mixed_precision=config.mixed_precision,
                compile=config.compile,
                epochs=epochs,
                rrc_scale=config.rrc_scale,
                architecture=setting.student,
                on_epoch_end=on_epoch_end,
            )
        return time.perf_counter() - start - apart

    def measure(self, network: nn.Module, images: torch.utils.data.Dataset[Any], device: torch.device) -> float:
        """Accuracy on real images."""
        precision, workers = self.config.mixed_precision, self.config.num_workers
        return accuracy(network, images, device=device, mixed_precision=precision, num_workers=workers)

    # Records

    def make_records(self, device: torch.device) -> list[dict[str, Any]]:
        """One record per setting, once all units are saved; teachers are measured on the way.

        Accuracies are fractions. `baseline` is what students of random images reach; where it is None,
        `baseline_note` says why.
        """
        teachers = [self.teachers.behind(setting.ipc, setting.labels) for setting in self.settings]
        for unknown in sorted({teacher for teacher in teachers if isinstance(teacher, str)}):
            logger.warning("The teacher's accuracy is left out: %s.", unknown)
        return [self._record(setting, device) for setting in self.settings]

    def _record(self, setting: Setting, device: torch.device) -> dict[str, Any]:
        teacher, note = self.teachers.behind(setting.ipc, setting.labels), self.notes[setting]
        results = self.results(self.units_of(setting))
        baseline = {} if note else {**self.measured(setting, True), "config_hash": self.record_hash(setting, True)}
        return {
            "task": self.config.task,
            "dataset": self.source["dataset"],
            "method": self.manifest["config"]["method"],
            "ipc": setting.ipc,
            "tiles": self.sets[setting.ipc].tiles_per_image,
            "student": setting.student,
            "protocol": setting.protocol,
            "protocol_settings": own_settings(self.protocols[setting.protocol]),
            "labels": setting.labels,
            "teacher": self.teachers.name(setting.ipc, setting.labels),
            "teacher_model": architecture_of(teacher) if isinstance(teacher, Classifier) else None,
            "teacher_accuracy": self.teacher_accuracy(teacher, device),
            "epoch": self.config.epoch,
            **self.measured(setting),
            "seconds": round(sum(result["seconds"] for result in results) / len(results), 2),
            "device": ", ".join(sorted({result["device"] for result in results})),
            "versions": results[-1]["versions"],
            "overrides": self.overrides(setting),
            "config_hash": self.record_hash(setting),
            "baseline": baseline or None,
            "baseline_note": note,
            **self.fields(setting, device),
        }

    def record_hash(self, setting: Setting, random: bool = False) -> str:
        """`config_hash` of a record's identity, or of its baseline's."""
        images = list(dict.fromkeys(map(self.fingerprint_of, self.units_of(setting, random))))
        return config_hash(self.record_identity(setting, images))

    def results(self, units: Iterable[UnitType]) -> list[dict[str, Any]]:
        """What was saved of students."""
        return [read_object(self.file(unit)) for unit in units]

    def teacher_accuracy(self, teacher: Classifier | str, device: torch.device) -> float | None:
        """A teacher's accuracy on `teacher_images`, measured once; None if these or the teacher are out of reach."""
        if isinstance(teacher, str) or self.teacher_images is None:
            return None
        identity = {
            "teacher": self.teachers.fingerprint(teacher),
            "data": self.split.fingerprint,
            "mixed_precision": self.config.mixed_precision,
        }
        file = self.folder / "evaluation" / f"teacher-{config_hash(identity)}.json"
        if not file.is_file():
            teacher.to(device)
            found = self.measure(teacher, self.split.pixels_for(teacher.spec), device)
            what = f"the images of the split {self.split.name!r}"
            if fault := weakness(found, self.spec.num_classes, f"The teacher {teacher.name}", what):
                logger.warning(fault)
            write_json(file, {"teacher": teacher.name, "accuracy": found})
        return read_object(file)["accuracy"]


def as_the_set_was_made(config: EvaluateConfig, manifest: dict[str, Any]) -> EvaluateConfig:
    """The configuration, with the validation images held out that the distilled set was made without, and its depth.

    Raises:
        ValueError: If another share is asked for, so that images of the set would be measured on.
    """
    made = manifest["config"].get("validation_fraction")
    require(
        config.validation_fraction in (None, made or 0.0),
        "validation_fraction",
        f"{made or 0.0:g}, the share held out when the set {config.distilled} was made",
        config.validation_fraction,
    )
    if config.teacher is not None:
        check_share(config.teacher, "teacher", made)
    return dataclasses.replace(
        config,
        validation_fraction=made,
        train_split=manifest["config"]["train_split"] if made else config.train_split,  # what the share is of
        bit_depth=config.bit_depth or manifest.get("bit_depth"),
    )
