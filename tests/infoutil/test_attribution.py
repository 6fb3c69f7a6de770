"""Attribution methods as used: baselines, batches, seeds, Grad-CAM, calibration."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from decoct.data.spec import ImageSpec
from decoct.infoutil.attribution import CaptumKernelShap, ExactShapley, GradCam, KernelShap, PatchGame
from decoct.infoutil.grad_cam import deepest_convolution
from decoct.models.classifier import Classifier
from decoct.models.throughput import fastest_batch_size
from decoct.models.zoo import build_classifier

MEAN = (0.4, 0.5, 0.6)
SPEC = ImageSpec(12, 3, MEAN, (0.2, 0.2, 0.2), ("a", "b", "c"))


class ConvModel(nn.Module):
    """Two convolutions and a linear head, with the output of a transformers model."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.last = nn.Conv2d(6, 5, 3, padding=1)
            self.head = nn.Linear(5, 3)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        hidden = self.last(self.norm(self.first(pixel_values)).relu()).relu()
        return ImageClassifierOutput(logits=self.head(hidden.mean((2, 3))))


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(ConvModel(), SPEC).eval().requires_grad_(False)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 2, 1, 1, 0])


METHODS = {
    "kernel": lambda forward, **kwargs: KernelShap(forward, 3, 64, **kwargs),
    "exact": lambda forward, **kwargs: ExactShapley(forward, 2, **kwargs),
}


