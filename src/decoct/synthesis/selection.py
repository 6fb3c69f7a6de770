"""From scores to chosen tiles: a pure function of the processor's columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from decoct.synthesis.coresets import herding, k_center, k_means

__all__ = ["Selected", "draw_candidates", "select_class", "sort_keys"]


@dataclass(frozen=True)
class Selected:
    """The tiles of one class, best first: rows of the class's candidates, and the crop each row shows."""

    rows: np.ndarray
    crops: np.ndarray


def draw_candidates(
    labels: np.ndarray, classes: int, per_class: int | None, generators: list[np.random.Generator]
) -> np.ndarray:
    """Rows of the candidates, class by class and sorted within: at most `per_class` of each, all different."""
    rows = []
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        if per_class is not None and len(members) > per_class:
            members = np.sort(generators[label].choice(members, per_class, replace=False))
        rows.append(members)
    return np.concatenate(rows)


def sort_keys(utility: np.ndarray, order: Literal["highest", "lowest", "quantile"], quantile: float) -> np.ndarray:
    """Keys of the same shape, smallest first: minus the score, the score, or its distance to the class's quantile."""
    if order == "highest":
        return -utility
    if order == "lowest":
        return utility
    return np.abs(utility - np.quantile(utility, quantile))


def select_class(
    utility: np.ndarray,
    features_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    count: int,
    order: Literal["highest", "lowest", "quantile"],
    quantile: float,
    selection: Literal["top", "herding", "k_center", "k_means"],
    pool_factor: float,
    seed: int = 0,
    tie_break: np.ndarray | None = None,
) -> Selected:
    """The `count` tiles of one class: its best crop of each image, then the best or the most diverse images.

    Args:
        utility: `(candidates, crops)`, the scores.
        features_of: Teacher features `(rows, width)` for the given rows and the crop of each; `herding`, `k_center`
            and `k_means` ask for those of their pool.
        count: Tiles to take, at most one per candidate.
        pool_factor: The diverse ones come from the best `pool_factor * count` images; 0: from all.
        seed: Of the starts of `k_means`.
        tie_break: `(candidates,)`; of images with equal scores the one with the lower value goes first. Default: the
            lower row.

    Raises:
        ValueError: If there are fewer candidates than tiles.
    """
    if len(utility) < count:
        raise ValueError(f"a class must have at least {count} candidates. Got {len(utility)}.")
    keys = sort_keys(utility, order, quantile)
    crops = keys.argmin(1)
    ranked = np.lexsort((np.arange(len(keys)) if tie_break is None else tie_break, keys.min(1)))
    if selection == "top":
        rows = ranked[:count]
    else:
        pool = ranked[: math.ceil(pool_factor * count)] if pool_factor else ranked
        features = features_of(pool, crops[pool])
        if selection == "k_means":
            chosen = k_means(features, count, seed)
        else:
            chosen = (herding if selection == "herding" else k_center)(features, count)
        rows = pool[chosen]
    return Selected(rows, crops[rows])
