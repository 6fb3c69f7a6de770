"""Coresets over features: which rows to take, in order.

Shorter prefixes of the greedy ones, herding and k-center, are coresets too.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

__all__ = ["herding", "k_center", "k_means"]

STARTS = 10  # k-means++ starts of which the clustering with the least inertia is kept


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


def k_means(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Of each of `count` clusters by k-means (Lloyd, 1982) the row nearest to the centre, largest cluster first.

    Clusters of equal size go by their nearest row. A centre whose nearest row is taken has the nearest one left.

    Args:
        features: `(rows, width)`.
        count: Clusters, at most as many as rows.
        seed: Of the starts, in [0, 2^32).

    Returns:
        `(count,)` int64, all different; a tie goes to the lower row.
    """
    features = features.astype(np.float64)
    # Several threads would sum in an order that changes from run to run and from process to process.
    with threadpool_limits(1), warnings.catch_warnings():
        # Of equal rows there are fewer clusters than centres; the loop below finds each centre a row.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(count, n_init=STARTS, random_state=seed).fit(features)
        distances = np.stack([((features - centre) ** 2).sum(1) for centre in found.cluster_centers_])
    sizes = np.bincount(found.labels_, minlength=count)
    taken: list[int] = []
    closest = np.array([nearest_row(each) for each in distances])
    for cluster in np.lexsort((closest, -sizes)):
        distances[cluster, taken] = np.inf
        taken.append(nearest_row(distances[cluster]))
    return np.array(taken, dtype=np.int64)


def nearest_row(distances: np.ndarray) -> int:
    """The first row of the smallest distance, up to rounding: both rows of a cluster of two are as near."""
    return int(np.flatnonzero(distances <= distances.min() * (1 + 1e-9))[0])
