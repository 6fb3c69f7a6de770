"""What every stage needs to know: the data, the output folder, the seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from decoct.config.options import check_choices, option, require
from decoct.config.precision import default_precision

__all__ = ["HELD_OUT", "DataConfig", "RunConfig"]

HELD_OUT = "held_out"  # what the images held out of the training split are called where a split is named


@dataclass(kw_only=True)
class RunConfig:
    """What every command knows: where it writes, its seed, its precision."""

    output_dir: str = option("runs/run", "Folder for everything this command writes.", matters="command")
    overwrite: bool = option(
        False,
        "Start again in a folder that holds another configuration's run. Only files decoct wrote are removed.",
        matters="command",
    )
    dry_run: bool = option(False, "Print what would be computed and what it would cost, then stop.", matters="command")
    seed: int = option(0, "Run seed; every random choice follows from it.", group="run")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = option(
        "no", "Precision of the forward and backward passes; `auto`: bf16 on a GPU, else `no`.", group="run"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if self.mixed_precision == "auto":
            self.mixed_precision = default_precision()


@dataclass(kw_only=True)
class DataConfig(RunConfig):
    """Where the images come from."""

    dataset: str = option(
        "sample",
        "Hub id, local image folder, local parquet folder or file, local .csv, .tsv or .jsonl with paths of images, "
        "or `sample` (embedded).",
        group="data",
    )
    dataset_config: str | None = option(
        None, "Configuration name of a Hub dataset that has several. Default: its only one.", group="data"
    )
    train_split: str = option("train", "Split to train on or to distil.", group="data")
    eval_split: str | None = option(
        None, "Split to measure accuracy on. Default: `test`, else `validation`.", group="data"
    )
    validation_fraction: float | None = option(
        None,
        "Share of each class that is held out of the training split, in [0, 1), the same images in every run; "
        "`--eval_split held_out` measures on them, and training does by default. 0.1 is enough for choices that "
        "must not look at the test split. Default: for `distill` what its "
        "teacher, for `evaluate` what the set was made with; else 0.",
        group="data",
    )
    image_column: str | None = option(
        None, "Column that holds the images. Default: the only image column.", group="data"
    )
    label_column: str | None = option(
        None, "Column that holds the class labels. Default: the only ClassLabel column.", group="data"
    )
    image_size: int | None = option(
        None, "Side in pixels; images are resized (shorter side) and centre-cropped. Default: their own.", group="data"
    )
    skip_unreadable: bool = option(
        False, "Leave unreadable images out and list them, instead of stopping.", group="data"
    )
    bit_depth: int | None = option(
        None,
        "Bits of 16-bit images that are used, 8 to 16. Default: the fewest of 8, 10, 12, 14, 16 that hold them.",
        group="data",
    )
    num_workers: int = option(
        0,
        "Worker processes that decode images for training, and threads that decode those to be scored.",
        matters="command",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image_size is None or self.image_size >= 8, "image_size", "at least 8", self.image_size)
        require(self.bit_depth is None or 8 <= self.bit_depth <= 16, "bit_depth", "in [8, 16]", self.bit_depth)
        require(self.num_workers >= 0, "num_workers", "at least 0", self.num_workers)
        fraction = self.validation_fraction
        require(fraction is None or 0 <= fraction < 1, "validation_fraction", "in [0, 1)", fraction)
