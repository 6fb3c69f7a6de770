"""One flat dataclass per stage: its fields are the Python API, the command line, the YAML presets and the manifest.

The `help` of a field is its documentation; nothing is described twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["DataConfig", "DistillConfig", "EvaluateConfig", "TeacherConfig", "config_hash"]


def option(default: Any, help: str) -> Any:
    """A dataclass field with its help text; lists are copied per instance."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class DataConfig:
    """Where the images come from, and the settings every stage shares."""

    dataset: str = option("sample", "Hub id, local image folder, local parquet folder or file, or `sample` (embedded).")
    dataset_config: str | None = option(None, "Configuration name of a Hub dataset that has several.")
    train_split: str = option("train", "Split to train on or to distil.")
    eval_split: str | None = option(None, "Split to measure accuracy on. Default: `test`, else `validation`.")
    image_column: str | None = option(None, "Column that holds the images. Default: the only image column.")
    label_column: str | None = option(None, "Column that holds the class labels. Default: the only ClassLabel column.")
    image_size: int | None = option(
        None, "Side in pixels; images are resized (shorter side) and centre-cropped. Required when sizes differ."
    )
    skip_unreadable: bool = option(False, "Leave unreadable images out and list them, instead of stopping.")
    output_dir: str = option("runs/run", "Folder for everything this command writes.")
    overwrite: bool = option(
        False, "Start again in a folder that holds another configuration's run. Only files decoct wrote are removed."
    )
    dry_run: bool = option(False, "Print what would be computed and what it would cost, then stop.")
    seed: int = option(0, "Run seed; every random choice follows from it.")
    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "Precision of the forward and backward passes.")
    num_workers: int = option(0, "Worker processes that decode images.")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.image_size is None or self.image_size >= 8, "image_size", "at least 8", self.image_size)
        require(self.num_workers >= 0, "num_workers", "at least 0", self.num_workers)


