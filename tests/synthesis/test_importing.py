"""Distilled sets of others: read from each format, refused where they hold code, measured and published like ours."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from worlds import COLOURS, coloured, encoded, labelled, write_images, write_teacher

from decoct.config import EvaluateConfig, ImportConfig, PublishConfig
from decoct.distilled.dataset import load_distilled
from decoct.evaluation.evaluate import evaluate
from decoct.hub.publish import plan_publish
from decoct.hub.verify import verify_folder
from decoct.pages.describe import imported_sentence
from decoct.pages.printed import import_report
from decoct.synthesis.importing import Published, import_set, plan_import, read_set

MEAN, STD = [0.4, 0.5, 0.3], [0.2, 0.25, 0.3]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])  # two of each class, mixed up
ORDER = torch.tensor([0, 3, 1, 4, 2, 5])  # class by class


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """The images that the sets stand for."""
    return write_images(tmp_path_factory.mktemp("real") / "photos", count=12)


@pytest.fixture
def pixels() -> Tensor:
    """`(6, 3, 16, 16)` uint8."""
    return coloured(LABELS.tolist())


@pytest.fixture
def soft() -> Tensor:
    """Probabilities `(6, 3)`, whose largest are the labels."""
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    logits[torch.arange(6), LABELS] += 8
    return logits.softmax(1)


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    return (pixels / 255 - mean) / std


def config_of(real: Path, source: Path, folder: Path | None = None, **options: Any) -> ImportConfig:
    return ImportConfig(source=str(source), dataset=str(real), output_dir=str(folder or "none"), **options)


def read(real: Path, source: Path, **options: Any) -> Published:
    return read_set(config_of(real, source, **options))[0]


def test_tensors_with_hard_labels_are_unnormalised_and_come_back_as_they_were(real, pixels, tmp_path):
    torch.save(normalised(pixels), tmp_path / "images_best.pt")
    torch.save(LABELS, tmp_path / "labels_best.pt")
    manifest = import_set(config_of(real, tmp_path, tmp_path / "run", method="MTT", mean=MEAN, std=STD))
    stored = load_distilled(tmp_path / "run", 2)
    assert torch.equal(stored.images, pixels[ORDER]) and torch.equal(stored.labels, LABELS[ORDER])
    assert stored.tile_logits is None and stored.spec.label_names == COLOURS
    assert manifest["imported"]["labels"] == "hard" and manifest["imported"]["clipped"] == 0
    assert set(manifest["imported"]["files"]) == {"images_best.pt", "labels_best.pt"}
    report = verify_folder(tmp_path / "run")
    assert report.ok, str(report)


def test_values_beyond_white_and_black_are_clipped_and_counted(real, pixels, tmp_path):
    values = normalised(pixels)
    values[0, 0, 0, :5] = 10  # 10 * 0.2 + 0.4: beyond white by 1.4
    values[0, 1, 0, :2] = -8
    torch.save({"images": values, "labels": LABELS}, tmp_path / "set.pt")
    found = read(real, tmp_path / "set.pt", mean=MEAN, std=STD).notes
    assert found["clipped"] == 7 and found["values"] == values.numel()
    assert found["clipped_by_at_most"] == pytest.approx(1.5, abs=1e-3)
    told = imported_sentence({"imported": {"labels": "hard", **found}})
    assert "7 of 4,608 values (0.15 %) lay outside [0, 1], by at most 1.5, and were clipped" in told


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_soft_labels_become_logits(real, pixels, soft, tmp_path, kind):
    values = soft if kind == "probabilities" else 3 * soft.log()
    save_file({"images": pixels, "soft_labels": values}, tmp_path / "set.safetensors")
    found = read(real, tmp_path / "set.safetensors")
    expected = soft.log() if kind == "probabilities" else values
    assert torch.allclose(found.soft, expected[ORDER]) and torch.equal(found.labels, LABELS[ORDER])
    assert found.notes["soft_labels"] == kind


def test_statistics_that_a_file_records_are_taken(real, pixels, tmp_path):
    metadata = {"image_mean": json.dumps(MEAN), "image_std": json.dumps(STD)}
    save_file({"images": normalised(pixels), "labels": LABELS}, tmp_path / "set.safetensors", metadata)
    found = read(real, tmp_path / "set.safetensors")
    assert torch.equal(found.images, pixels[ORDER]) and found.notes["mean"] == MEAN


def test_images_that_lie_class_by_class_need_no_labels(real, pixels, tmp_path):
    torch.save(pixels[ORDER] / 255, tmp_path / "images.pt")
    with pytest.raises(ValueError, match="--in_class_order"):
        read(real, tmp_path / "images.pt")
    assert torch.equal(read(real, tmp_path / "images.pt", in_class_order=True).labels, LABELS[ORDER])


def test_real_images_may_be_of_different_sizes_and_the_sets_own_are_asked_about(pixels, tmp_path):
    sides = [encoded(coloured([label], side=side))[0] for label, side in enumerate((16, 20, 24))]
    (tmp_path / "photos").mkdir()
    labelled(sides, [0, 1, 2]).to_parquet(tmp_path / "photos" / "train.parquet")
    save_file({"images": pixels, "labels": LABELS}, tmp_path / "set.safetensors")
    assert read(tmp_path / "photos", tmp_path / "set.safetensors").images.shape == (6, 3, 16, 16)
    with pytest.raises(ValueError, match="image_size must be left out for tensors"):
        read(tmp_path / "photos", tmp_path / "set.safetensors", image_size=8)
    assert read(tmp_path / "photos", tmp_path / "photos", image_size=16).images.shape == (3, 3, 16, 16)


def test_the_bits_of_16_bit_images_that_the_set_stands_for_are_noted(tmp_path):
    (tmp_path / "scans").mkdir()
    scans = [Image.fromarray(np.full((16, 16), 900 + label, np.uint16)) for label in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = datasets.Dataset.from_dict({"image": scans, "label": [0, 1, 2]}, features=features)
    rows.to_parquet(tmp_path / "scans" / "train.parquet")
    save_file(
        {"images": coloured([0, 1, 2])[:, :1].contiguous(), "labels": torch.arange(3)}, tmp_path / "set.safetensors"
    )
    config = config_of(tmp_path / "scans", tmp_path / "set.safetensors", tmp_path / "run", bit_depth=12)
    assert import_set(config)["bit_depth"] == 12


@pytest.mark.parametrize("names", [("00002", "00000", "00001"), ("RED", "Green ", "blue")])
def test_folders_of_images_by_name_or_number(real, tmp_path, names):
    """A folder's number is its class, whatever the order of the names."""
    for label, name in enumerate(names):
        place = tmp_path / "syn" / name
        place.mkdir(parents=True)
        for number, image in enumerate(encoded(coloured([label] * 2, seed=label))):
            (place / f"{number}.png").write_bytes(image["bytes"])
    found = read(real, tmp_path / "syn")
    numbers = [int(name) if name.isdigit() else label for label, name in enumerate(names)]
    for label, number in enumerate(numbers):
        assert torch.equal(found.images[found.labels == number], coloured([label] * 2, seed=label))


