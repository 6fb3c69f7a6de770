"""Mixed precision by name."""

from __future__ import annotations

import torch

__all__ = ["autocast"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """Autocast context of `no`, `bf16` or `fp16` on a device; `no` changes nothing.

    Raises:
        ValueError: If the precision has another name.
    """
    if mixed_precision not in ("no", *DTYPES):
        raise ValueError(f"mixed_precision must be one of ['no', 'bf16', 'fp16']. Got {mixed_precision!r}.")
    return torch.autocast(device.type, DTYPES.get(mixed_precision, torch.bfloat16), enabled=mixed_precision in DTYPES)
