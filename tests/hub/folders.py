"""Small finished run folders to publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from decoct.config import DistillConfig, to_dict
from decoct.synthesis.output import write_card

NAMES = ["red", "green", "blue"]
SIDE, VIEWS = 8, 2


def write_dataset(folder: Path, ipcs: tuple[int, ...] = (1, 2), **changes: Any) -> Path:
    """A distilled dataset of three classes, made of noise; `changes` are settings of its run."""
    for ipc in ipcs:
        write_ipc(folder / f"data/ipc_{ipc}", ipc, changes.get("seed", 0))
    Image.new("RGB", (4, 4)).save(folder / "preview.png")
    config = DistillConfig(
        method="infoutil", dataset="colours", ipc=list(ipcs), tiles_per_image=1, views=VIEWS, **changes
    )
    network = {"name": "runs/teacher", "fingerprint": "0" * 64}
    manifest = {
        "decoct_version": "0.1.0",
        "config": to_dict(config),
        "dataset": "colours",
        "label_names": NAMES,
        "image_mean": [0.3, 0.3, 0.3],
        "image_std": [0.2, 0.2, 0.2],
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


def write_ipc(folder: Path, ipc: int, seed: int) -> None:
    generator = np.random.default_rng([seed, ipc])
    count = len(NAMES) * ipc
    shapes = {"tile_logits": (1, 3), "view_logits": (VIEWS, 3), "view_boxes": (VIEWS, 5)}
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=NAMES),
        **{name: datasets.Array2D(shape, "float16") for name, shape in shapes.items()},
    }
    columns = {
        "image": [
            Image.fromarray(pixels) for pixels in generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        ],
        "label": [row // ipc for row in range(count)],
        **{name: list(generator.uniform(0, 1, (count, *shape)).astype(np.float16)) for name, shape in shapes.items()},
    }
    folder.mkdir(parents=True)
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
