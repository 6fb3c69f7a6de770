"""Measuring prototype and contextual information, and what contextual information is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decoct.config.data import DataConfig
from decoct.config.options import option, require

__all__ = ["BetaStudyConfig", "InformationConfig"]


@dataclass(kw_only=True)
class InformationConfig(DataConfig):
    """Prototype information and contextual score of a labelled dataset (IGDS, Eqs. 9 and 15)."""

    SHOWN_FIRST: ClassVar[list[str]] = "dataset image_size train_split estimator distilled output_dir dry_run".split()

    output_dir: str | None = option(
        None, "Folder for information.json. Default: nothing is written.", matters="command"
    )  # type: ignore[assignment]
    estimator: str = option("runs/estimator", "Variational estimator: folder, Hub id, or `sample` (embedded).")
    distilled: str | None = option(None, "Distilled run folder or Hub id to compare with the dataset. Default: none.")
    temperature: float = option(0.07, "Temperature of the softmax over features.")
    batch_size: int = option(256, "Images per forward pass.", matters="machine")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "temperature", "positive", self.temperature)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)


@dataclass(kw_only=True)
class BetaStudyConfig(DataConfig):
    """Accuracy of subsets against their contextual score, over IPC (IGDS, section 5.2 and App. A)."""

    SHOWN_FIRST: ClassVar[list[str]] = (
        "dataset image_size estimator ipc targets students labels seeds output_dir dry_run".split()
    )

    output_dir: str = option("runs/beta-study", "Folder for study.json and the figure.", matters="command")
    estimator: str = option("runs/estimator", "Variational estimator: folder, Hub id, or `sample` (embedded).")
    teacher: str | None = option(
        None, "Teacher of `online` labels, needed for them alone. Default: none.", group="labels"
    )
    ipc: list[int] = option([1, 10, 50], "Images per class of the subsets.")
    targets: int = option(5, "Target scores per IPC, spread evenly over the range that the data has.")
    sharpness: float = option(
        1.0, "Factor in the exponent of the sampling weights; 1 is the paper's, which hardly moves the scores."
    )
    temperature: float = option(0.07, "Temperature of the softmax over features.")
    students: list[str] = option(["convnet3"], "Student architectures.", group="training")
    protocol: str = option("rded_kd", "Training protocol by name.", group="training")
    labels: str = option("hard", "Label mode of the students: hard or online.", group="labels")
    seeds: int = option(1, "Subsets and students per setting.", group="training")
    epochs: int | None = option(None, "Epochs, recorded as an override. Default: the protocol's.", group="training")
    rrc_scale: float | None = option(
        None,
        "Smallest area of random-resized crops, recorded as an override. Default: the protocol's.",
        group="training",
    )
    batch_size: int = option(256, "Images per forward pass of the estimator.", matters="machine")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ipc = sorted(set(self.ipc))
        require(bool(self.ipc) and min(self.ipc) >= 1, "ipc", "one or more numbers from 1 on", self.ipc)
        require(self.targets >= 2, "targets", "at least 2", self.targets)
        require(self.sharpness > 0, "sharpness", "positive", self.sharpness)
        require(self.labels in ("hard", "online"), "labels", "one of ['hard', 'online']", self.labels)
        require(self.labels == "hard" or self.teacher is not None, "teacher", "given for online labels", self.teacher)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.rrc_scale is None or 0 < self.rrc_scale <= 1, "rrc_scale", "in (0, 1]", self.rrc_scale)
        require(self.temperature > 0, "temperature", "positive", self.temperature)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
