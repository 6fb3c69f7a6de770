"""Images of large datasets are checked when they are read, and what nobody reads is never decoded."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image
from worlds import coloured, draw_no_pictures, encoded, labelled, write_images, write_teacher

from decoct.config import DistillConfig
from decoct.data import load_images
from decoct.data.loading import bit_depth_of
from decoct.data.tensors import PixelDataset
from decoct.models import weak_teacher
from decoct.models.zoo import load_classifier
from decoct.synthesis.distill import distill
from decoct.synthesis.real import candidates_of


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """The encoded bytes of every image that is decoded from now on."""
    seen: list[bytes] = []
    decode = datasets.Image.decode_example

    def counted(self, value, *arguments, **options):
        if type(self) is datasets.Image and isinstance(value, dict):
            seen.append(value["bytes"])
        return decode(self, value, *arguments, **options)

    monkeypatch.setattr(datasets.Image, "decode_example", counted)
    return seen


def in_memory(images: list) -> datasets.Dataset:
    return labelled(images, [row % 3 for row in range(len(images))])


def pixels_of(images: datasets.Dataset, channels: int = 3) -> np.ndarray:
    return np.stack([pixels.numpy() for pixels, _ in PixelDataset(images, 16, channels)])


def test_nothing_is_decoded_before_it_is_read(decoded):
    source = in_memory(encoded(coloured(range(200))))
    images = load_images(source, read_unchecked=200)
    assert decoded == []
    pixels_of(images.select([3, 150]))
    assert len(decoded) == 2
    assert (pixels_of(images) == pixels_of(load_images(source))).all()
    decoded.clear()
    load_images(source, read_unchecked=201)
    load_images(source, read_unchecked=0, skip_unreadable=True)
    assert len(decoded) == 400, "small sets, and those of which some may be left out, are looked at as a whole"


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ({"bytes": b"none", "path": "shelf/12.png"}, r"UnidentifiedImageError: .* \(shelf/12.png\)"),
        (None, "the row has no image"),
        (Image.new("RGB", (16, 17)), "it is 16x17 where others are 16x16; --image_size makes them alike"),
        (Image.fromarray(np.full((16, 16), 900, np.uint16)), "it has mode I;16 where others have 8 bits; --bit_depth"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_when_it_is_read(damaged, reason):
    rows = encoded(coloured(range(200)))
    rows[1] = damaged  # no header of this row is looked at before
    images = load_images(in_memory(rows), read_unchecked=0)
    pixels_of(images.select([0, 2]))
    with pytest.raises(ValueError, match=rf"1 of 3 images that were read cannot be used:\n  row 1: {reason}"):
        pixels_of(images.select([0, 1, 2]))


def test_grey_and_wide_images_are_looked_at_as_a_whole(decoded):
    grey = in_memory([Image.fromarray(np.full((16, 16), 10 + row, np.uint8)) for row in range(9)])
    assert load_images(grey, read_unchecked=0).features["image"].mode == "L"
    decoded.clear()
    unseen = load_images(grey, image_size=16, channels=1, read_unchecked=0)
    assert not decoded, "who makes them grey does not ask whether they are"
    assert (pixels_of(unseen, 1) == pixels_of(load_images(grey), 1)).all()
    wide = in_memory([Image.fromarray(np.full((16, 16), 1000, np.uint16))] * 3)
    assert bit_depth_of(load_images(wide, image_size=16, channels=1, read_unchecked=0)) == 10


def test_images_of_several_sizes_are_refused_at_once():
    sizes = in_memory([Image.new("RGB", (16, 16)), Image.new("RGB", (16, 18)), Image.new("RGB", (16, 16))])
    with pytest.raises(ValueError, match="must be square and of one size"):
        load_images(sizes, read_unchecked=0)


def test_distilling_decodes_the_candidates_and_a_sample_that_tests_the_teacher(tmp_path, monkeypatch, decoded):
    draw_no_pictures(monkeypatch, report=True)
    monkeypatch.setattr(weak_teacher, "SAMPLE", 3)
    data = write_images(tmp_path / "data", count=60)
    teacher = write_teacher(tmp_path / "teacher")["name"]
    shared = {"dataset": str(data), "teacher": teacher, "ipc": [1], "candidates_per_class": 4, "slots": 0}
    config = DistillConfig(**shared, allow_weak_teacher=True, batch_size=8, output_dir=str(tmp_path / "run"))
    distill(config)
    source = datasets.Dataset.from_parquet(str(data / "train.parquet"), keep_in_memory=True)
    stored = [each["bytes"] for each in source.cast_column("image", datasets.Image(decode=False))["image"]]
    read = {stored.index(each) for each in decoded if each in stored}
    drawn = candidates_of(config, load_images(source), load_classifier(teacher))
    sampled = {0, 1, 2}  # the first image of each class
    assert read == set(drawn["source_index"][:]) | sampled
