"""`decoct distill DATASET`: look at the data, train a teacher, distil, train students, and say what came out.

Each step is a script in a process of its own, so that each continues where it was stopped (`decoct.demo.run_steps`).
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decoct.arguments import as_arguments, parse_config
from decoct.config import DataConfig, DistillConfig, EvaluateConfig, RunConfig, TeacherConfig, WholeConfig
from decoct.config.data import HELD_OUT
from decoct.data.held_out import held_out_count, held_out_of
from decoct.data.loading import class_counts, eval_split_name, load_images, measure_spec
from decoct.data.source import dataset_fingerprint
from decoct.data.spec import ImageSpec
from decoct.demo import Step, run_steps
from decoct.evaluation.evaluate import format_evaluation
from decoct.files import read_json
from decoct.methods import method_name
from decoct.models.cached import fitting_classifiers
from decoct.models.chance import guesswork
from decoct.models.throughput import training_throughput
from decoct.models.zoo import build_classifier, load_classifier
from decoct.pages.describe import counted
from decoct.run.outputs import check_output
from decoct.run.processes import close, device_name, open_accelerator
from decoct.synthesis.real import forward_passes
from decoct.synthesis.tune import passes_of, plan_trials, tuning_budget
from decoct.training.protocols import epoch_count, load_protocol

__all__ = ["Look", "Plan", "distill_whole", "format_outcome", "look_at", "make_plan", "plan_whole", "whole_steps"]

SIZES = (1, 10, 50)  # images per class, where they are not given
LOOKED_AT = 200  # images whose sides are looked at
PASSES = 1_000_000  # images that a teacher sees, where its epochs are not given
LONG_SECONDS, QUICK_SIDE = 3600, 64  # a plan that takes longer says what would be quicker
FEW_IMAGES = 200  # measured on fewer, one image is half a point and more
FLATTERED = (
    "The selection is chosen by the images that students are measured on, there being no others, which flatters it "
    "beside random images: name a split with --eval_split where there is one."
)
HELD_OUT_SHARE = 0.1  # of a dataset that has no split to measure on


@dataclass(frozen=True)
class Look:
    """What a dataset is like.

    Args:
        spec: Its classes, and its images at the side that they are used at.
        counts: Images of each class of the training split but for those held out, in label order.
        same_size: Whether images need not be resized.
        eval_split: Split to measure on; `held_out` where the dataset has none.
        held_out: Share of each class that is held out of the training split.
        held_out_images: How many that are.
        data: Fingerprints of the training split, and of the split to measure on if it is another.
    """

    spec: ImageSpec
    counts: list[int]
    same_size: bool
    eval_split: str
    held_out: float
    held_out_images: int
    data: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What will be done, and about how long it takes.

    Args:
        look: The data.
        folder: Where everything goes.
        model: Architecture of the students, and of the teacher if one is trained.
        tiles: Tiles of an image.
        ipcs: Images per class.
        epochs: Of the teacher; None if one was given.
        teacher: Fingerprint of a given teacher.
        device: What it is computed on.
        seconds: Of the teacher, of distilling and of the students, on one process.
        offered: Classifiers of the Hub that lie on this machine and know the classes, in place of a trained teacher.
    """

    look: Look
    folder: Path
    model: str
    tiles: int
    ipcs: list[int]
    epochs: int | None
    teacher: str | None
    device: str
    seconds: tuple[float, float, float]
    offered: list[str]


def distill_whole(config: WholeConfig) -> Path:
    """Runs all steps that are not done, and returns their folder."""
    plan = make_plan(config)
    sys.stdout.write(f"{format_plan(config, plan)}\n")
    sys.stdout.flush()
    run_steps(whole_steps(config, plan), plan.folder)
    return plan.folder


def plan_whole(config: WholeConfig) -> str:
    """What `distill_whole` would do; nothing is written."""
    return format_plan(config, make_plan(config))


