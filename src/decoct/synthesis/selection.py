"""From scores to chosen tiles: pure functions of the processor's columns and the teacher's features."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

__all__ = [
    "Selected",
    "coverage",
    "draw_candidates",
    "gradient_directions",
    "herding",
    "k_center",
    "k_means",
    "regression",
    "select_class",
    "select_jointly",
    "sort_keys",
]

TOGETHER = 50  # classes that `regression` looks at together
STARTS = 10  # k-means++ starts of which the clustering with the least inertia is kept


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
    selection: Literal["top", "random", "herding", "k_center", "k_means", "coverage"],
    pool_factor: float,
    pool_share: float = 1.0,
    coverage_noise: float = 0.1,
    seed: int = 0,
    draw: np.ndarray | None = None,
    ties_by_draw: bool = False,
) -> Selected:
    """The `count` tiles of one class: its best crop of each image, then the best or the most diverse images.

    Args:
        utility: `(candidates, crops)`, the scores, of at least `count` candidates.
        features_of: Teacher features `(rows, width)` for the given rows and the crop of each; all selections but `top`
            ask for those of their pool.
        count: Tiles to take, one per candidate.
        pool_factor: Those of `herding`, `k_center` and `k_means` come from the best `pool_factor * count` images; 0:
            from all.
        pool_share: Those of `coverage` come from this share of all images, the best ones, and at least `count`.
        coverage_noise: See `coverage`.
        seed: Of the starts of `k_means`.
        draw: `(candidates,)`, a random order of the images: `random` takes the first ones.
        ties_by_draw: Of images with equal scores the first one of `draw` goes first, and not that of the lower row.
    """
    keys = sort_keys(utility, order, quantile)
    crops = keys.argmin(1)
    draw = np.arange(len(keys)) if draw is None else draw
    ranked = ranking(keys, draw if ties_by_draw else None)
    if selection == "random":
        rows = draw.argsort()[:count]
    elif selection == "top":
        rows = ranked[:count]
    else:
        coresets: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
            "herding": herding,
            "k_center": k_center,
            "k_means": functools.partial(k_means, seed=seed),
            "coverage": functools.partial(coverage, noise=coverage_noise),
        }
        choose, share = coresets[selection], pool_size(len(ranked), count, pool_share)
        size = share if selection == "coverage" else math.ceil(pool_factor * count) or len(ranked)
        pool = ranked[:size]
        rows = pool[choose(features_of(pool, crops[pool]), count)]
    return Selected(rows, crops[rows])


def select_jointly(
    utilities: Sequence[np.ndarray],
    outputs_of: Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    count: int,
    order: Literal["highest", "lowest", "quantile"],
    quantile: float,
    pool_share: float,
    noise: float,
) -> list[Selected]:
    """The `count` tiles of every class by `regression`: its best crop of each image, then images of all classes.

    More than `TOGETHER` classes are looked at in groups, each with the logits of its own, for time and memory grow with
    the square of the classes and more.

    Args:
        utilities: Of each class, `(candidates, crops)`, the scores, of at least `count` candidates.
        outputs_of: Teacher features and logits, `(rows, width)` and `(rows, classes)`, for a class, rows of it and the
            crop of each.
        pool_share: They come from this share of a class's images, the best ones, and at least `count`.
        noise: See `regression`.
    """
    selected = []
    for first in range(0, len(utilities), TOGETHER):
        group = range(first, min(first + TOGETHER, len(utilities)))
        pools, crops, outputs = [], [], []
        for label in group:
            keys = sort_keys(utilities[label], order, quantile)
            crops.append(keys.argmin(1))
            pools.append(ranking(keys)[: pool_size(len(keys), count, pool_share)])
            outputs.append(outputs_of(label, pools[-1], crops[-1][pools[-1]]))
        features, logits = (np.concatenate(each) for each in zip(*outputs, strict=True))
        sizes = [len(pool) for pool in pools]
        taken = regression(features, logits[:, group], np.repeat(np.arange(len(pools)), sizes), count, noise)
        firsts = np.cumsum([0, *sizes])[:-1]
        rows = [pool[taken[:, place] - firsts[place]] for place, pool in enumerate(pools)]
        selected += [Selected(each, crop[each]) for each, crop in zip(rows, crops, strict=True)]
    return selected


def ranking(keys: np.ndarray, ties: np.ndarray | None = None) -> np.ndarray:
    """A class's images by the best key of each, best first; of equal ones the first of `ties` or the lower row."""
    return np.lexsort((np.arange(len(keys)) if ties is None else ties, keys.min(1)))


def pool_size(candidates: int, count: int, share: float) -> int:
    """How many of a class's candidates are chosen from: a share, and at least as many as are taken."""
    return max(count, math.ceil(share * candidates))


# Coresets over features: which rows to take, in order. Shorter prefixes of the greedy ones, all but k-means, are
# coresets too.


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


