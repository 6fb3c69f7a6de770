"""The whole way from a dataset to a report, in one command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoct.config.data import DataConfig
from decoct.config.options import option, require

__all__ = ["WholeConfig"]


@dataclass(kw_only=True)
class WholeConfig(DataConfig):
    """Teacher, distilled sets and students of one dataset; what is not given follows from its images."""

    SHOWN_FIRST: ClassVar[list[str]] = "dataset image_size teacher model method ipc seeds output_dir dry_run".split()

    output_dir: str | None = option(
        None, "Folder for everything. Default: the dataset's name, in `runs`.", matters="command"
    )  # type: ignore[assignment]
    teacher: str | None = option(None, "Folder or Hub id of a teacher. Default: one is trained.")
    model: str | None = option(None, "Architecture of the students and of a trained teacher. Default: by image size.")
    method: Literal["infoutil", "rded", "random", "herding", "k_center", "k_means", "forgetting"] = option(
        "infoutil", "What chooses the images."
    )
    ipc: list[int] = option(
        [], "Images per class. Default: those of 1, 10 and 50 that the smallest class suffices for."
    )
    tune: bool = option(
        False,
        "Choose how InfoUtil selects, of each IPC, by short trainings measured on images that are held out of the "
        "training split (a tenth, unless --validation_fraction says otherwise), for a tenth of the teacher's training, "
        "or what an epoch of each student costs.",
        group="selection",
    )
    allow_weak_teacher: bool = option(
        False, "Go on with a teacher that recognises few training images (see `decoct distill --help_all`)."
    )
    epochs: int | None = option(
        None, "Epochs of the teacher. Default: 15 to 100, the more, the fewer images there are.", group="training"
    )
    student_epochs: int | None = option(
        None, "Epochs of the students, recorded as an override. Default: the protocol's.", group="training"
    )
    seeds: int = option(1, "Students trained per setting.", group="training")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ipc = sorted(set(self.ipc))
        require(all(ipc >= 1 for ipc in self.ipc), "ipc", "numbers from 1 on", self.ipc)
        require(not self.tune or self.method == "infoutil", "method", "'infoutil' for --tune", self.method)
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)
        few = self.student_epochs is not None and self.student_epochs < 1
        require(not few, "student_epochs", "at least 1", self.student_epochs)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
