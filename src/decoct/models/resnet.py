"""ResNets (He et al., 2016) for small and large images, and ResNetAP, which pools instead of striding.

The file stands alone: a copy of it travels with every checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

__all__ = ["BasicResNetConfig", "BasicResNetForImageClassification"]

CHOICES = {
    "block": ("basic", "bottleneck"),
    "stem": ("small", "imagenet"),
    "norm": ("batch", "instance"),
    "downsampling": ("stride", "average"),
}


class BasicResNetConfig(PreTrainedConfig):
    """Blocks per stage and their widths; a bottleneck's output is four times as wide.

    Args:
        stem: `small` (3x3 convolution, full resolution) or `imagenet` (7x7 convolution, a quarter of the resolution).
        norm: `batch`, or `instance` for a group norm of one channel a group, as in the distillation literature.
        downsampling: `stride`, or `average` for convolutions of stride 1 followed by average pooling (ResNetAP).
    """

    model_type = "decoct_resnet"

    block: str = "basic"
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    widths: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "small"
    norm: str = "batch"
    downsampling: str = "stride"
    image_size: int = 32
    num_channels: int = 3
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {list(choices)}. Got {getattr(self, name)!r}.")
        reduction = 2 ** (len(self.widths) - 1) * (4 if self.stem == "imagenet" else 1)
        if self.norm == "instance" and self.image_size < 2 * reduction:
            raise ValueError(
                f"image_size must be at least {2 * reduction} for the {self.stem} stem with instance norm, which makes "
                f"a last feature map of one pixel constant. Got {self.image_size}."
            )


def norm_layer(config: BasicResNetConfig, channels: int) -> nn.Module:
    """Batch norm, or instance norm with weights as a group norm."""
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.GroupNorm(channels, channels)


def strided(config: BasicResNetConfig, stride: int) -> tuple[int, nn.Module]:
    """The stride of a convolution that reduces the resolution, and the pooling that follows it."""
    if stride == 1 or config.downsampling == "stride":
        return stride, nn.Identity()
    return 1, nn.AvgPool2d(stride)


def shortcut(config: BasicResNetConfig, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a projection where resolution or width change."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    step, pool = strided(config, stride)
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, step, bias=False)]
    if config.downsampling == "average":
        layers.append(pool)
    return nn.Sequential(*layers, norm_layer(config, outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first reduces the resolution."""

    expansion = 1

    def __init__(self, config: BasicResNetConfig, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        step, self.pool = strided(config, stride)
        self.conv1 = nn.Conv2d(inputs, width, 3, step, 1, bias=False)
        self.norm1 = norm_layer(config, width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = norm_layer(config, width)
        self.shortcut = shortcut(config, inputs, width, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.pool(torch.relu(self.norm1(self.conv1(inputs))))
        return torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 one reduces the resolution, as in torchvision."""

    expansion = 4

    def __init__(self, config: BasicResNetConfig, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        step, self.pool = strided(config, stride)
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = norm_layer(config, width)
        self.conv2 = nn.Conv2d(width, width, 3, step, 1, bias=False)
        self.norm2 = norm_layer(config, width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = norm_layer(config, outputs)
        self.shortcut = shortcut(config, inputs, outputs, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.conv1(inputs)))
        hidden = self.pool(torch.relu(self.norm2(self.conv2(hidden))))
        return torch.relu(self.norm3(self.conv3(hidden)) + self.shortcut(inputs))


def stem(config: BasicResNetConfig) -> nn.Sequential:
    """The first convolution; for large images with a pooling: He et al.'s, or that of Kim et al.'s ResNetAP."""
    average = config.downsampling == "average"
    if config.stem == "small":
        kernel, stride, pool = 3, 1, None
    else:
        kernel, stride = 7, 1 if average else 2
        pool = nn.AvgPool2d(4) if average else nn.MaxPool2d(3, 2, 1)
    width = config.widths[0]
    layers: list[nn.Module] = [
        nn.Conv2d(config.num_channels, width, kernel, stride, kernel // 2, bias=False),
        norm_layer(config, width),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers) if pool is None else nn.Sequential(*layers, pool)


class BasicResNetForImageClassification(PreTrainedModel):
    """ResNet with a linear head on the pooled features.

    With `downsampling="average"` it is the ResNetAP of Kim et al. (IDC, ICML 2022, arXiv 2205.14959;
    models/resnet_ap.py of their code), without its third stem for images of 65 to 128 pixels.
    """

    config_class = BasicResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: BasicResNetConfig) -> None:
        super().__init__(config)
        block = BasicBlock if config.block == "basic" else Bottleneck
        self.stem = stem(config)
        inputs = config.widths[0]
        blocks: list[nn.Module] = []
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            for position in range(depth):
                blocks.append(block(config, inputs, width, stride=2 if stage > 0 and position == 0 else 1))
                inputs = width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """He et al.'s initialisation of the convolutions; PyTorch's own for the rest."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()

    def features(self, pixel_values: Tensor) -> Tensor:
        """The head's input, of shape `(batch, width)`."""
        return self.blocks(self.stem(pixel_values)).mean((2, 3))

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits of shape `(batch, classes)` for normalised pixels."""
        return ImageClassifierOutput(logits=self.classifier(self.features(pixel_values)))


BasicResNetConfig.register_for_auto_class()
BasicResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
