"""ConvNet-D, the small network of the dataset-distillation literature (Gidaris & Komodakis, 2018).

The file stands alone: a copy of it travels with every checkpoint.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

__all__ = ["ConvNetConfig", "ConvNetForImageClassification"]


class ConvNetConfig(PreTrainedConfig):
    """Depth blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then a linear layer."""

    model_type = "decoct_convnet"

    depth: int = 3
    width: int = 128
    norm: str = "batch"
    image_size: int = 32
    num_channels: int = 3
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.norm not in ("batch", "instance"):
            raise ValueError(f"norm must be one of ['batch', 'instance']. Got {self.norm!r}.")
        if self.image_size >> self.depth < 1:
            raise ValueError(
                f"depth must be at most {self.image_size.bit_length() - 1} for images of {self.image_size} px, "
                f"since each block halves the side. Got {self.depth}."
            )


class ConvNetForImageClassification(PreTrainedModel):
    """ConvNet-D with a linear head."""

    config_class = ConvNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        channels = config.num_channels
        for _ in range(config.depth):
            layers += [
                nn.Conv2d(channels, config.width, 3, padding=1),
                nn.BatchNorm2d(config.width) if config.norm == "batch" else nn.GroupNorm(config.width, config.width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
            channels = config.width
        self.blocks = nn.Sequential(*layers)
        width = config.width * (config.image_size >> config.depth) ** 2
        self.classifier = nn.Linear(width, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation of each layer, which the published ConvNet results use."""
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()

    def features(self, pixel_values: Tensor) -> Tensor:
        """The head's input, of shape `(batch, width * side**2)`."""
        return self.blocks(pixel_values).flatten(1)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits of shape `(batch, classes)` for normalised pixels."""
        return ImageClassifierOutput(logits=self.classifier(self.features(pixel_values)))


ConvNetConfig.register_for_auto_class()
ConvNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
