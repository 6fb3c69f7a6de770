"""Mixed precision by name, and the memory layout that goes with it."""

from __future__ import annotations

import time

import torch
from torch import nn

__all__ = ["autocast", "convolution_layout", "lay_out", "times_fp32"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """Autocast context of `no`, `bf16` or `fp16` on a device; `no` changes nothing.

    Raises:
        ValueError: If the precision has another name.
    """
    if mixed_precision not in ("no", *DTYPES):
        raise ValueError(f"mixed_precision must be one of ['no', 'bf16', 'fp16']. Got {mixed_precision!r}.")
    return torch.autocast(device.type, DTYPES.get(mixed_precision, torch.bfloat16), enabled=mixed_precision in DTYPES)


def convolution_layout(network: nn.Module) -> torch.memory_format:
    """Channels last, in which convolutions are fastest; rows first where that would destroy memory.

    Without AVX-512, PyTorch 2.13's gradient of a strided 1x1 convolution of fewer than 8 channels writes where it must
    not.
    """
    narrow = any(
        isinstance(each, nn.Conv2d) and each.kernel_size == (1, 1) and each.stride != (1, 1) and each.in_channels < 8
        for each in network.modules()
    )
    broken = narrow and torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")
    return torch.contiguous_format if broken else torch.channels_last


def lay_out(network: nn.Module, device: torch.device) -> None:
    """Moves a network to a device, in place; on a GPU with the channels last, as its convolutions are fastest."""
    network.to(device)
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def times_fp32(device: torch.device, mixed_precision: str) -> float:
    """How many times as long as fp32 a matrix product takes in a precision, on a processor; the best of a few each.

    Processors without instructions for bf16 or fp16 take tens of times as long, those with them half as long.
    """
    matrix = torch.ones(128, 128, device=device)

    def seconds(dtype: torch.dtype) -> float:
        cast, taken = matrix.to(dtype), []
        for _ in range(5):
            start = time.perf_counter()
            cast @ cast
            taken.append(time.perf_counter() - start)
        return min(taken)

    return seconds(DTYPES[mixed_precision]) / seconds(torch.float32)
