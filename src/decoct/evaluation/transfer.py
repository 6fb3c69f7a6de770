"""Transfer learning: pre-training on a distilled set, then fine-tuning on another dataset (IGDS, App. G, Table 9)."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from decoct.config import DataConfig, EvaluateConfig, config_hash
from decoct.data.loading import check_label_names, load_train_and_eval
from decoct.data.source import dataset_fingerprint
from decoct.data.tensors import PixelDataset
from decoct.evaluation.downstream import Sources, plain_table, plan_lines, share_out, title_of
from decoct.evaluation.units import Setting
from decoct.methods import method_name
from decoct.models.accuracy import accuracy
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.results.records import merge_records, setting_of
from decoct.results.statistics import mean_and_std, place_of, verdict
from decoct.results.tables import percent
from decoct.run.folder import read_json
from decoct.run.processes import close, device_name, open_accelerator
from decoct.run.versions import installed_versions
from decoct.training.finetuning import MOMENTUM, WEIGHT_DECAY, fine_tune, replace_head

__all__ = ["format_transfer", "transfer"]


def transfer(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Pre-trains students on a distilled set, fine-tunes them on `config.target_dataset`, and measures them there.

    Pre-training follows `config.protocols` (`igds_transfer` is the paper's). The head is then replaced by a new one for
    the target's classes and the whole network is fine-tuned on the target's training split, whose images are resized
    and converted to the distilled set's size and channels (see `fine_tune`). Beside it stands the same student with the
    same seed and the same head, fine-tuned without pre-training (`scratch`): the difference is what pre-training
    brought; and one that was pre-trained on random real images (`RandomBaseline`), unless `config.baseline` is off: the
    difference is what distilling brought. Random images are drawn from `config.dataset` or, where none is named, from
    what the manifest names. The source's test images are not read, so that the teacher's accuracy is not measured.

    Pre-trained weights (`pretrained-*.safetensors`) and the accuracy of every student are saved under
    `<output_dir>/evaluation/`, where calls with other targets find the weights and calls with other distilled sets of
    that folder the students without pre-training; those of random images lie beside these. A kill costs at most the
    phase of the student at work; processes started by `accelerate launch` share the students. One record per setting
    and target is added to transfer.json.

    Returns:
        The records of this call, one per (IPC, student, protocol, label mode); accuracies are fractions. With
        `dry_run`: what there is to train, for `format_transfer`; nothing is written.

    Raises:
        ValueError: If no target is given, or the distilled set, the target and the teacher lack what was asked for.
    """
    if config.target_dataset is None:
        raise ValueError("target_dataset must be given for task 'transfer'. Got None.")
    accelerator = open_accelerator(config.mixed_precision)
    with accelerator.main_process_first():
        run = _Transfer(config, config.target_dataset)
    if config.dry_run:
        plan = run.plan()
        close(accelerator)
        return plan
    run.sources.draw(run.seeds, accelerator)
    share_out(accelerator, [(run.file(unit), partial(run.train, unit, accelerator)) for unit in run.units])
    records = [run.record(setting) for setting in run.sources.settings] if accelerator.is_main_process else []
    if accelerator.is_main_process:
        merge_records(run.sources.folder / "transfer.json", records)
    close(accelerator)
    return records


@dataclass(frozen=True)
class _Unit:
    """One fine-tuned student: the smallest piece of work that is saved and resumed.

    Args:
        student: Architecture.
        seed: Of its weights and its training and, for random images, of their draw.
        setting: How it is pre-trained; None: not at all.
        random: Pre-trained on random images in place of the distilled ones.
    """

    student: str
    seed: int
    setting: Setting | None
    random: bool = False


