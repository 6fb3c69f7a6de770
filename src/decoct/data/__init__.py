"""Real images in: loading and checking them, their spec, and their pixels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from decoct.data.spec import ImageSpec

if TYPE_CHECKING:
    from decoct.data.loading import (
        check_label_names,
        class_counts,
        eval_split_name,
        load_images,
        require_class_count,
        unreadable_rows,
    )
    from decoct.data.measuring import measure_spec
    from decoct.data.tensors import PixelDataset

__all__ = [
    "ImageSpec",
    "PixelDataset",
    "check_label_names",
    "class_counts",
    "eval_split_name",
    "load_images",
    "measure_spec",
    "require_class_count",
    "unreadable_rows",
]


def __getattr__(name: str) -> Any:
    """Imports torch and datasets only when a name that needs them is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "tensors" if name == "PixelDataset" else "loading"
    return getattr(importlib.import_module(f"decoct.data.{module}"), name)
