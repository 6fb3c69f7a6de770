"""Folders are read by their own tree: what lies in a split is loaded once, in that split."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds import labelled

from decoct.config import DataConfig
from decoct.data import eval_split_name, load_images
from decoct.data.duplicates import count_shared_images
from decoct.data.folders import class_folders, image_splits
from decoct.data.loading import load_train_and_eval

# Class names with a split's word in them, which `datasets` takes for that split wherever they stand in a path.
CLASSES = ["bullet train", "bus", "dev board", "eval_board", "test tube"]


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(path)


def write_splits(folder: Path, names: dict[str, int], classes: list[str] = CLASSES) -> str:
    value = 0
    for split, count in names.items():
        for name in classes:
            for number in range(count):
                save(folder / split / name / f"{number}.png", value)
                value += 1
    return str(folder)


def test_class_folders_with_the_words_of_splits_stay_in_theirs(tmp_path):
    source = write_splits(tmp_path / "things", {"train": 6, "test": 4})
    train, test = load_images(source), load_images(source, "test")
    assert train.features["label"].names == test.features["label"].names == CLASSES
    assert train["label"][:] == [label for label in range(5) for _ in range(6)]
    assert test["label"][:] == [label for label in range(5) for _ in range(4)]
    values = [image.getpixel((0, 0))[0] for split in (train, test) for image in split["image"]]
    assert sorted(values) == list(range(50)), "every image once"
    assert values[:30] == list(range(30)), "and in its split"


def test_class_folders_alone_are_one_split(tmp_path):
    source = write_splits(tmp_path / "test data", {"": 3})
    assert load_images(source)["label"][:] == [label for label in range(5) for _ in range(3)]
    with pytest.raises(ValueError, match="split must be one of"):
        load_images(source, "test")


def test_a_class_may_be_called_like_a_split(tmp_path):
    source = write_splits(tmp_path / "vehicles", {"": 2}, ["bus", "train"])
    assert load_images(source).features["label"].names == ["bus", "train"]


@pytest.mark.parametrize(("name", "split"), [("val", "validation"), ("dev", "validation"), ("Testing", "test")])
def test_split_folders_have_many_names(tmp_path, name, split):
    source = write_splits(tmp_path / "pets", {"training": 2, name: 1}, ["cat", "dog"])
    assert len(load_images(source)) == 4 and len(load_images(source, split)) == 2
    assert eval_split_name(source) == split


@pytest.mark.parametrize(
    "names", [("training_set", "test_set"), ("seg_train/seg_train", "seg_test/seg_test"), ("a/train", "a/test")]
)
def test_splits_by_other_names_or_further_down_are_not_mixed(tmp_path, names):
    source = write_splits(tmp_path / "things", dict.fromkeys(names, 2), ["bus", "car"])
    for split in ("train", "test"):
        with pytest.raises(
            ValueError, match="Split folders must be called train, validation or test, and lie at the top"
        ):
            load_images(source, split)


def test_class_folders_may_lie_in_one_folder_more_which_is_said(tmp_path, caplog):
    write_splits(tmp_path / "vehicles", {"photos": 2}, CLASSES)
    assert load_images(str(tmp_path / "vehicles")).features["label"].names == CLASSES
    assert "are the folders in photos, which is taken for no class" in caplog.text


def labels_of(folder: Path, places: list[str]) -> dict[str, str]:
    for value, place in enumerate(places):
        save(folder / place / "1.png", value)
    splits = image_splits(folder)
    assert splits is not None
    return class_folders(folder, splits)


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["train/cat/a"], ["cat"]),
        (["train/cat/a", "test/cat/b"], ["cat", "cat"]),
        (["train/cat/a", "train/dog/a", "test/cat"], ["cat", "dog", "cat"]),
        # The split with one folder has its class where the other has them.
        (["train/photos/bus", "train/photos/car", "test/photos/bus"], ["bus", "car", "bus"]),
        (["train/photos/bus", "train/photos/car", "test/more/bus", "test/more/car"], ["bus", "car", "bus", "car"]),
    ],
)
def test_classes_lie_at_one_depth_in_all_splits(tmp_path, places, names):
    assert labels_of(tmp_path, places) == dict(zip(places, names, strict=True))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["train/cat/a", "train/cat/b", "test/cat", "test/dog"], "The images of a class must lie in one folder"),
        (["train/cat/a", "train/cat/b", "test/cat"], "Every image must lie in the folder of its class. Got images in"),
    ],
)
def test_classes_at_several_depths_are_refused(tmp_path, places, message):
    with pytest.raises(ValueError, match=message):
        labels_of(tmp_path, places)


@pytest.mark.parametrize("place", ["notes.csv", "train/notes.csv", "train/bus/notes.json"])
def test_a_table_among_the_images_changes_nothing(tmp_path, place):
    source = write_splits(tmp_path / "things", {"train": 3, "test": 2})
    (tmp_path / "things" / "train" / "bus").mkdir(exist_ok=True)
    (tmp_path / "things" / place).write_text("[1]")
    assert [len(load_images(source, split)) for split in ("train", "test")] == [15, 10]


def test_splits_beside_classes_are_refused(tmp_path):
    source = write_splits(tmp_path / "pets", {"train": 2, "test": 1}, ["cat", "dog"])
    save(tmp_path / "pets" / "birds" / "1.png", 7)
    with pytest.raises(
        ValueError, match=r"must all be splits or all be classes.*\['test', 'train'\] beside \['birds'\]"
    ):
        load_images(source)


def test_hidden_files_and_other_files_do_not_count(tmp_path):
    source = write_splits(tmp_path / "pets", {"train": 2}, ["cat", "dog"])
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("a cat")
    save(tmp_path / "pets" / ".thumbnails" / "cat" / "1.png", 3)
    assert len(load_images(source)) == 4


def test_a_metadata_file_says_which_images_count(tmp_path):
    folder = tmp_path / "pets" / "train"
    for number in range(3):
        save(folder / f"{number}.png", number)
    (folder / "metadata.csv").write_text("file_name,label\n0.png,1\n2.png,0\n")
    assert image_splits(tmp_path / "pets") == {"train": ["train"]}
    assert load_images(str(tmp_path / "pets"))["label"][:] == [1, 0]


def test_what_is_no_image_folder_is_left_to_datasets(tmp_path):
    assert image_splits(tmp_path) is None
    (tmp_path / "train.parquet").write_bytes(b"")
    save(tmp_path / "cat" / "1.png", 1)
    assert image_splits(tmp_path) is None
    card = tmp_path / "card"
    save(card / "cat" / "1.png", 1)
    (card / "README.md").write_text("---\nconfigs:\n- config_name: default\n---\n")
    assert image_splits(card) is None


# Parquet


def write_parquet(file: Path, names: list[str], labels: list[int], first: int = 0) -> None:
    images = [Image.fromarray(np.full((8, 8), first + row, dtype=np.uint8)) for row in range(len(labels))]
    file.parent.mkdir(parents=True, exist_ok=True)
    labelled(images, labels, names).to_parquet(file)


def test_another_label_order_in_another_file_is_refused(tmp_path):
    write_parquet(tmp_path / "rows" / "train.parquet", ["cat", "dog", "owl"], [0, 1, 2])
    write_parquet(tmp_path / "rows" / "test.parquet", ["cat", "owl", "dog"], [0, 1, 2])
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"(?s)class names of column 'label'.*from label 1 on in .*parquet.*\['"):
            load_images(str(tmp_path / "rows"), split)


def test_the_same_label_order_in_all_files_is_read(tmp_path):
    for number, name in enumerate(("train", "test")):
        write_parquet(tmp_path / "rows" / f"{name}.parquet", ["cat", "dog"], [1, 0], 10 * number)
    assert load_images(str(tmp_path / "rows"), "test")["label"][:] == [1, 0]


# Evaluation split


def test_a_test_split_without_labels_is_passed_over(tmp_path):
    write_parquet(tmp_path / "rows" / "train.parquet", ["cat", "dog"], [0, 1])
    write_parquet(tmp_path / "rows" / "test.parquet", ["cat", "dog"], [-1, -1])
    with pytest.raises(ValueError, match=r"\['test'\] have no labels.*--eval_split"):
        eval_split_name(str(tmp_path / "rows"))
    write_parquet(tmp_path / "rows" / "validation.parquet", ["cat", "dog"], [1, 0])
    assert eval_split_name(str(tmp_path / "rows")) == "validation"
    assert eval_split_name(str(tmp_path / "rows"), given="test") == "test"


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_images_in_both_splits_are_counted(tmp_path, caplog, kind):
    source = tmp_path / "data"
    if kind == "parquet":
        write_parquet(source / "train.parquet", ["cat", "dog"], [0, 1, 0, 1])
        write_parquet(source / "test.parquet", ["cat", "dog"], [0, 1, 0], first=2)  # values 2, 3 and 4
    else:
        for split, values in (("train", range(4)), ("test", range(2, 5))):
            for value in values:
                save(source / split / ("cat" if value % 2 else "dog") / f"{split}{value}.png", value)
    with caplog.at_level(logging.WARNING, logger="decoct.data.loading"):
        train, test = load_train_and_eval(DataConfig(dataset=str(source)))
    assert count_shared_images(train, test) == 2
    assert "2 of 3 images of the split 'test' are in the split 'train' too" in caplog.text


def test_splits_without_common_images_say_nothing(tmp_path, caplog):
    source = write_splits(tmp_path / "pets", {"train": 3, "test": 2}, ["cat", "dog"])
    with caplog.at_level(logging.WARNING, logger="decoct.data.loading"):
        train, test = load_train_and_eval(DataConfig(dataset=source))
    assert count_shared_images(train, test) == 0 and not caplog.text


def test_the_class_is_the_folder_under_the_split(tmp_path: Path) -> None:
    """As Tiny-ImageNet has its training images, in `train/<class>/images`."""
    for split, count in (("train", 3), ("test", 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name / "images"
            folder.mkdir(parents=True)
            for row in range(count):
                Image.new("RGB", (8, 8), (40 * label + row,) * 3).save(folder / f"{row}.png")
    images = load_images(str(tmp_path))
    assert images.features["label"].names == ["cat", "dog"] and images["label"][:] == [0, 0, 0, 1, 1, 1]
    assert [image.getpixel((0, 0))[0] for image in images["image"]] == [0, 1, 2, 40, 41, 42]
    assert load_images(str(tmp_path), "test")["label"][:] == [0, 1]


@pytest.mark.parametrize(
    "places", [("cat/a", "cat/b", "dog"), ("cat", "cat/a", "dog"), ("pets/cat", "pets/dog", "owl")]
)
def test_images_in_several_folders_of_a_class_are_refused(tmp_path: Path, places) -> None:
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "1.png")
    name = places[0].split("/")[0]
    message = f"The images of a class must lie in one folder. Got '{places[0]}' and '{places[1]}' .* class '{name}'"
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path))


@pytest.mark.parametrize("name", ["pets [2024]", "pets*", "what?", "[ab]"])
def test_paths_with_characters_of_patterns(tmp_path: Path, name: str) -> None:
    for split in ("train", "test"):
        for number, kind in enumerate(("cat [old]", "dog")):
            folder = tmp_path / name / split / kind
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (number,) * 3).save(folder / "1.png")
    images = load_images(str(tmp_path / name))
    assert images.features["label"].names == ["cat [old]", "dog"] and images["label"][:] == [0, 1]
    (tmp_path / "more" / name).mkdir(parents=True)
    images.to_parquet(tmp_path / "more" / name / "train.parquet")
    assert load_images(str(tmp_path / "more" / name / "train.parquet"))["label"][:] == [0, 1]
    with pytest.raises(ValueError, match=r"must have no \*, \? and \[ in the path of its folder.*rename the folder"):
        load_images(str(tmp_path / "more" / name))  # it would be a pattern of other folders too


def test_folder_names_of_another_encoding_are_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Image.new("RGB", (8, 8)).save(tmp_path / os.fsdecode(b"caf\xe9") / "1.png")
    with pytest.raises(ValueError, match=r"Names of folders must be UTF-8. Got 'caf\\udce9' in .*: rename it"):
        load_images(str(tmp_path))