def look_at(config: WholeConfig) -> Look:
    """Classes, images of each, side and evaluation split of the configured dataset.

    Images of one size keep it. Others are resized to 32, 64 or 128 pixels, the largest that half of them have.

    Raises:
        ValueError: If the dataset has no split to measure on, and nothing is held out.
    """
    try:
        eval_split = eval_split_name(config.dataset, config.dataset_config, config.eval_split, config.label_column)
    except ValueError:
        eval_split = HELD_OUT
    share = held_out_share(config.validation_fraction, config.teacher, eval_split, config.tune)
    images, *evaluated = (
        load_images(
            config.dataset,
            split,
            config_name=config.dataset_config,
            image_column=config.image_column,
            label_column=config.label_column,
            image_size=config.image_size or 64,  # allows images of different sizes
            skip_unreadable=config.skip_unreadable,
            bit_depth=config.bit_depth,
        )
        for split in [config.train_split, *([] if eval_split == HELD_OUT else [eval_split])]
    )
    rows = np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).astype(int)
    sizes = [image.size for image in images.select(rows)["image"]]
    width, height = sizes[0]
    same_size = len(set(sizes)) == 1 and width == height
    median = float(np.median([min(size) for size in sizes]))
    side = config.image_size or (
        width if same_size else max((each for each in (32, 64, 128) if each <= median), default=32)
    )
    counts = [count - held_out_count(count, share) for count in class_counts(images)]
    data = tuple(map(dataset_fingerprint, (images, *evaluated)))
    return Look(measure_spec(images, side), counts, same_size, eval_split, share, len(images) - sum(counts), data)


def held_out_share(asked: float | None, teacher: str | None, eval_split: str, tune: bool = False) -> float:
    """The share of each class that is held out: as asked, else as of the given teacher's training, else a tenth where
    students are measured on it, those of `tune` or all, and none otherwise.

    Raises:
        ValueError: If students are to be measured on what is held out, and that is nothing.
    """
    if asked is not None:
        share = asked
    elif teacher is not None:
        share = held_out_of(teacher) or 0.0
    else:
        share = HELD_OUT_SHARE if eval_split == HELD_OUT or tune else 0.0
    if eval_split == HELD_OUT and not share:
        found = f"validation_fraction {asked:g}" if asked is not None else f"{teacher}, of which no share is known"
        raise ValueError(
            "eval_split must be given where a dataset has no test split and nothing is held out of its training "
            f"split: name one with --eval_split, or take a teacher trained with --validation_fraction "
            f"{HELD_OUT_SHARE:g}. Got {found}."
        )
    if tune and not share:
        if teacher is not None and asked is None:
            raise ValueError(
                "teacher must be trained with --validation_fraction for --tune, which measures on images that it has "
                f"not seen. Got {teacher}, of which no such share is known."
            )
        raise ValueError(
            f"validation_fraction must be above 0 for --tune, which measures on these images. Got {asked:g}."
        )
    return share


