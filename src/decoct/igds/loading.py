"""Variational estimators: new ones by name or around an existing encoder, and saved ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
)

from decoct.data.source import LOCATION, model_location
from decoct.data.spec import ImageSpec
from decoct.files import one_line
from decoct.igds.estimator import VariationalEstimator, VariationalEstimatorConfig
from decoct.models.preprocessing import pixel_transform, processor_side
from decoct.models.weights import UNLOADABLE, check_finite, check_loaded
from decoct.models.zoo import image_settings
from decoct.run.seeding import item_seed

__all__ = [
    "ENCODERS",
    "build_estimator",
    "is_trained_here",
    "label_names",
    "load_estimator",
    "resnet_config",
    "spec_of",
    "wrap_encoder",
]

AutoConfig.register(VariationalEstimatorConfig.model_type, VariationalEstimatorConfig)
AutoModel.register(VariationalEstimatorConfig, VariationalEstimator)

ENCODERS = {
    "resnet10": ("basic", (1, 1, 1, 1), 64),
    "resnet18": ("basic", (2, 2, 2, 2), 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 256),
}
PATTERN = re.compile(rf"({'|'.join(ENCODERS)})(?:_w(\d+))?")


def is_trained_here(name: str) -> bool:
    """Whether an encoder's name is that of an architecture to train, not of a checkpoint to take as it is."""
    return PATTERN.fullmatch(name) is not None


def resnet_config(name: str, channels: int) -> ResNetConfig:
    """Configuration of `resnet10`, `resnet18` or `resnet50`; `_wN` sets the first stage's width, later ones double it.

    Raises:
        ValueError: If the name is another one, or a bottleneck's width is not a multiple of 4.
    """
    match = PATTERN.fullmatch(name)
    if match is None:
        raise ValueError(f"encoder must be one of {list(ENCODERS)}, with an optional _wN. Got {name!r}.")
    layer, depths, standard = ENCODERS[match[1]]
    width = int(match[2] or standard)
    reduction = 4 if layer == "bottleneck" else 1
    if width < 1 or width % reduction:
        raise ValueError(f"The width N of {match[1]}_wN must be a positive multiple of {reduction}. Got {width}.")
    return ResNetConfig(
        num_channels=channels,
        embedding_size=width // reduction,
        hidden_sizes=[width * 2**stage for stage in range(4)],
        depths=list(depths),
        layer_type=layer,
    )


