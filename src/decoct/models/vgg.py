"""VGG-11 (Simonyan & Zisserman, 2015) as the dataset-distillation literature has it: norm layers, one linear layer.

The file stands alone: a copy of it travels with every checkpoint.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

__all__ = ["VGGConfig", "VGGForImageClassification"]


class VGGConfig(PreTrainedConfig):
    """Widths of the 3x3 convolutions of each stage; the norm is `batch` or `instance`."""

    model_type = "decoct_vgg"

    widths: list[list[int]] | tuple[tuple[int, ...], ...] = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    norm: str = "batch"
    image_size: int = 32
    num_channels: int = 3
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.norm not in ("batch", "instance"):
            raise ValueError(f"norm must be one of ['batch', 'instance']. Got {self.norm!r}.")


class VGGForImageClassification(PreTrainedModel):
    """VGG-11 with a linear layer on the pooled features, 9.2 million parameters for 10 classes.

    It is that of Zhao et al. (DC, ICLR 2021, arXiv 2006.05929; networks.py of their code), which pads images of 28
    pixels to 32, and is applied to larger images by pooling the last feature map. The original, with three linear
    layers of up to 4096 units instead and no norm layers, has 132.9 million for 1,000 classes; RDED and InfoUtil use
    it on ImageNet-1K.
    """

    config_class = VGGConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VGGConfig) -> None:
        super().__init__(config)
        smallest = 2 ** len(config.widths)
        padding = 1 + max(0, -(-(smallest - config.image_size) // 2))
        layers: list[nn.Module] = []
        channels = config.num_channels
        for widths in config.widths:
            for width in widths:
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1 if layers else padding),
                    nn.BatchNorm2d(width) if config.norm == "batch" else nn.GroupNorm(width, width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation of each layer, as in Zhao et al.'s code."""
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()

    def features(self, pixel_values: Tensor) -> Tensor:
        """The head's input, of shape `(batch, width)`."""
        return self.blocks(pixel_values).mean((2, 3))

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits of shape `(batch, classes)` for normalised pixels."""
        return ImageClassifierOutput(logits=self.classifier(self.features(pixel_values)))


VGGConfig.register_for_auto_class()
VGGForImageClassification.register_for_auto_class("AutoModelForImageClassification")