def make_plan(config: WholeConfig) -> Plan:
    """The dataset's own settings where none are given, and the time they take.

    Raises:
        ValueError: If no IPC fits the smallest class.
    """
    look, teacher = look_at(config), None
    if config.teacher is not None:
        given = load_classifier(config.teacher)
        side, teacher = given.spec.image_size, given.fingerprint()
        same_size = look.same_size and side == look.spec.image_size
        look = dataclasses.replace(look, spec=dataclasses.replace(look.spec, image_size=side), same_size=same_size)
    side = look.spec.image_size
    model = config.model or ("convnet3" if side <= 48 else "convnet4" if side <= 96 else "resnet18")
    tiles = 4 if side > 96 else 1
    most = min(min(look.counts), DistillConfig.candidates_per_class or 0) // tiles
    ipcs = config.ipc or [ipc for ipc in SIZES if ipc <= most]
    if not ipcs or max(ipcs) > most:
        name = look.spec.label_names[int(np.argmin(look.counts))]
        raise ValueError(
            f"ipc must be at most {most}, which is what the class {name!r} with its {min(look.counts)} images suffices "
            f"for, at {tiles} tiles an image. Got {ipcs or min(SIZES)}."
        )
    images = sum(look.counts)
    epochs = None if config.teacher is not None else config.epochs or min(100, max(15, round(PASSES / images)))
    folder = Path(config.output_dir or Path("runs") / Path(config.dataset).resolve().name)
    check_output(dataclasses.replace(config, output_dir=str(folder)))
    accelerator = open_accelerator(config.mixed_precision)
    per_image = 1 / training_throughput(build_classifier(model, look.spec).to(accelerator.device))
    device = device_name(accelerator.device)
    close(accelerator)
    tuned = 0.0
    if config.tune:
        share, classes = DistillConfig.tune_budget, len(look.counts)
        budget = round(3 * share * epochs * images) if epochs else tuning_budget(share, given, images)
        trials = plan_trials(ipcs, classes, budget, look.held_out_images)
        tuned = per_image * passes_of(trials, classes, look.held_out_images) / 3
    seconds = (
        per_image * (epochs or 0) * images,
        per_image * distilling_passes(config, look, tiles, ipcs) + tuned,
        per_image * students_passes(config, look, ipcs),
    )
    offered = [] if config.teacher is not None else fitting_classifiers(look.spec.label_names)
    return Plan(look, folder, model, tiles, ipcs, epochs, teacher, device, seconds, offered)


def distilling_passes(config: WholeConfig, look: Look, tiles: int, ipcs: list[int]) -> float:
    """Forward and backward passes of scoring and labelling; a forward pass alone counts as a third."""
    distilling = DistillConfig(method=config.method, tiles_per_image=4 if tiles == 4 else 1, ipc=ipcs)
    candidates = sum(min(count, distilling.candidates_per_class or count) for count in look.counts)
    return sum(forward_passes(distilling, candidates, len(look.counts)).values()) / 3


def students_passes(config: WholeConfig, look: Look, ipcs: list[int]) -> float:
    """Images that all students see, those on random images among them."""
    protocol, classes, passes = load_protocol(EvaluateConfig().protocols[0]), len(look.counts), 0
    for ipc in ipcs:
        images = ipc * classes
        epochs = config.student_epochs or epoch_count(protocol, ipc, classes, images)
        passes += 2 * config.seeds * epochs * images
    return passes


def whole_steps(config: WholeConfig, plan: Plan) -> list[Step]:
    """Teacher, if none is given, distilled sets and students."""
    given = {name: getattr(config, name) for name in (each.name for each in dataclasses.fields(DataConfig))}
    default = DataConfig()
    data = {
        name: value
        for name, value in given.items()
        if value != getattr(default, name) and name not in ("output_dir", "dry_run", "overwrite")
    }
    data["dataset"] = config.dataset
    if not plan.look.same_size:
        data["image_size"] = plan.look.spec.image_size
    if plan.look.eval_split == HELD_OUT or config.tune:
        data |= {"validation_fraction": plan.look.held_out}
    teacher, distilled = plan.folder / "teacher", plan.folder / "distilled"
    inputs = (*plan.look.data, *([plan.teacher] if plan.teacher is not None else []))

    def step(title: str, script: str, config_class: type[RunConfig], result: Path, **options: Any) -> Step:
        words = as_arguments({**data, **options})
        return Step(title, script, words, parse_config(config_class, words), result, inputs)

    training = step(
        *("teacher", "train_teacher", TeacherConfig, teacher / "training.json"),
        model=plan.model,
        epochs=plan.epochs or 1,
        output_dir=str(teacher),
        overwrite=config.overwrite,
    )
    return [
        *([training] if config.teacher is None else []),
        step(
            *("distilled sets", "distill", DistillConfig, distilled / "manifest.json"),
            method=config.method,
            teacher=config.teacher or str(teacher),
            ipc=plan.ipcs,
            tiles_per_image=plan.tiles,
            tune=config.tune,
            allow_weak_teacher=config.allow_weak_teacher,
            output_dir=str(distilled),
            overwrite=config.overwrite,
        ),
        step(
            *("students", "evaluate", EvaluateConfig, distilled / "results.json"),
            distilled=str(distilled),
            students=[plan.model],
            seeds=config.seeds,
            epochs=config.student_epochs,
            ranking=False,
            eval_split=HELD_OUT if plan.look.eval_split == HELD_OUT else config.eval_split,
        ),
    ]


