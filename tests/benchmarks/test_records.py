"""Which measurements a benchmark makes again."""

from __future__ import annotations

import pytest

from .loading import load


@pytest.fixture(scope="module")
def records():
    return load("records")


def test_a_record_of_the_same_settings_counts_whatever_need_not_be_the_same(records):
    settings = {"betas": (0.9, 0.999), "epochs": {50: 1000}}
    stored = [{"ipc": 10, "settings": {"betas": [0.9, 0.999], "epochs": {"50": 1000}}, "teacher": "a", "accuracy": 0.5}]
    identity = {"ipc": 10, "settings": settings, "teacher": "b"}
    assert records.is_measured(identity, stored, apart_from=["teacher"])
    assert not records.is_measured(identity, stored)
    assert not records.is_measured({**identity, "ipc": 1}, stored, apart_from=["teacher"])
    assert not records.is_measured({**identity, "seed": 0}, stored, apart_from=["teacher"])
    assert not records.is_measured(identity, [], apart_from=["teacher"])
