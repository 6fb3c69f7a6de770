"""What is measured about a dataset."""

from __future__ import annotations

import json
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from worlds import labelled

from decoct.data import ImageSpec, load_images, measure_spec


def random_images(count: int, channels: int, size: int = 8) -> tuple[np.ndarray, datasets.Dataset]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    pictures = [Image.fromarray(rows.squeeze(-1) if channels == 1 else rows) for rows in pixels]
    labels = [row % 2 for row in range(count)]
    return pixels, labelled(pictures, labels, ["cat", "dog"])


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_are_those_of_all_pixels(channels: int) -> None:
    pixels, source = random_images(70, channels)
    spec = measure_spec(load_images(source))
    flat = pixels.reshape(-1, channels).astype(np.float64) / 255
    assert (spec.image_size, spec.channels, spec.label_names) == (8, channels, ("cat", "dog"))
    assert spec.mean == pytest.approx(flat.mean(axis=0), abs=1e-12)
    assert spec.std == pytest.approx(flat.std(axis=0), abs=1e-12)


def test_many_images_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, source = random_images(20, 3)
    monkeypatch.setattr("decoct.data.measuring.MEASURED_IMAGES", 5)
    spec = measure_spec(load_images(source))
    assert spec.mean == pytest.approx(pixels[::4].reshape(-1, 3).mean(axis=0) / 255, abs=1e-12)


def test_size_can_be_given() -> None:
    _, source = random_images(2, 3)
    assert measure_spec(load_images(source), image_size=16).image_size == 16


def test_constant_images_have_a_deviation_to_divide_by() -> None:
    source = labelled([Image.new("L", (8, 8), 51)], [0])
    spec = measure_spec(load_images(source))
    assert spec.mean == pytest.approx((0.2,)) and spec.std == (1 / 255,)


def test_image_that_is_not_square_needs_a_size() -> None:
    source = labelled([Image.new("RGB", (12, 8))], [0])
    images = load_images(source, image_size=8)
    assert measure_spec(images, 8).image_size == 8
    with pytest.raises(ValueError, match="12x8.*--image_size|--image_size.*12x8"):
        measure_spec(images)


def test_spec_survives_json() -> None:
    spec = ImageSpec(8, 3, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), ("cat", "dog"))
    assert ImageSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.num_classes == 2


def test_spec_checks_its_channels() -> None:
    with pytest.raises(ValueError, match=r"one of \[1, 3\]. Got 4"):
        ImageSpec(8, 4, (0.0,) * 4, (1.0,) * 4, ("cat",))
    with pytest.raises(ValueError, match="3 values"):
        ImageSpec(8, 3, (0.0,), (1.0,), ("cat",))


def test_resizing_crops_the_centre_and_keeps_the_sides_ratio() -> None:
    from decoct.data.pixels import to_pixels

    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 200
    assert to_pixels([Image.fromarray(wide)], 8, 3).unique().tolist() == [200]
    assert to_pixels([Image.fromarray(wide)], 8, 1).shape == (1, 1, 8, 8)
    assert to_pixels([Image.new("L", (8, 8), 9)], 8, 3).dtype == torch.uint8
    with pytest.raises(ValueError, match=r"no picture but a Tensor: take the dataset `\.with_format\(None\)`"):
        to_pixels([torch.zeros(3, 8, 8)], 8, 3)


def test_importing_the_spec_is_light() -> None:
    code = "import sys, decoct.data.spec, decoct.data; print([m for m in ('torch', 'datasets') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
