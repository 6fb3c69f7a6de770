"""Runs that end in the middle of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch


class PowerCut(Exception):
    """Stands for a process that ends in the middle of a step."""


def cut_power(patch: pytest.MonkeyPatch, step: int, of: type = torch.optim.AdamW, method: str = "step") -> None:
    """Raises `PowerCut` at a call of an optimiser's step, or of another method, counted from 0."""
    taken, original = [0], getattr(of, method)

    def cut(self: Any, *args: Any, **kwargs: Any) -> Any:
        if taken[0] == step:
            raise PowerCut
        taken[0] += 1
        return original(self, *args, **kwargs)

    patch.setattr(of, method, cut)
