"""Class-incremental learning from a distilled set: its images are the memory, and classes arrive in steps.

After each step a student is trained from scratch on the distilled images of all classes seen so far and measured on the
real images of these classes. This is GDumb (Prabhu et al., ECCV 2020) with a distilled memory, as DM (Zhao & Bilen,
2023) evaluates distilled sets and InfoUtil reports them (Table 4).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from decoct.config import EvaluateConfig, config_hash
from decoct.data.loading import check_label_names, eval_split_name, load_split, require_class_count
from decoct.data.tensors import PixelDataset
from decoct.evaluation.distilled import DistilledSet
from decoct.evaluation.downstream import Sources, device_name, plain_table, plan_lines, share_out, title_of
from decoct.evaluation.metrics import accuracy
from decoct.evaluation.results import mean_and_std, merge_records, percent, setting_of
from decoct.evaluation.units import Setting
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.run_folder import read_json, write_json
from decoct.seeding import numpy_generator
from decoct.training.processes import close, dataset_fingerprint, open_accelerator
from decoct.versions import installed_versions

__all__ = ["SeenImages", "SeenLogits", "class_order", "continual", "format_continual", "select_classes", "stages"]


def continual(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Measures class-incremental learning from a distilled set, and adds one record per setting to continual.json.

    The classes arrive in `config.steps` groups, in `config.orders` random orders; if the steps do not divide the
    classes, the first groups have one class more. The student of order o has the seed `config.seed` + o;
    `config.seeds` is not used. The memory keeps all images of the classes seen. Every student's accuracy is saved
    under `<output_dir>/evaluation/` as soon as it is known, so a killed run continues with the next student;
    processes started by `accelerate launch` share the students. For the accuracy of random images, evaluate a set
    that was distilled with `--method random` in the same way.

    Returns:
        The records of this call, one per (IPC, student, protocol, label mode): `accuracies[order][stage]`, and
        `stage_mean` and `stage_std` over the orders, as fractions; `orders` names the classes in their order. With
        `dry_run`: what there is to train, for `format_continual`; nothing is written.

    Raises:
        ValueError: If there are more steps than classes, or the distilled set, the data and the teacher do not fit
            together or lack what was asked for.
    """
    accelerator = open_accelerator(config)
    with accelerator.main_process_first():
        run = _Continual(config)
    if config.dry_run:
        plan = run.plan()
        close(accelerator)
        return plan
    share_out(accelerator, [(run.file(unit), partial(run.train, unit, accelerator)) for unit in run.units])
    records = []
    if accelerator.is_main_process:
        records = [run.record(setting, accelerator.device) for setting in run.sources.settings]
        merge_records(run.sources.folder / "continual.json", records)
    close(accelerator)
    return records


def class_order(seed: int, order: int, classes: int) -> list[int]:
    """The order-th random order of the classes."""
    return numpy_generator(seed, "class-order", order).permutation(classes).tolist()


def stages(order: Sequence[int], steps: int) -> list[list[int]]:
    """The classes seen after each step, in the order they came; if uneven, the first steps bring one class more.

    Raises:
        ValueError: If there are more steps than classes.
    """
    if not 1 <= steps <= len(order):
        raise ValueError(f"steps must be in [1, {len(order)}], the number of classes. Got {steps}.")
    ends = np.cumsum([len(group) for group in np.array_split(np.arange(len(order)), steps)])
    return [list(order[:end]) for end in ends]


def select_classes(distilled: DistilledSet, classes: Sequence[int]) -> DistilledSet:
    """The images of some classes, which are numbered anew: `classes[i]` becomes label i.

    Images stay in their order. Stored logits keep the columns of these classes, so that their softmax is the
    teacher's probability given that the class is one of them.

    Raises:
        ValueError: If a class occurs twice or is not in the set.
    """
    names = distilled.manifest["label_names"]
    if len(set(classes)) != len(classes) or not set(classes) <= set(range(len(names))):
        raise ValueError(f"classes must be different ones below {len(names)}. Got {list(classes)}.")
    columns = torch.tensor(classes)
    matches = distilled.labels[:, None] == columns
    rows = matches.any(dim=1)

    def restricted(logits: Tensor | None) -> Tensor | None:
        return None if logits is None else logits[rows][:, :, columns]

    return dataclasses.replace(
        distilled,
        images=distilled.images[rows],
        labels=matches[rows].int().argmax(dim=1),
        tile_logits=restricted(distilled.tile_logits),
        view_logits=restricted(distilled.view_logits),
        view_boxes=None if distilled.view_boxes is None else distilled.view_boxes[rows],
        manifest={**distilled.manifest, "label_names": [names[label] for label in classes]},
    )


