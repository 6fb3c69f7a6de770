"""Task `continual`: class-incremental learning, with the distilled images as the memory while classes arrive in steps.

After each step a student is trained from scratch on the distilled images of all classes seen so far and measured on the
real images of these classes. This is GDumb (Prabhu et al., ECCV 2020) with a distilled memory, as DM (Zhao & Bilen,
2023) evaluates distilled sets and InfoUtil reports them (Table 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from decoct.config import LABEL_MODES, config_hash
from decoct.data.loading import require_class_count
from decoct.data.tensors import PixelDataset
from decoct.distilled.dataset import DistilledSet
from decoct.evaluation.run import Evaluation
from decoct.evaluation.units import Setting, Unit
from decoct.methods import method_name
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.results.records import setting_of
from decoct.results.statistics import accuracies_of, mean_and_std, place_of, verdict
from decoct.results.tables import accuracy_cell, text_table
from decoct.run.seeding import numpy_generator

__all__ = [
    "ContinualEvaluation",
    "SeenImages",
    "SeenLogits",
    "class_order",
    "format_continual",
    "select_classes",
    "stages",
]


@dataclass(frozen=True)
class SeenClasses(Unit):
    """One student, of the classes seen after a step; its seed is that of their order, too."""

    stage: int = 0


class ContinualEvaluation(Evaluation[SeenClasses]):
    """Students of every (IPC, student, protocol, label mode), order of the classes and step.

    The classes arrive in `steps` groups, in `orders` random orders; if the steps do not divide the classes, the first
    groups have one class more. The student of order o has the seed `seed` + o. The memory keeps all images of the
    classes seen. A record's accuracies are those after the last step; `stage_accuracies[order][stage]`, `stage_mean`
    and `stage_std` have all of them, and `orders` names the classes in their order.
    """

    @property
    def seeds(self) -> list[int]:
        return list(range(self.config.seed, self.config.seed + self.config.orders))

    @cached_property
    def orders(self) -> dict[int, list[int]]:
        """The order of the classes, by seed."""
        first, classes = self.config.seed, self.spec.num_classes
        return {seed: class_order(first, order, classes) for order, seed in enumerate(self.seeds)}

    @cached_property
    def seen(self) -> dict[int, list[list[int]]]:
        """The classes seen after each step, by seed."""
        return {seed: stages(order, self.config.steps) for seed, order in self.orders.items()}

    def units_of(self, setting: Setting, random: bool = False) -> list[SeenClasses]:
        steps = range(self.config.steps)
        return [SeenClasses(setting, seed, random, stage) for seed in self.seeds for stage in steps]

    def check_data(self) -> None:
        super().check_data()
        if "mixed" in self.config.labels:
            raise ValueError(
                f"labels must be of {[mode for mode in LABEL_MODES if mode != 'mixed']} for task 'continual': a mixed "
                f"view shows images of classes that have not come yet. Got {self.config.labels}. Name others: --labels "
                "tiles, which every set has, or hard, views or online."
            )
        _ = self.seen
        require_class_count(self.split.images, 1)

    def classes(self, unit: SeenClasses) -> list[int]:
        """The classes that a unit's student knows."""
        return self.seen[unit.seed][unit.stage]

    def name(self, unit: SeenClasses) -> str:
        identity = self._identity(unit.setting, self.fingerprint_of(unit), self.classes(unit), unit.seed)
        return f"continual-{config_hash(identity)}.json"

    def record_identity(self, setting: Setting, images: list[str]) -> dict[str, Any]:
        only = images[0] if len(images) == 1 else images
        return self._identity(setting, only, list(self.seen.values()), self.config.seed)

    def _identity(self, setting: Setting, images: str | list[str], classes: list[Any], seed: int) -> dict[str, Any]:
        trained = {**self.identity(setting, images), "setting": dataclasses.asdict(setting)}
        return {**trained, "data": self.split.fingerprint, "classes": classes, "seed": seed}

    def extent(self, unit: SeenClasses) -> int:
        classes = len(self.classes(unit))
        return classes * unit.setting.ipc * self.epochs(unit.setting, classes)

    def train_and_measure(self, unit: SeenClasses, accelerator: Accelerator) -> dict[str, Any]:
        classes, teacher = self.classes(unit), self.teacher(unit.setting)
        memory = select_classes(self.images_of(unit), classes)
        student = build_classifier(unit.setting.student, memory.spec, unit.seed)
        known = None if teacher is None else cast(Classifier, SeenLogits(teacher, classes))
        words = f"{unit.title}, seed {unit.seed}, {len(classes)} of {self.spec.num_classes} classes"
        seconds = self.fit(student, memory, unit, known, accelerator, words)
        return {
            "classes": [self.spec.label_names[label] for label in classes],
            "accuracy": self.measure(student, SeenImages(self.split.pixels, classes), accelerator.device),
            "seconds": seconds,
        }

    def measured(self, setting: Setting, random: bool = False) -> dict[str, Any]:
        steps, results = self.config.steps, self.results(self.units_of(setting, random))
        by_order = [results[start : start + steps] for start in range(0, len(results), steps)]
        by_stage = [accuracies_of(column, self.seeds) for column in zip(*by_order, strict=True)]
        return {
            **by_stage[-1],
            "stage_accuracies": [[result["accuracy"] for result in row] for row in by_order],
            "stage_mean": [stage["accuracy_mean"] for stage in by_stage],
            "stage_std": [stage["accuracy_std"] for stage in by_stage],
        }

    def fields(self, setting: Setting, device: torch.device) -> dict[str, Any]:
        names = self.spec.label_names
        orders = [[names[label] for label in order] for order in self.orders.values()]
        return {"eval_split": self.split.name, "steps": self.config.steps, "orders": orders}