class _Transfer:
    """What the students of one call share; loading it checks that everything fits together."""

    def __init__(self, config: EvaluateConfig, target: str) -> None:
        self.config, self.target = config, target
        self.sources = Sources(config)
        where = DataConfig(
            dataset=target,
            dataset_config=config.target_config,
            train_split=config.target_train_split,
            eval_split=config.target_eval_split,
            label_column=config.target_label_column,
            image_size=self.sources.spec.image_size,
            skip_unreadable=config.skip_unreadable,
        )
        self.train_images, self.eval_images = load_train_and_eval(where)
        self.names: list[str] = self.train_images.features["label"].names
        check_label_names(self.names, self.eval_images.features["label"].names, "its training split", target)
        self._data = [dataset_fingerprint(images) for images in (self.train_images, self.eval_images)]
        self.seeds = list(range(config.seed, config.seed + config.seeds))
        units = [
            _Unit(setting.student, seed, start, random)
            for setting in self.sources.settings
            for seed in self.seeds
            for start, random in [*((setting, side) for side in self.sources.sides(setting)), (None, False)]
        ]
        self.units = list(dict.fromkeys(units))

    @cached_property
    def train_pixels(self) -> PixelDataset:
        """The target's training split."""
        return PixelDataset(self.train_images, self.sources.spec.image_size, self.sources.spec.channels)

    @cached_property
    def eval_pixels(self) -> PixelDataset:
        """The target's evaluation split."""
        return PixelDataset(self.eval_images, self.sources.spec.image_size, self.sources.spec.channels)

    @property
    def finetuning(self) -> dict[str, Any]:
        """How students are fine-tuned, as records state it."""
        return {
            "steps": self.config.finetune_steps,
            "batch_size": min(self.config.finetune_batch_size, len(self.train_images)),
            "learning_rate": self.config.finetune_learning_rate,
            "schedule": "cosine",
            "optimizer": "sgd",
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "images": len(self.train_images),
        }

    def identity(self, setting: Setting | None, random_seed: int | None = None) -> dict[str, Any]:
        """Everything an accuracy depends on, but student and seed."""
        return {
            "task": "transfer",
            "source": None if setting is None else self.sources.identity(setting, random_seed),
            "spec": {**self.sources.spec.to_dict(), "label_names": self.names},
            "data": self._data,
            "finetune": self.finetuning,
            "mixed_precision": self.config.mixed_precision,
        }

    def file(self, unit: _Unit) -> Path:
        """Where a student's accuracy is saved; the name identifies all it depends on."""
        identity = self.identity(unit.setting, unit.seed if unit.random else None)
        name = config_hash({**identity, "student": unit.student, "seed": unit.seed})
        return self.sources.file(unit.random, f"transfer-{name}.json")

    def is_done(self, unit: _Unit) -> bool:
        """Whether a student's accuracy is saved; random images may not have been drawn yet."""
        drawn = unit.setting is None or self.sources.is_drawn(unit.setting, unit.seed, unit.random)
        return drawn and self.file(unit).is_file()

    def weights_file(self, setting: Setting, seed: int, random: bool) -> Path:
        """Where a student's weights are saved after pre-training, which no target has a part in."""
        identity = {**self.sources.identity(setting, seed if random else None), "seed": seed}
        return self.sources.file(random, f"pretrained-{config_hash(identity)}.safetensors")

    def is_pretrained(self, unit: _Unit) -> bool:
        """Whether a student's weights after pre-training are saved, or it takes none."""
        if unit.setting is None:
            return True
        drawn = self.sources.is_drawn(unit.setting, unit.seed, unit.random)
        return drawn and self.weights_file(unit.setting, unit.seed, unit.random).is_file()

    def pretrain(self, setting: Setting, seed: int, random: bool, accelerator: Accelerator) -> tuple[Classifier, float]:
        """The student trained on the images of its setting, now or by an earlier call, and the seconds it took."""
        student = build_classifier(setting.student, self.sources.spec, seed)
        file = self.weights_file(setting, seed, random)
        if file.is_file():
            with safe_open(file, framework="pt") as saved:
                student.model.load_state_dict({name: saved.get_tensor(name) for name in saved.keys()})
                return student, float(saved.metadata()["seconds"])
        teacher, images = self.sources.teacher(setting), self.sources.images(setting, seed, random)
        title = f"Pre-training: {title_of(setting, random)}, seed {seed}"
        began = time.perf_counter()
        self.sources.train(setting, student, images, teacher, seed, accelerator, title)
        seconds = time.perf_counter() - began
        file.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.cpu().contiguous() for name, tensor in student.model.state_dict().items()}
        temporary = file.with_name(file.name + ".tmp")
        save_file(weights, temporary, metadata={"seconds": str(seconds)})
        os.replace(temporary, file)
        return student, seconds

    def train(self, unit: _Unit, accelerator: Accelerator) -> dict[str, Any]:
        """Fine-tunes one student, pre-trained or not, and measures it."""
        config, before = self.config, 0.0
        if unit.setting is None:
            spec = dataclasses.replace(self.sources.spec, label_names=tuple(self.names))
            student = build_classifier(unit.student, spec, unit.seed)
        else:
            pretrained, before = self.pretrain(unit.setting, unit.seed, unit.random, accelerator)
            student = replace_head(pretrained, unit.student, self.names, unit.seed)
        title = f"Fine-tuning: {self.title(unit.setting, unit.random)}, seed {unit.seed}"
        if config.compile:
            student.compile()
        began = time.perf_counter()
        with tqdm(total=config.finetune_steps, desc=title, disable=not accelerator.is_main_process) as progress:
            fine_tune(
                student,
                self.train_pixels,
                steps=config.finetune_steps,
                batch_size=config.finetune_batch_size,
                learning_rate=config.finetune_learning_rate,
                seed=unit.seed,
                device=accelerator.device,
                mixed_precision=config.mixed_precision,
                num_workers=config.num_workers,
                progress=progress,
            )
        seconds = before + time.perf_counter() - began
        measured = accuracy(
            student,
            self.eval_pixels,
            device=accelerator.device,
            mixed_precision=config.mixed_precision,
            num_workers=config.num_workers,
        )
        return {
            **dataclasses.asdict(unit),
            "target_dataset": self.target,
            "accuracy": measured,
            "seconds": round(seconds, 2),
            "device": device_name(accelerator.device),
            "versions": installed_versions(),
        }

    def record(self, setting: Setting) -> dict[str, Any]:
        """The record of one setting, from the students' files."""
        note = self.sources.notes[setting]
        own, scratch = self.results(setting, setting), self.results(setting, None)
        drawn = [] if note else self.results(setting, setting, random=True)
        return {
            **self.sources.describe(setting),
            "target_dataset": self.target,
            "finetune": self.finetuning,
            **_summary(own),
            "scratch": _summary(scratch),
            "seeds": self.seeds,
            "seconds": round(sum(result["seconds"] for result in own) / len(own), 2),
            "device": ", ".join(sorted({result["device"] for result in [*own, *scratch, *drawn]})),
            "versions": own[-1]["versions"],
            "overrides": self.sources.overrides(setting),
            "config_hash": config_hash({**self.identity(setting), "seeds": self.seeds}),
            "baseline": {**_summary(drawn), "seeds": self.seeds} if drawn else None,
            "baseline_note": note,
        }

    def results(self, setting: Setting, start: Setting | None, random: bool = False) -> list[dict[str, Any]]:
        """What was saved of a setting's students that were pre-trained in one way."""
        return [read_json(self.file(_Unit(setting.student, seed, start, random))) for seed in self.seeds]

    def title(self, setting: Setting | None, random: bool) -> str:
        """How students are pre-trained, in words."""
        return "no pre-training" if setting is None else title_of(setting, random)

    def plan(self) -> list[dict[str, Any]]:
        """Per setting, and for students without pre-training: what is still to train, and the images seen by it."""
        rows = []
        size = self.finetuning["batch_size"]
        ways = dict.fromkeys((unit.setting, unit.random) for unit in self.units)
        for setting, random in sorted(ways, key=lambda way: way[0] is None):
            units = [unit for unit in self.units if (unit.setting, unit.random) == (setting, random)]
            missing = [unit for unit in units if not self.is_done(unit)]
            seen = len(missing) * self.config.finetune_steps * size
            if setting is not None:
                untrained = [unit for unit in missing if not self.is_pretrained(unit)]
                seen += len(untrained) * self.sources.epochs(setting) * len(self.sources.sets[setting.ipc])
            rows.append(
                {
                    "setting": self.title(setting, random),
                    "students": len(missing),
                    "done": len(units) - len(missing),
                    "images_seen": seen,
                }
            )
        return rows


