"""Training students on a distilled set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoct.config.data import DataConfig
from decoct.config.options import option, require

__all__ = ["LABEL_MODES", "EvaluateConfig"]


@dataclass(kw_only=True)
class EvaluateConfig(DataConfig):
    """Training students on a distilled set and measuring them on real images."""

    SHOWN_FIRST: ClassVar[list[str]] = (
        "distilled dataset ipc students labels teacher protocols seeds output_dir dry_run".split()
    )

    output_dir: str | None = option(
        None, "Folder for results.json. Default: the distilled run folder.", matters="command"
    )  # type: ignore[assignment]
    distilled: str = option("runs/distilled", "Distilled run folder or Hub id.", group="data")
    task: Literal["accuracy", "continual", "transfer"] = option(
        "accuracy",
        "What is measured: accuracy on the same classes; `continual`: classes that arrive in steps; `transfer`: "
        "pre-training on the distilled set, then fine-tuning on --target_dataset.",
    )
    ipc: list[int] = option([], "IPCs to evaluate. Default: all in the distilled set.", group="data")
    students: list[str] = option(["convnet3"], "Student architectures.", group="training")
    teacher: str | None = option(
        None, "Teacher of `online` labels. Default: the one named in the manifest.", group="labels"
    )
    label_map: str | None = option(
        None,
        "JSON, YAML or CSV file with the teacher's name (or number) of each class that the set names otherwise. "
        "Default: that of the manifest.",
        matters="command",
        group="labels",
    )
    protocols: list[str] = option(
        ["strong_kd"], "Training protocols: names that decoct ships, or YAML files.", group="training"
    )
    labels: list[str] = option(["mixed"], "Label modes: hard, tiles, views, mixed, online.", group="labels")
    seeds: int = option(1, "Students trained per setting.", group="training")
    epochs: int | None = option(None, "Epochs, recorded as an override. Default: the protocol's.", group="training")
    max_steps: int | None = option(
        None,
        "Optimiser steps at most, rounded up to whole epochs: of each student, and of pre-training for task transfer. "
        "Recorded as an override where the training would be longer. Default: no limit.",
        group="training",
    )
    rrc_scale: float | None = option(
        None,
        "Smallest area of random-resized crops, recorded as an override. Default: the protocol's.",
        group="training",
    )
    compile: bool = option(
        False,
        "Compile networks with torch.compile (about 16 s at start, then up to 1.7x faster).",
        matters="machine",
        group="training",
    )
    epoch: Literal["last", "best"] = option(
        "last", "Which epoch's accuracy is reported; `best` looks at the test set.", group="training"
    )
    baseline: bool = option(
        True,
        "Evaluate random images of the same source too, with the same labels, protocol and teacher.",
        group="comparison",
    )
    baseline_dir: str | None = option(
        None,
        "Folder of the random images, shared by all sets they serve. Default: `random-*` beside output_dir.",
        group="comparison",
    )
    ranking: bool = option(
        True,
        "Compute the metrics of DD-Ranking (HLR, IOR, LRS), which also trains students with hard labels.",
        group="comparison",
    )
    real_accuracy: list[str] = option(
        [],
        "Accuracy of students trained on all real images with hard labels, as NAME=FRACTION, for HLR. Default: the "
        "teacher's, for students of its architecture.",
        group="comparison",
    )
    steps: int = option(5, "Steps in which the classes arrive (task continual).", group="continual")
    orders: int = option(
        5, "Random class orders, each with a seed of its own (task continual, in place of --seeds).", group="continual"
    )
    target_dataset: str | None = option(
        None,
        "Hub id or folder of the dataset to fine-tune on, for task transfer. Random images to pre-train on beside the "
        "distilled set come from --dataset or, without it, from what the set was distilled from. Default: none.",
        group="transfer",
    )
    target_config: str | None = option(
        None, "Configuration name of the target dataset. Default: its only one.", group="transfer"
    )
    target_train_split: str = option("train", "Split of the target dataset to fine-tune on.", group="transfer")
    target_eval_split: str | None = option(
        None,
        "Split of the target dataset to measure accuracy on. Default: `test`, else `validation`.",
        group="transfer",
    )
    target_label_column: str | None = option(
        None,
        "Column of the target dataset that holds the class labels. Default: its only ClassLabel column.",
        group="transfer",
    )
    finetune_steps: int = option(10_000, "Steps of fine-tuning (IGDS, App. G).", group="transfer")
    finetune_batch_size: int = option(256, "Images per step of fine-tuning (IGDS, App. G).", group="transfer")
    finetune_learning_rate: float = option(
        0.01, "Initial learning rate of fine-tuning by SGD (IGDS, App. G).", group="transfer"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for mode in self.labels:
            require(mode in LABEL_MODES, "labels", f"one of {list(LABEL_MODES)}", mode)
        require(all(ipc >= 1 for ipc in self.ipc), "ipc", "numbers from 1 on", self.ipc)
        require(bool(self.students), "students", "one or more architectures", self.students)
        require(bool(self.protocols), "protocols", "one or more protocols", self.protocols)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.max_steps is None or self.max_steps >= 1, "max_steps", "at least 1", self.max_steps)
        require(self.rrc_scale is None or 0 < self.rrc_scale <= 1, "rrc_scale", "in (0, 1]", self.rrc_scale)
        require(self.steps >= 1, "steps", "at least 1", self.steps)
        require(self.orders >= 1, "orders", "at least 1", self.orders)
        require(self.finetune_steps >= 1, "finetune_steps", "at least 1", self.finetune_steps)
        require(self.finetune_batch_size >= 1, "finetune_batch_size", "at least 1", self.finetune_batch_size)
        require(self.finetune_learning_rate > 0, "finetune_learning_rate", "positive", self.finetune_learning_rate)
        require(
            self.task != "transfer" or self.target_dataset is not None,
            "target_dataset",
            "given for task 'transfer'",
            self.target_dataset,
        )
        require(self.task == "accuracy" or self.epoch == "last", "epoch", f"'last' for task {self.task!r}", self.epoch)
        students = {name.replace("_instance", "") for name in self.students}  # protocols choose the norm
        for name in self.real_accuracies():
            expected = f"NAME=FRACTION with NAME one of the students {self.students}"
            require(name.replace("_instance", "") in students, "real_accuracy", expected, name)

    def real_accuracies(self) -> dict[str, float]:
        """`real_accuracy` by student.

        Raises:
            ValueError: If an entry is not NAME=FRACTION.
        """
        values = {}
        for entry in self.real_accuracy:
            name, _, text = entry.partition("=")
            fraction = float(text) if text.replace(".", "", 1).isdigit() else -1.0
            require(bool(name) and 0 <= fraction <= 1, "real_accuracy", "NAME=FRACTION with 0 to 1", entry)
            values[name] = fraction
        return values


LABEL_MODES = ("hard", "tiles", "views", "mixed", "online")
