"""The variational estimator of IGDS: an encoder f, its projection, and a linear classifier g on the encoder's features.

The file stands alone: a copy of it travels with every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

__all__ = ["EstimatorOutput", "VariationalEstimator", "VariationalEstimatorConfig"]


class VariationalEstimatorConfig(PreTrainedConfig):
    """The encoder's own configuration, what follows it, and the images it was trained on.

    Args:
        encoder: `to_dict()` of the configuration of a transformers image model, `model_type` included.
        small_stem: Replace the 7x7 convolution of stride 2 and the max-pooling of a transformers ResNet by a 3x3
            convolution of stride 1, for images of up to 64 pixels.
        use_pooler: Take the encoder's own pooled output where it has one. False for a vision transformer whose
            checkpoint has no weights for it.
        projection_dim: Dimensions of the projection; None leaves it out, so that the features are the embedding.
        image_size: Side of the images, in pixels.
        num_channels: Channels of the images.
        image_mean: Mean of pixels in [0, 1], per channel; likewise `image_std`.
    """

    model_type = "decoct_estimator"

    encoder: dict[str, Any] | None = None
    small_stem: bool = False
    use_pooler: bool = True
    projection_dim: int | None = 128
    image_size: int = 32
    num_channels: int = 3
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not len(self.image_mean) == len(self.image_std) == self.num_channels:
            raise ValueError(
                f"image_mean and image_std must have {self.num_channels} values, one per channel. "
                f"Got {len(self.image_mean)} and {len(self.image_std)}."
            )


@dataclass
class EstimatorOutput(ModelOutput):
    """What the estimator says about a batch of images.

    Args:
        features: `(batch, width)`, the encoder's pooled output.
        embeddings: `(batch, dim)`, unit vectors: the projected features, or the features where there is no projection.
        logits: `(batch, classes)`, the linear classifier's output for the features.
    """

    features: Tensor | None = None
    embeddings: Tensor | None = None
    logits: Tensor | None = None


class VariationalEstimator(PreTrainedModel):
    """Encoder, projection of two layers (as in MoCo v2, arXiv 2003.04297), and linear classifier.

    Raises:
        ValueError: If the configuration names no encoder, one whose features have no known width, or a small stem for
            an encoder that is not transformers' ResNet.
    """

    config_class = VariationalEstimatorConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VariationalEstimatorConfig) -> None:
        super().__init__(config)
        if not config.encoder or "model_type" not in config.encoder:
            raise ValueError(
                f"encoder must be the to_dict() of a transformers image model's configuration. Got {config.encoder!r}."
            )
        encoder_config = AutoConfig.for_model(**config.encoder)
        width = _feature_width(encoder_config)
        self.encoder = AutoModel.from_config(encoder_config, dtype=torch.get_default_dtype())
        if config.small_stem:
            _use_small_stem(self.encoder)
        self.projection: nn.Module | None = None
        if config.projection_dim is not None:
            self.projection = nn.Sequential(
                nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, config.projection_dim)
            )
        self.classifier = nn.Linear(width, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation of the linear layers; the encoder initialises itself."""
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def features(self, pixel_values: Tensor) -> Tensor:
        """The encoder's pooled output, of shape `(batch, width)`."""
        output = self.encoder(pixel_values)
        pooled = output.get("pooler_output") if self.config.use_pooler else None
        if pooled is not None:
            return pooled.flatten(1)
        hidden = output.last_hidden_state
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden[:, 0]

    def forward(self, pixel_values: Tensor) -> EstimatorOutput:
        """Features, embeddings and logits for normalised pixels of shape `(batch, channels, side, side)`."""
        features = self.features(pixel_values)
        projected = features if self.projection is None else self.projection(features)
        # At least float32, so that unit vectors stay so under autocast.
        precise = projected.to(torch.promote_types(projected.dtype, torch.float32))
        return EstimatorOutput(
            features=features, embeddings=F.normalize(precise, dim=1), logits=self.classifier(features)
        )


def _feature_width(encoder_config: Any) -> int:
    """Width of an encoder's pooled output."""
    sizes = getattr(encoder_config, "hidden_sizes", None)
    width = sizes[-1] if sizes else getattr(encoder_config, "hidden_size", None)
    if not width:
        raise ValueError(
            "encoder must have hidden_sizes or hidden_size in its configuration, the width of its features. "
            f"Got {encoder_config.model_type!r}, without either."
        )
    return int(width)


def _use_small_stem(encoder: nn.Module) -> None:
    """Gives a transformers ResNet a 3x3 convolution of stride 1 and no max-pooling."""
    if encoder.config.model_type != "resnet":  # type: ignore[union-attr]
        raise ValueError(
            f"small_stem must be False for an encoder other than 'resnet'. Got {encoder.config.model_type!r}."  # type: ignore[union-attr]
        )
    stem: Any = encoder.embedder
    old = stem.embedder.convolution
    stem.embedder.convolution = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=False)
    stem.pooler = nn.Identity()


VariationalEstimatorConfig.register_for_auto_class()
VariationalEstimator.register_for_auto_class("AutoModel")