def test_parquet_with_a_column_of_soft_labels(real, pixels, soft, tmp_path):
    names = ("blue", "green", "red")  # another order than the dataset's
    own = 2 - LABELS
    rows = labelled(encoded(pixels), own.tolist(), names)
    rows = rows.add_column("probabilities", soft.flip(1).tolist())
    rows.to_parquet(tmp_path / "train.parquet")
    found = read(real, tmp_path / "train.parquet", soft_labels="probabilities")
    assert torch.equal(found.images, pixels[ORDER]) and torch.equal(found.labels, LABELS[ORDER])
    assert torch.allclose(found.soft, soft.log()[ORDER])


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["saved", "pickle", "compressed", "repeated", "labels"])
def test_files_with_code_or_that_grow_are_refused_in_one_line_and_nothing_runs(real, pixels, tmp_path, form):
    file, marker = tmp_path / "images.pt", tmp_path / "executed"
    torch.save({"images": pixels, "labels": LABELS}, file)
    if form == "saved":
        torch.save({"images": pixels, "labels": Payload(marker)}, file)
    elif form == "pickle":
        file.write_bytes(pickle.dumps(Payload(marker)))
    elif form == "compressed":
        with (
            zipfile.ZipFile(file) as stored,
            zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
        ):
            for name in stored.namelist():
                small.writestr(name, stored.read(name))
        file = tmp_path / "small.pt"
    elif form == "repeated":
        torch.save(torch.zeros(1).expand(3 * 10**6, 3, 64, 64), file)
    else:
        torch.save(pixels, file)
        torch.save(Payload(marker), tmp_path / "labels.pt")
    with pytest.raises(ValueError, match="must") as refused:
        import_set(config_of(real, file, tmp_path / "run"))
    assert "\n" not in str(refused.value) and ".pt" in str(refused.value)
    assert "weights_only" not in str(refused.value), "PyTorch's advice is to run the code"
    if form in ("saved", "labels"):
        assert f"asks for {os.mkdir.__module__}.mkdir" in str(refused.value)
    assert not marker.exists() and not (tmp_path / "run" / "manifest.json").exists()


