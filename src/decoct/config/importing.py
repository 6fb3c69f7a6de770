"""Importing a distilled set that others published."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoct.config.data import DataConfig
from decoct.config.options import option, require
from decoct.methods import METHODS

__all__ = ["ImportConfig"]


@dataclass(kw_only=True)
class ImportConfig(DataConfig):
    """Reading a distilled set of others into a run folder, so that it is evaluated beside decoct's own."""

    SHOWN_FIRST: ClassVar[list[str]] = (
        "source dataset method mean std labels soft_labels tiles_per_image output_dir dry_run".split()
    )

    output_dir: str = option("runs/imported", "Run folder; `load_dataset` reads it as it is.", matters="command")
    source: str = option(
        "published",
        "The set: a folder of class folders of images, a parquet file or folder, a Hub id, or a file of tensors "
        "(.pt, .pth, .safetensors) or a folder with one whose name has `images` in it.",
        group="data",
    )
    method: str = option("imported", "What made the set, as tables name it: `DATM`, `RDED (published)`.")
    labels: str | None = option(
        None,
        "File of tensors with a class number or a row of soft labels for each image. Default: those beside the "
        "images, in the same file or in the one that is called `labels` where theirs is called `images`.",
        group="labels",
    )
    soft_labels: str | None = option(
        None,
        "Column of soft labels (of parquet), or a file of tensors with them. Probabilities become logits, logits stay. "
        "Default: where the labels are rows of numbers, they are these.",
        group="labels",
    )
    in_class_order: bool = option(
        False, "The images lie class by class, as many of each: where no file says their classes.", group="labels"
    )
    label_map: str | None = option(
        None,
        "JSON, YAML or CSV file with the set's name (or number) of each class that the dataset names otherwise. "
        "Default: none.",
        matters="command",
        group="labels",
    )
    mean: list[float] = option(
        [], "Mean of each channel that the tensors were normalised by. Default: what their file says, else none."
    )
    std: list[float] = option([], "Standard deviation of each channel. Default: as of the mean.")
    tiles_per_image: Literal[1, 4] = option(1, "Tiles of an image: 4 for the 2x2 mosaics of RDED.")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.method.strip() and self.method not in METHODS
        require(bool(known), "method", f"a name that tells the set from decoct's own {list(METHODS)}", self.method)
        require(len(self.mean) == len(self.std), "std", "given with mean, a number for each channel", self.std)
        require(len(self.mean) in (0, 1, 3), "mean", "one number for each of 1 or 3 channels", self.mean)
        require(all(map(math.isfinite, self.mean)), "mean", "finite numbers", self.mean)
        require(all(each > 0 for each in self.std), "std", "positive numbers", self.std)
