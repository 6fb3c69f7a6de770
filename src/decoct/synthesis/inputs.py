"""What a run is made from: its options, the share that is held out, images and teacher, all checked."""

from __future__ import annotations

import dataclasses
import difflib
import operator
from collections.abc import Collection, Mapping
from typing import Any

from accelerate import Accelerator
from datasets import Dataset

from decoct.config import DistillConfig, require_effect
from decoct.config.data import HELD_OUT
from decoct.config.options import require
from decoct.data.held_out import check_share, held_out_of
from decoct.data.loading import check_label_names, eval_split_name, load_split, loaded_images, side_of
from decoct.models.classifier import Classifier
from decoct.models.label_map import read_label_map, teacher_for
from decoct.models.weak_teacher import check_teachers
from decoct.synthesis.label_teachers import LABEL_TEACHERS

__all__ = [
    "check_classifier",
    "check_source",
    "in_memory",
    "one_ipc",
    "only_held_out",
    "validation_images",
    "with_held_out",
    "with_options",
]


def with_options(options: Mapping[str, Any], given: Collection[str] = ()) -> DistillConfig:
    """A configuration from Python.

    Args:
        given: Options that were asked for.

    Raises:
        ValueError: For an option that there is not, with the nearest one, and for one that was asked for and changes
            nothing.
    """
    fields = [each.name for each in dataclasses.fields(DistillConfig)]
    for name in options:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0)[0]
            raise ValueError(f"Options must be fields of DistillConfig. Got {name!r}; the nearest is {near!r}.")
    config = DistillConfig(**options)
    require_effect(config, {name: options[name] for name in given})
    return config


def one_ipc(ipc: Any) -> int:
    """Images per class as they are given in Python; raises ValueError for several of them, or no number."""
    try:
        return operator.index(ipc)
    except TypeError:
        raise ValueError(
            f"ipc must be a whole number, the images per class of one set. Got {ipc!r}; of several, take a call each."
        ) from None


def with_held_out(config: DistillConfig) -> DistillConfig:
    """The configuration, with the validation images that were held out of the teacher's training left out.

    Raises:
        ValueError: If another share is asked for, or another network was trained with another, so that one of them has
            seen images that are held out.
    """
    trained = held_out_of(config.teacher)
    if trained is not None:
        require(
            config.validation_fraction in (None, trained),
            "validation_fraction",
            f"{trained:g}, the share held out when the teacher {config.teacher} was trained",
            config.validation_fraction,
        )
        config = dataclasses.replace(config, validation_fraction=trained or None)
    others = [("label_teacher", name) for name in config.label_teacher if name not in LABEL_TEACHERS]
    if config.method == "igds":
        others += [("prior", config.prior), ("estimator", config.estimator)]
    for role, network in others:
        check_share(network, role, config.validation_fraction)
    return config


def only_held_out(config: DistillConfig) -> bool:
    """Whether what is held out is all there is to measure on, since the dataset has no split for that."""
    if not config.validation_fraction or config.eval_split is not None:
        return False
    try:
        eval_split_name(config.dataset, config.dataset_config, label_column=config.label_column)
    except ValueError:
        return True
    return False


def validation_images(config: DistillConfig, teacher: Classifier) -> Dataset | None:
    """What `tune` looks at: the images held out of the teacher's training; None without `tune`."""
    if not config.tune:
        return None
    return load_split(config, HELD_OUT, side_of(config.image_size, teacher.spec.image_size, "the teacher"))


def check_source(images: Dataset, dataset: str, teacher: Classifier, tile_rows: int) -> None:
    """Raises ValueError if the source has other label names than the teacher, or its images do not divide into tiles.

    Args:
        dataset: Its name.
        tile_rows: Tiles along an image's side.
    """
    names = images.features["label"].names
    check_label_names(teacher.spec.label_names, names, f"the teacher {teacher.name}", f"the dataset {dataset}")
    side = teacher.spec.image_size
    if side % tile_rows:
        raise ValueError(f"tiles_per_image must be 1 for images of odd size ({side} px). Got 4.")


def check_classifier(teacher: Any) -> None:
    """Raises ValueError for what is no teacher, such as the name of one."""
    if not isinstance(teacher, Classifier):
        raise ValueError(
            f"teacher must be a Classifier. Got {type(teacher).__name__}: load one with decoct.load_classifier."
        )


def in_memory(
    config: DistillConfig, images: Dataset, teacher: Classifier, accelerator: Accelerator
) -> tuple[Dataset, Classifier]:
    """Images and teacher that were given as objects, checked as those of the command line; the teacher in eval mode.

    Raises:
        ValueError: As `load_images`, or if the teacher does not have the images' classes, or does not know them.
    """
    if config.validation_fraction:
        raise ValueError(
            f"validation_fraction must be left out for images in memory: give those to distil, and to `distill` the "
            f"others as `validation`. Got {config.validation_fraction}."
        )
    images = loaded_images(images, side_of(config.image_size, teacher.spec.image_size, "the teacher"), config)
    label_map = read_label_map(config.label_map)
    teacher = teacher_for(teacher, images.features["label"].names, config.dataset, label_map)
    teacher.eval()
    precision, allow = config.mixed_precision, config.allow_weak_teacher
    check_teachers([teacher], images, accelerator.device, precision, allow)
    return images, teacher
