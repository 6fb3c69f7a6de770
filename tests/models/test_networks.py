"""Networks by name, their copies on disk, and foreign checkpoints as teachers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from worlds import spec_of

from decoct.data.spec import ImageSpec
from decoct.models.classifier import Classifier
from decoct.models.convnet import ConvNetForImageClassification
from decoct.models.resnet import BasicResNetForImageClassification
from decoct.models.zoo import ARCHITECTURES, build_classifier, depth_of, load_classifier

NAMES = ("cat", "dog", "owl")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def spec(image_size: int = 32, channels: int = 3) -> ImageSpec:
    return spec_of(NAMES, image_size, channels, MEAN, STD)


def batch(image_size: int = 32, channels: int = 3, count: int = 2) -> torch.Tensor:
    return torch.rand(count, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "image_size", "channels"),
    [
        ("convnet3_w8", 28, 1),
        ("convnet3_instance_w8", 32, 3),
        ("convnet5_w8", 32, 3),
        ("resnet18", 32, 1),
        ("resnet18_imagenet", 40, 3),
    ],
)
def test_logits_and_features_have_their_shapes(name, image_size, channels):
    classifier = build_classifier(name, spec(image_size, channels)).eval()
    features, logits = classifier.features_and_logits(batch(image_size, channels))
    assert logits.shape == (2, 3)
    assert features.shape == (2, classifier.head.in_features)
    assert torch.allclose(classifier.head(features), logits, atol=1e-6)
    normalised = (batch(image_size, channels) - classifier.mean) / classifier.std
    assert torch.allclose(classifier.model.features(normalised), features, atol=1e-5)


def test_the_stem_follows_the_image_size():
    small = build_classifier("resnet18", spec(64)).model.config
    large = build_classifier("resnet18", spec(96)).model.config
    forced = build_classifier("resnet18_imagenet", spec(32)).model.config
    assert (small.stem, large.stem, forced.stem) == ("small", "imagenet", "imagenet")


def test_a_network_sees_normalised_pixels():
    classifier = build_classifier("convnet3_w8", spec()).eval()
    pixels = batch()
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    assert torch.allclose(classifier(pixels), classifier.model((pixels - mean) / std).logits, atol=1e-5)


def test_the_seed_determines_the_weights_and_nothing_else_does():
    torch.manual_seed(1)
    first = build_classifier("convnet3_w8", spec(), seed=5)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again = build_classifier("convnet3_w8", spec(), seed=5)
    other = build_classifier("convnet3_w8", spec(), seed=6)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state), "building a network must not use up random numbers"


def test_a_fingerprint_tells_every_weight_apart():
    classifier = build_classifier("convnet3_w8", spec())
    before = classifier.fingerprint()
    classifier.train()
    assert classifier.fingerprint() == before
    with torch.no_grad():
        classifier.head.bias[0] += 1e-6
    assert classifier.fingerprint() != before


@pytest.mark.parametrize(
    ("name", "own_class"),
    [("convnet3_w8", ConvNetForImageClassification), ("resnet18", BasicResNetForImageClassification)],
)
def test_saved_networks_load_through_the_auto_class(tmp_path, name, own_class):
    classifier = build_classifier(name, spec(), seed=3).eval()
    classifier.model.save_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert isinstance(model, own_class)
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id == {name: label for label, name in enumerate(NAMES)}
    loaded = load_classifier(tmp_path)
    assert loaded.spec == classifier.spec
    assert loaded.name == str(tmp_path)
    assert loaded.fingerprint() == classifier.fingerprint()
    assert torch.equal(loaded(batch()), classifier(batch()))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_checkpoint_carries_its_code_and_needs_no_decoct(tmp_path):
    names = ["convnet3_w8", "resnet_ap10", "vgg11_instance"]
    classifiers = [build_classifier(name, spec(), seed=3).eval() for name in names]
    for name, classifier in zip(names, classifiers, strict=True):
        classifier.model.save_pretrained(tmp_path / name)
    torch.save(batch(), tmp_path / "batch.pt")
    code = f"""
import sys
sys.modules["decoct"] = None
import torch
from pathlib import Path
from transformers import AutoModelForImageClassification
folder = Path({str(tmp_path)!r})
pixels = torch.load(folder / "batch.pt")
results = []
for name in {names}:
    model = AutoModelForImageClassification.from_pretrained(folder / name, trust_remote_code=True).eval()
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (model.config.image_mean, model.config.image_std))
    logits = model(((pixels - mean) / std).contiguous(memory_format=torch.channels_last)).logits
    results.append((type(model).__module__, model.config.id2label, logits))
