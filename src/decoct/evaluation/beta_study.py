"""What contextual information is worth: accuracy of subsets against their contextual score (IGDS, 5.2 and App. A)."""

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
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from decoct.config import BetaStudyConfig, config_hash, to_dict
from decoct.data.loading import check_label_names, eval_split_name, load_split, measure_spec, require_class_count
from decoct.data.source import dataset_fingerprint
from decoct.data.tensors import PixelDataset
from decoct.evaluation.grid import Grid
from decoct.evaluation.plan import student_seconds_per_image
from decoct.evaluation.students import check_student
from decoct.evaluation.units import Setting
from decoct.files import read_object
from decoct.igds.loading import label_names, load_estimator
from decoct.igds.measuring import embed, measure
from decoct.igds.subsets import ScoredImages, distilled_set, score_images
from decoct.models.accuracy import accuracy
from decoct.models.classifier import Classifier, fingerprint_of
from decoct.models.label_map import teacher_for
from decoct.models.zoo import build_classifier, load_classifier
from decoct.results.figures import save_beta_study
from decoct.results.statistics import mean_and_std
from decoct.run.files import write_tensors
from decoct.run.folder import write_json
from decoct.run.lock import writes_alone
from decoct.run.processes import close, device_name, open_accelerator
from decoct.run.versions import installed_versions
from decoct.training.protocols import epoch_count, load_protocol, student_name
from decoct.training.student import train_student

__all__ = ["beta_study", "plan_beta_study"]

logger = logging.getLogger(__name__)

# Below this share of the targets' range, the study says that its subsets hardly differ.
SMALL_REACH = 0.3


@dataclass(frozen=True)
class Subset:
    """Real images drawn for a target score, and the student trained on them; students of one seed share the images."""

    seed: int
    ipc: int
    target: int
    student: str


@writes_alone
def beta_study(config: BetaStudyConfig) -> dict[str, Any]:
    """Draws subsets with different contextual scores, trains students on them and compares their accuracies.

    Each student's accuracy is saved under `<output_dir>/units/` as soon as it is known, so a killed study continues
    where it was, and one with more seeds, targets or IPCs trains what is missing; processes started by `accelerate
    launch` share the students.

    Args:
        config: What is measured.

    Returns:
        The content of study.json: a record per (student, IPC, target) and the best of each (student, IPC); figure2.png
        is drawn from it.

    Raises:
        ValueError: If data, estimator and teacher do not fit together, or a class has fewer correctly classified
            images than the largest IPC.
    """
    accelerator = open_accelerator(config.mixed_precision)
    with accelerator.main_process_first():
        study = Study(config, accelerator)
        study.check()
    with accelerator.main_process_first():
        study.score()
    study.fill()
    result = study.result() if accelerator.is_main_process else {}
    if accelerator.is_main_process:
        write_json(study.folder / "study.json", result)
        save_beta_study(study.folder / "figure2.png", result["records"])
    close(accelerator)
    return result


def plan_beta_study(config: BetaStudyConfig) -> dict[str, Any]:
    """Forward passes of the estimator and, per IPC and student, the students to train; nothing is written."""
    accelerator = open_accelerator(config.mixed_precision)
    with accelerator.main_process_first():
        study = Study(config, accelerator)
        study.check()
    plan = study.plan()
    close(accelerator)
    return plan