class SeenLogits(nn.Module):
    """A teacher that knows only some classes: its logits of these, in their order."""

    def __init__(self, teacher: Classifier, classes: Sequence[int]) -> None:
        super().__init__()
        self.teacher = teacher
        self.columns = list(classes)
        self.name = teacher.name
        names = tuple(teacher.spec.label_names[label] for label in classes)
        self.spec = dataclasses.replace(teacher.spec, label_names=names)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of shape `(batch, len(classes))` for pixels in [0, 1]."""
        return self.teacher(pixels)[:, self.columns]


class SeenImages(Dataset[tuple[Tensor, int]]):
    """The images of some classes, which are numbered anew: `classes[i]` becomes label i."""

    def __init__(self, pixels: PixelDataset, classes: Sequence[int]) -> None:
        self._pixels = pixels
        self._rows = torch.isin(pixels.labels, torch.tensor(classes)).nonzero()[:, 0].tolist()
        self._new = {label: position for position, label in enumerate(classes)}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several items at once; a `DataLoader` calls this for a batch."""
        items = self._pixels.__getitems__([self._rows[index] for index in indices])
        return [(pixels, self._new[label]) for pixels, label in items]


@dataclass(frozen=True)
class _Unit:
    """One student: the smallest piece of work that is saved and resumed."""

    setting: Setting
    order: int
    stage: int


class _Continual:
    """What the students of one call share; loading it checks that everything fits together."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        self.sources = Sources(config)
        spec = self.sources.spec
        self.orders = [class_order(config.seed, order, spec.num_classes) for order in range(config.orders)]
        self.seen = [stages(order, config.steps) for order in self.orders]
        split = eval_split_name(config.dataset, config.dataset_config, config.eval_split)
        self.images = load_split(config, split, spec.image_size)
        names = self.images.features["label"].names
        check_label_names(spec.label_names, names, str(config.distilled), config.dataset)
        require_class_count(self.images, 1)
        self._data = dataset_fingerprint(self.images)
        self.units = [
            _Unit(setting, order, stage)
            for setting in self.sources.settings
            for order in range(config.orders)
            for stage in range(config.steps)
        ]

    @cached_property
    def pixels(self) -> PixelDataset:
        """The evaluation split."""
        return PixelDataset(self.images, self.sources.spec.image_size, self.sources.spec.channels)

    def seed(self, order: int) -> int:
        """The seed of an order's students."""
        return self.config.seed + order

    def file(self, unit: _Unit) -> Path:
        """Where a student's accuracy is saved; the name identifies all it depends on."""
        identity = {
            **self.sources.identity(unit.setting),
            "data": self._data,
            "classes": self.seen[unit.order][unit.stage],
            "seed": self.seed(unit.order),
        }
        return self.sources.folder / "evaluation" / f"continual-{config_hash(identity)}.json"

    def train(self, unit: _Unit, accelerator: Accelerator) -> dict[str, Any]:
        """Trains one student on the classes seen, and measures it on them."""
        setting, classes, seed = unit.setting, self.seen[unit.order][unit.stage], self.seed(unit.order)
        memory = select_classes(self.sources.sets[setting.ipc], classes)
        student = build_classifier(setting.student, memory.spec, seed)
        teacher = self.sources.teacher(setting)
        known = None if teacher is None else cast(Classifier, SeenLogits(teacher, classes))
        place = f"order {unit.order + 1}/{self.config.orders}, stage {unit.stage + 1}/{self.config.steps}"
        start = time.perf_counter()
        self.sources.train(setting, student, memory, known, seed, accelerator, f"{title_of(setting)}, {place}")
        seconds = time.perf_counter() - start
        measured = accuracy(
            student,
            SeenImages(self.pixels, classes),
            device=accelerator.device,
            mixed_precision=self.config.mixed_precision,
            num_workers=self.config.num_workers,
        )
        return {
            **dataclasses.asdict(setting),
            "classes": [self.sources.spec.label_names[label] for label in classes],
            "seed": seed,
            "accuracy": measured,
            "seconds": round(seconds, 2),
            "device": device_name(accelerator.device),
            "versions": installed_versions(),
        }

    def teacher_accuracy(self, setting: Setting, device: torch.device) -> float | None:
        """The teacher's accuracy on all classes, measured once; None if the teacher is out of reach."""
        teacher = self.sources.teachers.current(setting.ipc)
        if isinstance(teacher, str):
            return None
        precision = self.config.mixed_precision
        fingerprint = self.sources.teachers.fingerprint(teacher)
        identity = {"teacher": fingerprint, "data": self._data, "mixed_precision": precision}
        file = self.sources.folder / "evaluation" / f"teacher-{config_hash(identity)}.json"
        if not file.is_file():
            pixels = PixelDataset(self.images, teacher.spec.image_size, teacher.spec.channels)
            measured = accuracy(teacher.to(device), pixels, device=device, mixed_precision=precision)
            write_json(file, {"teacher": teacher.name, "accuracy": measured})
        return read_json(file)["accuracy"]

    def record(self, setting: Setting, device: torch.device) -> dict[str, Any]:
        """The record of one setting, from the students' files."""
        config, orders = self.config, range(self.config.orders)
        results = [
            [read_json(self.file(_Unit(setting, order, stage))) for stage in range(config.steps)] for order in orders
        ]
        accuracies = [[result["accuracy"] for result in row] for row in results]
        summary = [mean_and_std(column) for column in zip(*accuracies, strict=True)]
        students = [result for row in results for result in row]
        identity = {**self.sources.identity(setting), "data": self._data, "classes": self.seen, "seed": config.seed}
        return {
            **self.sources.describe(setting),
            "teacher_accuracy": self.teacher_accuracy(setting, device),
            "steps": config.steps,
            "orders": [[self.sources.spec.label_names[label] for label in order] for order in self.orders],
            "accuracies": accuracies,
            "stage_mean": [mean for mean, _ in summary],
            "stage_std": [std for _, std in summary],
            "seeds": [self.seed(order) for order in orders],
            "seconds": round(sum(result["seconds"] for result in students) / len(students), 2),
            "device": ", ".join(sorted({result["device"] for result in students})),
            "versions": students[-1]["versions"],
            "overrides": self.sources.overrides(setting),
            "config_hash": config_hash(identity),
        }

    def plan(self) -> list[dict[str, Any]]:
        """Per setting: students still to train, and the images that all of them will see."""
        rows = []
        for setting in self.sources.settings:
            units = [unit for unit in self.units if unit.setting == setting]
            missing = [unit for unit in units if not self.file(unit).is_file()]
            held = [len(self.seen[unit.order][unit.stage]) * setting.ipc for unit in missing]
            rows.append(
                {
                    "setting": title_of(setting),
                    "students": len(missing),
                    "done": len(units) - len(missing),
                    "images_seen": sum(held) * self.sources.epochs(setting),
                }
            )
        return rows


