"""What can be known of an output folder before any work: that it can be written, and is nobody's input."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

__all__ = ["check_output", "require_space"]

IMAGES = ("dataset", "target_dataset", "source")
NETWORKS = ("teacher", "label_teacher", "estimator", "prior", "init", "guidance_vae", "encoder")


def check_output(config: Any) -> None:
    """Checks a configuration's `output_dir`; nothing is written.

    Raises:
        ValueError: If it is a file, cannot be written, or is one of the inputs, or lies in the images or around them.
    """
    asked = getattr(config, "output_dir", None)
    if asked is None:
        return
    if "://" in asked:
        raise ValueError(
            f"output_dir must be a folder of this machine or one that machines share. Got {asked!r}: mount it, or "
            "publish the finished run with --push_to_hub."
        )
    folder = Path(asked).resolve()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not existing.is_dir():
        raise ValueError(f"output_dir must be a folder. Got {asked}, where {existing} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir must be writable. Got {asked}, and {existing} is not.")
    for name in (*IMAGES, *NETWORKS):
        given = getattr(config, name, None)
        for value in given if isinstance(given, list) else [given]:
            if not isinstance(value, str) or not Path(value).exists():
                continue
            source = Path(value).resolve()
            around = name in IMAGES and (folder.is_relative_to(source) or source.is_relative_to(folder))
            if folder == source or around:
                raise ValueError(f"output_dir must be apart from what is read. Got {asked}, and {value} as {name}.")


def require_space(folder: Path, needed: int) -> None:
    """Raises ValueError if the disk of a folder, which need not exist, has less room than so many bytes."""
    existing = next(each for each in (folder.resolve(), *folder.resolve().parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ValueError(
            f"output_dir must have room for about {needed / 1e6:,.0f} MB. Got {folder}, whose disk has "
            f"{free / 1e6:,.0f} MB left."
        )