torch.save(results, folder / "results.pt")
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = torch.load(tmp_path / "results.pt")
    for classifier, (module, id2label, logits) in zip(classifiers, results, strict=True):
        assert module.startswith("transformers_modules.")
        assert tuple(id2label.values()) == NAMES
        assert torch.allclose(logits, classifier(batch()), atol=1e-5)


def test_code_of_a_checkpoint_runs_only_where_that_is_asked_for(tmp_path, monkeypatch):
    """A network of a kind that neither transformers nor decoct knows, with its code beside it."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    classifier = build_classifier("convnet3_w8", spec(), seed=3)
    classifier.model.save_pretrained(tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    (tmp_path / "own" / "config.json").write_text(json.dumps({**config, "model_type": "own_kind"}))
    code = tmp_path / "own" / "convnet.py"
    code.write_text(code.read_text().replace('model_type = "decoct_convnet"', 'model_type = "own_kind"'))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_classifier(tmp_path / "own")
    assert not (tmp_path / "modules").exists(), "not even copied"
    loaded = load_classifier(tmp_path / "own", trust_remote_code=True)
    assert type(loaded.model).__module__.startswith("transformers_modules.") and (tmp_path / "modules").exists()
    assert torch.equal(loaded(batch()), classifier.eval()(batch()))


def save_vit(folder: Path) -> None:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(NAMES)),
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(image_mean=list(MEAN), image_std=list(STD), size={"height": 32, "width": 32}).save_pretrained(
        folder
    )


def save_resnet(folder: Path) -> None:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(NAMES))
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    processor = ConvNextImageProcessor(image_mean=list(MEAN), image_std=list(STD), size={"shortest_edge": 32})
    processor.save_pretrained(folder)


@pytest.mark.parametrize("save", [save_vit, save_resnet])
def test_any_transformers_classifier_is_a_teacher(tmp_path, save):
    save(tmp_path)
    teacher = load_classifier(tmp_path)
    assert teacher.spec == ImageSpec(32, 3, MEAN, STD, NAMES)
    features, logits = teacher.features_and_logits(batch())
    assert logits.shape == (2, 3)
    assert torch.allclose(teacher.head(features), logits, atol=1e-5)


def test_a_foreign_teacher_without_its_normalisation_is_an_error(tmp_path):
    save_vit(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json.*Got .*without one"):
        load_classifier(tmp_path)


def test_a_folder_without_a_network_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        load_classifier(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"config\.json"):
        load_classifier(str(tmp_path))


@pytest.mark.parametrize("name", ["missing/a/b", "missing", "/no/such/folder", "runs/missing"])
def test_a_missing_folder_is_an_error(name):
    with pytest.raises(ValueError, match=f"existing folder or a Hub id.*Got '{name}'"):
        load_classifier(name)


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(ValueError, match="model must be one of .*'convnet3'.*'resnet18'.*Got 'vgg19'"):
        build_classifier("vgg19", spec())


def test_a_network_too_deep_for_the_images_names_the_deepest():
    with pytest.raises(ValueError, match=r"depth must be at most 4 for images of 28 px.*Got 5"):
        build_classifier("convnet5", spec(28))


def test_a_network_without_an_output_per_label_is_an_error():
    with pytest.raises(ValueError, match="linear layer with 3 outputs"):
        Classifier(torch.nn.Linear(4, 5), spec())


@pytest.mark.parametrize(("capability", "layout"), [("AVX2", torch.contiguous_format), ("AVX512", torch.channels_last)])
def test_a_narrow_resnet_gets_pixels_in_the_layout_of_its_weights(capability, layout, monkeypatch):
    """Which on some processors must not be channels last: its strided 1x1 convolutions would destroy memory."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    classifier = Classifier(ResNetForImageClassification(ResNetConfig(num_labels=3, **sizes)), spec(16))
    pixels = torch.rand(2, 3, 16, 16)
    strided = [each for each in classifier.modules() if isinstance(each, torch.nn.Conv2d) and each.stride == (2, 2)]
    for tensor in (classifier.normalised(pixels), *(each.weight for each in strided if each.kernel_size != (1, 1))):
        assert tensor.is_contiguous(memory_format=layout)
        assert layout is torch.channels_last or not tensor.is_contiguous(memory_format=torch.channels_last)
    classifier(pixels).sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in classifier.parameters())


def test_a_convnet_has_as_many_blocks_as_its_images_take():
    sides = (8, 16, 32, 64, 128, 224, 256, 512, 1024)
    assert [depth_of(side) for side in sides] == [3, 3, 3, 4, 5, 6, 6, 6, 6]
    assert {f"convnet{depth_of(side)}" for side in sides} < set(ARCHITECTURES)