def format_plan(config: WholeConfig, plan: Plan) -> str:
    """The data, the steps and the time, in a few lines."""
    look, counts, (teacher, distilling, students) = plan.look, plan.look.counts, plan.seconds
    resized = "" if look.same_size else ", resized"
    ipcs = " or ".join(map(str, plan.ipcs)) + (" image" if plan.ipcs == [1] else " images")
    each = f"{min(counts):,} each" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,} each"
    long = sum(plan.seconds) > LONG_SECONDS and look.spec.image_size > QUICK_SIDE
    first = (
        f"take {config.teacher} as teacher"
        if plan.epochs is None
        else f"train a teacher, {plan.model}, for {plan.epochs} epochs ({minutes(teacher)})"
    )
    few = look.held_out_images if look.eval_split == HELD_OUT and look.held_out_images < FEW_IMAGES else 0
    where = (
        f"{100 * look.held_out:g} % of each class, held out"
        if look.eval_split == HELD_OUT
        else f"the split {look.eval_split}"
    )
    tuned = f", selected as serves {look.held_out_images:,} held-out images best" if config.tune else ""
    return "\n".join(
        [
            f"{config.dataset}: {sum(counts):,} images of {len(counts)} classes, {each}, {look.spec.image_size} px"
            f"{resized}",
            f"  1. {first}",
            *(f"     or take one that is here and knows these classes: --teacher {name}" for name in plan.offered),
            f"  2. distil by {method_name(config.method)} to {ipcs} a class{tuned} ({minutes(distilling)})",
            f"  3. train {plan.model} on each set and on as many random images; measure on {where} "
            f"({minutes(students)})",
            f"About {minutes(sum(plan.seconds))} on this machine ({plan.device}). Everything goes to {plan.folder}; "
            "the same command continues.",
            *(
                [f"Accuracies are of {few} images, one of which is {100 / few:.1f} points: a look at most."]
                if few
                else []
            ),
            *([FLATTERED] if config.tune and look.eval_split == HELD_OUT else []),
            *([f"Smaller images are far quicker: --image_size {QUICK_SIDE}"] if long else []),
        ]
    )


def minutes(seconds: float) -> str:
    """A time in words, rounded up."""
    size, unit = (60, "minute") if seconds <= 7200 else (3600, "hour")
    return counted(max(1, math.ceil(seconds / size)), unit)


def format_outcome(folder: Path) -> str:
    """The table, the report, and how to load and publish the sets."""
    distilled = folder / "distilled"
    manifest, records = (read_json(distilled / f"{name}.json") for name in ("manifest", "results"))
    ipc, best = max(manifest["ipcs"]), max(records, key=lambda record: record["accuracy_mean"])
    subject, what = f"The best student, {best['student']} at IPC {best['ipc']},", "the images that it is measured on"
    fault = guesswork(best["accuracy_mean"], len(manifest["label_names"]), subject, what)
    return "\n".join(
        [
            format_evaluation(records),
            "",
            *([fault, ""] if fault else []),
            *([FLATTERED, ""] if "tuned" in manifest and records[0].get("eval_split") == HELD_OUT else []),
            f"See      {(distilled / 'report.html').resolve()}",
            f'Load     load_dataset("{distilled}", "ipc_{ipc}", split="train")',
            f"Publish  decoct publish {distilled} --push_to_hub USER/{folder.name}",
        ]
    )
