"""What the downstream tasks share: a call's distilled sets, random images, protocols and teacher, and its students."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from decoct.config import DataConfig, EvaluateConfig, RunConfig
from decoct.distilled.dataset import DistilledSet, commit_of, load_distilled, read_manifest, spec_of
from decoct.evaluation.random_baseline import RandomBaseline
from decoct.evaluation.teachers import Teachers, architecture_of
from decoct.evaluation.units import Setting, load_protocols, overrides_of, settings_of
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.run.folder import write_json
from decoct.training.protocols import epoch_count, own_settings
from decoct.training.student import train_student

__all__ = ["Sources", "plain_table", "plan_lines", "share_out", "title_of"]


class Sources:
    """The distilled sets of a call and the random images beside them, its protocols and its teachers.

    Raises:
        ValueError: If they do not fit together, or lack what was asked for.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        if config.epoch != "last":
            raise ValueError(f"epoch must be 'last' for task {config.task!r}. Got {config.epoch!r}.")
        self.config = config
        revision = commit_of(config.distilled)
        self.manifest = read_manifest(config.distilled, revision)
        self.spec = spec_of(self.manifest)
        if config.output_dir is None and not Path(config.distilled).is_dir():
            raise ValueError(
                f"output_dir must be given for a distilled set from the Hub ({config.distilled}). Got None."
            )
        self.folder = Path(config.output_dir or config.distilled)
        self.protocols = load_protocols(config.protocols)
        ipcs = config.ipc or list(self.manifest["ipcs"])
        self.sets: dict[int, DistilledSet] = {ipc: load_distilled(config.distilled, ipc, revision) for ipc in ipcs}
        self._fingerprints = {ipc: distilled.fingerprint() for ipc, distilled in self.sets.items()}
        self.teachers = Teachers(config, self.manifest, self.spec)
        self.settings = settings_of(dataclasses.replace(config, ranking=False), self.protocols, ipcs)
        for setting in self.settings:
            self.sets[setting.ipc].check_labels(setting.labels)
            build_classifier(setting.student, self.spec)
            self.teacher(setting)
        self.baseline = RandomBaseline(
            _source_of(config, self.manifest), self.manifest, self.sets, self.teachers, self.folder
        )
        # Why a setting has no random images beside it; empty where it has.
        self.notes = {setting: self.baseline.note(setting.ipc, setting.labels) for setting in self.settings}

    def sides(self, setting: Setting) -> list[bool]:
        """Whether students are trained on random images: on the distilled ones and, where there is a baseline, both."""
        return [False] if self.notes[setting] else [False, True]

    def draw(self, seeds: Iterable[int], accelerator: Accelerator) -> None:
        """Makes the draws of random images that students of these seeds need, all processes together."""
        ipcs = dict.fromkeys(setting.ipc for setting in self.settings if not self.notes[setting])
        self.baseline.make(itertools.product(ipcs, seeds), accelerator)

    def images(self, setting: Setting, seed: int, random: bool) -> DistilledSet:
        """What the student of a seed is trained on; random images have been drawn."""
        return self.baseline.load(setting.ipc, seed) if random else self.sets[setting.ipc]

    def file(self, random: bool, name: str) -> Path:
        """A file of a student; those of random images lie with them, for all distilled sets of their source."""
        return (self.baseline.root if random else self.folder) / "evaluation" / name

    def is_drawn(self, setting: Setting, seed: int, random: bool) -> bool:
        """Whether the images of the student of a seed are there; distilled ones are."""
        return not random or self.baseline.is_made(setting.ipc, seed)

    def teacher(self, setting: Setting) -> Classifier | None:
        """The teacher of `online` labels; None for other labels."""
        return self.teachers.online(setting.ipc) if setting.labels == "online" else None

    def epochs(self, setting: Setting) -> int:
        """Epochs of training on the distilled set."""
        return self.config.epochs or epoch_count(self.protocols[setting.protocol], setting.ipc)

    def overrides(self, setting: Setting) -> dict[str, Any]:
        """What is not trained as the protocol says."""
        return overrides_of(self.config, self.protocols[setting.protocol], setting)

    def identity(self, setting: Setting, random_seed: int | None = None) -> dict[str, Any]:
        """Everything that training on the distilled set or a draw of random images depends on, but classes and seed."""
        teacher = self.teacher(setting)
        drawn = None if random_seed is None else self.baseline.fingerprint(setting.ipc, random_seed)
        return {
            "distilled": drawn or self._fingerprints[setting.ipc],
            "spec": self.spec.to_dict(),
            "setting": dataclasses.asdict(setting),
            "protocol": dataclasses.asdict(self.protocols[setting.protocol]),
            "overrides": self.overrides(setting),
            "teacher": None if teacher is None else self.teachers.fingerprint(teacher),
        }

    def describe(self, setting: Setting) -> dict[str, Any]:
        """The fields that every record begins with."""
        teacher = self.teachers.current(setting.ipc)
        return {
            "task": self.config.task,
            "dataset": self.manifest["config"].get("dataset") or self.config.dataset,
            "method": self.manifest["config"]["method"],
            "ipc": setting.ipc,
            "tiles": self.sets[setting.ipc].tiles_per_image,
            "student": setting.student,
            "protocol": setting.protocol,
            "protocol_settings": own_settings(self.protocols[setting.protocol]),
            "labels": setting.labels,
            "teacher": self.teachers.name(setting.ipc),
            "teacher_model": architecture_of(teacher) if isinstance(teacher, Classifier) else None,
            "epoch": "last",
        }

    def train(
        self,
        setting: Setting,
        student: nn.Module,
        distilled: DistilledSet,
        teacher: Classifier | None,
        seed: int,
        accelerator: Accelerator,
        title: str,
    ) -> None:
        """`train_student` as the setting says, with a progress bar."""
        config = self.config
        with tqdm(
            total=self.epochs(setting), desc=title, unit="epoch", disable=not accelerator.is_main_process
        ) as progress:
            train_student(
                student,
                distilled,
                self.protocols[setting.protocol],
                setting.labels,
                teacher,
                seed=seed,
                device=accelerator.device,
                mixed_precision=config.mixed_precision,
                compile=config.compile,
                epochs=self.epochs(setting),
                rrc_scale=config.rrc_scale,
                architecture=setting.student,
                on_epoch_end=lambda *_: progress.update(),
            )