def _summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [result["accuracy"] for result in results]
    mean, std = mean_and_std(accuracies)
    return {"accuracy_mean": mean, "accuracy_std": std, "accuracies": accuracies}


def format_transfer(records: Sequence[dict[str, Any]]) -> str:
    """Records as plain text: one table per source dataset, protocol, label mode and way of fine-tuning, and in words
    whether pre-training on each set beats pre-training on random images.

    A dry run's plan is shown as it is.
    """
    if records and "students" in records[0]:
        return plan_lines(records)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        tuning = record["finetune"]
        way = f"{tuning['steps']:,} steps of {tuning['batch_size']} images at {tuning['learning_rate']}"
        groups.setdefault((*setting_of(record), way), []).append(record)
    tables = [_table(group, members) for group, members in sorted(groups.items())]
    return "\n\n".join([*tables, "\n".join(f"{place_of(record)}: {verdict(record)}" for record in records)])


HEADER = ("target", "student", "method", "k", "IPC", "pre-trained %", "seeds", "random %", "from scratch %", "gain")


def _table(group: tuple[Any, ...], records: Sequence[dict[str, Any]]) -> str:
    dataset, protocol, labels, epoch, way = group
    order = ("target_dataset", "student", "ipc", "method", "tiles")
    rows = []
    for record in sorted(records, key=lambda record: tuple(record[name] for name in order)):
        seeds, baseline = len(record["seeds"]), record.get("baseline")
        rows.append(
            (
                record["target_dataset"],
                record["student"],
                method_name(record["method"]),
                str(record["tiles"]),
                str(record["ipc"]),
                _cell(record, seeds),
                str(seeds),
                "-" if baseline is None else _cell(baseline, seeds),
                _cell(record["scratch"], seeds),
                f"{100 * (record['accuracy_mean'] - record['scratch']['accuracy_mean']):+.1f}",
            )
        )
    title = f"Pre-trained on {dataset} by {protocol}, {labels} labels, {epoch} epoch; fine-tuned for {way}"
    note = "random: pre-trained on random images; gain: over no pre-training, in points."
    return f"{plain_table(title, [HEADER, *rows])}\n{note}"


def _cell(accuracies: dict[str, Any], seeds: int) -> str:
    """Mean and, of several seeds, standard deviation in percent."""
    mean = percent(accuracies["accuracy_mean"])
    return mean if seeds == 1 else f"{mean} ± {percent(accuracies['accuracy_std'])}"
