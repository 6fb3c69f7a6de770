"""Distilling: InfoUtil, IGDS and the baselines."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from decoct.config.data import DataConfig
from decoct.config.options import option, require
from decoct.config.publishing import PublishingConfig
from decoct.config.ranks import rank_of_environment
from decoct.config.sampling import UNPROMPTED, SamplingConfig
from decoct.methods import METHODS

__all__ = ["SHARED_WORK", "DistillConfig", "default_values"]

# What part of the work a command does: a finished run does not say.
SHARED_WORK = ("rank", "world_size", "wait", "merge")


def method_defaults(method: str, tiles_per_image: int) -> dict[str, Any]:
    """A method's values for the fields that were left at None."""
    return {"pool_factor": 3.0, "crop_fraction": 0.5 if tiles_per_image == 4 else 1.0, **METHODS[method].defaults}


def by_method(name: str) -> str:
    """The default of a field that is the method's own, for its help text: `whole (igds, random)`."""
    methods: dict[Any, list[str]] = {}
    for method in METHODS:
        methods.setdefault(method_defaults(method, 1)[name], []).append(method)
    return "Default: " + ", ".join(f"{value} ({', '.join(names)})" for value, names in methods.items()) + "."


@dataclass(kw_only=True)
class DistillConfig(SamplingConfig, PublishingConfig, DataConfig):
    """Distilling a dataset: InfoUtil, or one of the baselines made with the same code.

    Fields that default to None take the method's own value (`decoct.methods.METHODS`).
    """

    SHOWN_FIRST: ClassVar[list[str]] = (
        "dataset image_size method teacher ipc tiles_per_image prior estimator output_dir dry_run".split()
    )

    output_dir: str = option("runs/distilled", "Run folder; `load_dataset` reads it as it is.", matters="command")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = option(
        "auto",
        "Precision of the forward and backward passes; `auto`: bf16 on a GPU, else `no`.",
        group="run",
    )
    method: Literal["infoutil", "igds", "rded", "random", "herding", "k_center", "k_means", "forgetting"] = option(
        "infoutil", "What makes the tiles: `igds` samples them from a diffusion prior, the others choose real images."
    )
    teacher: str = option("runs/teacher", "Folder or Hub id of the teacher that attributes, scores and labels.")
    label_teacher: list[str] = option(
        ["converged"],
        "Teacher that labels: `converged`, `early` (the first saved `epoch_N`), `by_ipc` (early up to IPC 10, the "
        "paper's rule), or a folder or Hub id. Of several, the mean of their logits.",
        group="labels",
    )
    label_map: str | None = option(
        None,
        "JSON, YAML or CSV file with the teacher's name (or number) of each class that the dataset names otherwise. "
        "Names that differ in case, spaces, underscores and hyphens alone, and classes of a larger teacher, are "
        "matched without. Default: none.",
        matters="command",
        group="labels",
    )
    allow_weak_teacher: bool = option(
        False,
        "Go on with a teacher that recognises fewer training images than twice chance (of two or three classes: "
        "half way from chance to all).",
        matters="command",
        group="method",
    )
    ipc: list[int] = option([10], "Images per class; several values share one run.")
    tiles_per_image: Literal[1, 4] = option(1, "Tiles of an image (k): 1 for small images, 4 for a 2x2 mosaic.")
    candidates_per_class: int | None = option(
        300, "Images of a class that are scored, drawn by the seed. 0: all.", matters="selection"
    )
    streaming: bool = option(
        False,
        "Draw these candidates from a Hub dataset, parquet or WebDataset shards as they are streamed, in one pass that "
        "keeps nothing else; by the seed, but others than of the stored dataset.",
        matters="command",
        group="data",
    )
    attribution: Literal["kernel_shap", "exact_shapley", "captum_kernel_shap", "grad_cam", "random", "whole"] | None = (
        option(
            None,
            f"What the crops come from: a heat map, random crops, or the whole image. {by_method('attribution')}",
            matters="selection",
        )
    )
    grid_size: int = option(4, "Side of the patch grid; its cells are the players.", matters="selection")
    coalitions: int = option(
        128,
        "Coalitions of KernelSHAP, in complementary pairs; beyond about 100 the windows of a 4x4 grid are chosen no "
        "better.",
        matters="selection",
    )
    baseline: Literal["mean", "blur"] = option("mean", "What an absent patch shows.", matters="selection")
    value: Literal["logit", "probability"] = option(
        "logit", "Value of a coalition, for the true class.", matters="selection"
    )
    crop_fraction: float | None = option(
        None,
        "Side of a window as a share of the image's, in (0, 1]. Default: 0.5 for k = 4, 1.0 for k = 1.",
        matters="selection",
    )
    crop_center: Literal["pooled", "patch"] = option(
        "pooled", "Window at the pooled maximum, or at the best patch.", matters="selection"
    )
    crops_per_image: int = option(
        5, "Crops of an image; the last one takes the clean heat map's maximum.", matters="selection"
    )
    noise_scale: float = option(
        2.0, "Noise on the pooled heat map, in its own standard deviations.", matters="selection"
    )
    utility: Literal["grad_norm", "grad_norm_last", "loss", "gradient_flow", "forgetting", "random"] | None = option(
        None,
        "Score of a crop; `forgetting` counts how often the teacher forgot the image while it was trained. "
        f"{by_method('utility')}",
        matters="selection",
    )
    utility_order: Literal["highest", "lowest", "quantile"] | None = option(
        None,
        "Which scores are taken first: the highest (the paper), the lowest, or those around a quantile. "
        f"{by_method('utility_order')}",
        matters="selection",
    )
    utility_quantile: float = option(
        0.5, "Target of `utility_order quantile`: 0 is the lowest score, 1 the highest.", matters="selection"
    )
    selection: Literal["top", "random", "herding", "k_center", "k_means", "coverage", "regression"] | None = option(
        None,
        "Take the best scores, random images, or the most diverse of a pool by the teacher's features; `coverage` "
        "takes those that leave the least variance in a Gaussian process over the pool, `regression` those of all "
        "classes from which it best predicts the teacher's logits; both take the same first for every IPC. "
        f"{by_method('selection')}",
        matters="selection",
    )
    pool_factor: float | None = option(
        None,
        "Pool that `herding`, `k_center` and `k_means` choose from, best scores first, as a multiple of the tiles "
        "that are needed. 0: all candidates. "
        f"{by_method('pool_factor')}",
        matters="selection",
    )
    pool_share: float = option(
        0.5,
        "Pool that `coverage` and `regression` choose from, best scores first, as a share of a class's candidates, in "
        "(0, 1].",
        matters="selection",
    )
    coverage_kernel: Literal["features", "gradients"] = option(
        "features",
        "Kernel of `coverage`: the cosine of the teacher's features, or of its loss's gradients in the last layer.",
        matters="selection",
    )
    coverage_noise: float = option(
        0.1,
        "Variance of the noise in the Gaussian process of `coverage` and `regression`, whose own is 1.",
        matters="selection",
    )
    tune: bool = option(
        False,
        "Choose the selection of each IPC by short trainings, measured on validation images, in place of --selection; "
        "random images are among what is tried.",
        matters="selection",
    )
    tune_budget: float = option(
        0.1,
        "What these trainings cost, measuring included, as a share of the teacher's own; more where an epoch of each "
        "is more.",
        matters="selection",
    )
    gradient_flow_references: int = option(
        512, "Candidates that `gradient_flow` takes its maximum over.", matters="selection"
    )
    beta: float | None = option(
        None,
        "Weight of the contextual information in IGDS. Default: decoct's schedule over the IPC.",
        matters="sampling",
    )
    views: int = option(
        0,
        "Fixed views of an image without CutMix whose logits are stored, for labels `views` (M); 0: none.",
        group="labels",
    )
    slots: int = option(
        300,
        "Mixed views of an image (crop, flip and CutMix) whose logits are stored, for labels `mixed`; where they lie "
        "costs no bytes. 0: none.",
        group="labels",
    )
    label_bits: Literal[4, 8] = option(4, "Bits of a logit of a mixed view.", group="labels")
    label_top_k: int = option(
        0,
        "Largest logits of a mixed view that are stored, the other classes sharing what is left. 0: all.",
        group="labels",
    )
    view_scale: float = option(0.08, "Smallest area of a view, as a share of the image's.", group="labels")
    batch_size: int | None = option(
        None, "Images per forward pass. Default: the fastest of a short calibration.", matters="machine"
    )
    shard_size: int = option(
        100,
        "Candidates per shard, or more where there would be over 4,000 shards; a kill loses at most one shard per "
        "process.",
        matters="machine",
    )
    rank: int | None = option(
        None,
        "Which of --world_size machines this is, from 0 on: it computes its share of the shards in an --output_dir "
        "that all share, and needs none of the others to run. Default: SLURM_ARRAY_TASK_ID or RANK, where "
        "--world_size is given.",
        matters="command",
    )
    world_size: int | None = option(
        None,
        "Machines that share the work. 0: SLURM_ARRAY_TASK_COUNT or WORLD_SIZE. Default: this one does all of it.",
        matters="command",
    )
    wait: float = option(
        0.0,
        "Seconds that a rank waits for shards of the others that its next ones depend on, before it ends and leaves "
        "the rest to the same command again, or to --merge.",
        matters="command",
    )
    merge: bool = option(
        False,
        "Finish what ranks have begun: compute the shards that are missing, and write the set.",
        matters="command",
    )

    def __post_init__(self) -> None:
        given: Any = self.label_teacher  # a preset or a caller may give the only one as it is
        self.label_teacher = [given] if isinstance(given, str) else given
        super().__post_init__()
        self.check_publishing()
        for name, value in method_defaults(self.method, self.tiles_per_image).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.candidates_per_class = self.candidates_per_class or None
        self.ipc = sorted(set(self.ipc))
        require(bool(self.ipc) and min(self.ipc) >= 1, "ipc", "one or more numbers from 1 on", self.ipc)
        per_class = self.candidates_per_class
        require(per_class is None or per_class >= 1, "candidates_per_class", "0 (all) or at least 1", per_class)
        require(self.beta is None or self.beta >= 0, "beta", "at least 0", self.beta)
        require(2 <= self.grid_size <= 14, "grid_size", "in [2, 14]", self.grid_size)
        require(self.coalitions >= 2 and self.coalitions % 2 == 0, "coalitions", "even and at least 2", self.coalitions)
        require(0 < (self.crop_fraction or 0) <= 1, "crop_fraction", "in (0, 1]", self.crop_fraction)
        require(0 <= self.utility_quantile <= 1, "utility_quantile", "in [0, 1]", self.utility_quantile)
        pool = self.pool_factor or 0
        require(pool == 0 or pool >= 1, "pool_factor", "0 (all) or at least 1", self.pool_factor)
        require(0 < self.pool_share <= 1, "pool_share", "in (0, 1]", self.pool_share)
        require(self.coverage_noise > 0, "coverage_noise", "positive", self.coverage_noise)
        require(self.tune_budget > 0, "tune_budget", "positive", self.tune_budget)
        require(not self.tune or self.method == "infoutil", "method", "'infoutil' for --tune", self.method)
        require(0 < self.view_scale <= 1, "view_scale", "in (0, 1]", self.view_scale)
        require(self.crops_per_image >= 1, "crops_per_image", "at least 1", self.crops_per_image)
        require(self.noise_scale >= 0, "noise_scale", "at least 0", self.noise_scale)
        require(self.views >= 0, "views", "at least 0", self.views)
        require(self.slots >= 0, "slots", "at least 0", self.slots)
        require(self.label_top_k >= 0, "label_top_k", "at least 0", self.label_top_k)
        names = self.label_teacher
        different = bool(names) and len(set(names)) == len(names)
        require(different, "label_teacher", "one or more different teachers", names)
        require(self.shard_size >= 1, "shard_size", "at least 1", self.shard_size)
        require(self.batch_size is None or self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        self._check_shared_work()
        if self.streaming:
            require(per_class is not None, "candidates_per_class", "at least 1 for --streaming", 0)
            held_out = "0 for --streaming, since all labels say which images are held out"
            require(not self.validation_fraction, "validation_fraction", held_out, self.validation_fraction)
        if self.tune:
            self.selection = "coverage"  # what is tried needs the features
        if self.attribution == "exact_shapley":
            require(self.grid_size <= 4, "grid_size", "at most 4 for exact_shapley (2^16 coalitions)", self.grid_size)
        if self.attribution == "kernel_shap":
            least = 2 * (self.grid_size**2 - 1)
            expected = f"at least {least} to identify {self.grid_size**2} players"
            require(self.coalitions >= least, "coalitions", expected, self.coalitions)

    def _check_shared_work(self) -> None:
        """Resolves rank and number of ranks, and raises ValueError for what ranks cannot do."""
        require(self.wait >= 0, "wait", "at least 0", self.wait)
        if self.world_size is None:
            require(self.rank is None, "world_size", f"given with --rank {self.rank}", None)
            return
        if self.rank is None or self.world_size == 0:
            rank, world_size = rank_of_environment()
            self.rank = rank if self.rank is None else self.rank
            self.world_size = self.world_size or world_size
        require(
            self.rank is not None and 0 <= self.rank < (self.world_size or 0),
            "rank",
            f"in [0, {(self.world_size or 0) - 1}] for --world_size {self.world_size} (a job array counts from 0)",
            self.rank,
        )
        with_ranks = "with --world_size"
        require(not self.merge, "merge", f"left out {with_ranks}: it finishes what the ranks leave", True)
        require(not self.overwrite, "overwrite", f"left out {with_ranks}, where others write the same folder", True)
        require(self.push_to_hub is None, "push_to_hub", f"given with --merge, and not {with_ranks}", self.push_to_hub)
        require(not self.tune, "tune", f"left out {with_ranks}: students are trained on one machine", True)
        require(self.batch_size is not None, "batch_size", f"given {with_ranks}, so that all ranks have the same", None)

    @property
    def whole_images(self) -> bool:
        """Whether every tile shows a whole image, so that crops need no heat map."""
        return self.attribution == "whole" or (self.attribution != "random" and self.crop_fraction == 1)

    @property
    def needs_logits(self) -> bool:
        """Whether the candidates' logits are kept with their scores."""
        by_gradients = self.selection == "coverage" and self.coverage_kernel == "gradients"
        return by_gradients or self.selection == "regression"

    @property
    def tile_rows(self) -> int:
        """Tiles along an image's side."""
        return math.isqrt(self.tiles_per_image)


def default_values(method: str, tiles_per_image: int = 1) -> dict[str, Any]:
    """The values that a method has in every field unless others are given."""
    values = {
        each.name: each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        for each in dataclasses.fields(DistillConfig)
    }
    given = {"method": method, "tiles_per_image": tiles_per_image, "mixed_precision": "no"}
    return {**values, **UNPROMPTED, **method_defaults(method, tiles_per_image), **given}
