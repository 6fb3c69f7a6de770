"""Greedy coresets over features: which rows to take, in order, so that shorter prefixes are coresets too."""

from __future__ import annotations

import numpy as np

__all__ = ["herding", "k_center"]


def herding(features: np.ndarray, count: int) -> np.ndarray:
    """Rows whose running mean stays closest to the mean of all (Welling, 2009).

    Args:
        features: `(rows, width)`.
        count: Rows to take, at most all.

    Returns:
        `(count,)` int64; a tie goes to the lower row.
    """
    features = features.astype(np.float64)
    mean, total = features.mean(0), np.zeros(features.shape[1])
    norms = (features**2).sum(1)
    taken: list[int] = []
    for step in range(1, count + 1):
        # |mean - (total + x) / step|^2, without the terms that are the same for all x.
        distances = norms / step - 2 * features @ (mean - total / step)
        distances[taken] = np.inf
        taken.append(int(distances.argmin()))
        total += features[taken[-1]]
    return np.array(taken, dtype=np.int64)


def k_center(features: np.ndarray, count: int) -> np.ndarray:
    """Rows each farthest from those before (Gonzalez, 1985), starting at the row closest to the mean.

    Args:
        features: `(rows, width)`.
        count: Rows to take, at most all.

    Returns:
        `(count,)` int64; a tie goes to the lower row.
    """
    features = features.astype(np.float64)
    taken = [int(((features - features.mean(0)) ** 2).sum(1).argmin())]
    nearest = ((features - features[taken[0]]) ** 2).sum(1)
    while len(taken) < count:
        nearest[taken[-1]] = -np.inf
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((features - features[taken[-1]]) ** 2).sum(1))
    return np.array(taken, dtype=np.int64)