def coverage(features: np.ndarray, count: int, noise: float = 0.1) -> np.ndarray:
    """Rows each of which most reduces the variance that a Gaussian process leaves over all rows, given those before.

    Its kernel is the cosine of two rows. With K the posterior covariance, the gain of row j is sum_i K_ij^2 / (K_jj +
    noise), and taking it leaves K - k_j k_j' / (K_jj + noise) (A-optimal design; Krause, Singh and Guestrin, JMLR 9,
    2008, compare such criteria). K itself is never formed: |k_j|^2 and K_jj are followed for all rows, and a column is
    made when its row is taken, so that memory is that of the features and of `count` columns, and time
    `count * rows * width`.

    Args:
        features: `(rows, width)`.
        count: Rows to take, at most all.
        noise: Variance of the noise, positive; the kernel's is 1.

    Returns:
        `(count,)` int64; a tie goes to the lower row.
    """
    features = features.astype(np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    # Several threads would sum in an order that changes from run to run and from process to process.
    with threadpool_limits(1):
        scatter = features.T @ features
        squares = np.einsum("ij,ij->i", features @ scatter, features)  # |k_j|^2
        variances = np.einsum("ij,ij->i", features, features)  # K_jj
        columns = np.zeros((count, len(features)))  # K is the cosine less the products of these with themselves
        taken: list[int] = []
        for step in range(count):
            gains = squares / (variances + noise)
            gains[taken] = -np.inf
            row = int(gains.argmax())
            column = features @ features[row] - columns[:step].T @ columns[:step, row]
            column /= math.sqrt(variances[row] + noise)
            product = features @ (features.T @ column) - columns[:step].T @ (columns[:step] @ column)  # K column
            squares += column * (column * (column @ column) - 2 * product)
            variances -= column**2
            columns[step] = column
            taken.append(row)
    return np.array(taken, dtype=np.int64)


def gradient_directions(features: np.ndarray, logits: np.ndarray, label: int) -> np.ndarray:
    """Rows whose cosines are those of the gradients of the cross-entropy in the last layer's weights.

    The gradient of a row is the outer product of its error, softmax less label, and its features (InfoUtil, Definition
    3), so that the cosine of two is the product of the cosines of both. Time is `rows^3` and memory `rows^2`.

    Args:
        features: `(rows, width)`.
        logits: `(rows, classes)`.
        label: Class of all rows.

    Returns:
        `(rows, rows)` float64, a Cholesky factor of the cosines.
    """
    errors = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    errors /= errors.sum(1, keepdims=True)
    errors[:, label] = 0
    errors[:, label] = -errors.sum(1)  # as p - 1, without its rounding
    with threadpool_limits(1):  # as in `coverage`
        cosines = np.ones((len(features), len(features)))
        for vectors in (errors, features.astype(np.float64)):
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
            cosines *= vectors @ vectors.T
        cosines.flat[:: len(features) + 1] += 1e-9  # equal rows would leave no factor
        return np.linalg.cholesky(cosines)


def regression(
    features: np.ndarray, targets: np.ndarray, labels: np.ndarray, count: int, noise: float = 0.1
) -> np.ndarray:
    """Rows of all classes from which a regression on the features best predicts the targets of all rows.

    The regression is the posterior mean of a Gaussian process whose kernel is the cosine of two rows. Each row taken is
    the one that most lowers the squared error over all rows, given those before. With K the posterior covariance, R
    what the mean leaves of the targets and d = K_jj + noise, row j lowers it by 2 (K R)_j R_j' / d - |k_j|^2 |R_j|^2 /
    d^2, and taking it leaves R - k_j R_j / d and K - k_j k_j' / d. K is never formed: memory is that of the features,
    twice that of the targets and `width^2`, and time `classes * count * rows * (width + targets)`.

    Args:
        features: `(rows, width)`.
        targets: `(rows, outputs)`, such as the teacher's logits; the mean of a row's is taken off.
        labels: `(rows,)` class of each, each class with at least `count` rows.
        count: Rows to take of each class.
        noise: Variance of the noise, positive; the kernel's is 1.

    Returns:
        `(count, classes)` int64: the first row of each class, by its label, then the second ones; a tie goes to the
        lower row. A smaller count takes the same first ones.
    """
    features = features.astype(np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    left = targets.astype(np.float64)
    left -= left.mean(1, keepdims=True)
    known, classes = np.unique(labels, return_inverse=True)
    # Several threads would sum in an order that changes from run to run and from process to process.
    with threadpool_limits(1):
        covariance = np.eye(features.shape[1])  # of the weights; K is that of their predictions
        predicted = features @ (features.T @ left)  # K R
        squares = np.einsum("ij,ij->i", features @ (features.T @ features), features)  # |k_j|^2
        variances = np.einsum("ij,ij->i", features, features)  # K_jj
        taken = np.full((count, len(known)), -1)
        free = np.ones(len(features), dtype=bool)
        for turn in range(count):
            waiting = np.ones(len(known), dtype=bool)
            for _ in known:
                scale = variances + noise
                gains = 2 * np.einsum("ij,ij->i", predicted, left) / scale
                gains -= squares * np.einsum("ij,ij->i", left, left) / scale**2
                row = int(np.where(free & waiting[classes], gains, -np.inf).argmax())
                weights = covariance @ features[row] / math.sqrt(scale[row])
                column, rest = features @ weights, left[row] / math.sqrt(scale[row])
                product = features @ (covariance @ (features.T @ column))  # K column
                length = column @ column
                predicted -= np.outer(product, rest) + np.outer(column, column @ left - length * rest)
                left -= np.outer(column, rest)
                squares += column * (column * length - 2 * product)
                variances -= column**2
                covariance -= np.outer(weights, weights)
                taken[turn, classes[row]], free[row], waiting[classes[row]] = row, False, False
    return taken


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