@pytest.mark.parametrize("baseline", ["mean", "blur"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_batch_equals_singles_and_any_batch_size(classifier, images, method, baseline):
    pixels, target = images
    kwargs = {"baseline": baseline, "baseline_value": MEAN}
    together = method(classifier, batch_size=64, **kwargs).attribute(pixels, target)
    for size in (1, 7, 1000):
        other = method(classifier, batch_size=size, **kwargs).attribute(pixels[:2], target[:2])
        torch.testing.assert_close(other, together[:2], atol=1e-5, rtol=1e-4)
    single = method(classifier, batch_size=64, **kwargs)
    for row in range(5):
        alone = single.attribute(pixels[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("baseline", ["mean", "blur"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_heat_maps_sum_to_the_gain_over_the_baseline(classifier, images, method, baseline):
    pixels, target = images
    heatmap = method(classifier, baseline=baseline, baseline_value=MEAN).attribute(pixels, target)
    absent = PatchGame(classifier, 3, "mean", MEAN).baseline_pixels(pixels).expand_as(pixels)
    if baseline == "blur":
        absent = PatchGame(classifier, 3 if method is METHODS["kernel"] else 2, "blur").baseline_pixels(pixels)
    gain = classifier(pixels) - classifier(absent)
    torch.testing.assert_close(heatmap.sum((1, 2)), gain[torch.arange(5), target], atol=1e-5, rtol=1e-4)


def test_forwards_never_exceed_the_batch_size_and_none_is_wasted(classifier, images):
    pixels, target = images
    sizes: list[int] = []

    def counting(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return classifier(batch)

    KernelShap(counting, 3, 64, baseline_value=MEAN, batch_size=50).attribute(pixels, target)
    assert max(sizes) == 50 and len(sizes) <= 5 * 65 // 50 + 2
    assert sum(sizes) == 5 * (64 + 1) + 1


def test_an_informative_patch_is_found(images):
    """A score that sees the upper right patch alone gives it everything."""
    pixels, target = images

    def forward(batch: torch.Tensor) -> torch.Tensor:
        score = batch[:, :, :4, 8:].square().sum((1, 2, 3))
        return torch.stack([score, -score, 2 * score], dim=1)

    heatmap = KernelShap(forward, 3, 40, baseline_value=(0, 0, 0)).attribute(pixels, target)
    expected = torch.zeros(5, 3, 3)
    expected[:, 0, 2] = forward(pixels)[torch.arange(5), target]
    torch.testing.assert_close(heatmap, expected, atol=1e-4, rtol=1e-4)


def test_heat_maps_can_be_used_with_autograd(classifier, images):
    heatmap = KernelShap(classifier, 2, 14, baseline_value=MEAN).attribute(*images)
    weight = torch.ones((), requires_grad=True)
    (heatmap * weight).sum().backward()
    assert weight.grad is not None


def test_blur_keeps_a_constant_image_and_the_shape():
    game = PatchGame(lambda pixels: pixels, 4, "blur")
    torch.testing.assert_close(game.baseline_pixels(torch.full((2, 3, 9, 9), 0.3)), torch.full((2, 3, 9, 9), 0.3))


def test_bad_baselines_are_refused(classifier, images):
    with pytest.raises(ValueError, match="baseline must be one of"):
        PatchGame(classifier, 4, "black")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="baseline_value"):
        PatchGame(classifier, 4, "mean")
    with pytest.raises(ValueError, match="must have 3 values"):
        KernelShap(classifier, 2, 14, baseline_value=(0.5,)).attribute(*images)
    with pytest.raises(ValueError, match="batch_size"):
        PatchGame(classifier, 4, "blur", batch_size=0)


def test_captum_depends_on_its_seeds_alone(classifier, images):
    pixels, target = images
    method = CaptumKernelShap(classifier, 2, 20, baseline_value=MEAN, batch_size=5)
    state = torch.random.get_rng_state()
    together = method.attribute(pixels, target, seeds=[1, 2, 3, 4, 5])
    alone = method.attribute(pixels[3:4], target[3:4], seeds=[4])
    torch.testing.assert_close(together[3], alone[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert together.shape == (5, 2, 2) and together.dtype == torch.float32


@pytest.mark.parametrize("grid", [2, 3, 5, 16])
def test_grad_cam_shape(classifier, images, grid):
    heatmap = GradCam(classifier, grid).attribute(*images)
    assert heatmap.shape == (5, grid, grid) and heatmap.dtype == torch.float32
    assert not heatmap.requires_grad and (heatmap >= 0).all()


def test_grad_cam_finds_what_the_network_looks_at(classifier):
    """The network's convolutions pass the red channel on, so the map is brightest where red is."""
    model = classifier.model
    for layer in (model.first, model.last):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        layer.weight[0, 0, 1, 1] = 1
    nn.init.ones_(model.head.weight)
    pixels = torch.full((1, 3, 12, 12), 0.4)
    pixels[:, 0, 6:9, 3:6] = 1
    heatmap = GradCam(classifier, 4).attribute(pixels, torch.tensor([1]))
    assert heatmap.flatten().argmax() == 2 * 4 + 1


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("convnet3_w8", "blocks.8"),
        ("resnet18", "blocks.7.conv2"),
        ("resnet50", "blocks.15.conv3"),
        ("resnet_ap10", "blocks.3.conv2"),
        ("vgg11", "blocks.25"),
        ("mobilenet_v2", "mobilenet_v2.conv_1x1.convolution"),
        ("efficientnet_b0", "efficientnet.encoder.top_conv"),
    ],
)
def test_grad_cam_shows_the_last_feature_map(name, layer):
    classifier = build_classifier(name, ImageSpec(32, 3, MEAN, (0.2, 0.2, 0.2), ("a", "b", "c"))).eval()
    paths = {module: path for path, module in classifier.model.named_modules()}
    assert paths[deepest_convolution(classifier)] == layer


def test_grad_cam_needs_more_than_a_patch_embedding():
    classifier = build_classifier("swin_v2_t", ImageSpec(32, 3, MEAN, (0.2, 0.2, 0.2), ("a", "b", "c"))).eval()
    with pytest.raises(ValueError, match="patch embedding. Got Swin"):
        GradCam(classifier, 4)


def test_grad_cam_needs_a_convolution():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(432, 3)

        def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
            return ImageClassifierOutput(logits=self.head(pixel_values.flatten(1)))

    with pytest.raises(ValueError, match="without convolutions"):
        GradCam(Classifier(Flat(), SPEC), 4)


def test_fastest_batch_size_is_a_candidate(classifier, images):
    assert fastest_batch_size(classifier, images[0], candidates=(2, 4)) in (2, 4)


def test_calibration_stops_at_full_memory(images):
    def forward(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 4:
            raise torch.OutOfMemoryError("full")
        return pixels.flatten(1)

    assert fastest_batch_size(forward, images[0], candidates=(2, 4, 8)) in (2, 4)
    with pytest.raises(torch.OutOfMemoryError):
        fastest_batch_size(forward, images[0], candidates=(8, 16))
