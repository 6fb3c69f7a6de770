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

import torch
from accelerate import Accelerator

from decoct.config import EvaluateConfig, config_hash
from decoct.data.loading import check_label_names, eval_split_name, load_split, require_class_count
from decoct.data.source import dataset_fingerprint
from decoct.data.tensors import PixelDataset
from decoct.evaluation.downstream import Sources, plain_table, plan_lines, share_out, title_of
from decoct.evaluation.seen_classes import SeenImages, SeenLogits, class_order, select_classes, stages
from decoct.evaluation.units import Setting
from decoct.methods import method_name
from decoct.models.accuracy import accuracy
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.results.records import merge_records, setting_of
from decoct.results.statistics import mean_and_std, place_of, verdict
from decoct.results.tables import percent
from decoct.run.folder import read_json, write_json
from decoct.run.processes import close, device_name, open_accelerator
from decoct.run.versions import installed_versions

__all__ = ["continual", "format_continual"]


def continual(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Measures class-incremental learning from a distilled set, and adds one record per setting to continual.json.

    The classes arrive in `config.steps` groups, in `config.orders` random orders; if the steps do not divide the
    classes, the first groups have one class more. The student of order o has the seed `config.seed` + o;
    `config.seeds` is not used. The memory keeps all images of the classes seen. Beside each student, one is trained
    on random real images with everything else equal (`RandomBaseline`), unless `config.baseline` is off; the seed is
    that of the draw, too. Every student's accuracy is saved under `<output_dir>/evaluation/`, or beside the random
    images, as soon as it is known, so a killed run continues with the next student; processes started by
    `accelerate launch` share the students.

    Returns:
        The records of this call, one per (IPC, student, protocol, label mode): `accuracies[order][stage]`, and
        `stage_mean` and `stage_std` over the orders, as fractions, of the distilled set and, as `baseline`, of random
        images; `orders` names the classes in their order. With `dry_run`: what there is to train, for
        `format_continual`; nothing is written.

    Raises:
        ValueError: If there are more steps than classes, or the distilled set, the data and the teacher do not fit
            together or lack what was asked for.
    """
    accelerator = open_accelerator(config.mixed_precision)
    with accelerator.main_process_first():
        run = _Continual(config)
    if config.dry_run:
        plan = run.plan()
        close(accelerator)
        return plan
    run.sources.draw(map(run.seed, range(config.orders)), accelerator)
    share_out(accelerator, [(run.file(unit), partial(run.train, unit, accelerator)) for unit in run.units])
    records = []
    if accelerator.is_main_process:
        records = [run.record(setting, accelerator.device) for setting in run.sources.settings]
        merge_records(run.sources.folder / "continual.json", records)
    close(accelerator)
    return records


@dataclass(frozen=True)
class _Unit:
    """One student: the smallest piece of work that is saved and resumed."""

    setting: Setting
    order: int
    stage: int
    random: bool = False


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
            _Unit(setting, order, stage, random)
            for setting in self.sources.settings
            for random in self.sources.sides(setting)
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
        seed = self.seed(unit.order)
        identity = {
            **self.sources.identity(unit.setting, seed if unit.random else None),
            "data": self._data,
            "classes": self.seen[unit.order][unit.stage],
            "seed": seed,
        }
        return self.sources.file(unit.random, f"continual-{config_hash(identity)}.json")

    def is_done(self, unit: _Unit) -> bool:
        """Whether a student's accuracy is saved; random images may not have been drawn yet."""
        return self.sources.is_drawn(unit.setting, self.seed(unit.order), unit.random) and self.file(unit).is_file()

    def train(self, unit: _Unit, accelerator: Accelerator) -> dict[str, Any]:
        """Trains one student on the classes seen, and measures it on them."""
        setting, classes, seed = unit.setting, self.seen[unit.order][unit.stage], self.seed(unit.order)
        memory = select_classes(self.sources.images(setting, seed, unit.random), classes)
        student = build_classifier(setting.student, memory.spec, seed)
        teacher = self.sources.teacher(setting)
        known = None if teacher is None else cast(Classifier, SeenLogits(teacher, classes))
        place = f"order {unit.order + 1}/{self.config.orders}, stage {unit.stage + 1}/{self.config.steps}"
        start = time.perf_counter()
        title = f"{title_of(setting, unit.random)}, {place}"
        self.sources.train(setting, student, memory, known, seed, accelerator, title)
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
            "random": unit.random,
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
        config, note = self.config, self.sources.notes[setting]
        students = [result for row in self.results(setting, random=False) for result in row]
        identity = {**self.sources.identity(setting), "data": self._data, "classes": self.seen, "seed": config.seed}
        return {
            **self.sources.describe(setting),
            "teacher_accuracy": self.teacher_accuracy(setting, device),
            "steps": config.steps,
            "orders": [[self.sources.spec.label_names[label] for label in order] for order in self.orders],
            **self.summary(setting, random=False),
            "seconds": round(sum(result["seconds"] for result in students) / len(students), 2),
            "device": ", ".join(sorted({result["device"] for result in students})),
            "versions": students[-1]["versions"],
            "overrides": self.sources.overrides(setting),
            "config_hash": config_hash(identity),
            "baseline": None if note else self.summary(setting, random=True),
            "baseline_note": note,
        }

    def results(self, setting: Setting, random: bool) -> list[list[dict[str, Any]]]:
        """What was saved of the students, by order and stage."""
        orders, steps = range(self.config.orders), range(self.config.steps)
        return [[read_json(self.file(_Unit(setting, order, stage, random))) for stage in steps] for order in orders]

    def summary(self, setting: Setting, random: bool) -> dict[str, Any]:
        """Accuracies by order and stage, and over the orders."""
        accuracies = [[result["accuracy"] for result in row] for row in self.results(setting, random)]
        stages = [mean_and_std(column) for column in zip(*accuracies, strict=True)]
        return {
            "accuracies": accuracies,
            "stage_mean": [mean for mean, _ in stages],
            "stage_std": [std for _, std in stages],
            "seeds": [self.seed(order) for order in range(self.config.orders)],
        }

    def plan(self) -> list[dict[str, Any]]:
        """Per setting: students still to train, and the images that all of them will see."""
        rows = []
        for setting, random in dict.fromkeys((unit.setting, unit.random) for unit in self.units):
            units = [unit for unit in self.units if (unit.setting, unit.random) == (setting, random)]
            missing = [unit for unit in units if not self.is_done(unit)]
            held = [len(self.seen[unit.order][unit.stage]) * setting.ipc for unit in missing]
            rows.append(
                {
                    "setting": title_of(setting, random),
                    "students": len(missing),
                    "done": len(units) - len(missing),
                    "images_seen": sum(held) * self.sources.epochs(setting),
                }
            )
        return rows


def format_continual(records: Sequence[dict[str, Any]]) -> str:
    """Records as plain text: tables in the shape of InfoUtil's Table 4, one per (dataset, protocol, labels, steps), and
    in words whether each set beats random images after the last step.

    A dry run's plan is shown as it is.
    """
    if records and "students" in records[0]:
        return plan_lines(records)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((*setting_of(record), record["steps"]), []).append(record)
    tables = [_table(group, members) for group, members in sorted(groups.items())]
    return "\n\n".join([*tables, "\n".join(map(_verdict, records))])


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
    return plain_table(f"{title}: accuracy % on the classes seen", [header, *dict.fromkeys(rows)])


def _cells(summary: dict[str, Any]) -> list[str]:
    """Mean and, of several orders, standard deviation of each stage in percent."""
    means = [percent(mean) for mean in summary["stage_mean"]]
    if len(summary["accuracies"]) == 1:
        return means
    return [f"{mean} ± {percent(std)}" for mean, std in zip(means, summary["stage_std"], strict=True)]


def _verdict(record: dict[str, Any]) -> str:
    """Whether a set beats random images after the last step, when all classes have been seen."""
    last = {**record, **_last_stage(record)}
    if record.get("baseline") is not None:
        last["baseline"] = _last_stage(record["baseline"])
    return f"{place_of(record)}, all classes: {verdict(last)}"


def _last_stage(summary: dict[str, Any]) -> dict[str, Any]:
    accuracies = [row[-1] for row in summary["accuracies"]]
    return {"accuracy_mean": summary["stage_mean"][-1], "accuracies": accuracies, "seeds": summary["seeds"]}