# Classes seen so far


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
        slots=None,  # their mixed views show images of all classes
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


# Tables


def format_continual(records: Sequence[dict[str, Any]]) -> str:
    """Records as plain text: tables in the shape of InfoUtil's Table 4, one per (dataset, protocol, labels, steps), and
    in words whether each set beats random images after the last step."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((*setting_of(record), record["steps"]), []).append(record)
    tables = [_table(group, members) for group, members in sorted(groups.items())]
    lines = [f"{place_of(record)}, all classes: {verdict(_after_last_step(record))}" for record in records]
    return "\n\n".join([*tables, "\n".join(lines)])


def _table(group: tuple[Any, ...], records: Sequence[dict[str, Any]]) -> str:
    dataset, protocol, labels, epoch, steps = group
    header = ("method", "k", "IPC", "student", "orders", *(f"Stage {stage + 1}" for stage in range(steps)))
    ordered = sorted(records, key=lambda record: (record["student"], record["ipc"], record["method"], record["tiles"]))
    rows = []
    for record in ordered:
        where = (str(record["tiles"]), str(record["ipc"]), record["student"], str(len(record["orders"])))
        rows.append((method_name(record["method"]), *where, *_cells(record)))
        if baseline := record.get("baseline"):
            rows.append(("random images", *where, *_cells(baseline)))
    title = f"{dataset}, classes in {steps} steps, protocol {protocol}, {labels} labels, {epoch} epoch"
    return text_table([header, *dict.fromkeys(rows)], f"{title}: accuracy % on the classes seen")


def _cells(summary: dict[str, Any]) -> list[str]:
    """The accuracy of each stage."""
    stages = zip(summary["stage_mean"], summary["stage_std"], strict=True)
    return [accuracy_cell(mean, std, len(summary["seeds"])) for mean, std in stages]


def _after_last_step(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose accuracies are numbers; those of an old `continual.json` are lists, of all stages."""
    if record.get("baseline") is not None:
        record = {**record, "baseline": _after_last_step(record["baseline"])}
    last = [row[-1] for row in record.get("stage_accuracies") or record["accuracies"]]
    return {**record, "accuracies": last, "accuracy_mean": mean_and_std(last)[0]}
