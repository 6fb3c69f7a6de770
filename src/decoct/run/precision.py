"""Mixed precision by name, and the memory layout that goes with it."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["autocast", "lay_out"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """Autocast context of `no`, `bf16` or `fp16` on a device; `no` changes nothing.

    Raises:
        ValueError: If the precision has another name.
    """
    if mixed_precision not in ("no", *DTYPES):
        raise ValueError(f"mixed_precision must be one of ['no', 'bf16', 'fp16']. Got {mixed_precision!r}.")
    return torch.autocast(device.type, DTYPES.get(mixed_precision, torch.bfloat16), enabled=mixed_precision in DTYPES)


def lay_out(network: nn.Module, device: torch.device) -> None:
    """Moves a network to a device, in place; on a GPU with the channels last, as its convolutions are fastest."""
    network.to(device)
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
