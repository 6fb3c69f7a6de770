"""Validation images: the same share of every class in every run, apart from what is trained on and measured last."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import coloured, encoded, labelled

from decoct.config import DataConfig, TeacherConfig
from decoct.data.held_out import held_out_count, split_off_validation
from decoct.data.loading import load_split, load_train_and_eval


def write_splits(folder, **counts):
    """A parquet folder with images of three classes, as many as are said of each in each split."""
    for split, each in counts.items():
        labels = np.repeat(range(3), each).tolist()
        labelled(encoded(coloured(labels)), labels, "abc").to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("held_out"), train=[20, 11, 2], test=[2, 2, 2])


def rows(images):
    return images["source_index"][:]


def test_a_share_of_each_class_is_held_out_and_the_rest_is_trained_on(folder):
    config = DataConfig(dataset=str(folder), validation_fraction=0.1)
    every = load_split(DataConfig(dataset=str(folder)), "train")
    train, validation = load_split(config, "train"), load_split(config, "held_out")
    assert sorted([*rows(train), *rows(validation)]) == rows(every)
    assert np.bincount(validation["label"][:]).tolist() == [2, 1, 1]
    assert np.bincount(train["label"][:]).tolist() == [18, 10, 1]


def test_a_count_of_held_out_images_is_rounded_but_neither_none_nor_all():
    assert [held_out_count(images, 0.1) for images in (0, 1, 2, 4, 15, 16, 25)] == [0, 0, 1, 1, 2, 2, 2]
    assert held_out_count(20, 0.0) == 0 and held_out_count(2, 0.9) == 1


def test_the_share_is_the_same_in_every_run_and_grows_with_the_fraction(folder):
    held_out = [
        set(rows(load_split(DataConfig(dataset=str(folder), validation_fraction=fraction, seed=seed), "held_out")))
        for fraction, seed in ((0.1, 0), (0.1, 1), (0.5, 0))
    ]
    assert held_out[0] == held_out[1] < held_out[2]


def test_training_measures_on_what_is_held_out_and_on_the_test_split_when_it_is_named(folder):
    config = TeacherConfig(dataset=str(folder), validation_fraction=0.1)
    train, evaluation = load_train_and_eval(config)
    assert not set(rows(train)) & set(rows(evaluation)) and len(evaluation) == 4
    _, test = load_train_and_eval(TeacherConfig(dataset=str(folder), validation_fraction=0.1, eval_split="test"))
    assert len(test) == 6


def test_the_test_split_is_whole(folder):
    assert len(load_split(DataConfig(dataset=str(folder), validation_fraction=0.5), "test")) == 6


def test_a_class_of_one_image_cannot_be_shared_out(folder):
    images = load_split(DataConfig(dataset=str(folder)), "train")
    with pytest.raises(ValueError, match=r"validation_fraction must be 0 where a class has one image.*class 'c'"):
        split_off_validation(images.select(range(len(images) - 1)), 0.1)


def test_a_validation_split_of_the_datasets_own_stays_apart(tmp_path):
    folder = write_splits(tmp_path, train=[4, 4, 4], validation=[2, 2, 2])
    config = DataConfig(dataset=str(folder), validation_fraction=0.5)
    assert len(load_split(config, "validation")) == len(load_split(config, "held_out")) == 6
    with pytest.raises(ValueError, match="validation_fraction must be positive for the split 'held_out'.*Got None"):
        load_split(DataConfig(dataset=str(folder)), "held_out")


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_a_share_is_less_than_all(fraction):
    with pytest.raises(ValueError, match=r"validation_fraction must be in \[0, 1\)"):
        DataConfig(validation_fraction=fraction)
