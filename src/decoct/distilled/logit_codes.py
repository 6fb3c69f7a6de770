"""Logits in few bits: whole numbers with one scale a view.

A softmax, at any temperature, does not change when a number is added to all logits, so that the smallest of a view is
stored as 0 and no offset travels. A view of C classes takes C bytes at 8 bits, half of that at 4, and 2 for its scale.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["BITS", "code_width", "decode_logits", "encode_logits"]

BITS = (8, 4)


def code_width(classes: int, bits: int) -> int:
    """Bytes of a view's codes."""
    return classes if bits == 8 else (classes + 1) // 2


def encode_logits(logits: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes `(..., code_width)` uint8 and scales `(...,)` float16 of logits `(..., classes)`.

    A logit is off by at most half a scale, which is the range of its view's logits divided by 2^bits - 1, and by what
    the scale's 11 bits lose. At 4 bits, byte j holds the classes 2j (low half) and 2j + 1.

    Raises:
        ValueError: If `bits` is neither 8 nor 4, a logit is not finite, or a view's range is too wide for its scale.
    """
    if bits not in BITS:
        raise ValueError(f"label_bits must be one of {list(BITS)}. Got {bits}.")
    most = 2**bits - 1
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in its view's scale
        raised = logits.astype(np.float32) - logits.min(axis=-1, keepdims=True)
        # Rounded up, so that the largest code is not passed; equal logits have the code 0 at any scale.
        scales = np.nextafter((raised.max(axis=-1) / most).astype(np.float16), np.float16(np.inf))
    if not np.isfinite(scales).all():
        raise ValueError("logits must be finite and of a range that a float16 scale can tell. Got others.")
    codes = np.rint(raised / scales[..., None].astype(np.float32)).clip(0, most).astype(np.uint8)
    if bits == 4:
        if codes.shape[-1] % 2:
            codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
        codes = codes[..., ::2] | (codes[..., 1::2] << 4)
    return codes, scales


def decode_logits(codes: Tensor, scales: Tensor, classes: int, bits: int) -> Tensor:
    """Logits `(..., classes)` float32, the smallest of each view 0, but for what coding lost.

    Args:
        codes: `(..., code_width)` uint8.
        scales: `(...,)`.
    """
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)[..., :classes]
    return codes.float() * scales.float()[..., None]
