"""A manifest and records of a dataset card, and the code in it."""

from __future__ import annotations

import re

from worlds import accuracy_record, measured

MANIFEST = {
    "decoct_version": "0.1.0",
    "config": {
        "dataset": "uoft-cs/cifar10",
        "method": "infoutil",
        "tiles_per_image": 1,
        "views": 50,
        "crop_fraction": 1.0,
        "candidates_per_class": None,
        "output_dir": "/home/someone/runs",
        "ipc": [1, 10],
    },
    "dataset": "uoft-cs/cifar10",
    "label_names": [f"class {label}" for label in range(10)],
    "image_mean": [0.4914, 0.4822, 0.4465],
    "image_std": [0.247, 0.2435, 0.2616],
    "image_size": 32,
    "channels": 3,
    "teacher": {"name": "runs/teacher", "fingerprint": "0123456789abcdef" * 4},
    "label_teachers": {
        "1": {"name": "runs/teacher/epoch_10", "fingerprint": "f" * 64},
        "10": {"name": "runs/teacher", "fingerprint": "0123456789abcdef" * 4},
    },
    "ipcs": [1, 10],
    "tile_accuracy": {"1": 0.9, "10": 0.95},
    "files": {},
    "versions": {},
}


def record(**changes):
    """A record of results.json."""
    baseline = measured(0.49, 0.51, accuracy_std=0.01)
    known = {"labels": "views", "teacher_accuracy": 0.9, "accuracy_std": 0.01, "baseline": baseline}
    return accuracy_record(0.59, 0.61, **{**known, **changes})


def blocks(card, language):
    """The fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
