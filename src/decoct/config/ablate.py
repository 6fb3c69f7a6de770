"""Comparing runs, and the ablation grid of InfoUtil."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoct.config.data import DataConfig
from decoct.config.evaluate import LABEL_MODES
from decoct.config.options import check_choices, option, require

__all__ = ["ABLATION_TABLES", "AblateConfig", "CompareConfig"]

ABLATION_TABLES = ("6", "7", "8", "11")


@dataclass(kw_only=True)
class AblateConfig(DataConfig):
    """The ablation grid of InfoUtil (section 4.3, App. D): every setting with one teacher and one protocol."""

    SHOWN_FIRST: ClassVar[list[str]] = (
        "dataset image_size teacher tables ipc students labels seeds output_dir dry_run".split()
    )

    output_dir: str = option(
        "runs/ablation", "Folder for distilled sets, students, records and tables.", matters="command"
    )
    teacher: str = option("runs/teacher", "Folder or Hub id of the teacher that attributes, scores and labels.")
    tables: list[str] = option(
        list(ABLATION_TABLES),
        "Tables of the paper to fill: 6 (scoring and cropping), 7 (noise), 8 (Shapley or Grad-CAM), 11 (RDED and "
        "InfoUtil by student and label teacher).",
        matters="extent",
    )
    full_grid: bool = option(
        False, "Every combination of the factors, not only those that the tables show.", matters="extent"
    )
    ipc: list[int] = option([10], "Images per class.")
    tiles_per_image: Literal[1, 4] = option(4, "Tiles of an image (k).")
    candidates_per_class: int | None = option(300, "Images of a class that are scored, drawn by the seed. 0: all.")
    coalitions: int = option(128, "Coalitions of KernelSHAP, in complementary pairs.")
    crop_fraction: float = option(0.5, "Side of the attribution windows as a share of the image's, below 1.")
    utility_orders: list[str] = option(
        ["highest", "lowest"],
        "Which gradient norms are taken first: `highest` (the paper), `lowest`, or both.",
        matters="extent",
    )
    label_teachers: list[str] = option(
        ["converged"], "Teachers that label: converged, early.", matters="extent", group="labels"
    )
    labels: list[str] = option(["online"], "Label modes: hard, tiles, views, online.", matters="extent", group="labels")
    students: list[str] = option(["convnet3"], "Student architectures.", matters="extent", group="training")
    protocol: str = option("rded_kd", "Training protocol: a name that decoct ships, or a YAML file.", group="training")
    seeds: int = option(
        3, "Repetitions; a seed draws the candidates and starts the student.", matters="extent", group="training"
    )
    epochs: int | None = option(None, "Epochs, recorded as an override. Default: the protocol's.", group="training")
    rrc_scale: float | None = option(
        None,
        "Smallest area of random-resized crops, recorded as an override. Default: the protocol's.",
        group="training",
    )
    batch_size: int | None = option(
        None, "Images per forward pass. Default: the fastest of a short calibration.", matters="machine"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.candidates_per_class = self.candidates_per_class or None
        self.ipc = sorted(set(self.ipc))
        for name in ("tables", "utility_orders", "label_teachers", "labels", "students"):
            setattr(self, name, list(dict.fromkeys(getattr(self, name))))
        # Windows as large as the image are all the same, whatever the attribution and its noise.
        require(0 < self.crop_fraction < 1, "crop_fraction", "in (0, 1)", self.crop_fraction)
        for table in self.tables:
            require(table in ABLATION_TABLES, "tables", f"one of {list(ABLATION_TABLES)}", table)
        modes = [mode for mode in LABEL_MODES if mode != "mixed"]  # the sets that are compared store no mixed views
        for mode in self.labels:
            require(mode in modes, "labels", f"one of {modes}", mode)
        for order in self.utility_orders:
            require(order in ("highest", "lowest"), "utility_orders", "one of ['highest', 'lowest']", order)
        for teacher in self.label_teachers:
            require(teacher in ("converged", "early"), "label_teachers", "one of ['converged', 'early']", teacher)
        for name in ("tables", "ipc", "labels", "utility_orders", "label_teachers", "students"):
            require(bool(getattr(self, name)), name, "one or more values", getattr(self, name))
        require(min(self.ipc) >= 1, "ipc", "one or more numbers from 1 on", self.ipc)
        per_class = self.candidates_per_class
        require(per_class is None or per_class >= 1, "candidates_per_class", "0 (all) or at least 1", per_class)
        least = 30  # 15 pairs identify the 16 players of the grid
        require(
            self.coalitions >= least and self.coalitions % 2 == 0,
            "coalitions",
            f"even, from {least} on",
            self.coalitions,
        )
        require(self.batch_size is None or self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.rrc_scale is None or 0 < self.rrc_scale <= 1, "rrc_scale", "in (0, 1]", self.rrc_scale)


@dataclass(kw_only=True)
class CompareConfig:
    """Tables and figures of several runs' results."""

    runs: list[str] = option([], "Run folders (with results.json) or result files; at least one.", group="data")
    output_dir: str = option("runs/comparison", "Folder for the tables (Markdown, CSV) and figures.", matters="command")
    reported: str | None = option(
        None,
        "YAML file of other people's numbers to set beside, with their source; `infoutil` and `igds` are shipped. "
        "Default: none.",
        group="data",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        require(bool(self.runs), "runs", "one or more run folders", self.runs)
