"""Networks by name, and any saved or Hub classifier as a `Classifier`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from decoct.data.spec import ImageSpec
from decoct.models.classifier import Classifier
from decoct.models.convnet import ConvNetConfig, ConvNetForImageClassification
from decoct.models.resnet import BasicResNetConfig, BasicResNetForImageClassification
from decoct.seeding import item_seed

__all__ = ["ARCHITECTURES", "build_classifier", "image_settings", "load_classifier", "processor_side"]

AutoConfig.register(ConvNetConfig.model_type, ConvNetConfig)
AutoModelForImageClassification.register(ConvNetConfig, ConvNetForImageClassification)
AutoConfig.register(BasicResNetConfig.model_type, BasicResNetConfig)
AutoModelForImageClassification.register(BasicResNetConfig, BasicResNetForImageClassification)

ARCHITECTURES = (
    *(f"convnet{depth}{norm}" for depth in (3, 4, 5, 6) for norm in ("", "_instance")),
    "resnet18",
    "resnet18_imagenet",
)


def build_classifier(name: str, spec: ImageSpec, seed: int = 0) -> Classifier:
    """A new network whose weights follow from the seed alone.

    Args:
        name: One of `ARCHITECTURES`. `resnet18` has the small stem up to 64 px and the ImageNet stem above;
            `resnet18_imagenet` has the ImageNet stem at any size. An optional `_wN` sets a ConvNet's width.
        spec: The images the network is for; kept in its config.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If the name is unknown, or the network is too deep for the images.
    """
    labels = image_settings(spec)
    convnet = re.fullmatch(r"convnet([3-6])(_instance)?(?:_w(\d+))?", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(item_seed(seed, "weights", name))
        model: PreTrainedModel
        if convnet:
            norm = "instance" if convnet[2] else "batch"
            config = ConvNetConfig(depth=int(convnet[1]), width=int(convnet[3] or 128), norm=norm, **labels)
            model = ConvNetForImageClassification(config)
        elif name in ("resnet18", "resnet18_imagenet"):
            stem = "small" if name == "resnet18" and spec.image_size <= 64 else "imagenet"
            model = BasicResNetForImageClassification(BasicResNetConfig(stem=stem, **labels))
        else:
            raise ValueError(f"model must be one of {list(ARCHITECTURES)}. Got {name!r}.")
    return Classifier(model, spec, name)


def image_settings(spec: ImageSpec) -> dict[str, Any]:
    """The images and their label names as fields of a network's configuration."""
    return {
        "id2label": dict(enumerate(spec.label_names)),
        "label2id": {label: index for index, label in enumerate(spec.label_names)},
        "image_size": spec.image_size,
        "num_channels": spec.channels,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def load_classifier(name_or_path: str | Path, trust_remote_code: bool = False) -> Classifier:
    """A classifier saved by decoct, or any `AutoModelForImageClassification` of the Hub, in eval mode.

    Args:
        name_or_path: Folder or Hub id.
        trust_remote_code: Run model code that comes with the checkpoint. Not needed for decoct's own networks.

    Raises:
        ValueError: If the folder does not exist, or the checkpoint names no image size or normalisation.
    """
    path = Path(name_or_path)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"teacher must be a folder with config.json and model.safetensors. Got {path}, without one.")
    if not path.is_dir() and (path.is_absolute() or str(name_or_path).count("/") != 1 or path.parent.is_dir()):
        raise ValueError(f"teacher must be an existing folder or a Hub id 'user/name'. Got {name_or_path!r}.")
    try:
        model = AutoModelForImageClassification.from_pretrained(
            name_or_path, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except OSError as error:
        where = "the folder" if path.is_dir() else "there is no such folder here, and as a Hub id it"
        raise ValueError(
            f"teacher must be an existing folder or a Hub id 'user/name'. Got {str(name_or_path)!r}: {where} cannot be "
            f"loaded: {error}"
        ) from error
    classifier = Classifier(model, _spec_of(model, name_or_path, trust_remote_code), str(name_or_path))
    return classifier.eval().requires_grad_(False)


def _spec_of(model: PreTrainedModel, name_or_path: str | Path, trust_remote_code: bool) -> ImageSpec:
    """The spec in a decoct network's config, or else in the checkpoint's image processor."""
    config: Any = model.config
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    if isinstance(config, ConvNetConfig | BasicResNetConfig):
        mean, std = tuple(config.image_mean), tuple(config.image_std)
        return ImageSpec(config.image_size, config.num_channels, mean, std, names)
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"teacher must come with preprocessor_config.json, which holds its normalisation. "
            f"Got {str(name_or_path)!r}, without one."
        ) from error
    size = getattr(config, "image_size", None) or processor_side(processor)
    return ImageSpec(int(size), 3, tuple(processor.image_mean), tuple(processor.image_std), names)


def processor_side(processor: Any) -> int:
    """The side an image processor crops or resizes to."""
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    sizes = json.loads(json.dumps(dict(crop or processor.size)))
    side = sizes.get("height") or sizes.get("shortest_edge")
    if not side:
        raise ValueError(f"preprocessor_config.json must name the image size. Got size {sizes}.")
    return int(side)
