"""Teachers that do not know the classes, know more of them, or compute numbers that are none."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from worlds import COLOURS, coloured, encoded, spec_of

import decoct
from decoct.config import EvaluateConfig, VerifyConfig
from decoct.distilled.dataset import load_distilled
from decoct.evaluation.evaluate import evaluate
from decoct.files import read_json
from decoct.hub.verify import verify
from decoct.models.chance import expected_accuracy, weakness
from decoct.models.weak_teacher import sample_accuracy
from decoct.models.zoo import build_classifier
from decoct.synthesis.distill import distill, plan_distill

CAUSES = "Usual causes: class names in another order"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, sample_part) -> str:
    """A teacher of the same classes that answers one of them always."""
    folder = tmp_path_factory.mktemp("untrained")
    spec = decoct.measure_spec(decoct.load_images(str(sample_part)))
    teacher = build_classifier("convnet3_w8", spec)
    with torch.no_grad():
        teacher.head.weight.zero_()
        teacher.head.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    teacher.model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def larger(tmp_path_factory, trained_teacher) -> Path:
    """The trained teacher with three classes more, in another order and with other spellings."""
    folder = tmp_path_factory.mktemp("larger")
    teacher = decoct.load_classifier(trained_teacher)
    names = ["zebra", "dress", "Pull_over", "T-Shirt/Top", "crane", "trousers", "crane"]
    places = {3: 0, 5: 1, 2: 2, 1: 3}  # of the trained teacher's classes
    head = torch.nn.Linear(teacher.head.in_features, len(names))
    with torch.no_grad():
        for place, label in places.items():
            head.weight[place], head.bias[place] = teacher.head.weight[label], teacher.head.bias[label]
        head.bias[[0, 4, 6]] = 1e3  # would win
    teacher.model.classifier = head
    config = teacher.model.config
    config.id2label, config.label2id = dict(enumerate(names)), {name: label for label, name in enumerate(names)}
    teacher.model.save_pretrained(folder)
    (folder / "map.json").write_text(json.dumps({"Trouser": "trousers"}))
    return folder


@pytest.mark.parametrize(("classes", "expected"), [(2, 0.75), (3, 2 / 3), (4, 0.5), (10, 0.2), (1000, 0.002)])
def test_what_is_expected_of_a_teacher(classes, expected):
    assert expected_accuracy(classes) == pytest.approx(expected)
    assert weakness(expected, classes, "It", "all") is None
    assert f"where chance is {1 / classes:.1%}" in str(weakness(expected - 1e-3, classes, "It", "all"))


def test_the_sample_has_as_many_images_of_each_class(sample_part):
    images = decoct.load_images(str(sample_part))
    constant = build_classifier("convnet3_w8", decoct.measure_spec(images)).eval()
    with torch.no_grad():
        constant.head.weight.zero_()
        constant.head.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    labels = np.asarray(images["label"][:])
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate((24, 6, 12, 24))])
    assert sample_accuracy(constant, images.select(rows), "cpu", "no") == (24 / 66, 66)
    assert sample_accuracy(constant, images, "cpu", "no") == (0.25, 96)


def test_a_teacher_at_chance_is_refused_or_said_loudly(config, untrained, tmp_path, caplog):
    message = rf"The teacher .* recognises 25.0% of 96 training images, where chance is 25.0% .* 50.0% .*{CAUSES}"
    for run in (distill, plan_distill):
        with pytest.raises(ValueError, match=rf"{message}.*--allow_weak_teacher"):
            run(config(teacher=untrained))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=message):  # it labels only
        distill(config(label_teacher=untrained))
    weak = config(teacher=untrained, method="random", ipc=[1], allow_weak_teacher=True)
    with caplog.at_level(logging.WARNING):
        assert plan_distill(weak)["teacher_accuracy"] == 0.25
        distill(weak)
    assert "recognises 25.0% of 96 training images" in caplog.text
    assert "allow_weak_teacher" not in read_json(tmp_path / "run" / "run.json")
    report = verify(VerifyConfig(source=str(tmp_path / "run")))
    assert report.ok and "WARNING: The teacher recognises 25.0% of the tiles of data/ipc_1" in str(report)
    caplog.clear()
    settings = {"dataset": weak.dataset, "students": ["convnet3_w8"], "epochs": 1, "ranking": False}
    with caplog.at_level(logging.WARNING):
        evaluate(EvaluateConfig(distilled=str(tmp_path / "run"), labels=["online"], **settings))
    for what in (r"its tiles (IPC 1)", "40 images of the split 'test'", "the images of the split 'test'"):
        assert f"recognises 25.0% of {what}, where chance is 25.0%" in caplog.text, what


def test_a_good_teacher_says_nothing(config, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert plan_distill(config())["teacher_accuracy"] > 0.5
        distill(config(method="random", ipc=[1]))
    assert "chance" not in caplog.text and "WARNING" not in str(verify(VerifyConfig(source=str(tmp_path / "run"))))


def test_a_larger_teacher_is_restricted_to_the_datasets_classes_everywhere(config, larger, tmp_path, trained_teacher):
    own = distill(config(output_dir=str(tmp_path / "own"), ipc=[1]))
    settings = {"teacher": str(larger), "ipc": [1], "label_teacher": str(larger)}
    with pytest.raises(ValueError, match="1 of 4 that are unknown to it: Trouser"):
        distill(config(**settings))
    manifest = distill(config(**settings, label_map=str(larger / "map.json")))
    assert manifest["label_names"] == own["label_names"] == ["T-shirt/top", "Trouser", "Pullover", "Dress"]
    assert manifest["teacher"]["classes"] == manifest["label_teachers"]["1"]["classes"] == [3, 5, 2, 1]
    assert manifest["teacher_label_names"] == {"Trouser": "trousers"}
    ours, theirs = (load_distilled(tmp_path / folder, 1) for folder in ("run", "own"))
    assert torch.equal(ours.images, theirs.images)
    torch.testing.assert_close(ours.tile_logits, theirs.tile_logits)
    torch.testing.assert_close(ours.view_logits, theirs.view_logits)
    shared = {"dataset": config().dataset, "students": ["convnet3_w8"], "epochs": 1, "labels": ["online"]}
    (record,) = evaluate(EvaluateConfig(distilled=str(tmp_path / "run"), ranking=False, **shared))
    (expected,) = evaluate(EvaluateConfig(distilled=str(tmp_path / "own"), ranking=False, **shared))
    for name in ("teacher_accuracy", "accuracy_mean"):
        assert record[name] == pytest.approx(expected[name]), name
    assert record["baseline"]["accuracy_mean"] == pytest.approx(expected["baseline"]["accuracy_mean"])
    assert verify(VerifyConfig(source=str(tmp_path / "run"))).ok


def raw(names=COLOURS, columns: tuple[str, str] = ("image", "label")) -> datasets.Dataset:
    """Six images as people have them: a column of bytes and one of text."""
    image, label = columns
    labels = [row % 3 for row in range(6)]
    kinds = {image: datasets.Value("binary"), label: datasets.Value("string"), "id": datasets.Value("int64")}
    cells = [each["bytes"] for each in encoded(coloured(labels, side=20))]
    content = {image: cells, label: [names[number] for number in labels], "id": list(range(6))}
    return datasets.Dataset.from_dict(content, features=datasets.Features(kinds))


@pytest.fixture
def brightest():
    """A teacher of the colours that is always right: its classes are in the order of their names."""
    teacher = build_classifier("convnet3_w8", spec_of(sorted(COLOURS))).eval()

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 3, bias=False)
            self.head.weight.data = 10 * torch.eye(3)[[2, 1, 0]]  # blue, green, red

        def forward(self, pixels: torch.Tensor) -> object:
            return type("Output", (), {"logits": self.head(pixels.mean((2, 3)))})

    return decoct.Classifier(Network(), teacher.spec).eval()


WINDOWS = {"attribution": "kernel_shap", "crop_fraction": 0.5, "coalitions": 30}
OPTIONS = {"views": 2, "batch_size": 4, "crop_fraction": 1.0, "attribution": "whole"}


def test_raw_datasets_are_taken_as_they_are(brightest, tmp_path):
    made = decoct.InfoUtil(brightest, **OPTIONS).distill(raw(), ipc=2, output_dir=tmp_path / "run")
    assert made.features["label"].names == sorted(COLOURS) and made["label"][:] == [0, 0, 1, 1, 2, 2]
    assert sorted(tile["source_index"] for tiles in made["tiles"] for tile in tiles) == list(range(6))
    other = raw(columns=("photo", "kind"))
    again = decoct.InfoUtil(brightest, label_column="kind", **OPTIONS).distill(other, ipc=2)
    assert again["tiles"][:] == made["tiles"][:]


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"coalition": 3}, {}, "Options must be fields of DistillConfig. Got 'coalition'; the nearest is 'coalitions'"),
        ({"image_size": -3}, {}, "image_size must be at least 8. Got -3"),
        ({"method": "igds"}, {}, "method must be one that chooses among real images. Got 'igds': use decoct.IGDS"),
        ({"views": "2"}, {}, "views must be a whole number. Got '2'"),
        ({}, {"ipc": "a"}, "ipc must be a whole number, the images per class of one set. Got 'a'"),
        ({}, {"ipc": 1.5}, "Got 1.5"),
        ({}, {"ipc": [1, 2]}, r"Got \[1, 2\]; of several, take a call each"),
        ({}, {"ipc": np.int64(3)}, "Class 'blue' must have at least 3 candidates"),
        ({}, {"ipc": 0}, "ipc must be one or more numbers from 1 on"),
        ({}, {"images": [1, 2]}, "images must be a datasets.Dataset .* Got list"),
        ({}, {"images": datasets.DatasetDict()}, "Got DatasetDict"),
        ({}, {"images": raw().remove_columns("label")}, "One column must hold class labels"),
        ({}, {"images": raw(("reddish", "green", "blue"))}, "1 of 3 that are unknown to it: reddish"),
        ({}, {"ipc": 3}, "Class 'blue' must have at least 3 candidates"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_work(brightest, monkeypatch, options, call, message):
    def no_work(*arguments: object, **settings: object) -> None:
        raise AssertionError("scored")

    monkeypatch.setattr("decoct.synthesis.real.score", no_work)
    with pytest.raises(ValueError, match=message):
        decoct.InfoUtil(brightest, **{**OPTIONS, **options}).distill(**{"images": raw(), "ipc": 1, **call})
    with pytest.raises(ValueError, match="teacher must be a Classifier. Got str: load one with decoct.load_classifier"):
        decoct.InfoUtil("runs/teacher", **OPTIONS)


@pytest.mark.parametrize(
    ("scale", "options", "message"),
    [
        (1e6, {}, r"Logits of tiles must be finite and at most 65,504, .* Got .* for image 0 of class 'blue' \(source"),
        (
            float("nan"),
            {"method": "random"},
            "Logits of the teacher must be finite. Got nan for image 0 of class",
        ),
        (float("nan"), WINDOWS, "Values of heat maps must be finite. Got nan for image 2 of class 'blue'"),
        (float("nan"), {}, r"Scores \(grad_norm\) must be finite. Got nan for image 2 of class 'blue'"),
    ],
)
def test_numbers_that_are_not_finite_stop_the_run_with_image_and_class(brightest, tmp_path, scale, options, message):
    brightest.model.head.weight.data *= scale
    settings = {**OPTIONS, "selection": "top", "allow_weak_teacher": True, **options}
    with pytest.raises(ValueError, match=message):
        decoct.InfoUtil(brightest, **settings).distill(raw(), ipc=2, output_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()
