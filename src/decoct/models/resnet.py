"""ResNet-18 (He et al., 2016) with the ImageNet stem, or the 3x3 stem without max-pooling for small images.

The file stands alone: a copy of it travels with every checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

__all__ = ["BasicResNetConfig", "BasicResNetForImageClassification"]


class BasicResNetConfig(PreTrainedConfig):
    """Basic blocks per stage, widths, and the stem: `small` (3x3, stride 1) or `imagenet` (7x7, stride 2, max-pool)."""

    model_type = "decoct_resnet"

    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    widths: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "small"
    image_size: int = 32
    num_channels: int = 3
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.stem not in ("small", "imagenet"):
            raise ValueError(f"stem must be one of ['small', 'imagenet']. Got {self.stem!r}.")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.conv1(inputs)))
        return torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))


class BasicResNetForImageClassification(PreTrainedModel):
    """ResNet of basic blocks with a linear head on the pooled features."""

    config_class = BasicResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: BasicResNetConfig) -> None:
        super().__init__(config)
        width = config.widths[0]
        if config.stem == "small":
            stem: list[nn.Module] = [nn.Conv2d(config.num_channels, width, 3, 1, 1, bias=False)]
        else:
            stem = [nn.Conv2d(config.num_channels, width, 7, 2, 3, bias=False)]
        stem += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        if config.stem == "imagenet":
            stem.append(nn.MaxPool2d(3, 2, 1))
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        for stage, (depth, outputs) in enumerate(zip(config.depths, config.widths, strict=True)):
            for block in range(depth):
                blocks.append(BasicBlock(width, outputs, stride=2 if stage > 0 and block == 0 else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """He et al.'s initialisation of the convolutions; PyTorch's own for the rest."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()

    def features(self, pixel_values: Tensor) -> Tensor:
        """The head's input, of shape `(batch, width)`."""
        return self.blocks(self.stem(pixel_values)).mean((2, 3))

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits of shape `(batch, classes)` for normalised pixels."""
        return ImageClassifierOutput(logits=self.classifier(self.features(pixel_values)))


BasicResNetConfig.register_for_auto_class()
BasicResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
