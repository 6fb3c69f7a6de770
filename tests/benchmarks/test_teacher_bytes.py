"""A teacher in few bits: what its weights become, and that the picture's points are what was measured."""

from __future__ import annotations

import json

import pytest
import torch

from decoct.config import TeacherConfig
from decoct.data.loading import load_train_and_eval
from decoct.data.tensors import PixelDataset
from decoct.files import read_yaml
from decoct.models.zoo import load_classifier

from .loading import BENCHMARKS, load

benchmark = load("teacher_bytes")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_rounded_to_whole_steps_of_their_channel(bits):
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    got, most = benchmark.rounded(weight, bits), 2 ** (bits - 1) - 1
    steps = (weight.abs().amax((1, 2, 3), keepdim=True) / most).half().float()
    assert ((got - weight).abs() <= 0.5 * steps + 1e-3 * most * steps).all(), "a scale in float16 has three digits"
    assert torch.equal((got / steps.clamp(min=1e-7)).round().clamp(-most, most) * steps, got)
    assert all(len(channel.unique()) <= 2 * most + 1 for channel in got)
    assert benchmark.bytes_of(weight, bits) == weight.numel() * bits // 8 + 12


def test_float16_and_one_dimensional_weights_are_kept_in_two_bytes():
    weight, bias = torch.tensor([[1 / 3, 2.0]]), torch.tensor([1 / 3])
    assert torch.equal(benchmark.rounded(weight, 16), weight.half().float())
    assert torch.equal(benchmark.rounded(bias, 4), bias.half().float())
    assert (benchmark.bytes_of(weight, 16), benchmark.bytes_of(bias, 4)) == (4, 2)


def test_fewer_bits_are_fewer_bytes_and_two_are_too_few(sample_part, trained_teacher):
    teacher = load_classifier(str(trained_teacher))
    _, evaluated = load_train_and_eval(TeacherConfig(dataset=str(sample_part)))
    images = PixelDataset(evaluated, teacher.spec.image_size, teacher.spec.channels)
    found = benchmark.measure(teacher, images, [16, 8, 2])
    assert [*found] == ["32", "16", "8", "2"]
    sizes = [each["bytes"] for each in found.values()]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 3 * sizes[2]
    assert found["16"]["accuracy"] == pytest.approx(found["32"]["accuracy"], abs=0.05)
    assert found["2"]["accuracy"] < found["8"]["accuracy"]


def test_the_points_of_the_picture_are_the_record():
    record = json.loads((BENCHMARKS / "results" / "teacher_bytes.json").read_text())["ConvNetForImageClassification"]
    points = read_yaml(BENCHMARKS / "grids" / "label_bytes.yaml")["figure"]["points"]
    ours = [point for point in points if point["name"].startswith("teacher")]
    assert len(ours) == 9
    for point in ours:
        measured = record["bits"][point["name"].split()[1]]
        assert (point["bytes"], point["accuracy"]) == (
            measured["bytes"],
            pytest.approx(100 * measured["accuracy"], abs=0.05),
        )