@dataclass(kw_only=True)
class TeacherConfig(DataConfig):
    """Training a teacher on the whole dataset (InfoUtil, App. B.2)."""

    output_dir: str = option(
        "runs/teacher", "Folder for the teacher: the converged one, and `epoch_N/` for early ones."
    )
    model: str = option("convnet3", "Architecture: convnet3 … convnet6 (`_instance` for instance norm), resnet18.")
    epochs: int = option(60, "Passes over the training split.")
    save_epochs: list[int] = option([10], "Epochs after which an early teacher is saved as `epoch_N/`.")
    batch_size: int = option(128, "Images per step, over all processes.")
    learning_rate: float = option(1e-3, "Peak learning rate of AdamW.")
    weight_decay: float = option(0.01, "Weight decay of AdamW; none on one-dimensional parameters.")
    warmup_fraction: float = option(0.1, "Share of all steps that warm the learning rate up, before the cosine.")
    crop_padding: int | None = option(None, "Pixels of padding for random crops. Default: an eighth of the side.")
    flip: bool = option(True, "Flip images horizontally at random.")
    checkpoint_every: int = option(1, "Epochs between checkpoints that a killed run resumes from.")
    checkpoint_steps: int | None = option(None, "Steps between checkpoints within an epoch, for long epochs.")
    compile: bool = option(False, "Compile networks with torch.compile (about 16 s at start, then up to 1.7x faster).")
    report_to: str | None = option(None, "Tracker by name: tensorboard, trackio, wandb … Default: none.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.learning_rate > 0, "learning_rate", "positive", self.learning_rate)
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", "in [0, 1)", self.warmup_fraction)
        require(self.checkpoint_every >= 1, "checkpoint_every", "at least 1", self.checkpoint_every)
        require(all(epoch >= 1 for epoch in self.save_epochs), "save_epochs", "epochs from 1 on", self.save_epochs)


@dataclass(kw_only=True)
class DistillConfig(DataConfig):
    """Distilling a dataset: InfoUtil, or one of the baselines made with the same code.

    Fields that default to None take the method's own value (`METHOD_DEFAULTS`).
    """

    output_dir: str = option("runs/distilled", "Run folder; `load_dataset` reads it as it is.")
    method: Literal["infoutil", "rded", "random", "herding"] = option("infoutil", "What selects the tiles.")
    teacher: str = option("runs/teacher", "Folder or Hub id of the teacher that attributes, scores and labels.")
    label_teacher: str = option(
        "converged",
        "Teacher that labels: `converged`, `early` (the first saved `epoch_N`), `by_ipc` (early up to IPC 10, the "
        "paper's rule), or a folder or Hub id.",
    )
    ipc: list[int] = option([10], "Images per class; several values share one run.")
    tiles_per_image: Literal[1, 4] = option(1, "Tiles of an image (k): 1 for small images, 4 for a 2x2 mosaic.")
    candidates_per_class: int | None = option(300, "Images of a class that are scored, drawn by the seed. 0: all.")
    attribution: Literal["kernel_shap", "exact_shapley", "captum_kernel_shap", "grad_cam", "random", "whole"] | None = (
        option(None, "What the crops come from: a heat map, random crops, or the whole image.")
    )
    grid_size: int = option(4, "Side of the patch grid; its cells are the players.")
    coalitions: int = option(128, "Coalitions of KernelSHAP, in complementary pairs.")
    baseline: Literal["mean", "blur"] = option("mean", "What an absent patch shows.")
    value: Literal["logit", "probability"] = option("logit", "Value of a coalition, for the true class.")
    crop_fraction: float | None = option(
        None, "Side of a window as a share of the image's, in (0, 1]. Default: 0.5 for k = 4, 1.0 for k = 1."
    )
    crop_center: Literal["pooled", "patch"] = option("pooled", "Window at the pooled maximum, or at the best patch.")
    crops_per_image: int = option(5, "Crops of an image; the last one takes the clean heat map's maximum.")
    noise_scale: float = option(2.0, "Noise on the pooled heat map, in its own standard deviations.")
    utility: Literal["grad_norm", "grad_norm_last", "loss", "gradient_flow", "random"] | None = option(
        None, "Score of a crop."
    )
    utility_order: Literal["highest", "lowest", "quantile"] | None = option(
        None, "Which scores are taken first: the highest (the paper), the lowest, or those around a quantile."
    )
    utility_quantile: float = option(0.5, "Target of `utility_order quantile`: 0 is the lowest score, 1 the highest.")
    selection: Literal["top", "herding", "k_center"] | None = option(
        None, "Take the best scores, or the most diverse of the pool by the teacher's features."
    )
    pool_factor: float | None = option(
        None,
        "Pool that `herding` and `k_center` choose from, best scores first, as a multiple of the tiles that are "
        "needed. 0: all candidates.",
    )
    gradient_flow_references: int = option(512, "Candidates that `gradient_flow` takes its maximum over.")
    views: int = option(50, "Fixed views of an image whose logits are stored (M); 0 leaves them out.")
    view_scale: float = option(0.08, "Smallest area of a view, as a share of the image's.")
    batch_size: int | None = option(None, "Images per forward pass. Default: the fastest of a short calibration.")
    shard_size: int = option(100, "Candidates per shard; a kill loses at most one shard per process.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.method_defaults().items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.pool_factor is None:
            self.pool_factor = 3.0
        if self.crop_fraction is None:
            self.crop_fraction = 0.5 if self.tiles_per_image == 4 else 1.0
        self.candidates_per_class = self.candidates_per_class or None
        self.ipc = sorted(set(self.ipc))
        require(bool(self.ipc) and min(self.ipc) >= 1, "ipc", "one or more numbers from 1 on", self.ipc)
        require(2 <= self.grid_size <= 14, "grid_size", "in [2, 14]", self.grid_size)
        require(self.coalitions >= 2 and self.coalitions % 2 == 0, "coalitions", "even and at least 2", self.coalitions)
        require(0 < self.crop_fraction <= 1, "crop_fraction", "in (0, 1]", self.crop_fraction)
        require(0 <= self.utility_quantile <= 1, "utility_quantile", "in [0, 1]", self.utility_quantile)
        require(
            self.pool_factor == 0 or self.pool_factor >= 1, "pool_factor", "0 (all) or at least 1", self.pool_factor
        )
        require(0 < self.view_scale <= 1, "view_scale", "in (0, 1]", self.view_scale)
        require(self.crops_per_image >= 1, "crops_per_image", "at least 1", self.crops_per_image)
        require(self.noise_scale >= 0, "noise_scale", "at least 0", self.noise_scale)
        require(self.views >= 0, "views", "at least 0", self.views)
        require(self.shard_size >= 1, "shard_size", "at least 1", self.shard_size)
        require(self.batch_size is None or self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        if self.attribution == "exact_shapley":
            require(self.grid_size <= 4, "grid_size", "at most 4 for exact_shapley (2^16 coalitions)", self.grid_size)
        if self.attribution == "kernel_shap":
            least = 2 * (self.grid_size**2 - 1)
            expected = f"at least {least} to identify {self.grid_size**2} players"
            require(self.coalitions >= least, "coalitions", expected, self.coalitions)

    @property
    def whole_images(self) -> bool:
        """Whether every tile shows a whole image, so that crops need no heat map."""
        return self.attribution == "whole" or (self.attribution != "random" and self.crop_fraction == 1)

    @property
    def tile_rows(self) -> int:
        """Tiles along an image's side."""
        return math.isqrt(self.tiles_per_image)

    def method_defaults(self) -> dict[str, Any]:
        """The method's values for the fields that were left at None."""
        return METHOD_DEFAULTS[self.method]


METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "infoutil": {
        "attribution": "kernel_shap",
        "utility": "grad_norm",
        "utility_order": "lowest",
        "selection": "k_center",
    },
    "rded": {"attribution": "random", "utility": "loss", "utility_order": "lowest", "selection": "top"},
    "random": {"attribution": "whole", "utility": "random", "utility_order": "lowest", "selection": "top"},
    "herding": {
        "attribution": "whole",
        "utility": "random",
        "utility_order": "lowest",
        "selection": "herding",
        "pool_factor": 0.0,
    },
}


@dataclass(kw_only=True)
class EvaluateConfig(DataConfig):
    """Training students on a distilled set and measuring them on real images."""

    output_dir: str | None = option(None, "Folder for results.json. Default: the distilled run folder.")  # type: ignore[assignment]
    distilled: str = option("runs/distilled", "Distilled run folder or Hub id.")
    ipc: list[int] = option([], "IPCs to evaluate. Default: all in the distilled set.")
    students: list[str] = option(["convnet3"], "Student architectures.")
    teacher: str | None = option(None, "Teacher of `online` labels. Default: the one named in the manifest.")
    protocol: str = option("rded_kd", "Training protocol by name.")
    labels: list[str] = option(["views"], "Label modes: hard, tiles, views, online.")
    seeds: int = option(1, "Students trained per setting.")
    epochs: int | None = option(None, "Epochs, instead of the protocol's; recorded as an override.")
    rrc_scale: float | None = option(
        None, "Smallest area of random-resized crops, instead of the protocol's; recorded as an override."
    )
    compile: bool = option(False, "Compile networks with torch.compile (about 16 s at start, then up to 1.7x faster).")
    epoch: Literal["last", "best"] = option("last", "Which epoch's accuracy is reported; `best` looks at the test set.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for mode in self.labels:
            require(mode in LABEL_MODES, "labels", f"one of {list(LABEL_MODES)}", mode)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.rrc_scale is None or 0 < self.rrc_scale <= 1, "rrc_scale", "in (0, 1]", self.rrc_scale)


LABEL_MODES = ("hard", "tiles", "views", "online")


def require(condition: bool, name: str, expected: str, got: Any) -> None:
    """Raises ValueError("name must be expected. Got got.") unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {expected}. Got {got!r}.")


def check_choices(config: Any) -> None:
    """Raises ValueError for a field whose value is not among its Literal's choices."""
    for name, hint in get_type_hints(type(config)).items():
        literals = [hint, *get_args(hint)]
        choices = [choice for part in literals if get_origin(part) is Literal for choice in get_args(part)]
        value = getattr(config, name)
        if choices and value is not None:
            require(value in choices, name, f"one of {choices}", value)


def config_hash(values: dict[str, Any]) -> str:
    """Twelve hex digits that identify JSON-ready values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as JSON-ready values."""
    return dataclasses.asdict(config)