def _source_of(config: EvaluateConfig, manifest: dict[str, Any]) -> EvaluateConfig:
    """The config, naming the data that the set was distilled from where a transfer names none.

    Other tasks measure on the source, so that they always name it.
    """
    made = manifest["config"]
    if config.task != "transfer" or config.dataset != EvaluateConfig.dataset or made.get("dataset") is None:
        return config
    names = {field.name for field in dataclasses.fields(DataConfig)} - {
        field.name for field in dataclasses.fields(RunConfig)
    }
    return dataclasses.replace(config, **{name: made[name] for name in names - {"num_workers"} if name in made})


def share_out(accelerator: Accelerator, work: Iterable[tuple[Path, Callable[[], dict[str, Any]]]]) -> None:
    """Does the work whose file does not exist yet, each piece in one process, and saves what it returns there.

    Args:
        work: Pairs of a JSON file and what computes its content; files that occur twice are computed once.
    """
    missing = {file: compute for file, compute in work if not file.is_file()}
    accelerator.wait_for_everyone()  # all processes must see the same list before the first file is saved
    for file, compute in list(missing.items())[accelerator.process_index :: accelerator.num_processes]:
        content = compute()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
    accelerator.wait_for_everyone()


def title_of(setting: Setting, random: bool = False) -> str:
    """A setting in words."""
    words = f"IPC {setting.ipc}, {setting.student}, {setting.protocol}, {setting.labels} labels"
    return f"{words}, random images" if random else words


def plan_lines(rows: Iterable[dict[str, Any]]) -> str:
    """A dry run's plan as plain text."""
    return "\n".join(
        f"{row['setting']}: {row['students']} students to train ({row['done']} done), "
        f"{row['images_seen']:,} images seen in all"
        for row in rows
    )


def plain_table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A title and aligned columns; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title, lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
