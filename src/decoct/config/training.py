"""Training of teachers, variational estimators and diffusion priors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from decoct.config.data import HELD_OUT, DataConfig
from decoct.config.options import option, require
from decoct.config.publishing import PublishingConfig

if TYPE_CHECKING:
    from typing_extensions import Self  # of `typing` from Python 3.11 on

__all__ = ["EstimatorConfig", "PriorConfig", "TeacherConfig", "TrainingConfig"]


@dataclass(kw_only=True)
class TrainingConfig(PublishingConfig, DataConfig):
    """What all training shares: length, batches, learning rate, checkpoints, trackers."""

    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = option(
        "auto",
        "Precision of the forward and backward passes; `auto`: bf16 on a GPU, else `no`.",
        group="run",
    )
    epochs: int = option(60, "Passes over the training split.", group="training")
    batch_size: int = option(
        0, "Images per step, over all processes. 0: 128, or all images of a smaller training split.", group="training"
    )
    learning_rate: float = option(1e-3, "Peak learning rate.", group="training")
    weight_decay: float = option(0.01, "Weight decay; none on one-dimensional parameters.", group="training")
    warmup_fraction: float = option(
        0.1, "Share of all steps that warm the learning rate up, before the cosine.", group="training"
    )
    checkpoint_every: int = option(1, "Epochs between checkpoints that a killed run resumes from.", matters="command")
    checkpoint_steps: int | None = option(
        None, "Steps between checkpoints within an epoch, for long epochs. Default: none.", matters="command"
    )
    compile: bool = option(
        False,
        "Compile networks with torch.compile (about 16 s at start, then up to 1.7x faster).",
        matters="machine",
        group="training",
    )
    report_to: str | None = option(
        None, "Tracker by name: tensorboard, trackio, wandb … Default: none.", matters="command"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_fraction and self.eval_split is None:
            self.eval_split = HELD_OUT
        self.check_publishing()
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.batch_size >= 0, "batch_size", "0 or more", self.batch_size)
        require(self.learning_rate > 0, "learning_rate", "positive", self.learning_rate)
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", "in [0, 1)", self.warmup_fraction)
        require(self.checkpoint_every >= 1, "checkpoint_every", "at least 1", self.checkpoint_every)
        steps = self.checkpoint_steps
        require(steps is None or steps >= 1, "checkpoint_steps", "at least 1", steps)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)

    def with_batch_size(self, images: int, processes: int = 1) -> Self:
        """The same with the batch size that 0 stands for, for so many training images."""
        if self.batch_size:
            return self
        return dataclasses.replace(self, batch_size=self._batch_size(128, images, processes))

    def _batch_size(self, usual: int, images: int, processes: int) -> int:
        return max(1, min(usual, images) // processes) * processes


@dataclass(kw_only=True)
class TeacherConfig(TrainingConfig):
    """Training a teacher on the whole dataset with AdamW (InfoUtil, App. B.2)."""

    SHOWN_FIRST: ClassVar[list[str]] = (
        "dataset image_size model epochs batch_size learning_rate save_epochs output_dir report_to dry_run".split()
    )

    output_dir: str = option(
        "runs/teacher", "Folder for the teacher: the converged one, and `epoch_N/` for early ones.", matters="command"
    )
    model: str = option(
        "convnet3",
        "Architecture: convnet3 … convnet6 (`_wN` sets the width), resnet18, resnet50, resnet101, resnet_ap10, vgg11 "
        "(all with `_instance` for instance norm; ResNets with `_imagenet` for the large stem below 65 pixels), "
        "mobilenet_v2, efficientnet_b0, swin_v2_t.",
    )
    save_epochs: list[int] = option(
        [10], "Epochs after which an early teacher is saved as `epoch_N/`.", group="training"
    )
    crop_padding: int | None = option(
        None, "Pixels of padding for random crops. Default: an eighth of the side.", group="training"
    )
    flip: bool = option(True, "Flip images horizontally at random.", group="training")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(epoch >= 1 for epoch in self.save_epochs), "save_epochs", "epochs from 1 on", self.save_epochs)
        padding = self.crop_padding
        require(padding is None or padding >= 0, "crop_padding", "at least 0", padding)


@dataclass(kw_only=True)
class EstimatorConfig(TrainingConfig):
    """Training a variational estimator with SGD (IGDS, Algorithm 1), then its linear classifier.

    The defaults are for small images; the preset `imagenette` has those of MoCo for large ones.
    """

    SHOWN_FIRST: ClassVar[list[str]] = (
        "dataset image_size encoder epochs batch_size learning_rate kl_weight output_dir report_to dry_run".split()
    )

    output_dir: str = option("runs/estimator", "Folder for the estimator.", matters="command")
    encoder: str = option(
        "resnet18",
        "Encoder to train: resnet10, resnet18 or resnet50 (`_wN` sets the width of the first stage), or the folder or "
        "Hub id of an image model that is taken as it is, so that only the classifier is trained.",
    )
    epochs: int = option(200, "Passes over the training split.", group="training")
    batch_size: int = option(
        0, "Images per step, over all processes. 0: 512, or all images of a smaller training split.", group="training"
    )
    learning_rate: float = option(
        0.06, "Peak learning rate of SGD at batch 512; scaled linearly with the batch.", group="training"
    )
    weight_decay: float = option(5e-4, "Weight decay; none on one-dimensional parameters.", group="training")
    warmup_fraction: float = option(
        0.0, "Share of all steps that warm the learning rate up, before the cosine.", group="training"
    )
    projection_dim: int = option(128, "Dimensions of the projection that keys and queries live in.")
    queue_size: int = option(
        0, "Keys in the queue (K), a multiple of the batch size. 0: the largest up to 4,096, at least one batch."
    )
    momentum: float = option(0.99, "Momentum of the momentum encoder (m).")
    temperature: float = option(0.1, "Temperature of the contrastive loss.")
    kl_weight: float = option(
        0.1,
        "Weight of the contextual term (lambda); 0 is MoCo. Detached, which is the default of --kl_gradient, its "
        "gradient is twice the literal one where views are alike, so that this lambda is half of the paper's.",
    )
    kl_temperature: float = option(0.1, "Temperature of the softmax inside the contextual term.")
    q_mode: Literal["two_view", "class_mean"] = option(
        "two_view", "Reference of the contextual term: the mean of an image's two views, or its class's mean."
    )
    kl_gradient: Literal["detached", "literal"] = option(
        "detached",
        "Take the reference as a constant, or with its own gradient, as Algorithm 1 does literally (two_view only).",
    )
    crop_scale: float = option(
        0.2, "Smallest area of a random-resized crop, as a share of the image's.", group="training"
    )
    flip: bool = option(True, "Flip images horizontally at random.", group="training")
    color_jitter: float = option(
        0.4, "Strength of brightness, contrast and saturation changes; 0 leaves them out.", group="training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.projection_dim >= 2, "projection_dim", "at least 2", self.projection_dim)
        require(
            self.queue_size == 0
            or (self.queue_size >= max(1, self.batch_size) and self.queue_size % max(1, self.batch_size) == 0),
            "queue_size",
            f"0 or a multiple of batch_size ({self.batch_size})",
            self.queue_size,
        )
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(self.temperature > 0, "temperature", "positive", self.temperature)
        require(self.kl_temperature > 0, "kl_temperature", "positive", self.kl_temperature)
        require(self.kl_weight >= 0, "kl_weight", "at least 0", self.kl_weight)
        require(
            self.kl_gradient == "detached" or self.q_mode == "two_view",
            "kl_gradient",
            "'detached' for q_mode 'class_mean', a running mean without a gradient",
            self.kl_gradient,
        )
        require(0 < self.crop_scale <= 1, "crop_scale", "in (0, 1]", self.crop_scale)
        require(0 <= self.color_jitter < 1, "color_jitter", "in [0, 1)", self.color_jitter)

    def with_batch_size(self, images: int, processes: int = 1) -> Self:
        """The same with the sizes of batch and queue that 0 stands for, for so many training images."""
        size = self.batch_size or self._batch_size(512, images, processes)
        return dataclasses.replace(self, batch_size=size, queue_size=self.queue_size or max(4096 // size, 1) * size)


@dataclass(kw_only=True)
class PriorConfig(TrainingConfig):
    """Training a pixel diffusion prior with AdamW (DDPM, arXiv 2006.11239)."""

    SHOWN_FIRST: ClassVar[list[str]] = (
        "dataset image_size channels conditional epochs batch_size learning_rate output_dir report_to dry_run".split()
    )

    output_dir: str = option("runs/prior", "Folder for the prior, a diffusers pipeline.", matters="command")
    conditional: bool = option(True, "Give the network the class; `--no_conditional` trains an unconditional prior.")
    init: str | None = option(
        None,
        "Prior whose weights training starts from: folder, Hub id, or `sample` (embedded); of the same network and "
        "noise schedule. Default: new weights.",
    )
    channels: list[int] = option([64, 128, 128], "Channels of the U-Net's resolutions, a multiple of 8 each.")
    layers_per_block: int = option(1, "Residual blocks per resolution.")
    attention: bool = option(True, "Self-attention at the lowest resolution.")
    dropout: float = option(0.0, "Dropout in the residual blocks.")
    train_steps: int = option(1000, "Diffusion steps of the noise schedule.")
    beta_schedule: Literal["squaredcos_cap_v2", "linear"] = option("squaredcos_cap_v2", "Noise schedule.")
    label_dropout: float = option(0.1, "Share of labels replaced by the null class, for classifier-free guidance.")
    snr_gamma: float | None = option(
        None,
        "Most signal-to-noise that a step's loss is weighted by, as for a prediction of the clean image (Min-SNR, "
        "arXiv 2303.09556: 5). Default: all steps weigh alike.",
        group="training",
    )
    ema_decay: float = option(
        0.999, "Decay of the moving average of the weights, which is what is saved.", group="training"
    )
    flip: bool = option(True, "Flip images horizontally at random.", group="training")
    epochs: int = option(200, "Passes over the training split.", group="training")
    learning_rate: float = option(2e-4, "Peak learning rate of AdamW.", group="training")
    weight_decay: float = option(0.0, "Weight decay; none on one-dimensional parameters.", group="training")
    warmup_fraction: float = option(
        0.02, "Share of all steps that warm the learning rate up, before the cosine.", group="training"
    )
    save_epochs: list[int] | None = option(
        None, "Epochs after which the prior so far is saved as `epoch_N/`. Default: none.", group="training"
    )
    sample_every: int = option(
        20, "Epochs between grids of samples, in `samples/`; 0 leaves them out.", group="training"
    )
    sample_steps: int = option(50, "DDIM steps of these samples.", group="training")

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = len(self.channels) >= 2 and all(width >= 8 and width % 8 == 0 for width in self.channels)
        require(valid, "channels", "two or more multiples of 8", self.channels)
        require(self.layers_per_block >= 1, "layers_per_block", "at least 1", self.layers_per_block)
        require(self.train_steps >= 2, "train_steps", "at least 2", self.train_steps)
        require(0 <= self.label_dropout < 1, "label_dropout", "in [0, 1)", self.label_dropout)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        require(0 < self.ema_decay < 1, "ema_decay", "in (0, 1)", self.ema_decay)
        require(self.snr_gamma is None or self.snr_gamma > 0, "snr_gamma", "positive", self.snr_gamma)
        saved = self.save_epochs or []
        require(all(epoch >= 1 for epoch in saved), "save_epochs", "epochs from 1 on", saved)
        require(self.sample_every >= 0, "sample_every", "at least 0", self.sample_every)
        require(1 <= self.sample_steps <= self.train_steps, "sample_steps", "in [1, train_steps]", self.sample_steps)
