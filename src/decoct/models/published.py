"""MobileNet-V2, EfficientNet-B0 and Swin-V2-Tiny: transformers' networks, to be trained from scratch as published.

The papers that evaluate on them (RDED, InfoUtil, IGDS) take torchvision's, which these follow in everything but what
the functions say. All three reduce the resolution by 32: of an image of 32 pixels one position remains before pooling,
of 64 pixels 2x2, of 224 pixels 7x7. Where one remains, a batch of two gives batch norm two values to normalise by, and
gradients explode; four images suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import (
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    Swinv2Config,
    Swinv2ForImageClassification,
)
from transformers.models.efficientnet.modeling_efficientnet import EfficientNetFinalBlockLayer
from transformers.models.swinv2.modeling_swinv2 import Swinv2DropPath

__all__ = ["PUBLISHED", "train_as_published"]

BATCH_NORM_MOMENTUM = 0.1  # of the new batch, PyTorch's default


def mobilenet_v2(settings: dict[str, Any]) -> PreTrainedModel:
    """MobileNet-V2 (Sandler et al., 2018), 3,504,872 parameters for 1,000 classes."""
    config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, classifier_dropout_prob=0.2, **settings)
    return initialise(MobileNetV2ForImageClassification(config))


def efficientnet_b0(settings: dict[str, Any]) -> PreTrainedModel:
    """EfficientNet-B0 (Tan & Le, 2019), 5,288,548 parameters for 1,000 classes.

    Its first convolution pads at the right and at the bottom alone; torchvision's pads all sides.
    """
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        depthwise_padding=list(range(16)),  # the blocks that pad all sides
        batch_norm_eps=1e-5,
        dropout_rate=0.2,
        drop_connect_rate=0.2,
        **settings,
    )
    return initialise(EfficientNetForImageClassification(config))


def swin_v2_t(settings: dict[str, Any]) -> PreTrainedModel:
    """Swin-V2-Tiny (Liu et al., 2022) with windows of 8x8 patches of 4x4 pixels.

    It has 28,347,154 parameters for 1,000 classes, 4,416 fewer than torchvision's: those are the biases of the keys,
    which torchvision stores and sets to zero in each pass. Where a feature map is smaller than a window (below 256
    pixels in the last stage), the window shrinks to it; torchvision pads the map.

    Raises:
        ValueError: For images of fewer than 32 pixels, of which no patch would remain.
    """
    if settings["image_size"] < 32:
        raise ValueError(f"image_size must be at least 32 for swin_v2_t. Got {settings['image_size']}.")
    return Swinv2ForImageClassification(Swinv2Config(window_size=8, drop_path_rate=0.2, **settings))


PUBLISHED: dict[str, Callable[[dict[str, Any]], PreTrainedModel]] = {
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_b0": efficientnet_b0,
    "swin_v2_t": swin_v2_t,
}


def initialise(model: PreTrainedModel) -> PreTrainedModel:
    """Draws convolutions as torchvision does; batch norms become 1, which transformers' EfficientNet starts near 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    return model


def train_as_published(model: nn.Module) -> None:
    """Corrects in place what transformers' MobileNet-V2 and EfficientNet do otherwise in training mode.

    They take TensorFlow's momentum of batch norm, the share of the old statistics, for PyTorch's, that of the new
    ones, so that the statistics would be those of the last batch alone; and EfficientNet drops single activations of a
    residual branch instead of the branch of an image (stochastic depth).
    """
    if not isinstance(model, MobileNetV2ForImageClassification | EfficientNetForImageClassification):
        return
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = BATCH_NORM_MOMENTUM
        elif isinstance(layer, EfficientNetFinalBlockLayer):
            layer.dropout = Swinv2DropPath(layer.dropout.p)  # type: ignore[assignment]
