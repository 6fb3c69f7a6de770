"""Each architecture: published parameter counts, two training steps at three sizes, copies on disk, and references."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from decoct.data.spec import ImageSpec
from decoct.infoutil.utility import grad_norm
from decoct.models.classifier import Classifier
from decoct.models.resnet import BasicResNetConfig, BasicResNetForImageClassification
from decoct.models.zoo import ARCHITECTURES, build_classifier, load_classifier

BASES = (
    *("convnet3", "convnet4_w32", "convnet5_w32", "convnet6_w32"),
    *("resnet18", "resnet50", "resnet101", "resnet_ap10"),
    *("vgg11", "mobilenet_v2", "efficientnet_b0", "swin_v2_t"),
)
FROM_TRANSFORMERS = ("mobilenet_v2", "efficientnet_b0", "swin_v2_t")


def spec(image_size: int = 32, classes: int = 3, channels: int = 3) -> ImageSpec:
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    return ImageSpec(image_size, channels, mean, std, tuple(f"class {label}" for label in range(classes)))


def pixels(image_size: int = 32, count: int = 2) -> Tensor:
    return torch.rand(count, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))


def on_meta(name: str, images: ImageSpec) -> Classifier:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_classifier(name, images)


def batch_norms(classifier: Classifier) -> list[nn.BatchNorm2d]:
    return [layer for layer in classifier.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "image_size", "classes", "count"),
    [
        # Kernels and biases, norm layers, linear layer.
        ("convnet3", 32, 10, (3 * 9 + 1) * 128 + 2 * (128 * 9 + 1) * 128 + 3 * 2 * 128 + (128 * 16 + 1) * 10),
        ("convnet3", 32, 10, 320_010),  # as DC counts it
        ("convnet3_instance", 32, 10, 320_010),
        ("convnet4", 64, 200, (3 * 9 + 1) * 128 + 3 * (128 * 9 + 1) * 128 + 4 * 2 * 128 + (128 * 16 + 1) * 200),
        ("convnet5", 128, 10, (3 * 9 + 1) * 128 + 4 * (128 * 9 + 1) * 128 + 5 * 2 * 128 + (128 * 16 + 1) * 10),
        ("convnet6", 256, 10, (3 * 9 + 1) * 128 + 5 * (128 * 9 + 1) * 128 + 6 * 2 * 128 + (128 * 16 + 1) * 10),
        ("convnet3_w16", 32, 10, (3 * 9 + 1) * 16 + 2 * (16 * 9 + 1) * 16 + 3 * 2 * 16 + (16 * 16 + 1) * 10),
        # With the 3x3 stem, as github.com/kuangliu/pytorch-cifar counts them.
        ("resnet18", 32, 10, 11_173_962),
        ("resnet50", 32, 10, 23_520_842),
        ("resnet101", 32, 10, 42_512_970),
        ("vgg11", 32, 10, 9_231_114),
        # As torchvision counts them.
        ("resnet18", 224, 1000, 11_689_512),
        ("resnet50", 224, 1000, 25_557_032),
        ("resnet101", 224, 1000, 44_549_160),
        ("mobilenet_v2", 224, 1000, 3_504_872),
        ("efficientnet_b0", 224, 1000, 5_288_548),
        # torchvision stores a bias of the keys in each of the 12 blocks, which it sets to zero before use.
        ("swin_v2_t", 256, 1000, 28_351_570 - (2 * 96 + 2 * 192 + 6 * 384 + 2 * 768)),
        # The stem, and per stage two 3x3 convolutions, a projection but in the first, and their norms (IDC's 4.9 M).
        (
            "resnet_ap10",
            224,
            10,
            (3 * 49 + 2) * 64
            + 2 * (64 * 9 + 2) * 64
            + sum((w // 2 * 9 + w * 9 + w // 2 + 6) * w for w in (128, 256, 512))
            + (512 + 1) * 10,
        ),
    ],
)
def test_parameter_counts(name, image_size, classes, count):
    classifier = on_meta(name, spec(image_size, classes))
    assert sum(parameter.numel() for parameter in classifier.parameters()) == count


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_name_has_its_norm_and_the_shapes_of_its_head(name):
    classifier = on_meta(name, spec(64))
    features: list[torch.Size] = []
    classifier.head.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0].shape))
    assert classifier(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 3)
    assert features == [(2, classifier.head.in_features)]
    assert any(isinstance(layer, nn.GroupNorm) for layer in classifier.modules()) == ("_instance" in name)
    assert bool(batch_norms(classifier)) == ("_instance" not in name and name != "swin_v2_t")


@pytest.mark.parametrize("name", ["convnet3", "resnet18", "resnet_ap10_instance", "vgg11", *FROM_TRANSFORMERS[:2]])
def test_grey_images_of_28_pixels(name):
    classifier = on_meta(name, spec(28, channels=1))
    assert classifier(torch.empty(2, 1, 28, 28, device="meta")).shape == (2, 3)


def train_two_steps(classifier: Classifier, images: Tensor) -> None:
    """Trains it by SGD and looks at the losses, the weights and the statistics of batch norms."""
    watched = [next(classifier.parameters()), classifier.head.weight]
    before = [weight.detach().clone() for weight in watched]
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01)
    classifier.train()
    for _ in range(2):
        loss = F.cross_entropy(classifier(images), torch.arange(len(images)) % 3)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter).all() for parameter in classifier.parameters())
    assert not any(torch.equal(weight, start) for weight, start in zip(watched, before, strict=True))
    assert all(layer.num_batches_tracked == 2 for layer in batch_norms(classifier))
    assert all(layer.running_mean.abs().max() > 0 for layer in batch_norms(classifier))


@pytest.mark.parametrize(
    ("name", "image_size"),
    # With the small stem, ResNet-101 costs more at 64 pixels than at 224 with the other; ResNet-50 has the same blocks.
    [("resnet101_imagenet" if name == "resnet101" else name, 64) for name in BASES] + [(name, 224) for name in BASES],
)
def test_two_training_steps(name, image_size):
    train_two_steps(build_classifier(name, spec(image_size)), pixels(image_size))


# Six halvings leave nothing of 32 pixels: `test_a_network_too_deep_for_the_images_names_the_deepest`.
@pytest.mark.parametrize("name", [name for name in BASES if name != "convnet6_w32"])
def test_two_training_steps_at_32_pixels_and_the_copy_on_disk(tmp_path, name):
    classifier = build_classifier(name, spec())
    train_two_steps(classifier, pixels(count=4))  # some networks end in one position: batch norm needs more than two
    features, logits = classifier.eval().features_and_logits(pixels())
    assert torch.allclose(classifier.head(features), logits, atol=1e-5)
    classifier.model.save_pretrained(tmp_path)
    loaded = load_classifier(tmp_path)
    assert loaded.spec == classifier.spec
    assert torch.allclose(loaded(pixels()), logits, atol=1e-5)


@pytest.mark.parametrize("name", FROM_TRANSFORMERS)
def test_networks_of_transformers_keep_their_spec_for_everyone(tmp_path, name):
    classifier = build_classifier(name, spec(64)).eval()
    classifier.model.save_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(model).__module__.startswith("transformers.models.")
    assert (model.config.image_size, tuple(model.config.image_mean)) == (64, classifier.spec.mean)
    assert tuple(model.config.id2label.values()) == classifier.spec.label_names
    assert load_classifier(tmp_path).fingerprint() == classifier.fingerprint()


@pytest.mark.parametrize("name", ["resnet_ap10", "vgg11_instance", *FROM_TRANSFORMERS])
def test_the_seed_determines_the_weights(name):
    first, again, other = (build_classifier(name, spec(), seed).head.weight for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", FROM_TRANSFORMERS)
def test_the_caller_seeds_dropout(name):
    classifier = build_classifier(name, spec()).train()

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return copy.deepcopy(classifier)(pixels(count=4))

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0"])
@pytest.mark.parametrize("reloaded", [False, True])
def test_batch_norm_averages_over_many_steps(tmp_path, name, reloaded):
    classifier = build_classifier(name, spec()).eval()
    if reloaded:
        classifier.model.save_pretrained(tmp_path)
        classifier = load_classifier(tmp_path)
    convolution = next(layer for layer in classifier.modules() if isinstance(layer, nn.Conv2d))
    seen: list[Tensor] = []
    convolution.register_forward_hook(lambda layer, inputs, output: seen.append(output.mean((0, 2, 3))))
    classifier.train()
    classifier(pixels(count=4))
    assert torch.allclose(batch_norms(classifier)[0].running_mean, 0.1 * seen[0], atol=1e-6)
    assert {layer.momentum for layer in batch_norms(classifier)} == {0.1}
    assert all((layer.weight == 1).all() for layer in batch_norms(classifier))


def test_efficientnet_drops_whole_branches_of_an_image():
    classifier = build_classifier("efficientnet_b0", spec()).train()
    layer = [
        block.projection for block in classifier.model.efficientnet.encoder.blocks if block.projection.apply_dropout
    ][-1]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(64, layer.project_conv.in_channels, 2, 2, generator=generator)
    inputs = torch.rand(64, layer.project_conv.out_channels, 2, 2, generator=generator)
    torch.manual_seed(0)
    branch = (layer(inputs, hidden) - inputs).flatten(1)
    dropped = branch.abs().amax(1) < 1e-6
    assert 0 < dropped.sum() < 32
    whole = F.batch_norm(layer.project_conv(hidden), None, None, training=True, eps=1e-5).flatten(1)
    assert torch.allclose(branch[~dropped], whole[~dropped] / (1 - 0.2 * 14 / 16), atol=1e-4)


TO_TRANSFORMERS = {
    "stem.0.": "resnet.embedder.embedder.convolution.",
    "stem.1.": "resnet.embedder.embedder.normalization.",
    "shortcut.0.": "shortcut.convolution.",
    "shortcut.1.": "shortcut.normalization.",
    **{f"conv{layer}.": f"layer.{layer - 1}.convolution." for layer in (1, 2, 3)},
    **{f"norm{layer}.": f"layer.{layer - 1}.normalization." for layer in (1, 2, 3)},
    "classifier.": "classifier.1.",
}


@pytest.mark.parametrize(("block", "expansion"), [("basic", 1), ("bottleneck", 4)])
def test_resnets_equal_transformers_resnets_of_the_same_weights(block, expansion):
    depths, widths = (1, 2, 1), (8, 12, 16)
    ours = BasicResNetForImageClassification(
        BasicResNetConfig(block=block, depths=depths, widths=widths, stem="imagenet", image_size=64, num_labels=3)
    )
    reference = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8,
            hidden_sizes=[width * expansion for width in widths],
            depths=list(depths),
            layer_type=block,
            num_labels=3,
        )
    )
    weights = {}
    for name, value in ours.state_dict().items():
        for own, theirs in TO_TRANSFORMERS.items():
            name = name.replace(own, theirs)
        for number, place in enumerate(
            ["stages.0.layers.0", "stages.1.layers.0", "stages.1.layers.1", "stages.2.layers.0"]
        ):
            name = name.replace(f"blocks.{number}.", f"resnet.encoder.{place}.")
        weights[name] = value
    reference.load_state_dict(weights)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ours.train()(images).logits, reference.train()(images).logits, atol=1e-5)
    assert torch.allclose(ours.eval()(images).logits, reference.eval()(images).logits, atol=1e-5)


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_resnet_ap_pools_where_a_resnet_strides(stem):
    widths = (4, 6)
    network = BasicResNetForImageClassification(
        BasicResNetConfig(
            depths=(1, 1),
            widths=widths,
            stem=stem,
            norm="instance",
            downsampling="average",
            image_size=64,
            num_labels=3,
        )
    )
    weights = network.state_dict()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def convolve(inputs: Tensor, name: str) -> Tensor:
        return F.conv2d(inputs, weights[f"{name}.weight"], padding="same")

    def normalise(inputs: Tensor) -> Tensor:
        return F.instance_norm(inputs)  # new norm layers have weight 1 and bias 0

    hidden = normalise(convolve(images, "stem.0")).relu()
    hidden = F.avg_pool2d(hidden, 4) if stem == "imagenet" else hidden
    first = normalise(convolve(hidden, "blocks.0.conv1")).relu()
    hidden = (normalise(convolve(first, "blocks.0.conv2")) + hidden).relu()
    first = F.avg_pool2d(normalise(convolve(hidden, "blocks.1.conv1")).relu(), 2)
    projected = normalise(F.avg_pool2d(convolve(hidden, "blocks.1.shortcut.0"), 2))
    hidden = (normalise(convolve(first, "blocks.1.conv2")) + projected).relu()
    assert torch.allclose(network.features(images), hidden.mean((2, 3)), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet_ap10", "vgg11_instance", *FROM_TRANSFORMERS])
def test_gradient_norms_of_single_images(name):
    classifier = build_classifier(name, spec()).train()
    images, labels = pixels(), torch.tensor([0, 1])
    with torch.no_grad():
        for _ in range(10 if batch_norms(classifier) else 0):
            classifier(pixels(count=4))  # statistics for eval mode
    classifier.eval()
    norms = grad_norm(classifier, images, labels)
    for image, label, norm in zip(images, labels, norms, strict=True):
        classifier.zero_grad()
        F.cross_entropy(classifier(image[None]), label[None]).backward()
        squares = [parameter.grad.square().sum() for parameter in classifier.parameters() if parameter.grad is not None]
        assert torch.stack(squares).sum().sqrt().item() == pytest.approx(norm.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "image_size", "smallest"),
    [("swin_v2_t", 28, 32), ("resnet18_imagenet_instance", 32, 64), ("resnet_ap10_instance", 14, 16)],
)
def test_images_too_small_for_a_network_are_an_error(name, image_size, smallest):
    with pytest.raises(ValueError, match=rf"image_size must be at least {smallest} .*Got {image_size}\."):
        on_meta(name, spec(image_size))


@pytest.mark.parametrize("option", ["block", "stem", "norm", "downsampling"])
def test_a_resnet_lists_the_choices_it_has(option):
    with pytest.raises(ValueError, match=f"{option} must be one of .*Got 'other'"):
        BasicResNetConfig(**{option: "other"})
