"""A small run of the benchmark of labelling."""

from __future__ import annotations

import argparse

from datasets import load_dataset

from .loading import load


def test_a_set_is_labelled_and_measured(tmp_path):
    options = argparse.Namespace(ipc=2, slots=3, label_bits=4, side=16, model="convnet3_w16", batch_size=4)
    benchmark = load("label_memory")
    found = benchmark.label_set(options, classes=3, top_k=2)
    assert (found["classes"], found["images"], found["views"], found["label_top_k"]) == (3, 6, 18, 2)
    assert found["anonymous_mb"] >= 0 and isinstance(found["milliseconds_a_view"], float)
    benchmark.write_noise(tmp_path / "noise", classes=3, per_class=2, side=16)
    rows = load_dataset(str(tmp_path / "noise"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["label"][:] == [0, 0, 1, 1, 2, 2] and rows[0]["image"].size == (16, 16)
    assert rows.features["label"].names == ["class 0", "class 1", "class 2"]
