"""Networks by name, and any saved or Hub classifier as a `Classifier`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from decoct.data.source import model_location
from decoct.data.spec import ImageSpec
from decoct.files import one_line, read_object
from decoct.models.classifier import Classifier
from decoct.models.convnet import ConvNetConfig, ConvNetForImageClassification
from decoct.models.ensemble import Ensemble
from decoct.models.preprocessing import pixel_transform, processor_side
from decoct.models.published import PUBLISHED, train_as_published
from decoct.models.resnet import BasicResNetConfig, BasicResNetForImageClassification
from decoct.models.vgg import VGGConfig, VGGForImageClassification
from decoct.models.weights import UNLOADABLE, check_finite, check_loaded
from decoct.run.seeding import item_seed

__all__ = ["ARCHITECTURES", "architecture_of", "build_classifier", "depth_of", "image_settings", "load_classifier"]

AutoConfig.register(ConvNetConfig.model_type, ConvNetConfig)
AutoModelForImageClassification.register(ConvNetConfig, ConvNetForImageClassification)
AutoConfig.register(BasicResNetConfig.model_type, BasicResNetConfig)
AutoModelForImageClassification.register(BasicResNetConfig, BasicResNetForImageClassification)
AutoConfig.register(VGGConfig.model_type, VGGConfig)
AutoModelForImageClassification.register(VGGConfig, VGGForImageClassification)

RESNETS: dict[str, dict[str, Any]] = {
    "resnet18": {"block": "basic", "depths": (2, 2, 2, 2)},
    "resnet50": {"block": "bottleneck", "depths": (3, 4, 6, 3)},
    "resnet101": {"block": "bottleneck", "depths": (3, 4, 23, 3)},
    "resnet_ap10": {"block": "basic", "depths": (1, 1, 1, 1), "downsampling": "average"},
}
DEPTHS = (3, 4, 5, 6)  # blocks of a ConvNet
ARCHITECTURES = (
    *(f"convnet{depth}{norm}" for depth in DEPTHS for norm in ("", "_instance")),
    *(f"{resnet}{stem}{norm}" for resnet in RESNETS for stem in ("", "_imagenet") for norm in ("", "_instance")),
    "vgg11",
    "vgg11_instance",
    *PUBLISHED,
)


def build_classifier(name: str, spec: ImageSpec, seed: int = 0, role: str = "model") -> Classifier:
    """A new network whose weights follow from the seed alone.

    Args:
        name: One of `ARCHITECTURES`. ResNets have the small stem up to 64 px and the ImageNet stem above; `_imagenet`
            takes the ImageNet stem at any size. An optional `_wN` sets a ConvNet's width.
        spec: The images the network is for; kept in its config.
        seed: Seed of the initial weights.
        role: What an error calls the name.

    Raises:
        ValueError: If the name is unknown, or the images are too small for the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(item_seed(seed, "weights", name))
        model = _build(name, image_settings(spec), role)
    train_as_published(model)
    return Classifier(model, spec, name)


def _build(name: str, settings: dict[str, Any], role: str) -> PreTrainedModel:
    """A network by name, with weights from the global generator."""
    norm = "instance" if "_instance" in name else "batch"
    if convnet := re.fullmatch(r"convnet([3-6])(?:_instance)?(?:_w(\d+))?", name):
        config = ConvNetConfig(depth=int(convnet[1]), width=int(convnet[2] or 128), norm=norm, **settings)
        return ConvNetForImageClassification(config)
    if resnet := re.fullmatch(rf"({'|'.join(RESNETS)})(_imagenet)?(?:_instance)?", name):
        stem = "small" if settings["image_size"] <= 64 and not resnet[2] else "imagenet"
        return BasicResNetForImageClassification(
            BasicResNetConfig(**RESNETS[resnet[1]], stem=stem, norm=norm, **settings)
        )
    if name in ("vgg11", "vgg11_instance"):
        return VGGForImageClassification(VGGConfig(norm=norm, **settings))
    if name in PUBLISHED:
        return PUBLISHED[name](settings)
    raise ValueError(f"{role} must be one of {list(ARCHITECTURES)}. Got {name!r}.")


def depth_of(side: int) -> int:
    """Blocks of a ConvNet for images of a side: 3 up to 32 px, and one more for each doubling, as far as there are."""
    return min(max(round(math.log2(side)) - 2, min(DEPTHS)), max(DEPTHS))


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
        ValueError: If there is no such folder, its weights cannot be used, or it names no image size or normalisation.
    """
    location = model_location(name_or_path, "teacher")
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            location,
            trust_remote_code=trust_remote_code,
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
        where = "the folder" if Path(location).is_dir() else "there is no such folder here, and as a Hub id it"
        raise ValueError(
            f"teacher must be an existing folder or a Hub id 'user/name'. Got {str(name_or_path)!r}: {where} cannot be "
            f"loaded: {one_line(error)}"
        ) from error
    where = f"teacher {str(name_or_path)!r}"
    check_loaded(info, where)
    check_finite(model, where)
    train_as_published(model)
    spec, order = _spec_of(model, name_or_path, trust_remote_code)
    return Classifier(model, spec, str(name_or_path), order).eval().requires_grad_(False)


def architecture_of(teacher: Classifier) -> str | None:
    """Name of a network's architecture, such as `convnet3`: from `training.json`, else from its configuration.

    An early teacher lies in the folder of the converged one. None where neither says, and of an ensemble.
    """
    if isinstance(teacher, Ensemble):
        return None
    folder = Path(teacher.name)
    for candidate in [folder, *([folder.parent] if folder.name.startswith("epoch_") else [])]:
        if (candidate / "training.json").is_file():
            model = read_object(candidate / "training.json").get("config", {}).get("model")
            if model is not None:
                return str(model)
    config = teacher.model.config
    if isinstance(config, ConvNetConfig):
        norm = "_instance" if config.norm == "instance" else ""
        width = "" if config.width == ConvNetConfig.width else f"_w{config.width}"
        return f"convnet{config.depth}{norm}{width}"
    return None


def _spec_of(
    model: PreTrainedModel, name_or_path: str | Path, trust_remote_code: bool
) -> tuple[ImageSpec, tuple[int, ...] | None]:
    """The spec that `image_settings` left in the config, or else what the checkpoint's image processor does, and the
    order of channels that it gives them.
    """
    config: Any = model.config
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    mean, std = getattr(config, "image_mean", None), getattr(config, "image_std", None)
    if mean is not None and std is not None:
        if not is_finite(mean) or not is_finite(std) or min(std) <= 0:
            raise ValueError(
                f"image_mean and image_std of teacher {str(name_or_path)!r} must be finite, and the second positive. "
                f"Got {mean} and {std} in its config.json."
            )
        return ImageSpec(_side(config.image_size), config.num_channels, tuple(mean), tuple(std), names), None
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"teacher must come with preprocessor_config.json, which holds its normalisation. "
            f"Got {str(name_or_path)!r}, without one."
        ) from error
    transform = pixel_transform(processor, repr(str(name_or_path)))
    size = getattr(config, "image_size", None) or processor_side(processor)
    return ImageSpec(_side(size), 3, transform.mean, transform.std, names), transform.order


def is_finite(values: Any) -> bool:
    """Whether these are finite numbers, one or more."""
    numbers = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
    return numbers and bool(values) and all(map(math.isfinite, values))


def _side(size: Any) -> int:
    """The side of square images; raises ValueError for others."""
    sides = {int(each) for each in (size if isinstance(size, list | tuple) else [size])}
    if len(sides) != 1:
        raise ValueError(f"image_size must be one side, of square images. Got {size}.")
    return sides.pop()
