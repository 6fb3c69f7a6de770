"""Distilling a dataset: score, select, cut, pack, label, write. Each stage leaves shards that a rerun takes up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset

from decoct.config import DistillConfig
from decoct.data.held_out import check_same_images
from decoct.data.loading import load_split, side_of
from decoct.models.classifier import Classifier
from decoct.models.label_map import read_label_map, teacher_for
from decoct.models.weak_teacher import check_teachers
from decoct.models.zoo import load_classifier
from decoct.run.folder import RUN_FILE
from decoct.run.lock import writes_alone
from decoct.run.processes import close, open_accelerator
from decoct.run.shards import ShardsMissing, Share
from decoct.synthesis.inputs import check_source, validation_images, with_held_out
from decoct.synthesis.label_teachers import label_teacher
from decoct.synthesis.run import rank_record
from decoct.synthesis.streaming import load_streamed

__all__ = ["distill", "plan_distill"]


@writes_alone
def distill(config: DistillConfig) -> dict[str, Any]:
    """Distils `config.dataset` into the run folder `config.output_dir`; a rerun of a killed run continues.

    Returns:
        The manifest; of one of several ranks, which shards of the others it would need to go on.

    Raises:
        ValueError: If the data, the teacher or the configuration cannot be used, or the folder belongs to another
            configuration.
    """
    if config.merge:
        require_begun(Path(config.output_dir))
    config = with_held_out(config)
    images, teacher, accelerator, _ = _open(config)
    try:
        # Imported here, since each of them takes time to import and only one is needed.
        if config.method == "igds":
            from decoct.synthesis.sampled import distill_samples

            manifest = distill_samples(config, images, teacher, accelerator)
        else:
            from decoct.synthesis.real import distill_images

            validation = validation_images(config, teacher)
            manifest = distill_images(config, images, teacher, accelerator, validation=validation)
    except ShardsMissing as missing:
        manifest = rank_record(Share(config.rank or 0, config.world_size or 1), missing)
    close(accelerator)
    return manifest


def require_begun(folder: Path) -> None:
    """Raises ValueError if there is no run in a folder to finish."""
    if not (folder / RUN_FILE).is_file():
        raise ValueError(
            f"output_dir must be what ranks have begun, for --merge. Got {folder}, where there is no run: start them "
            "with --world_size N --rank R, or leave --merge out."
        )


def plan_distill(config: DistillConfig) -> dict[str, Any]:
    """What `distill` would compute and about how long it would take; nothing is written."""
    config = with_held_out(config)
    images, teacher, accelerator, teacher_accuracy = _open(config)
    validation = validation_images(config, teacher)
    if config.method == "igds":
        from decoct.synthesis.sampled import plan_sampled

        plan = plan_sampled(config, images, teacher, accelerator)
    else:
        from decoct.synthesis.real import plan_selection

        plan = plan_selection(config, images, teacher, accelerator, validation)
    close(accelerator)
    return {**plan, "teacher_accuracy": round(teacher_accuracy, 3)}


def _open(config: DistillConfig) -> tuple[Dataset, Classifier, Accelerator, float]:
    """The source, the teacher with its classes, the processes that share the work, and the teacher's accuracy.

    Raises:
        ValueError: If teachers do not have the source's classes, or do not know them.
    """
    accelerator = open_accelerator(config.mixed_precision)
    teacher = load_classifier(config.teacher)
    with accelerator.main_process_first():
        side = side_of(config.image_size, teacher.spec.image_size, "the teacher")
        # A dataset may have millions of images: those that are drawn from the labels are decoded, and no others.
        channels, limit = teacher.spec.channels, config.candidates_per_class
        if config.streaming and limit is not None:
            images = load_streamed(config, config.train_split, limit, side, channels)
        else:
            images = load_split(config, config.train_split, side, channels=channels, read_unchecked=0)
    check_same_images(config.teacher, images, config.validation_fraction)
    names, label_map = images.features["label"].names, read_label_map(config.label_map)
    teacher = teacher_for(teacher, names, config.dataset, label_map)
    check_source(images, config.dataset, teacher, config.tile_rows)
    teachers = [teacher, *(label_teacher(config.label_teacher, teacher, ipc, label_map) for ipc in config.ipc)]
    allow, precision = config.allow_weak_teacher, config.mixed_precision
    accuracies = check_teachers(teachers, images, accelerator.device, precision, allow)
    return images, teacher, accelerator, accuracies[0]
