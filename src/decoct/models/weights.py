"""Whether the weights of a checkpoint are all there and usable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["UNLOADABLE", "check_finite", "check_loaded"]

SHOWN = 3  # tensors that an error names
# What transformers and diffusers raise for files that are not as they expect, beside the ValueErrors that say it.
UNLOADABLE = (OSError, TypeError, AttributeError, LookupError, RuntimeError, RecursionError, MemoryError)


def check_loaded(info: Mapping[str, Any], where: str) -> None:
    """Raises ValueError unless a checkpoint had exactly the tensors of its network, in their shapes.

    Args:
        info: What `from_pretrained(..., output_loading_info=True)` returns beside the network.
        where: The checkpoint, for the message.
    """
    for key, what in (
        ("missing_keys", "all weights of its network, or they would be random"),
        ("unexpected_keys", "no weights that its network does not have"),
        ("mismatched_keys", "weights in the shapes of its network"),
    ):
        names = sorted(str(each[0] if isinstance(each, tuple | list) else each) for each in info.get(key) or ())
        if names:
            rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            kind = key.removesuffix("_keys")
            raise ValueError(f"{where} must hold {what}. Got {kind}: {', '.join(names[:SHOWN])}{rest}.")


def check_finite(network: nn.Module, where: str) -> None:
    """Raises ValueError for a weight or buffer that was not loaded, or that is NaN or infinite; it is named."""
    for name, tensor in network.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{where} must hold all weights of its network. Got none for {name}.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{where} must hold finite weights. Got NaN or infinite values in {name}.")
