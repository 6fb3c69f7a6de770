"""The students of one evaluation: what each is trained on, its training, and where its accuracy is saved."""

from __future__ import annotations

import dataclasses
import itertools
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm

from decoct.config import EvaluateConfig, config_hash
from decoct.data.loading import check_label_names, eval_split_name, load_split
from decoct.data.source import dataset_fingerprint
from decoct.data.tensors import PixelDataset
from decoct.distilled.dataset import DistilledSet, commit_of, load_distilled, read_manifest, spec_of
from decoct.evaluation.random_baseline import RandomBaseline
from decoct.evaluation.teachers import Teachers
from decoct.evaluation.units import Setting, Unit, load_protocols, overrides_of, settings_of
from decoct.models.accuracy import accuracy
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.run.folder import write_json
from decoct.run.processes import device_name
from decoct.run.versions import installed_versions
from decoct.training.protocols import Protocol, batch_size, epoch_count
from decoct.training.student import train_student

__all__ = ["Evaluation"]

# `epoch="best"` takes the best of every tenth epoch and the last one.
BEST_EVERY = 10


class Evaluation:
    """What the students of one call share; data and teachers are loaded on first use.

    Args:
        config: What is evaluated, and how.

    Raises:
        ValueError: If the distilled set cannot be read, or a protocol is unknown or defined for no label mode asked
            for; `check` looks at the rest.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        self.protocols = load_protocols(config.protocols)
        revision = commit_of(config.distilled)
        self.manifest = read_manifest(config.distilled, revision)
        self.spec = spec_of(self.manifest)
        self.folder = self._folder()
        self.ipcs = list(dict.fromkeys(config.ipc)) or list(self.manifest["ipcs"])
        self.settings = settings_of(config, self.protocols, self.ipcs)
        self.seeds = list(range(config.seed, config.seed + config.seeds))
        self.sets: dict[int, DistilledSet] = {ipc: load_distilled(config.distilled, ipc, revision) for ipc in self.ipcs}
        self.fingerprints = {ipc: distilled.fingerprint() for ipc, distilled in self.sets.items()}
        self.teachers = Teachers(config, self.manifest, self.spec)
        self.baseline = RandomBaseline(config, self.manifest, self.sets, self.teachers, self.folder)

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
        for setting in self.settings:
            self.sets[setting.ipc].check_labels(setting.labels)
        for student in dict.fromkeys(setting.student for setting in self.settings):
            build_classifier(student, self.spec)
        if "online" in self.config.labels or self.config.teacher is not None:
            for ipc in self.ipcs:
                self.teachers.online(ipc)
        names = self.images.features["label"].names
        check_label_names(self.spec.label_names, names, str(self.config.distilled), self.config.dataset)
        _ = self.notes

    # Data

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

    # Units

    @cached_property
    def notes(self) -> dict[Setting, str]:
        """Why a setting has no random images beside it; empty where it has."""
        return {setting: self.baseline.note(setting.ipc, setting.labels) for setting in self.settings}

    @cached_property
    def units(self) -> list[Unit]:
        """All students: of the distilled set, then of random images."""
        units = [Unit(setting, seed) for setting, seed in itertools.product(self.settings, self.seeds)]
        return units + [dataclasses.replace(unit, random=True) for unit in units if not self.notes[unit.setting]]

    @property
    def draws(self) -> list[tuple[int, int]]:
        """IPC and seed of the draws of random images that the units need."""
        return list(dict.fromkeys((unit.setting.ipc, unit.seed) for unit in self.units if unit.random))

    def identity(self, setting: Setting) -> dict[str, Any]:
        """Everything a student's accuracy depends on, but its images and seed."""
        protocol, online = self.protocols[setting.protocol], setting.labels == "online"
        return {
            "ipc": setting.ipc,
            "spec": self.spec.to_dict(),
            "data": self.data_fingerprint,
            "student": setting.student,
            "labels": setting.labels,
            "protocol": dataclasses.asdict(protocol),
            "overrides": overrides_of(self.config, protocol, setting),
            "teacher": self.teachers.fingerprint(self.teachers.online(setting.ipc)) if online else None,
            "epoch": self.config.epoch,
        }

    def images_of(self, unit: Unit) -> DistilledSet:
        """What a unit's student is trained on."""
        ipc = unit.setting.ipc
        return self.baseline.load(ipc, unit.seed) if unit.random else self.sets[ipc]

    def fingerprint_of(self, unit: Unit) -> str:
        ipc = unit.setting.ipc
        return self.baseline.fingerprint(ipc, unit.seed) if unit.random else self.fingerprints[ipc]

    def unit_file(self, unit: Unit) -> Path:
        """Where a unit's accuracy is saved; the name identifies all it depends on."""
        identity = {**self.identity(unit.setting), "distilled": self.fingerprint_of(unit), "seed": unit.seed}
        folder = self.baseline.root if unit.random else self.folder
        return folder / "evaluation" / f"{config_hash(identity)}.json"

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit's accuracy is saved; random images may not have been drawn yet."""
        drawn = not unit.random or self.baseline.is_made(unit.setting.ipc, unit.seed)
        return drawn and self.unit_file(unit).is_file()

    def epochs(self, setting: Setting) -> int:
        return self.config.epochs or epoch_count(self.protocols[setting.protocol], setting.ipc)

    def train(self, unit: Unit, accelerator: Accelerator) -> None:
        """Trains and measures one student, and saves its accuracy."""
        config, setting, device = self.config, unit.setting, accelerator.device
        epochs = self.epochs(setting)
        measured: list[float] = []
        measuring = 0.0
        words = [f"IPC {setting.ipc}", setting.student, setting.protocol, setting.labels, f"seed {unit.seed}"]
        title = ", ".join([*words, *(["random images"] if unit.random else [])])
        bar = tqdm(total=epochs, desc=title, unit="epoch", disable=not accelerator.is_main_process)

        def on_epoch_end(epoch: int, loss: float, network: nn.Module) -> None:
            nonlocal measuring
            bar.update()
            if epoch + 1 == epochs or (config.epoch == "best" and (epoch + 1) % BEST_EVERY == 0):
                before = time.perf_counter()
                measured.append(self.measure(network, self.pixels, device))
                measuring += time.perf_counter() - before

        images = self.images_of(unit)
        start = time.perf_counter()
        with bar:
            train_student(
                build_classifier(setting.student, self.spec, unit.seed),
                images,
                self.protocols[setting.protocol],
                setting.labels,
                self.teachers.online(setting.ipc) if setting.labels == "online" else None,
                seed=unit.seed,
                device=device,
                mixed_precision=config.mixed_precision,
                compile=config.compile,
                epochs=epochs,
                rrc_scale=config.rrc_scale,
                architecture=setting.student,
                on_epoch_end=on_epoch_end,
            )
        result = {
            **dataclasses.asdict(setting),
            "seed": unit.seed,
            "random": unit.random,
            "accuracy": max(measured) if config.epoch == "best" else measured[-1],
            "seconds": round(time.perf_counter() - start - measuring, 2),
            "device": device_name(device),
            "versions": installed_versions(),
        }
        file = self.unit_file(unit)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)

    def measure(self, network: nn.Module, pixels: PixelDataset, device: torch.device) -> float:
        """Accuracy on the evaluation split."""
        precision, workers = self.config.mixed_precision, self.config.num_workers
        return accuracy(network, pixels, device=device, mixed_precision=precision, num_workers=workers)


def seconds_per_image(
    student: Classifier,
    distilled: DistilledSet,
    protocol: Protocol,
    labels: str,
    teacher: Classifier | None,
    device: torch.device,
    mixed_precision: str,
) -> float:
    """Seconds that training takes per image, from the second of two steps of a full batch."""
    size = batch_size(protocol, distilled.ipc, distilled.spec.num_classes, len(distilled))
    ends: list[float] = []
    train_student(
        student,
        distilled.head(size),
        protocol,
        labels,
        teacher,
        device=device,
        mixed_precision=mixed_precision,
        epochs=2,
        on_epoch_end=lambda *_: ends.append(time.perf_counter()),
    )
    return (ends[1] - ends[0]) / size
