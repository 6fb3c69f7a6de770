"""Students trained on a distilled set and measured on real images: one resumable unit of work per student."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from tqdm.auto import tqdm

from decoct.config import EvaluateConfig, config_hash
from decoct.data.loading import check_label_names, eval_split_name, load_split
from decoct.data.tensors import PixelDataset
from decoct.evaluation.distilled import DistilledSet, load_distilled, read_manifest, spec_of
from decoct.evaluation.metrics import accuracy
from decoct.evaluation.plan import format_plan, seconds_per_image
from decoct.evaluation.protocols import load_protocol
from decoct.evaluation.results import format_table, mean_and_std, merge_records
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier, load_classifier
from decoct.run_folder import read_json, write_json
from decoct.training.processes import close, dataset_fingerprint, open_accelerator
from decoct.training.student import train_student
from decoct.versions import installed_versions

__all__ = ["Unit", "evaluate", "format_plan", "format_table"]

logger = logging.getLogger(__name__)

# `epoch="best"` takes the best of every tenth epoch and the last one.
BEST_EVERY = 10


@dataclass(frozen=True)
class Unit:
    """One student to train: the smallest piece of work that is saved and resumed."""

    ipc: int
    student: str
    labels: str
    seed: int


def evaluate(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Trains and measures every (IPC, student, label mode, seed), and adds one record per setting to results.json.

    Each student's accuracy is saved under `<output_dir>/evaluation/` as soon as it is known, so a killed run continues
    where it was; processes started by `accelerate launch` share the students and the output folder.

    Returns:
        The records of this call (design: one per IPC, student and label mode); accuracies are fractions, `seconds` is
        the mean training time of a student. With `dry_run`: the plan, for `format_plan`; nothing is written.

    Raises:
        ValueError: If the distilled set, the data and the teacher do not fit together, or lack what was asked for.
    """
    accelerator = open_accelerator(config)
    with accelerator.main_process_first():
        run = _Evaluation(config)
        run.check()
    if config.dry_run:
        plan = run.plan(accelerator.device)
        close(accelerator)
        return plan
    missing = [unit for unit in run.units if not run.unit_file(unit).is_file()]
    accelerator.wait_for_everyone()  # all processes must see the same list before the first unit is saved
    for unit in missing[accelerator.process_index :: accelerator.num_processes]:
        run.train(unit, accelerator)
    accelerator.wait_for_everyone()
    records = run.records(accelerator) if accelerator.is_main_process else []
    if accelerator.is_main_process:
        merge_records(run.folder / "results.json", records)
    close(accelerator)
    return records


