"""Small finished run folders to publish and to check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from decoct.config import DistillConfig, to_dict
from decoct.data.spec import ImageSpec
from decoct.distilled.schema import image_features
from decoct.synthesis.output import write_card
from decoct.synthesis.tiles import png_bytes

NAMES = ("red", "green", "blue")
SIDE = 8
SELECTED = {"source_index": 5, "box": [0, 0, 4, 4], "score": 0.5, "heatmap": None}
SAMPLED = {"seed": 7, "prototype": 0.1, "contextual": 0.2}


def write_dataset(folder: Path, ipcs: Sequence[int] = (1, 2), names: Sequence[str] = NAMES, **settings: Any) -> Path:
    """A distilled dataset as distilling leaves it, but made of noise: mosaics of four tiles, with two views.

    Args:
        settings: Of its run, other than these.
    """
    defaults = {"method": "infoutil", "dataset": "user/colours", "tiles_per_image": 4, "views": 2}
    config = DistillConfig(**{**defaults, "ipc": list(ipcs), **settings})
    spec = ImageSpec(SIDE, 3, (0.5,) * 3, (0.2,) * 3, tuple(names))
    features = {
        name: kind
        for name, kind in image_features(spec, config.method, config.tiles_per_image, config.views).items()
        if name != "correct"
    }
    for ipc in ipcs:
        (folder / f"data/ipc_{ipc}").mkdir(parents=True)
        rows = datasets.Dataset.from_dict(noise(config, ipc, len(names)), features=datasets.Features(features))
        rows.to_parquet(folder / f"data/ipc_{ipc}/train-00000-of-00001.parquet")
    Image.new("RGB", (4, 4)).save(folder / "preview.png")
    network = {"name": "runs/teacher", "fingerprint": "0" * 64}
    manifest = {
        "decoct_version": "0.1.0",
        "config": to_dict(config),
        "dataset": config.dataset,
        "label_names": list(names),
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "image_size": SIDE,
        "channels": 3,
        "ipcs": list(ipcs),
        "versions": {},
        "teacher": network,
        "label_teachers": {str(ipc): network for ipc in ipcs},
        "tile_accuracy": {str(ipc): 0.9 for ipc in ipcs},
    }
    write_card(folder, manifest)
    (folder / "run.json").write_text("{}\n")
    return folder


def noise(config: DistillConfig, ipc: int, classes: int) -> dict[str, list[Any]]:
    """The columns of one IPC."""
    generator = np.random.default_rng([config.seed, ipc])
    images = ipc * classes

    def logits(rows: int) -> list[np.ndarray]:
        return list(generator.normal(size=(images, rows, classes)).astype(np.float16))

    pixels = torch.from_numpy(generator.integers(0, 256, (images, 3, SIDE, SIDE), dtype=np.uint8))
    tiles = config.tiles_per_image
    columns = {
        "image": [{"bytes": png_bytes(each), "path": None} for each in pixels],
        "label": np.repeat(np.arange(classes), ipc).tolist(),
        "tile_logits": logits(tiles),
        "tiles": [[SAMPLED if config.method == "igds" else SELECTED] * tiles] * images,
    }
    if config.views:
        columns["view_logits"] = logits(config.views)
        columns["view_boxes"] = [np.array([[0.25, 0, 0.75, 1, 1]] * config.views, dtype=np.float16)] * images
    return columns
