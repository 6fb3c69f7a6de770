"""The teacher of all runs that are tested."""

from __future__ import annotations

import pytest

import decoct


@pytest.fixture(scope="session")
def teacher(trained_teacher) -> decoct.Classifier:
    return decoct.load_classifier(trained_teacher)
