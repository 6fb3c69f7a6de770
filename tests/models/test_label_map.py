"""A dataset's classes are found among a teacher's, or the pair is refused with the names."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from worlds import spec_of

from decoct.models.label_map import match_classes, read_label_map, teacher_for
from decoct.models.zoo import build_classifier

# As the checkpoints of ImageNet have them: synonyms, and two classes of one name.
IMAGENET = ["tench, Tinca tinca", "English springer, English springer spaniel", "crane", "cassette player", "crane"]


def matched(own, names, label_map=None) -> list[int]:
    return match_classes(own, names, "the teacher t", "the dataset d", label_map)


@pytest.mark.parametrize(
    ("own", "names", "expected"),
    [
        (["a", "b", "c"], ["a", "b", "c"], [0, 1, 2]),
        (["b", "a"], ["a", "b"], [1, 0]),
        (["Golf Ball", "gas_pump", "French-horn"], ["french horn", "golf_ball", "gaspump"], [2, 0, 1]),
        (IMAGENET, ["cassette_player", "tench", "english springer"], [3, 0, 1]),
        (["cat", "Cat"], ["Cat", "cat"], [1, 0]),  # a name as it is written comes first
        (["Straße", "x"], ["STRASSE"], [0]),
    ],
)
def test_names_are_matched(own, names, expected):
    assert matched(own, names) == expected


@pytest.mark.parametrize(
    ("own", "names", "label_map", "message"),
    [
        (IMAGENET, ["crane", "tench"], {}, r"1 of 2 that are several of its classes: 'crane' \(classes 2, 4\)"),
        (["cat", "dog"], ["cat", "wolf"], {}, "1 of 2 that are unknown to it: wolf.*the teacher t: cat, dog"),
        (["cat", "dog"], ["cat", "C A T"], {}, "2 of 2 that are one class of it: cat, C A T"),
        (["cat", "dog"], ["cat", "wolf"], {"wolf": "hound"}, "unknown to it: hound"),
        (
            ["cat", "dog"],
            ["cat", "dog"],
            {"Dog": "dog"},
            "label_map must map class names of the dataset d: cat, dog",
        ),
        (["cat", "dog"], ["cat", "wolf"], {"wolf": "2"}, "unknown to it: 2"),
    ],
)
def test_what_cannot_be_told_is_refused(own, names, label_map, message):
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        matched(own, names, label_map)
    assert "label_map" in str(caught.value)


def test_a_map_says_what_names_do_not():
    assert matched(IMAGENET, ["crane", "tape"], {"crane": "4", "tape": "cassette player"}) == [4, 3]
    assert matched(["b", "a"], ["a", "b"], {"a": "b", "b": "a"}) == [0, 1]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".json", '{"crane": 4, "tape": "cassette player"}'),
        (".yaml", "crane: 4\ntape: cassette player\n"),
        (".csv", "crane,4\ntape, cassette player\n"),
    ],
)
def test_files_of_maps(tmp_path, suffix, text):
    file = tmp_path / f"map{suffix}"
    file.write_text(text)
    assert read_label_map(str(file)) == {"crane": "4", "tape": "cassette player"}
    assert read_label_map(None) == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("map.txt", "a: b", "label_map must be an existing .json, .yaml or .csv file"),
        ("map.json", "[1]", "must map each class name"),
        ("map.json", "{", "must be a valid .json file"),
        ("map.json", '{"a": "b", "a": "c"}', "each class name once. Got a twice"),
        ("map.json", '{"a": [1]}', "must map each class name"),
        ("map.yaml", "a: [", "must be a valid .yaml file"),
        ("map.yaml", "a: true", "must map each class name"),
        ("map.csv", "a,b,c\n", r"something else \(CSV: two columns\)"),
        ("map.csv", "", "must map each class name"),
    ],
)
def test_files_that_are_no_map(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_map(str(tmp_path / name))
    with pytest.raises(ValueError, match="must be an existing"):
        read_label_map(str(tmp_path / f"other-{name}"))


def test_a_larger_teacher_is_restricted_and_says_so(caplog):
    teacher = build_classifier("convnet3_w8", spec_of(("Cat", "dog", "owl_bird", "fox"))).eval()
    with caplog.at_level(logging.WARNING):
        chosen = teacher_for(teacher, ["owl bird", "cat"], "pets")
    assert chosen.classes == (2, 0) and chosen.spec.label_names == ("owl bird", "cat")
    assert "has 4 classes, the dataset pets 2; they were matched by name: 'owl bird' is 'owl_bird'" in caplog.text
    teacher_for(build_classifier("convnet3_w8", spec_of(("cat", "dog"))).eval(), ["dog", "cat"], "pets")
    assert "they were matched by name: all are spelt alike." in caplog.text
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(chosen(pixels), teacher(pixels)[:, [2, 0]])
    assert teacher_for(teacher, ["Cat", "dog", "owl_bird", "fox"], "pets") is teacher
    with pytest.raises(ValueError, match="Got one that is restricted to others: owl bird, cat"):
        teacher_for(chosen, ["dog"], "pets")


def test_names_that_a_teacher_has_twice_are_refused_where_they_are_asked_for(tmp_path):
    from decoct.models.zoo import load_classifier

    build_classifier("convnet3_w8", spec_of()).model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "id2label": {"0": "cat", "1": "cat", "2": "owl"}}))
    teacher = load_classifier(tmp_path)
    assert teacher_for(teacher, ["owl"], "birds").classes == (2,)
    with pytest.raises(ValueError, match=r"several of its classes: 'cat' \(classes 0, 1\)"):
        teacher_for(teacher, ["cat", "owl"], "pets")
