"""Choosing how a set's images are selected: short trainings of students, measured on validation images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset, Features, Value

from decoct.config import TeacherConfig
from decoct.data.spec import ImageSpec
from decoct.data.tensors import PixelDataset
from decoct.distilled.dataset import DistilledSet
from decoct.files import read_object
from decoct.models.accuracy import accuracy
from decoct.models.classifier import Classifier
from decoct.models.zoo import architecture_of, build_classifier, depth_of
from decoct.run.shards import run_shards
from decoct.synthesis.tiles import SelectionSettings, cut_mosaics, images_of, select_tiles
from decoct.training.protocols import entry_of, epoch_count, load_protocol, steps_per_epoch
from decoct.training.student import train_student

__all__ = [
    "SELECTIONS",
    "Trial",
    "best_of",
    "passes_of",
    "plan_trials",
    "run_trials",
    "steps_of",
    "too_short",
    "tuning_budget",
]

DEFAULT = "k-center of the easiest 3x"
# What is tried; of equal accuracies the earlier one is taken.
SELECTIONS: dict[str, dict[str, Any]] = {
    "random images": {"selection": "random"},
    DEFAULT: {"selection": "k_center", "utility_order": "lowest", "pool_factor": 3.0},
    "easiest": {"selection": "top", "utility_order": "lowest"},
    "coverage of the easier tenth": {"selection": "coverage", "utility_order": "lowest", "pool_share": 0.1},
    "coverage of the easier half": {"selection": "coverage", "utility_order": "lowest", "pool_share": 0.5},
    "coverage of all": {"selection": "coverage", "utility_order": "lowest", "pool_share": 1.0},
}
PROTOCOL = "strong_kd"
FEWEST = 0.2  # of the protocol's steps, below which a warning says that a trial is short
RESULTS = Features({"ipc": Value("int64"), "selection": Value("string"), "accuracy": Value("float64")})


@dataclass(frozen=True)
class Trial:
    """A student to train for `epochs` on the images of an IPC that one of `SELECTIONS` takes."""

    ipc: int
    selection: str
    epochs: int


def plan_trials(ipcs: Sequence[int], classes: int, budget: int, validation: int) -> list[Trial]:
    """The trials of all IPCs: of an epoch each or, within the budget, of more.

    None is longer than the protocol's training.

    Args:
        budget: Forward passes, from `tuning_budget`, shared out evenly over the trials. An image that a student is
            trained on costs four, the teacher's among them, and one that it is measured on costs one.
        validation: Images that each student is measured on.
    """
    share, protocol = (budget // (len(ipcs) * len(SELECTIONS)) - validation) // 4, load_protocol(PROTOCOL)

    def epochs(ipc: int) -> int:
        count = ipc * classes
        return min(max(1, share // count), epoch_count(protocol, ipc, classes, count))

    return [Trial(ipc, name, epochs(ipc)) for ipc in ipcs for name in SELECTIONS]


def passes_of(trials: Sequence[Trial], classes: int, validation: int) -> int:
    """Forward passes that trials cost, counted as in `plan_trials`."""
    return sum(4 * trial.ipc * classes * trial.epochs + validation for trial in trials)


def steps_of(trials: Sequence[Trial], classes: int) -> dict[int, int]:
    """Steps that the students of each IPC are trained for."""
    protocol = load_protocol(PROTOCOL)
    return {each.ipc: each.epochs * steps_per_epoch(protocol, each.ipc, classes, each.ipc * classes) for each in trials}


def too_short(trials: Sequence[Trial], classes: int) -> str:
    """A warning that names trials too short to tell selections apart, empty where none is."""
    protocol = load_protocol(PROTOCOL)
    short = [
        f"{steps} of {entry_of(protocol.steps, ipc):,} at IPC {ipc}"
        for ipc, steps in steps_of(trials, classes).items()
        if steps < FEWEST * entry_of(protocol.steps, ipc)
    ]
    return (
        f"The students that tune trains take few of the steps that {PROTOCOL} has ({', '.join(short)}), which tells "
        "apart selections that differ by several points, and no others: raise --tune_budget for longer trainings."
        if short
        else ""
    )


def run_trials(
    trials: Sequence[Trial],
    scores: Sequence[Path],
    candidates: Dataset,
    validation: Dataset,
    settings: SelectionSettings,
    teachers: Mapping[int, Classifier],
    mixed_precision: str,
    accelerator: Accelerator,
    folder: Path,
) -> dict[int, dict[str, float]]:
    """The accuracy of every trial's student on the validation images, by IPC and selection.

    Students are labelled by the teacher while they are trained, under `strong_kd`, and all start from the same weights:
    stored mixed views are as many as an image is seen in a short training, so that to store them would gain nothing.
    Processes share the students, and a rerun takes up those that are done.

    Args:
        scores: Score shards of the candidates (`decoct.synthesis.real.score`), with features.
        teachers: What labels, by IPC.
        folder: Where the results lie.
    """
    spec, architecture = teachers[trials[0].ipc].spec, student_of(teachers[trials[0].ipc])
    pixels = PixelDataset(validation, spec.image_size, spec.channels)
    protocol, device = load_protocol(PROTOCOL), accelerator.device

    def compute(start: int, end: int) -> Dataset:
        rows = []
        for trial in trials[start:end]:
            student = build_classifier(architecture, spec, settings.seed)
            train_student(
                student,
                images_for(trial, scores, candidates, settings, spec),
                protocol,
                "online",
                teachers[trial.ipc],
                seed=settings.seed,
                device=device,
                mixed_precision=mixed_precision,
                epochs=trial.epochs,
                architecture=architecture,
            )
            measured = accuracy(student, pixels, device=device, mixed_precision=mixed_precision)
            rows.append({"ipc": trial.ipc, "selection": trial.selection, "accuracy": measured})
        return Dataset.from_list(rows, features=RESULTS)

    shards = run_shards(folder, "tuning", len(trials), 1, accelerator, compute)
    found: dict[int, dict[str, float]] = {trial.ipc: {} for trial in trials}
    for row in Dataset.from_parquet(list(map(str, shards)), keep_in_memory=True):
        found[row["ipc"]][row["selection"]] = row["accuracy"]
    return found


def best_of(accuracies: Mapping[str, float], images: int) -> str:
    """The most accurate of `SELECTIONS`; decoct's default, unless it is beaten by a standard error of the difference.

    Args:
        images: That the accuracies were measured on.
    """
    best = max(SELECTIONS, key=lambda name: accuracies[name])
    variances = [accuracies[name] * (1 - accuracies[name]) / images for name in (best, DEFAULT)]
    return best if accuracies[best] - accuracies[DEFAULT] > math.sqrt(sum(variances)) else DEFAULT


def tuning_budget(share: float, teacher: Classifier, images: int) -> int:
    """Forward passes that all trials may cost together; an image that a network is trained on costs three.

    Args:
        share: Of what the teacher's training cost; of a teacher that does not say for how many epochs it
            was trained, these are the default.
        images: Of the training split.
    """
    folder = Path(teacher.name)
    files = [each / "training.json" for each in (folder, folder.parent)]
    records = [read_object(file) for file in files if file.is_file()]
    epochs = next((record["config"]["epochs"] for record in records if "config" in record), TeacherConfig.epochs)
    return round(3 * share * epochs * images)


def student_of(teacher: Classifier) -> str:
    """The students' architecture: the teacher's, or of one that is not known a ConvNet for images of its size."""
    return architecture_of(teacher) or f"convnet{depth_of(teacher.spec.image_size)}"


def images_for(
    trial: Trial, scores: Sequence[Path], candidates: Dataset, settings: SelectionSettings, spec: ImageSpec
) -> DistilledSet:
    """The images of a trial, without stored labels."""
    tiles = select_tiles(
        scores, spec.label_names, trial.ipc, dataclasses.replace(settings, **SELECTIONS[trial.selection])
    )
    rows = math.isqrt(settings.tiles_per_image)
    mosaics = cut_mosaics(images_of(tiles, settings.tiles_per_image), candidates, spec, spec.image_size // rows)
    return DistilledSet.unlabelled(mosaics.pixels, mosaics.labels, trial.ipc, settings.tiles_per_image, spec)