def test_what_cannot_be_told_is_asked_for(real, pixels, soft, tmp_path):
    torch.save(normalised(pixels), tmp_path / "images.pt")
    torch.save(LABELS, tmp_path / "labels.pt")

    def fault(**options: Any) -> str:
        with pytest.raises(ValueError) as raised:
            read(real, options.pop("source", tmp_path / "images.pt"), **options)
        return str(raised.value)

    assert "--mean and --std" in fault()
    torch.save(LABELS + 1, tmp_path / "labels.pt")
    assert "from 0 to 2" in fault(mean=MEAN, std=STD)
    torch.save(torch.tensor([0, 0, 0, 1, 1, 2]), tmp_path / "labels.pt")
    assert "as many images of each class" in fault(mean=MEAN, std=STD)
    torch.save(soft[:, :2], tmp_path / "labels.pt")
    assert "3 numbers a row" in fault(mean=MEAN, std=STD)
    assert "tells the set from decoct's own" in fault(method="rded")
    torch.save({"images": pixels, "soft_labels": soft}, tmp_path / "set.pt")
    assert "must be 1 for images with soft labels" in fault(source=tmp_path / "set.pt", tiles_per_image=4)
    for name in ("cat", "dog"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        (tmp_path / "animals" / name / "1.png").write_bytes(encoded(pixels[:1])[0]["bytes"])
    assert "cat" in (words := fault(source=tmp_path / "animals")) and "red" in words


def test_an_imported_set_is_evaluated_reported_and_published_beside_random_images(real, pixels, soft, tmp_path):
    save_file({"images": pixels, "labels": LABELS, "soft_labels": soft}, tmp_path / "set.safetensors")
    folder = tmp_path / "run"
    config = ImportConfig(
        source=str(tmp_path / "set.safetensors"), dataset=str(real), method="DATM", output_dir=str(folder)
    )
    assert plan_import(config)["ipc"] == 2 and not folder.exists()
    printed = import_report(import_set(config), str(folder))
    assert f"decoct evaluate --distilled {folder} --dataset {real} --labels tiles" in printed
    stored = load_distilled(folder, 2)
    assert torch.allclose(stored.tile_logits[:, 0], soft.log()[ORDER], atol=0.02)  # as float16
    rows = datasets.load_dataset(str(folder), "ipc_2", split="train")  # without decoct
    assert rows.column_names == ["image", "label", "tile_logits"] and rows.features["label"].names == list(COLOURS)
    shared = {"distilled": str(folder), "dataset": str(real), "students": ["convnet3_w8"], "epochs": 1}
    with pytest.raises(ValueError, match="--labels tiles"):
        evaluate(EvaluateConfig(**shared, ranking=False))
    (record,) = evaluate(EvaluateConfig(**shared, labels=["tiles"], ranking=False))
    assert record["method"] == "DATM" and record["baseline"] is None  # whose labels would be another teacher's
    teacher = write_teacher(tmp_path / "teacher")["name"]  # which labels random images, as all draws of a source
    (hard,) = evaluate(EvaluateConfig(**shared, labels=["hard"], teacher=teacher, ranking=False))
    assert hard["method"] == "DATM" and hard["baseline"]["accuracy_mean"] >= 0
    page = (folder / "report.html").read_text()
    assert "Images that others made and published" in page and "decoct import" in page
    wanted = PublishConfig(folder=str(folder), push_to_hub="user/datm", license="mit")
    card = plan_publish(wanted).content("README.md").decode()
    assert "license: mit" in card
    assert "- dataset-distillation" in card and "- decoct" in card and "it did not make them" in card
    assert "| `tiles` |" not in card
    assert verify_folder(folder).ok
