"""A checkpoint's network gets the pixels that its image processor would give it, or the checkpoint is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import (
    MobileViTConfig,
    MobileViTForImageClassification,
    MobileViTImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from decoct.data.spec import ImageSpec
from decoct.models.classifier import Classifier
from decoct.models.preprocessing import pixel_transform
from decoct.models.zoo import load_classifier

NAMES = ("cat", "dog", "owl")
SIDE = 32


def processors() -> list[str]:
    """The image processor of every family of classifiers that transformers has one for here, without torchvision."""
    kinds = [
        IMAGE_PROCESSOR_MAPPING_NAMES[family]
        for family in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        if family in IMAGE_PROCESSOR_MAPPING_NAMES
    ]
    names = dict.fromkeys(kind.get("pil") for kind in kinds)
    return [name for name in names if name not in (None, "TimmWrapperImageProcessor")]  # which needs timm


# What a processor does that is no matter of single pixels, so that such a checkpoint is refused.
REFUSED = {"ImageGPTImageProcessorPil": "one colour", "Siglip2ImageProcessorPil": "image size"}
SETTINGS = {
    "default": {},
    "unnormalised": {"do_normalize": False},
    "wide": {"rescale_factor": 1 / 127.5},
    "bytes": {"do_rescale": False},
    "own": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
    "flipped": {"do_flip_channel_order": True},
    "shifted": {"rescale_offset": True, "include_top": False},
}


class Echo(torch.nn.Module):
    """A network whose logits are its input, so that two ways of making that input can be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3 * SIDE * SIDE, 3)  # a classifier must have one

    def forward(self, pixels: torch.Tensor) -> object:
        return type("Output", (), {"logits": pixels.flatten(1)})


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", processors())
def test_pixels_are_those_of_the_processor(name, setting):
    size = {"size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    # Images of the right size need no resizing, so that pixels can be compared one by one.
    kind = getattr(transformers, name)
    if "torchvision" in getattr(kind, "_backends", ()):
        pytest.skip(f"{name} needs torchvision in transformers {transformers.__version__}")
    processor = kind(**size, **SETTINGS[setting], do_resize=False, do_pad=False)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            pixel_transform(getattr(transformers, name)(**SETTINGS[setting]), "user/network")
        return
    transform = pixel_transform(processor, "user/network")
    network = Classifier(Echo(), ImageSpec(SIDE, 3, transform.mean, transform.std, NAMES), "", transform.order)
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    expected = torch.tensor(np.asarray(processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"]))
    ours = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    assert expected.shape == (1, 3, SIDE, SIDE)
    assert torch.allclose(ours, expected.flatten(1).float(), atol=1e-4 * float(expected.abs().max()))


def test_a_default_processor_keeps_the_numbers_of_its_fields():
    written = pixel_transform(ViTImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]), "")
    assert written.mean == (0.485, 0.456, 0.406) and written.std == (0.229, 0.224, 0.225)
    assert written.order == (0, 1, 2)


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("std", [[0.0, 0.5, 0.5], [-0.5, 0.5, 0.5]])
def test_a_processor_that_loses_pixels_is_refused(std):
    with pytest.raises(ValueError, match="image processor of user/network must"):
        pixel_transform(ViTImageProcessor(image_std=std), "user/network")


def save_vit(folder, **settings) -> ViTForImageClassification:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=SIDE,
        patch_size=8,
        id2label=dict(enumerate(NAMES)),
    )
    network = ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}, **settings).save_pretrained(folder)
    return network


@pytest.mark.parametrize("settings", [{"do_normalize": False, "rescale_factor": 1 / 127.5}, {"image_mean": [0.2] * 3}])
def test_logits_of_a_vit_are_those_of_its_own_path(tmp_path, settings):
    network = save_vit(tmp_path, **settings)
    check_logits(network, ViTImageProcessor.from_pretrained(tmp_path), tmp_path)


def test_logits_of_a_network_trained_on_bgr_are_those_of_its_own_path(tmp_path):
    config = MobileViTConfig(
        image_size=SIDE,
        hidden_sizes=[8, 8, 8],
        neck_hidden_sizes=[4] * 7,
        num_attention_heads=2,
        id2label=dict(enumerate(NAMES)),
    )
    network = MobileViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    processor = MobileViTImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_flip_channel_order=True
    )
    processor.save_pretrained(tmp_path)
    check_logits(network, processor, tmp_path)


def check_logits(network, processor, folder) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    made = processor(images=[Image.fromarray(each) for each in pixels], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = network(made).logits
        ours = load_classifier(folder)(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert torch.allclose(ours, expected, atol=1e-4)
