"""Teachers that guess are told of, each once."""

from __future__ import annotations

import logging

import pytest
from worlds import spec_of, write_images

from decoct.data.loading import load_images
from decoct.models.weak_teacher import check_teachers
from decoct.models.zoo import build_classifier


def test_the_same_network_is_measured_once_and_refused_unless_allowed(tmp_path, caplog):
    images = load_images(str(write_images(tmp_path / "data", count=12)))
    spec = spec_of()
    first, same, other = (build_classifier("convnet3_w4", spec, seed=seed).eval() for seed in (0, 0, 1))
    with caplog.at_level(logging.WARNING):
        accuracies = check_teachers([first, same, other, first], images, "cpu", "no", allow=True)
    assert len(accuracies) == len(caplog.messages) == 2
    with pytest.raises(ValueError, match="Take another teacher, or go on with --allow_weak_teacher"):
        check_teachers([first], images, "cpu", "no", allow=False)