class Study(Grid[Subset]):
    """A grid of subsets in memory; evaluation pixels and fingerprints are made on first use, the scores by `score`."""

    scored: ScoredImages
    targets: list[float]

    def __init__(self, config: BetaStudyConfig, accelerator: Accelerator) -> None:
        self.config, self.sharpness = config, config.sharpness
        self.device, self.folder = accelerator.device, Path(config.output_dir)
        self.protocol = load_protocol(config.protocol)
        self.estimator = load_estimator(config.estimator)
        self.teacher: Classifier | None = load_classifier(config.teacher) if config.teacher is not None else None
        self.images = load_split(config, config.train_split)
        eval_split = eval_split_name(config.dataset, config.dataset_config, config.eval_split, config.label_column)
        self.eval_images = load_split(config, eval_split, label_names=self.images.features["label"].names)
        self.spec = measure_spec(self.images, config.image_size)
        if self.teacher is not None:
            self.teacher = teacher_for(self.teacher, self.spec.label_names, config.dataset)
        self.labels = torch.tensor(self.images["label"][:], dtype=torch.int64)
        self.students = list(dict.fromkeys(student_name(self.protocol, name) for name in config.students))
        seeds, targets = range(config.seed, config.seed + config.seeds), range(config.targets)
        cells = [Subset(*cell) for cell in itertools.product(seeds, config.ipc, targets, self.students)]
        super().__init__(cells, accelerator)

    def check(self) -> None:
        """Raises ValueError for what would stop a cell later: label names, label mode, too few images, students."""
        config, names = self.config, self.spec.label_names
        check_label_names(label_names(self.estimator), names, config.estimator, config.dataset)
        check_label_names(names, self.eval_images.features["label"].names, config.train_split, "the evaluation split")
        require_class_count(self.images, max(config.ipc))
        self.protocol.check_labels(config.labels)
        for student in self.students:
            check_student(student, self.spec)

    @cached_property
    def eval_pixels(self) -> PixelDataset:
        return PixelDataset(self.eval_images, self.spec.image_size, self.spec.channels)

    # Scores

    @cached_property
    def measured_with(self) -> dict[str, Any]:
        """Everything the scores depend on."""
        return {
            "estimator": fingerprint_of({"": self.estimator}),
            "data": dataset_fingerprint(self.images),
            "image_size": self.config.image_size,
            "temperature": self.config.temperature,
            "mixed_precision": self.config.mixed_precision,
        }

    @property
    def scores_file(self) -> Path:
        return self.folder / f"scores-{config_hash(self.measured_with)}.safetensors"

    def score(self) -> None:
        """Scores all images, once per folder, and sets the targets."""
        names, file = self.spec.label_names, self.scores_file
        if not file.is_file():
            embedded = embed(self.images, self.estimator, **self.options)
            write_tensors(file, {"scores": score_images(embedded, self.config.temperature, names).scores})
        self.scored = ScoredImages(load_file(file)["scores"], self.labels, names)
        self.scored.require(max(self.config.ipc))
        self.targets = self.scored.targets(self.config.targets)
        reach = self.scored.reach(self.targets, self.sharpness)
        if reach < SMALL_REACH:
            logger.warning(
                "With sharpness %g the subsets' expected scores cover %.0f %% of the targets' range, so that they "
                "hardly differ; a sharpness of %.3g brings each of them half of the way to its target.",
                self.sharpness,
                100 * reach,
                self.scored.suggested_sharpness(),
            )

    @property
    def options(self) -> dict[str, Any]:
        """How images are put through the estimator."""
        config = self.config
        names = ("batch_size", "image_size", "mixed_precision", "num_workers")
        return {"device": self.device, **{name: getattr(config, name) for name in names}}

    # Students

    def rows(self, cell: Subset) -> Tensor:
        """The images of a subset."""
        return self.scored.draw(cell.ipc, self.targets[cell.target], self.sharpness, cell.seed, cell.target)

    def epochs(self, ipc: int) -> int:
        """Epochs of the protocol."""
        classes = self.spec.num_classes
        return epoch_count(self.protocol, ipc, classes, ipc * classes)

    @property
    def overrides(self) -> dict[str, Any]:
        """What is not trained as the protocol says."""
        config = self.config
        usual = {self.epochs(ipc) for ipc in config.ipc}
        values = {
            "epochs": None if usual == {config.epochs} else config.epochs,
            "rrc_scale": config.rrc_scale,
            "mixed_precision": None if config.mixed_precision == "no" else config.mixed_precision,
        }
        return {key: value for key, value in values.items() if value is not None}

    @cached_property
    def trained_with(self) -> dict[str, Any]:
        """Everything an accuracy depends on, but the subset, the student and the seed."""
        return {
            **self.measured_with,
            "evaluation": dataset_fingerprint(self.eval_images),
            "spec": self.spec.to_dict(),
            "labels": self.config.labels,
            "protocol": self.protocol.to_dict(),
            "overrides": self.overrides,
            "teacher": self.online_teacher.fingerprint() if self.online_teacher is not None else None,
        }

    @property
    def online_teacher(self) -> Classifier | None:
        return self.teacher if self.config.labels == "online" else None

    def file(self, cell: Subset) -> Path:
        """Where a student's accuracy is saved; the name identifies all it depends on."""
        identity = {**self.trained_with, "rows": self.rows(cell).tolist(), "student": cell.student, "seed": cell.seed}
        return self.folder / "units" / f"{config_hash(identity)}.json"

    def missing(self) -> list[Subset]:
        return [cell for cell in self.cells if not self.file(cell).is_file()]

    def make_set(self, cell: Subset) -> None:
        """Nothing: subsets are drawn in memory."""

    def measure(self, cell: Subset) -> None:
        config, rows = self.config, self.rows(cell)
        report = measure(self.images.select(rows.tolist()), self.estimator, config.temperature, **self.options)
        student = build_classifier(cell.student, self.spec, cell.seed)
        title = f"IPC {cell.ipc}, target {self.targets[cell.target]:.3f}, {cell.student}, seed {cell.seed}"
        start, total = time.perf_counter(), config.epochs or self.epochs(cell.ipc)
        with tqdm(total=total, desc=title, unit="epoch", disable=not self.accelerator.is_main_process) as bar:
            train_student(
                student,
                distilled_set(self.images, rows, self.spec),
                self.protocol,
                config.labels,
                self.online_teacher,
                seed=cell.seed,
                device=self.device,
                mixed_precision=config.mixed_precision,
                epochs=config.epochs,
                rrc_scale=config.rrc_scale,
                architecture=cell.student,
                on_epoch_end=lambda epoch, loss, network: None if bar.update() else None,
            )
        seconds = time.perf_counter() - start
        result = {
            **dataclasses.asdict(cell),
            "accuracy": self.accuracy(student),
            "contextual": float(self.scored.scores[rows].mean()),
            "contextual_to_itself": report.contextual,
            "prototype": report.prototype,
            "seconds": round(seconds, 2),
            "device": device_name(self.device),
            "versions": installed_versions(),
        }
        file = self.file(cell)
        write_json(file, result)

    def accuracy(self, network: Classifier) -> float:
        """Accuracy on the evaluation split."""
        precision, workers = self.config.mixed_precision, self.config.num_workers
        return accuracy(network, self.eval_pixels, device=self.device, mixed_precision=precision, num_workers=workers)

    # Results

    @cached_property
    def teacher_accuracy(self) -> float | None:
        """Accuracy of the teacher of `online` labels; None for other labels."""
        return self.accuracy(self.online_teacher.to(self.device)) if self.online_teacher is not None else None

    def result(self) -> dict[str, Any]:
        """The content of study.json, from the students' files."""
        places = sorted({(cell.student, cell.ipc, cell.target) for cell in self.cells})
        records = [self._record(*place) for place in places]
        best: dict[tuple[str, int], dict[str, Any]] = {}
        for record in records:
            key = record["student"], record["ipc"]
            if key not in best or record["accuracy_mean"] > best[key]["accuracy_mean"]:
                best[key] = record
        return {
            "targets": self.targets,
            "expected": [self.scored.expected(target, self.sharpness) for target in self.targets],
            "reach": self.scored.reach(self.targets, self.sharpness),
            "sharpness": self.sharpness,
            "suggested_sharpness": self.scored.suggested_sharpness(),
            "images": len(self.labels),
            "correct": int((~self.scored.scores.isnan()).sum()),
            "best": list(best.values()),
            "records": records,
            "overrides": self.overrides,
            "config": to_dict(self.config),
            "versions": installed_versions(),
        }

    def _record(self, student: str, ipc: int, target: int) -> dict[str, Any]:
        """Accuracies and scores over the seeds."""
        cells = [cell for cell in self.cells if (cell.student, cell.ipc, cell.target) == (student, ipc, target)]
        results = [read_object(self.file(cell)) for cell in cells]
        mean, std = mean_and_std([result["accuracy"] for result in results])
        averages = {
            name: mean_and_std([result[name] for result in results])[0]
            for name in ("contextual", "contextual_to_itself", "prototype", "seconds")
        }
        return {
            "task": "accuracy",
            "dataset": self.config.dataset,
            "method": "subset",
            "student": student,
            "ipc": ipc,
            "target": self.targets[target],
            **averages,
            "accuracy_mean": mean,
            "accuracy_std": std,
            "accuracies": [result["accuracy"] for result in results],
            "seeds": [cell.seed for cell in cells],
            "protocol": self.protocol.name,
            "labels": self.config.labels,
            "teacher_accuracy": self.teacher_accuracy,
            "epoch": "last",
            "device": ", ".join(sorted({result["device"] for result in results})),
        }

    # Dry run

    def plan(self) -> dict[str, Any]:
        """Forward passes of the estimator, and the students of each IPC and architecture like `plan_students`."""
        config, scored = self.config, self.scores_file.is_file()
        if scored:
            self.score()
        missing = self.missing() if scored else self.cells
        rows = []
        for ipc, student in itertools.product(config.ipc, self.students):
            left = sum((cell.ipc, cell.student) == (ipc, student) for cell in missing)
            seen = left * ipc * self.spec.num_classes * (config.epochs or self.epochs(ipc))
            rows.append(
                {
                    "title": str(Setting(ipc, student, self.protocol.name, config.labels)),
                    "students": left,
                    "done": config.targets * config.seeds - left,
                    "images_seen": seen,
                    "seconds": seen * self._seconds_per_image(ipc, student) if left else 0.0,
                }
            )
        subsets = sum(cell.ipc for cell in missing) * self.spec.num_classes
        return {"forward_passes": subsets + (0 if scored else len(self.images)), "students": rows}

    def _seconds_per_image(self, ipc: int, student: str) -> float:
        """Seconds that training takes per image, by a timing of two steps on the first images of each class."""
        members = [torch.nonzero(self.labels == label).flatten()[:ipc] for label in range(self.spec.num_classes)]
        return student_seconds_per_image(
            build_classifier(student, self.spec),
            distilled_set(self.images, torch.cat(members), self.spec),
            self.protocol,
            self.config.labels,
            self.online_teacher,
            self.device,
            self.config.mixed_precision,
        )
