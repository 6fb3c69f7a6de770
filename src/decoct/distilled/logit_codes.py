"""Logits in few bits: whole numbers with one scale a view, of all classes or of the largest alone.

A softmax, at any temperature, does not change when a number is added to all logits, so that the smallest of a view that
is stored is 0 and no offset travels. A view of C classes takes C bytes at 8 bits, half of that at 4, and 2 for its
scale.

For many classes the K largest logits of a view can be stored, with their classes and one number more, so that the
distribution is defined at any temperature:

    slot_classes   the K classes, rising, uint16
    slot_codes     their logits: code times scale, the smallest 0
    slot_rest      the logit that each of the other C - K classes has, float16, on the same scale as the decoded ones

With d the decoded logits and m the teacher's probability of the other classes together, slot_rest is

    r = log(m / (1 - m)) + log(sum_i exp(d_i)) - log(C - K)

so that (C - K) exp(r) / (sum_i exp(d_i) + (C - K) exp(r)) = m: at temperature 1 the other classes have the teacher's
mass, shared evenly. Such a view takes 3 K + 4 bytes at 8 bits, or 2.5 K + 4 at 4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "BITS",
    "code_width",
    "decode_logits",
    "encode_logits",
    "encode_top_k",
    "kept_classes",
    "spread",
]

BITS = (8, 4)
MOST_CLASSES = 2**16  # of which the largest can be stored


def code_width(logits: int, bits: int) -> int:
    """Bytes of the codes of so many logits."""
    return logits if bits == 8 else (logits + 1) // 2


def kept_classes(top_k: int, classes: int) -> int:
    """How many classes of a view are stored by themselves; 0: all, and none is named."""
    return top_k if top_k < classes else 0


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


def encode_top_k(logits: np.ndarray, bits: int, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales, classes `(..., top_k)` uint16 and rests `(...,)` float16 of the largest logits of each view.

    Of equal logits, those of the first classes are stored.

    Raises:
        ValueError: As `encode_logits`; if there are too many classes, or the other ones are too improbable for float16.
    """
    classes = logits.shape[-1]
    if not 0 < top_k < classes <= MOST_CLASSES:
        raise ValueError(f"label_top_k must be below the {classes} classes, of at most {MOST_CLASSES}. Got {top_k}.")
    order = np.argsort(-logits, axis=-1, kind="stable")
    largest = np.sort(order[..., :top_k], axis=-1)
    top = np.take_along_axis(logits, largest, axis=-1)
    codes, scales = encode_logits(top, bits)
    decoded = decode_logits(torch.from_numpy(codes), torch.from_numpy(scales), top_k, bits)
    others = np.take_along_axis(logits, order[..., top_k:], axis=-1)
    # log(m / (1 - m)), without the probabilities themselves, which can be too small to be told from 0.
    odds = torch.from_numpy(others).double().logsumexp(-1) - torch.from_numpy(top).double().logsumexp(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        rest = (odds + decoded.double().logsumexp(-1) - np.log(classes - top_k)).numpy().astype(np.float16)
    if not np.isfinite(rest).all():
        raise ValueError("logits must be finite and of a range that float16 can tell. Got others.")
    return codes, scales, largest.astype(np.uint16), rest


def decode_logits(codes: Tensor, scales: Tensor, logits: int, bits: int) -> Tensor:
    """Logits `(..., logits)` float32, the smallest of each view 0, but for what coding lost.

    Args:
        codes: `(..., code_width)` uint8.
        scales: `(...,)`.
    """
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)[..., :logits]
    return codes.float() * scales.float()[..., None]


def spread(largest: Tensor, kept: Tensor, rest: Tensor, classes: int) -> Tensor:
    """Logits `(..., classes)` of all classes, from the largest ones `(..., top_k)` and what the others have.

    Args:
        kept: `(..., top_k)`, classes of the largest logits.
        rest: `(...,)`, the logit of each other class.
    """
    logits = rest.float()[..., None].expand(*rest.shape, classes).clone()
    return logits.scatter_(-1, kept.long(), largest)
