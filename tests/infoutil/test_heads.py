"""Last-layer scores, features and gradient norms of transformers' families, whatever their logits are made of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from decoct.config import DistillConfig
from decoct.data.spec import ImageSpec
from decoct.infoutil.processor import InfoUtilProcessor
from decoct.infoutil.utility import grad_norm, grad_norm_last, gradient_flow
from decoct.models.classifier import Classifier

NAMES = ("a", "b", "c", "d", "e")
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}
FOUR = {"hidden_sizes": [8] * 4, "depths": [1] * 4}
LEVIT = {
    "image_size": 64,
    "hidden_sizes": [16] * 3,
    "num_attention_heads": [2] * 3,
    "depths": [1] * 3,
    "key_dim": [8] * 3,
}
MOBILE_VIT = {"image_size": 32, "hidden_sizes": [8] * 3, "neck_hidden_sizes": [4] * 7, "num_attention_heads": 2}
SWIFT = {"image_size": 32, "depths": [1] * 4, "embed_dims": [8] * 4}
# Network, configuration and number of last layers.
FAMILIES = {
    "ViTForImageClassification": (VIT, 1),
    "DeiTForImageClassificationWithTeacher": (VIT, 2),
    "LevitForImageClassificationWithTeacher": (LEVIT, 2),
    "SwiftFormerForImageClassification": (SWIFT, 2),
    "BeitForImageClassification": (VIT, 1),
    "Dinov2ForImageClassification": (VIT, 1),
    "ConvNextForImageClassification": (FOUR, 1),
    "PoolFormerForImageClassification": (FOUR, 1),
    "ResNetForImageClassification": ({**FOUR, "embedding_size": 8, "layer_type": "basic"}, 1),
    "RegNetForImageClassification": ({**FOUR, "embedding_size": 8, "groups_width": 8}, 1),
    "MobileViTForImageClassification": (MOBILE_VIT, 1),
}
ORDER = (2, 1, 0)


def built(name: str, **options) -> Classifier:
    """A network of a family with random weights, which takes BGR."""
    settings, _ = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network_class = getattr(transformers, name)
        network = network_class(network_class.config_class(**settings, id2label=dict(enumerate(NAMES))))
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # biases and layer scales start at 0 or near it
    return classifier(network, settings.get("image_size", 32), **options)


def classifier(network: nn.Module, side: int = 32, names=NAMES, **options) -> Classifier:
    spec = ImageSpec(side, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), names)
    return Classifier(network, spec, "user/network", ORDER, **options).eval()


def images(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])


def gradients(network: Classifier, pixels, labels, parameters) -> torch.Tensor:
    """The gradient of each image's cross-entropy, `(images, parameters)`."""
    rows = []
    for image, label in zip(pixels, labels, strict=True):
        loss = F.cross_entropy(network(image[None]), label[None])
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([each.flatten() for each in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_gradients(name):
    network = built(name)
    pixels, labels = images(network.spec.image_size)
    heads = network.linear_heads()
    assert len(heads) == FAMILIES[name][1]
    assert [head.factor for head in heads] == pytest.approx([1 / len(heads)] * len(heads), abs=1e-4)
    expected = gradients(network, pixels, labels, [each for head in heads for each in head.layer.parameters()])
    with torch.no_grad():
        features, logits = network.features_and_logits(pixels)
    assert features.ndim == 2 and torch.allclose(logits, network(pixels))
    found = grad_norm_last(features, logits, labels, network.bias_factor)
    torch.testing.assert_close(found, expected.norm(dim=1), rtol=1e-4, atol=1e-6)
    flow = gradient_flow(
        *(rows[:1] for rows in (features, logits, labels)), features, logits, labels, network.bias_factor
    )
    torch.testing.assert_close(flow, (expected[:1] @ expected.T).abs().amax(1), rtol=1e-3, atol=1e-6)
    whole = gradients(network, pixels, labels, list(network.model.parameters())).norm(dim=1)
    torch.testing.assert_close(grad_norm(network, pixels, labels), whole, rtol=1e-3, atol=1e-6)


class Made(nn.Module):
    """A network whose logits are made of `layers` in one of several ways."""

    def __init__(self, way: str, classes: int = 5) -> None:
        super().__init__()
        self.way = way
        self.body = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.ReLU())
        self.narrow = nn.Linear(6, classes)  # as wide as the logits, but before them
        self.head = nn.Linear(classes if way == "narrow" else 6, classes, bias=way != "no bias")

    def forward(self, pixels: torch.Tensor) -> ImageClassifierOutput:
        hidden = self.body(pixels).flatten(2)
        pooled = hidden.mean(2)
        if self.way == "narrow":
            logits = self.head(self.narrow(pooled).relu())
        elif self.way == "pooled after":
            logits = self.head(hidden.mT).mean(1)
        elif self.way == "cosine":
            logits = 10 * F.linear(F.normalize(pooled, dim=1), F.normalize(self.head.weight, dim=1))
        elif self.way == "capped":
            logits = self.head(pooled).tanh()
        elif self.way == "scaled":
            logits = self.head(pooled) / 0.3
        else:
            logits = self.head(pooled)
        return ImageClassifierOutput(logits=logits)


@pytest.mark.parametrize("way", ["narrow", "no bias", "scaled"])
def test_heads_of_other_shapes_are_computed(way):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = classifier(Made(way))
    pixels, labels = images(32)
    assert [head.layer for head in network.linear_heads()] == [network.model.head]
    with torch.no_grad():
        found = grad_norm_last(*network.features_and_logits(pixels), labels, network.bias_factor)
    expected = gradients(network, pixels, labels, list(network.model.head.parameters())).norm(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["pooled after", "cosine", "capped"])
def test_logits_that_are_not_linear_in_one_vector_are_refused_by_name(way):
    network = classifier(Made(way))
    message = "Got 'user/network', a Made that computes them otherwise: choose --utility grad_norm --selection top"
    with pytest.raises(ValueError, match=message):
        network.features_and_logits(images(32)[0])
    for options in ({"selection": "k_center"}, {"utility": "grad_norm_last", "selection": "top"}):
        with pytest.raises(ValueError, match=message):
            InfoUtilProcessor(network, DistillConfig(**options), batch_size=4)
    pixels, labels = images(32)
    whole = gradients(network, pixels, labels, list(network.model.parameters())).norm(dim=1)
    torch.testing.assert_close(grad_norm(network, pixels, labels), whole, rtol=1e-3, atol=1e-6)
    for utility in ("grad_norm", "loss"):
        InfoUtilProcessor(network, DistillConfig(utility=utility, selection="top", attribution="whole"), batch_size=4)


def test_a_restricted_network_has_the_gradients_of_its_classes():
    whole = built("DeiTForImageClassificationWithTeacher")
    network = whole.restricted_to(("x", "y", "z"), (4, 0, 2))
    pixels, labels = images(32)
    assert network.spec.label_names == ("x", "y", "z")
    torch.testing.assert_close(network(pixels), whole(pixels)[:, [4, 0, 2]])
    parameters = [each for head in network.linear_heads() for each in head.layer.parameters()]
    with torch.no_grad():
        found = grad_norm_last(*network.features_and_logits(pixels), labels, network.bias_factor)
    torch.testing.assert_close(found, gradients(network, pixels, labels, parameters).norm(dim=1), rtol=1e-4, atol=1e-6)
    expected = gradients(network, pixels, labels, list(network.model.parameters())).norm(dim=1)
    torch.testing.assert_close(grad_norm(network, pixels, labels), expected, rtol=1e-3, atol=1e-6)
    assert network.fingerprint() != whole.fingerprint()
    assert network.fingerprint() != whole.restricted_to(("x", "y", "z"), (0, 4, 2)).fingerprint()
