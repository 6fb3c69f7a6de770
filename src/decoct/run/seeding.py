"""One random generator per item, so that results do not depend on batch size, worker or process count."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["item_seed", "numpy_generator", "seeded", "torch_generator"]


def item_seed(run_seed: int, stage: str, *item: int | str) -> int:
    """A 63-bit seed for one item of one stage of a run; equal arguments give equal seeds on every machine."""
    text = "/".join([str(run_seed), stage, *map(str, item)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(run_seed: int, stage: str, *item: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `item_seed`."""
    return np.random.default_rng(item_seed(run_seed, stage, *item))


def torch_generator(run_seed: int, stage: str, *item: int | str) -> torch.Generator:
    """A CPU torch generator seeded by `item_seed`."""
    import torch

    return torch.Generator().manual_seed(item_seed(run_seed, stage, *item))


@contextlib.contextmanager
def seeded(run_seed: int, stage: str, *item: int | str) -> Iterator[None]:
    """Seeds torch's global generator for a library that knows no other, and restores it afterwards."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(item_seed(run_seed, stage, *item))
        yield
