"""The precision that a machine is fastest in."""

from __future__ import annotations

import glob
import os
from typing import Literal

__all__ = ["default_precision"]

GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd")  # of NVIDIA, of Windows' Linux, of AMD


def default_precision() -> Literal["no", "bf16"]:
    """`bf16` on a GPU that computes in it, else `no`; torch, slow to import, is asked only where there is a GPU."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if on_cpu or not any(glob.glob(pattern) for pattern in GPU_FILES):
        return "no"
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
