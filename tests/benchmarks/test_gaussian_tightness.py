"""The benchmark of a known distribution: its truth, and a small run of the script."""

from __future__ import annotations

import json
import math
import sys
from types import ModuleType

import pytest
import torch

from .loading import load


@pytest.fixture(scope="module")
def tightness() -> ModuleType:
    return load("gaussian_tightness")


def test_the_truth(tightness):
    assert torch.pdist(tightness.class_centres(1.5)).tolist() == pytest.approx([1.5] * 3)
    assert tightness.TRUE_ENTROPY == pytest.approx(7.0947, abs=1e-4)
    truths = [tightness.true_information(side, torch.Generator().manual_seed(0), 50_000) for side in (0, 1, 3, 20)]
    assert truths[0] == pytest.approx(0, abs=1e-6)
    assert truths[3] == pytest.approx(math.log(3), abs=1e-6)
    assert truths[0] < truths[1] < truths[2] < truths[3]


def test_a_small_run_bounds_the_truth_and_is_recorded(tightness, tmp_path, monkeypatch):
    sizes = ["--sides", "3", "--samples", "1500", "--eval_samples", "3000", "--epochs", "3", "--seeds", "2"]
    small = ["--width", "32", "--dim", "16", "--queue_size", "256", "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gaussian_tightness.py", *sizes, *small])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    tightness.main()
    result = json.loads((tmp_path / "gaussian_tightness.json").read_text())["default"]
    (record,) = result["records"]
    assert record["true_information"] == pytest.approx(0.85, abs=0.1)
    assert result["contextual_bound"] == pytest.approx(math.log(16), abs=1e-4)
    for kind in tightness.NETWORKS:
        assert record[kind]["prototype"]["mean"] < record["true_information"] + 0.03
        assert 0 < record[kind]["contextual"]["mean"] < result["contextual_bound"]
    assert record["variational estimator"]["prototype"]["mean"] > 0.5
    assert result["settings"]["samples"] == 1500 and result["settings"]["noise"] == 0.3
    assert (tmp_path / "gaussian_tightness.png").stat().st_size > 5000
