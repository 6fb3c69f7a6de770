"""Utility scores against per-sample autograd loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from decoct.data.spec import ImageSpec
from decoct.infoutil.utility import cross_entropy_loss, grad_norm, grad_norm_last, gradient_flow
from decoct.models.classifier import Classifier

SPEC = ImageSpec(8, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2), ("a", "b", "c", "d"))


class Model(nn.Module):
    """Layers, global average pooling, and a linear head."""

    def __init__(self, *layers: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = head or nn.Linear(8, 4)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.head(self.layers(pixel_values).flatten(2).mean(2)))


class Residual(nn.Module):
    """A block with a skip connection that is added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output = self.norm(self.conv(hidden))
        output += hidden
        return F.relu_(output)


class Tokens(nn.Module):
    """A linear layer over positions, with a norm and a free parameter that no layer owns."""

    def __init__(self, free: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)
        self.offset = nn.Parameter(torch.randn(8)) if free else 0.0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (self.linear(pixels.flatten(2).mT) + self.offset).tanh().mT


class Twice(nn.Module):
    """One convolution that is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.widen = nn.Conv2d(3, 8, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.widen(self.conv(self.conv(pixels).relu()))


NETWORKS = {
    "conv": lambda: [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, stride=2, padding=1)],
    "few_positions": lambda: [nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1)],
    "grouped": lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2, groups=4, dilation=2)],
    "depthwise": lambda: [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, (3, 1), groups=8, bias=False), nn.ReLU6()],
    "batch_norm": lambda: [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AvgPool2d(2)],
    "group_norm": lambda: [nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8), nn.ReLU(inplace=True), nn.GroupNorm(2, 8)],
    "residual": lambda: [nn.Conv2d(3, 8, 3, padding=1), Residual(), Residual()],
    "tokens": lambda: [Tokens(free=False)],
    "reflect": lambda: [nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU()],
    "same": lambda: [nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU()],
    "free_parameter": lambda: [Tokens(free=True)],
    "layer_norm": lambda: [Tokens(free=False), nn.LayerNorm(64)],
    "shared": lambda: [Twice()],
}


def build(name: str) -> Classifier:
    """A classifier with random weights and random normalisation statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(*NETWORKS[name]())
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(module.weight)
    return Classifier(model, SPEC).eval()


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 2, 3, 3, 1, 0])


def sample_gradients(classifier: Classifier, pixels: torch.Tensor, label: torch.Tensor, parameters) -> torch.Tensor:
    """The gradient of one image's cross-entropy, as one vector."""
    loss = F.cross_entropy(classifier(pixels[None]), label[None])
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)])


def loop(classifier: Classifier, pixels: torch.Tensor, labels: torch.Tensor, parameters) -> torch.Tensor:
    rows = [sample_gradients(classifier, *pair, parameters) for pair in zip(pixels, labels, strict=True)]
    return torch.stack(rows)


@pytest.mark.parametrize("name", NETWORKS)
def test_grad_norm_equals_a_loop(images, name):
    classifier = build(name)
    expected = loop(classifier, *images, list(classifier.parameters())).norm(dim=1)
    for chunk_size in (1, 3, 32):
        norms = grad_norm(classifier, *images, chunk_size=chunk_size)
        assert norms.shape == (7,) and norms.dtype == torch.float32 and not norms.requires_grad
        torch.testing.assert_close(norms, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NETWORKS)
def test_grad_norm_on_a_gpu_equals_the_cpu(images, name):
    classifier = build(name)
    expected = grad_norm(classifier, *images)
    classifier.to("cuda")
    norms = grad_norm(classifier, images[0].to("cuda"), images[1])
    torch.testing.assert_close(norms.cpu(), expected, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["batch_norm", "free_parameter"])
def test_grad_norm_leaves_the_classifier_as_it_was(images, name):
    classifier = build(name)
    expected = grad_norm(classifier, *images)
    classifier.train()
    classifier.head.eval()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(grad_norm(classifier, *images), expected)
    with torch.inference_mode():
        torch.testing.assert_close(grad_norm(classifier, *images), expected)
    assert classifier.training and classifier.model.training and not classifier.head.training
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    frozen = grad_norm(classifier.requires_grad_(False), *images)
    torch.testing.assert_close(frozen, expected)


@pytest.mark.parametrize("name", ["batch_norm", "few_positions", "free_parameter"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_grad_norm_under_autocast_is_close_even_where_gradients_are_tiny(images, dtype, name):
    classifier = build(name)
    pixels, labels = images[0], torch.zeros(7, dtype=torch.int64)
    for bias in (0.0, 25.0):
        with torch.no_grad():
            classifier.head.bias[0] += bias
        exact = grad_norm(classifier, pixels, labels)
        norms = grad_norm(classifier, pixels, labels, autocast_dtype=dtype)
        assert norms.dtype == torch.float32
        torch.testing.assert_close(norms, exact, rtol=0.15, atol=0)


def test_grad_norm_last_equals_a_loop_over_the_head(images):
    classifier = build("batch_norm")
    expected = loop(classifier, *images, list(classifier.head.parameters())).norm(dim=1)
    with torch.no_grad():
        features, logits = classifier.features_and_logits(images[0])
    norms = grad_norm_last(features, logits, images[1])
    assert norms.shape == (7,) and norms.dtype == torch.float32
    torch.testing.assert_close(norms, expected, rtol=1e-5, atol=1e-6)


def test_gradient_flow_equals_the_largest_inner_product_of_gradients(images):
    classifier = build("batch_norm")
    gradients = loop(classifier, *images, list(classifier.head.parameters()))
    expected = (gradients[:3] @ gradients[3:].T).abs().amax(1)
    with torch.no_grad():
        features, logits = classifier.features_and_logits(images[0])
    rows = (features, logits, images[1])
    flow = gradient_flow(*(row[:3] for row in rows), *(row[3:] for row in rows))
    assert flow.shape == (3,) and flow.dtype == torch.float32
    torch.testing.assert_close(flow, expected, rtol=1e-4, atol=1e-6)
    bound = grad_norm_last(*rows)
    assert (flow <= bound[:3] * bound[3:].max() * (1 + 1e-5)).all()


def test_loss_is_the_cross_entropy(images):
    logits = 5 * torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    loss = cross_entropy_loss(logits, images[1])
    assert loss.shape == (7,) and loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits, images[1], reduction="none"))


def test_scores_still_rank_samples_the_teacher_is_certain_of():
    """In single precision, 1 - p is 0 from a margin of about 17 on; the scores must not be."""
    margin = torch.tensor([10.0, 20.0, 30.0, 40.0])
    logits = torch.stack([margin, torch.zeros(4)], dim=1)
    labels = torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(cross_entropy_loss(logits, labels), torch.exp(-margin), rtol=1e-4, atol=0)
    norms = grad_norm_last(torch.zeros(4, 3), logits, labels)
    torch.testing.assert_close(norms, 2**0.5 * torch.exp(-margin), rtol=1e-4, atol=0)
    classifier = build("conv")
    with torch.no_grad():
        classifier.head.bias[0] += 30
    pixels = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    exact = loop(classifier.double(), pixels.double(), labels[:3], list(classifier.parameters())).norm(dim=1)
    torch.testing.assert_close(grad_norm(classifier.float(), pixels, labels[:3]).double(), exact, rtol=1e-3, atol=0)