def build_estimator(name: str, spec: ImageSpec, projection_dim: int, seed: int = 0) -> VariationalEstimator:
    """A new estimator whose weights follow from the seed alone; images of up to 64 pixels get the small stem.

    Raises:
        ValueError: If the name is not that of an architecture (`resnet_config`).
    """
    config = VariationalEstimatorConfig(
        encoder=_encoder_settings(resnet_config(name, spec.channels)),
        small_stem=spec.image_size <= 64,
        projection_dim=projection_dim,
        **image_settings(spec),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(item_seed(seed, "weights", name))
        return VariationalEstimator(config)


def wrap_encoder(name_or_path: str | Path, label_names: tuple[str, ...], seed: int = 0) -> VariationalEstimator:
    """An estimator around an image model of transformers, taken as it is, without projection.

    Image size and normalisation come from its image processor. The encoder's code must be part of transformers.

    Args:
        name_or_path: Folder or Hub id, with weights as safetensors.
        label_names: Class names of the classifier, which is new.
        seed: Seed of the classifier's weights until it is trained.

    Raises:
        ValueError: If there is no such checkpoint, or it lacks weights or its image processor, or has no features of
            whole images.
    """
    expected = f"one of {list(ENCODERS)} (with an optional _wN), a folder or a Hub id"
    model_location(name_or_path, "encoder", expected)
    try:
        whole = AutoConfig.from_pretrained(name_or_path)
        encoder, info = AutoModel.from_pretrained(
            name_or_path,
            config=getattr(whole, "vision_config", whole),  # the images' half of CLIP, SigLIP and their kin
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
        processor = AutoImageProcessor.from_pretrained(name_or_path)
    except (ValueError, SafetensorError, *UNLOADABLE) as error:
        raise ValueError(
            f"encoder must be an image model of transformers with model.safetensors and preprocessor_config.json. "
            f"Got {str(name_or_path)!r}, which cannot be loaded: {one_line(error)}"
        ) from error
    missing = sorted(info["missing_keys"])
    if any(not key.startswith("pooler.") for key in missing):
        raise ValueError(f"encoder must come with all its weights. Got {str(name_or_path)!r}, without {missing[:5]}.")
    check_finite(encoder, f"encoder {str(name_or_path)!r}")
    mean, std, order = pixel_transform(processor, repr(str(name_or_path)))
    if order != (0, 1, 2):
        raise ValueError(
            f"encoder must take RGB images. Got {str(name_or_path)!r}, which takes its channels as {order}."
        )
    spec = ImageSpec(_side_of(encoder, processor), getattr(encoder.config, "num_channels", 3), mean, std, label_names)
    config = VariationalEstimatorConfig(
        encoder=_encoder_settings(encoder.config), use_pooler=not missing, projection_dim=None, **image_settings(spec)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(item_seed(seed, "weights", str(name_or_path)))
        estimator = VariationalEstimator(config)
    estimator.encoder.load_state_dict(encoder.state_dict())
    _check_features(estimator, f"encoder must give features of whole images. Got {str(name_or_path)!r}")
    return estimator


def _check_features(estimator: VariationalEstimator, wrong: str) -> None:
    """Raises ValueError, which begins with `wrong`, unless an estimator's encoder gives features of whole images."""
    config, encoder, training = estimator.config, estimator.encoder, estimator.training
    kind = config.encoder["model_type"]
    shape = (2, config.num_channels, config.image_size, config.image_size)
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    estimator.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features, again = estimator.features(pixels), estimator.features(pixels)
            output = encoder(pixels)
    except (ValueError, *UNLOADABLE) as error:
        raise ValueError(f"{wrong}, a {kind!r}, which takes no images of {shape[-1]} px: {one_line(error)}") from error
    finally:
        estimator.train(training)
    width = estimator.classifier.in_features
    if features.shape != (2, width):
        raise ValueError(
            f"{wrong}, a {kind!r}, whose features have the shape {tuple(features.shape)}, not (2, {width})."
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError(
            f"{wrong}, a {kind!r}, whose features are NaN or infinite: check its weights and buffers, as for a "
            "batch norm's negative variance, or take another encoder."
        )
    if not torch.allclose(features, again, rtol=1e-3):
        raise ValueError(
            f"{wrong}, a {kind!r}, whose features of an image change from pass to pass, as of a random part: take "
            "another encoder, such as DINOv2."
        )
    pooled = output.get("pooler_output") if config.use_pooler else None
    first = any("cls_token" in name or "class_embedding" in name for name, _ in encoder.named_parameters())
    if pooled is None and output.last_hidden_state.ndim == 3 and not first:
        raise ValueError(
            f"{wrong}, a {kind!r}, which neither pools its patches nor has a class token: take another encoder, such "
            "as DINOv2."
        )


def _side_of(encoder: PreTrainedModel, processor: Any) -> int:
    """The side of images that an encoder is given: its processor's, or its configuration's if it takes no other."""
    side, own = processor_side(processor), getattr(encoder.config, "image_size", None)
    if own is None or side == own:
        return side
    try:  # DINOv2 takes the processor's 224 px, and not only the 518 px of its configuration
        with torch.no_grad():
            encoder(pixel_values=torch.zeros(1, getattr(encoder.config, "num_channels", 3), side, side))
    except (ValueError, RuntimeError):
        return int(own)
    return side


def load_estimator(name_or_path: str | Path, trust_remote_code: bool = False) -> VariationalEstimator:
    """A saved estimator in eval mode, without gradients of its weights.

    Args:
        name_or_path: Folder or Hub id, or `sample` for the embedded one.
        trust_remote_code: Run configuration code that comes with the checkpoint. Not needed for decoct's own.

    Raises:
        ValueError: If there is no such folder or repository, or it holds another kind of model.
    """
    name_or_path = model_location(name_or_path, "estimator", f"'sample', {LOCATION}")
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
        if config.model_type != VariationalEstimatorConfig.model_type:
            raise ValueError(
                f"estimator must be a variational estimator. Got {str(name_or_path)!r}, a {config.model_type!r} model; "
                "scripts/train_estimator.py makes one around it with --encoder."
            )
        loaded: Any = VariationalEstimator.from_pretrained(
            name_or_path,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the info, and refused with their names
            dtype=torch.float32,
        )
    except SafetensorError as error:
        raise ValueError(
            f"weights must be safetensors. Got {str(name_or_path)!r} with damaged or other ones: {one_line(error)}."
        ) from error
    except UNLOADABLE as error:
        raise ValueError(
            f"estimator must be an existing folder or a Hub id 'user/name'. Got {str(name_or_path)!r}, which cannot be "
            f"loaded: {one_line(error)}"
        ) from error
    model, info = loaded
    check_loaded(info, f"estimator {str(name_or_path)!r}")
    check_finite(model, f"estimator {str(name_or_path)!r}")
    _check_features(model, f"estimator must have features of whole images. Got {str(name_or_path)!r}")
    return model.eval().requires_grad_(False)


def _encoder_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """An encoder's configuration without the labels of a classifier that is not used and the path it came from."""
    return {
        key: value for key, value in config.to_dict().items() if key not in ("id2label", "label2id", "_name_or_path")
    }


def label_names(estimator: VariationalEstimator) -> list[str]:
    """The estimator's label names, in label order."""
    config: Any = estimator.config
    return [config.id2label[index] for index in range(config.num_labels)]


def spec_of(estimator: VariationalEstimator) -> ImageSpec:
    """The images that an estimator takes."""
    kept = estimator.config
    mean, std = tuple(kept.image_mean), tuple(kept.image_std)
    return ImageSpec(kept.image_size, kept.num_channels, mean, std, tuple(label_names(estimator)))
