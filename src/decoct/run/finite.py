"""Numbers that are not finite stop a run where they arise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["require_finite"]


def require_finite(values: Tensor, what: str, place_of: Callable[[int], str], half: bool = False) -> Tensor:
    """The values as they are.

    Args:
        values: `(items, ...)`.
        what: Of the values, plural.
        place_of: What the i-th item is: its image and class, for the message.
        half: They will be stored as float16, whose largest number is 65,504.

    Raises:
        ValueError: If one is NaN or infinite, or would be as float16; the first item with one is named.
    """
    kept = values.to(torch.float16) if half else values
    usable = torch.isfinite(kept).flatten(1).all(dim=1) if kept.ndim > 1 else torch.isfinite(kept)
    if bool(usable.all()):
        return values
    wrong = torch.nonzero(~usable).flatten().tolist()
    found = values[wrong[0]].flatten()
    number = float(found[~torch.isfinite(kept[wrong[0]].flatten())][0])
    limit = " and at most 65,504, to be stored in half precision" if half else ""
    raise ValueError(
        f"{what[0].upper()}{what[1:]} must be finite{limit}. Got {number:g} for {place_of(wrong[0])}, the first of "
        f"{len(wrong)} among {len(values)}. Compute with --mixed_precision no, or look at the weights of the network."
    )
