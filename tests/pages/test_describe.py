"""The facts of a run: its method in words, the command that repeats it, networks, settings and tables."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from decoct.arguments import parse_config
from decoct.config import DistillConfig, to_dict
from decoct.pages.describe import command_of, method_sentence


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "rded", "tiles_per_image": 4, "ipc": [1, 10, 50]},
        {"method": "infoutil", "candidates_per_class": 0, "crop_fraction": 0.7, "dataset": "a b/it's $HOME"},
        {"method": "igds", "softplus": False, "prior_classes": [3, 1, 2], "beta": 0.0},
        {"method": "k_means", "skip_unreadable": True, "pool_factor": 2.0, "label_teacher": "by_ipc"},
    ],
)
def test_command_repeats_the_run(options):
    config = DistillConfig(**options)
    words = shlex.split(" ".join(command_of(to_dict(config))))
    assert words[:2] == ["decoct", "distill"]
    assert parse_config(DistillConfig, words[2:]) == config


def test_no_command_for_data_in_memory():
    assert command_of(to_dict(DistillConfig(dataset="in memory"))) is None


def test_method_in_words():
    def words(**options: Any) -> str:
        return method_sentence(to_dict(DistillConfig(**options)))

    assert "Shapley" in words(tiles_per_image=4) and "gradient norm" in words() and "k-center" in words()
    assert words().startswith("Whole real images")
    assert words(method="rded").startswith("Random crops of real images, ranked by the teacher's loss, lowest first;")
    assert "herding" in words(method="herding") and "random" not in words(method="herding")
    assert "forgot" in words(method="forgetting")
    assert "diffusion prior" in words(method="igds")
