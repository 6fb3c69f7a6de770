"""What tests of a run folder look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset

from decoct.data.pixels import to_pixels

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress"]
CLASSES, SIDE, VIEWS = 4, 28, 2


def columns(folder: Path, ipc: int) -> dict[str, Any]:
    """The columns of an IPC as `load_dataset` reads the run folder, arrays where they can be."""
    images = load_dataset(str(folder), f"ipc_{ipc}", split="train")
    arrays = images.with_format("numpy")
    values = {name: arrays[name][:] for name in images.column_names if name not in ("image", "tiles")}
    first = np.asarray(images[0]["image"])
    channels = 1 if first.ndim == 2 else 3
    return {**values, "pixels": to_pixels(images["image"][:], len(first), channels), "tiles": images["tiles"][:]}