def format_continual(records: Sequence[dict[str, Any]]) -> str:
    """Records as plain text in the shape of InfoUtil's Table 4, one table per (dataset, protocol, labels, steps).

    A dry run's plan is shown as it is.
    """
    if records and "students" in records[0]:
        return plan_lines(records)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((*setting_of(record), record["steps"]), []).append(record)
    return "\n\n".join(_table(group, members) for group, members in sorted(groups.items()))


def _table(group: tuple[Any, ...], records: Sequence[dict[str, Any]]) -> str:
    dataset, protocol, labels, epoch, steps = group
    header = ("method", "k", "IPC", "student", "orders", *(f"Stage {stage + 1}" for stage in range(steps)))
    ordered = sorted(records, key=lambda record: (record["student"], record["ipc"], record["method"], record["tiles"]))
    rows = [
        (
            record["method"],
            str(record["tiles"]),
            str(record["ipc"]),
            record["student"],
            str(len(record["orders"])),
            *_cells(record),
        )
        for record in ordered
    ]
    table = plain_table(
        f"{dataset}, classes in {steps} steps, protocol {protocol}, {labels} labels, {epoch} epoch: "
        "accuracy % on the classes seen",
        [header, *rows],
    )
    if any(record["method"] == "random" for record in records):
        return table
    return f"{table}\nNo random images here: compare with a set distilled by --method random."


def _cells(record: dict[str, Any]) -> list[str]:
    """Mean and, of several orders, standard deviation of each stage in percent."""
    means = [percent(mean) for mean in record["stage_mean"]]
    if len(record["orders"]) == 1:
        return means
    return [f"{mean} ± {percent(std)}" for mean, std in zip(means, record["stage_std"], strict=True)]