class _Evaluation:
    """What the units of one call share; data and teacher are loaded on first use."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        self.protocol = load_protocol(config.protocol)
        self.manifest = read_manifest(config.distilled)
        self.spec = spec_of(self.manifest)
        self.folder = self._folder()
        self.ipcs = config.ipc or list(self.manifest["ipcs"])
        self.sets: dict[int, DistilledSet] = {ipc: load_distilled(config.distilled, ipc) for ipc in self.ipcs}
        self.fingerprints = {ipc: distilled.fingerprint() for ipc, distilled in self.sets.items()}
        self._teachers: dict[str, Classifier | str] = {}
        seeds = range(config.seed, config.seed + config.seeds)
        settings = itertools.product(self.ipcs, config.students, config.labels, seeds)
        self.units = list(dict.fromkeys(Unit(*setting) for setting in settings))

    def _folder(self) -> Path:
        if self.config.output_dir is not None:
            return Path(self.config.output_dir)
        if not Path(self.config.distilled).is_dir():
            raise ValueError(
                f"output_dir must be given for a distilled set from the Hub ({self.config.distilled}). Got None."
            )
        return Path(self.config.distilled)

    def check(self) -> None:
        """Raises ValueError for what would stop a unit later: labels not stored, no teacher, other label names."""
        for distilled, labels in itertools.product(self.sets.values(), self.config.labels):
            distilled.check_labels(labels)
        for student in self.config.students:
            build_classifier(student, self.spec)
        if "online" in self.config.labels or self.config.teacher is not None:
            for ipc in self.ipcs:
                self.online_teacher(ipc)
        names = self.images.features["label"].names
        check_label_names(self.spec.label_names, names, str(self.config.distilled), self.config.dataset)

    # Data and teacher

    @cached_property
    def images(self) -> Dataset:
        """The evaluation split."""
        config = self.config
        split = eval_split_name(config.dataset, config.dataset_config, config.eval_split)
        return load_split(config, split, self.spec.image_size)

    @cached_property
    def data_fingerprint(self) -> str:
        return dataset_fingerprint(self.images)

    @cached_property
    def pixels(self) -> PixelDataset:
        return PixelDataset(self.images, self.spec.image_size, self.spec.channels)

    def teacher_record(self, ipc: int) -> dict[str, Any]:
        """Name and fingerprint of the teacher that labelled an IPC's images, as far as the manifest has them."""
        return self.manifest.get("label_teachers", {}).get(str(ipc)) or self.manifest.get("teacher") or {}

    def teacher(self, ipc: int) -> Classifier | str:
        """The teacher of an IPC's images, or why it cannot be used; each network is loaded once."""
        stored = self.teacher_record(ipc)
        name = self.config.teacher or stored.get("name")
        if name is None:
            return "the manifest names no teacher"
        if name not in self._teachers:
            self._teachers[name] = self._load_teacher(name, stored.get("fingerprint"))
        return self._teachers[name]

    def _load_teacher(self, name: str, fingerprint: str | None) -> Classifier | str:
        try:
            teacher = load_classifier(name)
        except (OSError, ValueError) as error:
            return str(error)
        if self.config.teacher is None and teacher.fingerprint() != fingerprint:
            return f"the weights in {name} are not those that labelled the distilled set"
        check_label_names(self.spec.label_names, teacher.spec.label_names, str(self.config.distilled), str(name))
        return teacher

    def online_teacher(self, ipc: int) -> Classifier:
        """The teacher; ValueError with the remedy if it cannot be used."""
        teacher = self.teacher(ipc)
        if isinstance(teacher, str):
            raise ValueError(
                f"teacher must be within reach (labels 'online' need it): {teacher}. "
                "Name a folder or Hub id with --teacher, or use the stored labels: --labels views."
            )
        return teacher

    # Units

    def overrides(self, labels: str) -> dict[str, Any]:
        """What is not trained as the protocol says."""
        config = self.config
        values = {
            "epochs": None if config.epochs == self.protocol.epochs else config.epochs,
            "rrc_scale": None if labels == "views" else config.rrc_scale,  # views bring their own boxes
            "mixed_precision": None if config.mixed_precision == "no" else config.mixed_precision,
        }
        return {key: value for key, value in values.items() if value is not None}

    def identity(self, ipc: int, student: str, labels: str) -> dict[str, Any]:
        """Everything a student's accuracy depends on, but the seed."""
        return {
            "distilled": self.fingerprints[ipc],
            "ipc": ipc,
            "spec": self.spec.to_dict(),
            "data": self.data_fingerprint,
            "student": student,
            "labels": labels,
            "protocol": dataclasses.asdict(self.protocol),
            "overrides": self.overrides(labels),
            "teacher": self.online_teacher(ipc).fingerprint() if labels == "online" else None,
            "epoch": self.config.epoch,
        }

    def unit_file(self, unit: Unit) -> Path:
        """Where a unit's accuracy is saved; the name identifies all it depends on."""
        identity = {**self.identity(unit.ipc, unit.student, unit.labels), "seed": unit.seed}
        return self.folder / "evaluation" / f"{config_hash(identity)}.json"

    @property
    def epochs(self) -> int:
        return self.config.epochs or self.protocol.epochs

    def train(self, unit: Unit, accelerator: Accelerator) -> None:
        """Trains and measures one student, and saves its accuracy."""
        config, device = self.config, accelerator.device
        student = build_classifier(unit.student, self.spec, unit.seed)
        measured: list[float] = []
        measuring = 0.0
        title = f"IPC {unit.ipc}, {unit.student}, {unit.labels}, seed {unit.seed}"
        bar = tqdm(total=self.epochs, desc=title, unit="epoch", disable=not accelerator.is_main_process)

        def on_epoch_end(epoch: int, loss: float) -> None:
            nonlocal measuring
            bar.update()
            if epoch + 1 == self.epochs or (config.epoch == "best" and (epoch + 1) % BEST_EVERY == 0):
                before = time.perf_counter()
                measured.append(self.measure(student, self.pixels, device))
                measuring += time.perf_counter() - before

        start = time.perf_counter()
        with bar:
            train_student(
                student,
                self.sets[unit.ipc],
                self.protocol,
                unit.labels,
                self.online_teacher(unit.ipc) if unit.labels == "online" else None,
                seed=unit.seed,
                device=device,
                mixed_precision=config.mixed_precision,
                compile=config.compile,
                epochs=config.epochs,
                rrc_scale=config.rrc_scale,
                architecture=unit.student,
                on_epoch_end=on_epoch_end,
            )
        result = {
            **dataclasses.asdict(unit),
            "accuracy": max(measured) if config.epoch == "best" else measured[-1],
            "seconds": round(time.perf_counter() - start - measuring, 2),
            "device": _device_name(device),
            "versions": installed_versions(),
        }
        file = self.unit_file(unit)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)

    def measure(self, classifier: Classifier, pixels: PixelDataset, device: torch.device) -> float:
        """Accuracy on the evaluation split."""
        return accuracy(
            classifier,
            pixels,
            device=device,
            mixed_precision=self.config.mixed_precision,
            num_workers=self.config.num_workers,
        )

    # Records

    def teacher_accuracy(self, ipc: int, device: torch.device) -> float | None:
        """The teacher's accuracy on the evaluation split, measured once; None if the teacher is out of reach."""
        teacher = self.teacher(ipc)
        if isinstance(teacher, str):
            logger.warning("The teacher's accuracy is left out: %s.", teacher)
            return None
        identity = {
            "teacher": teacher.fingerprint(),
            "data": self.data_fingerprint,
            "mixed_precision": self.config.mixed_precision,
        }
        file = self.folder / "evaluation" / f"teacher-{config_hash(identity)}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            teacher.to(device)
            same = (teacher.spec.image_size, teacher.spec.channels) == (self.spec.image_size, self.spec.channels)
            pixels = self.pixels if same else PixelDataset(self.images, teacher.spec.image_size, teacher.spec.channels)
            write_json(file, {"teacher": teacher.name, "accuracy": self.measure(teacher, pixels, device)})
        return read_json(file)["accuracy"]

    def records(self, accelerator: Accelerator) -> list[dict[str, Any]]:
        """One record per (IPC, student, label mode), from the units' files."""
        measured = {ipc: self.teacher_accuracy(ipc, accelerator.device) for ipc in self.ipcs}
        return [
            self._record(ipc, student, labels, measured[ipc])
            for ipc, student, labels in dict.fromkeys((unit.ipc, unit.student, unit.labels) for unit in self.units)
        ]

    def _record(self, ipc: int, student: str, labels: str, teacher_accuracy: float | None) -> dict[str, Any]:
        units = [unit for unit in self.units if (unit.ipc, unit.student, unit.labels) == (ipc, student, labels)]
        results = [read_json(self.unit_file(unit)) for unit in units]
        accuracies = [result["accuracy"] for result in results]
        mean, std = mean_and_std(accuracies)
        seeds = [unit.seed for unit in units]
        return {
            "dataset": self.config.dataset,
            "method": self.manifest["config"]["method"],
            "ipc": ipc,
            "tiles": self.sets[ipc].tiles_per_image,
            "student": student,
            "protocol": self.protocol.name,
            "labels": labels,
            "teacher": self.config.teacher or self.teacher_record(ipc).get("name"),
            "teacher_accuracy": teacher_accuracy,
            "epoch": self.config.epoch,
            "accuracy_mean": mean,
            "accuracy_std": std,
            "accuracies": accuracies,
            "seeds": seeds,
            "seconds": round(sum(result["seconds"] for result in results) / len(results), 2),
            "device": ", ".join(sorted({result["device"] for result in results})),
            "versions": results[-1]["versions"],
            "overrides": self.overrides(labels),
            "config_hash": config_hash({**self.identity(ipc, student, labels), "seeds": seeds}),
        }

    # Dry run

    def plan(self, device: torch.device) -> list[dict[str, Any]]:
        """Per setting: students still to train, images each of them sees, and its cost by a timing of two steps."""
        rows = []
        for ipc, student, labels in dict.fromkeys((unit.ipc, unit.student, unit.labels) for unit in self.units):
            units = [unit for unit in self.units if (unit.ipc, unit.student, unit.labels) == (ipc, student, labels)]
            done = sum(self.unit_file(unit).is_file() for unit in units)
            seen = len(self.sets[ipc]) * self.epochs
            teacher = self.online_teacher(ipc) if labels == "online" else None
            network = build_classifier(student, self.spec)
            seconds = seconds_per_image(
                network, self.sets[ipc], self.protocol, labels, teacher, device, self.config.mixed_precision
            )
            rows.append(
                {
                    "ipc": ipc,
                    "student": student,
                    "labels": labels,
                    "students": len(units) - done,
                    "done": done,
                    "images_seen": seen,
                    "seconds": seen * seconds,
                }
            )
        return rows


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
