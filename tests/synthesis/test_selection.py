"""Candidates, scores and coresets, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from decoct.run.seeding import numpy_generator
from decoct.synthesis import selection
from decoct.synthesis.selection import (
    coverage,
    draw_candidates,
    gradient_directions,
    herding,
    k_center,
    k_means,
    regression,
    select_class,
    select_jointly,
    sort_keys,
)
from decoct.synthesis.tiles import SelectionSettings, select_tiles


def features(rows: int = 30, width: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def no_features(rows: np.ndarray, crops: np.ndarray) -> np.ndarray:
    raise AssertionError("selection by score alone must not read features")


@pytest.mark.parametrize("seed", range(4))
def test_herding_takes_what_brings_the_running_mean_closest(seed):
    points = features(seed=seed)
    mean, expected = points.mean(0), []
    for _ in range(12):
        rest = [row for row in range(len(points)) if row not in expected]
        distance = [np.linalg.norm(points[[*expected, row]].mean(0) - mean) for row in rest]
        expected.append(rest[int(np.argmin(distance))])
    assert herding(points, 12).tolist() == expected
    assert sorted(herding(points, 30)) == list(range(30))


@pytest.mark.parametrize("seed", range(4))
def test_k_center_takes_what_is_farthest_from_those_taken(seed):
    points = features(seed=seed)
    expected = [int(np.linalg.norm(points - points.mean(0), axis=1).argmin())]
    while len(expected) < 12:
        nearest = [min(np.linalg.norm(point - points[row]) for row in expected) for point in points]
        nearest = [-1.0 if row in expected else distance for row, distance in enumerate(nearest)]
        expected.append(int(np.argmax(nearest)))
    assert k_center(points, 12).tolist() == expected
    assert sorted(k_center(points, 30)) == list(range(30))


@pytest.mark.parametrize("noise", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize(("rows", "width"), [(40, 6), (60, 90), (20, 2)])
def test_coverage_takes_what_leaves_the_least_variance(rows, width, noise):
    points = np.random.default_rng([rows, width]).normal(size=(rows, width))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    covariance, expected = unit @ unit.T, []

    def given(row):
        column = covariance[:, row]
        return covariance - np.outer(column, column) / (column[row] + noise)

    while len(expected) < 12:
        left = [np.inf if row in expected else np.trace(given(row)) for row in range(rows)]
        expected.append(int(np.argmin(left)))
        covariance = given(expected[-1])
    assert coverage(points, 12, noise).tolist() == expected
    assert sorted(coverage(points, rows, noise)) == list(range(rows))


def test_the_length_of_a_feature_does_not_matter_to_coverage():
    points = features()
    assert coverage(points * np.arange(1, 31)[:, None], 8).tolist() == coverage(points, 8).tolist()
    assert coverage(np.zeros((3, 2)), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_directions_of_gradients_are_those_of_the_last_layers_weights(scale):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    weights = (scale * torch.randn(4, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    gradients = []
    for row in features:
        loss = F.cross_entropy((weights @ row)[None], torch.tensor([2]))
        gradients.append(torch.autograd.grad(loss, weights)[0].flatten())
    directions = gradient_directions(features.numpy(), (features @ weights.T).detach().numpy(), 2)
    expected = torch.stack(gradients)
    known = expected.norm(dim=1) > 1e-8  # PyTorch's p - 1 of surer rows is rounding
    expected = F.normalize(expected[known], dim=1)
    cosines = torch.from_numpy(directions @ directions.T)[known][:, known]
    assert known.sum() > 4
    torch.testing.assert_close(cosines, expected @ expected.T, rtol=0, atol=1e-6)


def test_rows_that_are_equal_or_sure_have_directions_too():
    points, sure = features()[[0, 0, 1]], np.array([[0.0, 2000.0], [0.0, 2000.0], [0.0, 1.0]])
    directions = gradient_directions(points, sure, 1)
    assert np.isfinite(directions).all() and sorted(coverage(directions, 3)) == [0, 1, 2]


@pytest.mark.parametrize(("share", "pool"), [(1.0, 20), (0.5, 10), (0.01, 4)])
def test_coverage_chooses_from_a_share_of_the_best(share, pool):
    generator = np.random.default_rng(0)
    utility, described = generator.normal(size=(20, 1)), generator.normal(size=(20, 1, 4))
    chosen = select_class(
        utility, lambda rows, crops: described[rows, crops], 4, "lowest", 0.5, "coverage", 3.0, pool_share=share
    )
    best = np.argsort(utility[:, 0])[:pool]
    assert chosen.rows.tolist() == best[coverage(described[best, 0], 4)].tolist()


def regression_error(points: np.ndarray, targets: np.ndarray, rows: list[int], noise: float) -> float:
    """Squared error over all points of the regression on some of them, solved at once."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    centred = targets - targets.mean(1, keepdims=True)
    kernel = unit @ unit[rows].T
    solved = np.linalg.solve(kernel[rows] + noise * np.eye(len(rows)), centred[rows])
    return float(((centred - kernel @ solved) ** 2).sum())


@pytest.mark.parametrize("noise", [1e-2, 0.1, 1.0])
@pytest.mark.parametrize(("rows", "width"), [(30, 6), (24, 40)])
def test_regression_takes_what_predicts_the_targets_of_all_best(rows, width, noise):
    generator = np.random.default_rng([rows, width])
    points, targets = generator.normal(size=(rows, width)), generator.normal(size=(rows, 4))
    labels = generator.permutation(np.arange(rows) % 3) * 2  # classes 0, 2 and 4
    taken: list[int] = []
    expected = np.full((4, 3), -1)
    for turn in range(4):
        while (expected[turn] < 0).any():
            errors = [
                np.inf
                if row in taken or expected[turn, labels[row] // 2] >= 0
                else regression_error(points, targets, [*taken, row], noise)
                for row in range(rows)
            ]
            taken.append(int(np.argmin(errors)))
            expected[turn, labels[taken[-1]] // 2] = taken[-1]
    found = regression(points, targets, labels, 4, noise)
    assert found.tolist() == expected.tolist()
    assert regression(points, targets, labels, 2, noise).tolist() == expected[:2].tolist()
    everything = regression(points, targets, labels, rows // 3, noise)
    assert sorted(everything.flatten()) == list(range(rows))
    assert (labels[everything] == [0, 2, 4]).all()


def test_what_all_logits_share_and_how_long_features_are_does_not_matter_to_regression():
    points, targets, labels = features(), features(width=3, seed=1), np.arange(30) % 2
    lengths, shared = np.arange(1, 31)[:, None], np.random.default_rng(2).normal(size=(30, 1))
    expected = regression(points, targets, labels, 5).tolist()
    assert regression(points * lengths, 7 * (targets + shared), labels, 5).tolist() == expected
    assert regression(np.zeros((4, 2)), np.zeros((4, 2)), np.array([0, 1, 0, 1]), 2).tolist() == [[0, 1], [2, 3]]


def test_many_classes_are_looked_at_in_groups(monkeypatch):
    """Each as if it were alone, with the logits of its classes."""
    generator = np.random.default_rng(0)
    utilities = [generator.normal(size=(count, 2)) for count in (9, 6, 8, 7, 10)]
    described = [generator.normal(size=(len(each), 2, 4)) for each in utilities]
    logits = [generator.normal(size=(len(each), 2, 5)) for each in utilities]

    def chosen(labels: list[int]) -> list[list[int]]:
        def outputs_of(place: int, rows: np.ndarray, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return described[labels[place]][rows, crops], logits[labels[place]][rows, crops][:, labels]

        found = select_jointly([utilities[each] for each in labels], outputs_of, 3, "lowest", 0.5, 0.8, 0.1)
        for label, each in zip(labels, found, strict=True):
            assert each.crops.tolist() == utilities[label].argmin(1)[each.rows].tolist()
        return [each.rows.tolist() for each in found]

    together = chosen([0, 1, 2, 3, 4])
    alone = [*chosen([0, 1]), *chosen([2, 3]), *chosen([4])]
    monkeypatch.setattr(selection, "TOGETHER", 2)
    assert chosen([0, 1, 2, 3, 4]) == alone != together


@pytest.mark.parametrize("choose", [herding, k_center, coverage])
def test_coresets_of_equal_points_and_shorter_prefixes(choose):
    assert choose(np.ones((4, 3), dtype=np.float16), 4).tolist() == [0, 1, 2, 3]
    points = features()
    assert choose(points, 5).tolist() == choose(points, 20)[:5].tolist()


def inertia(points: np.ndarray, clusters: np.ndarray) -> float:
    """Squared distances to the mean of each cluster, summed."""
    return sum(
        ((points[clusters == cluster] - points[clusters == cluster].mean(0)) ** 2).sum() for cluster in set(clusters)
    )


@pytest.mark.parametrize("seed", range(4))
def test_k_means_takes_the_row_nearest_to_each_centre_of_the_best_clustering(seed):
    points = features(rows=8, width=2, seed=seed)
    clusterings = [np.array(each) for each in itertools.product(range(3), repeat=8) if set(each) == {0, 1, 2}]
    best = min(clusterings, key=lambda clusters: inertia(points, clusters))
    expected = []
    for cluster in range(3):
        members = np.flatnonzero(best == cluster)
        distance = np.linalg.norm(points - points[members].mean(0), axis=1)
        expected.append((-len(members), int(distance.round(9).argmin())))  # two rows are as near to their mean
    assert k_means(points, 3, seed=0).tolist() == [row for _, row in sorted(expected)], "largest cluster first"


def test_k_means_follows_the_rows_and_the_seed():
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    points = np.concatenate(
        [centre + features(rows=count, width=2) for centre, count in zip(centres, (9, 5, 7, 6), strict=True)]
    )
    chosen = k_means(points, 4, seed=3)
    assert np.searchsorted([9, 14, 21, 27], chosen, side="right").tolist() == [0, 2, 3, 1]
    order = np.random.default_rng(1).permutation(len(points))
    assert order[k_means(points[order], 4, seed=3)].tolist() == chosen.tolist()
    spread = features(rows=200, width=8)
    assert k_means(spread, 40, seed=0).tolist() == k_means(spread, 40, seed=0).tolist()
    assert k_means(spread, 40, seed=0).tolist() != k_means(spread, 40, seed=1).tolist()
    assert len(set(k_means(spread, 40, seed=0))) == 40


def test_k_means_of_equal_rows_and_of_all_rows():
    assert sorted(k_means(np.ones((4, 3), dtype=np.float16), 3, seed=0)) == [0, 1, 2]
    points = features(rows=6)
    assert sorted(k_means(points, 6, seed=0)) == list(range(6))
    assert k_means(points, 1, seed=0).tolist() == [np.linalg.norm(points - points.mean(0), axis=1).argmin()]
    twice = np.array([[0.0], [0.0], [9.0]])
    assert sorted(k_means(twice, 3, seed=0)) == [0, 1, 2], "centres that share a row"


def test_candidates_are_drawn_per_class_and_sorted():
    labels = np.random.default_rng(0).integers(0, 3, 100)

    def draw(limit: int | None, seed: int = 0) -> np.ndarray:
        return draw_candidates(labels, 3, limit, [numpy_generator(seed, "candidates", label) for label in range(3)])

    rows = draw(10)
    assert labels[rows].tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert len(set(rows)) == 30
    assert all((np.diff(rows[labels[rows] == label]) > 0).all() for label in range(3))
    assert rows.tolist() == draw(10).tolist() != draw(10, seed=1).tolist()
    everything = np.concatenate([np.flatnonzero(labels == label) for label in range(3)]).tolist()
    assert draw(None).tolist() == everything == draw(1000).tolist()


def test_sort_keys():
    scores = np.array([[3.0, 1.0], [2.0, 5.0]])
    assert (sort_keys(scores, "lowest", 0.5) == scores).all()
    assert (sort_keys(scores, "highest", 0.5) == -scores).all()
    assert sort_keys(scores, "quantile", 0.5).tolist() == [[0.5, 1.5], [0.5, 2.5]]
    assert sort_keys(scores, "quantile", 1.0).tolist() == [[2, 4], [3, 0]]


UTILITY = np.array([[5.0, 1.0, 4.0], [2.0, 2.0, 3.0], [9.0, 8.0, 7.0], [0.0, 6.0, 6.5]])


@pytest.mark.parametrize(
    ("order", "quantile", "rows", "crops"),
    [
        ("highest", 0.5, [2, 3, 0, 1], [0, 2, 0, 2]),
        ("lowest", 0.5, [3, 0, 1, 2], [0, 1, 0, 2]),
        ("quantile", 0.0, [3, 0, 1, 2], [0, 1, 0, 2]),
        ("quantile", 1.0, [2, 3, 0, 1], [0, 2, 0, 2]),
        ("quantile", 0.5, [0, 1, 3, 2], [0, 2, 1, 2]),  # the median is 4.5
    ],
)
def test_the_best_crop_of_each_image_then_the_best_images(order, quantile, rows, crops):
    chosen = select_class(UTILITY, no_features, 4, order, quantile, "top", 3.0)
    assert (chosen.rows.tolist(), chosen.crops.tolist()) == (rows, crops)
    shorter = select_class(UTILITY, no_features, 2, order, quantile, "top", 3.0)
    assert shorter.rows.tolist() == chosen.rows[:2].tolist()


@pytest.mark.parametrize(("selection", "choose"), [("herding", herding), ("k_center", k_center)])
@pytest.mark.parametrize(("factor", "pool"), [(0.0, 20), (2.5, 10), (1.0, 4), (1.2, 5)])
def test_diverse_selection_chooses_from_the_best(selection, choose, factor, pool):
    generator = np.random.default_rng(0)
    utility, described = generator.normal(size=(20, 3)), generator.normal(size=(20, 3, 4))
    chosen = select_class(utility, lambda rows, crops: described[rows, crops], 4, "lowest", 0.5, selection, factor)
    best = np.argsort(utility.min(1))[:pool]
    crops = utility.argmin(1)
    expected = best[choose(described[best, crops[best]], 4)]
    assert chosen.rows.tolist() == expected.tolist()
    assert chosen.crops.tolist() == crops[expected].tolist()


@pytest.mark.parametrize(("factor", "pool"), [(0.0, 20), (2.5, 10)])
def test_k_means_chooses_from_the_best_with_its_seed(factor, pool):
    generator = np.random.default_rng(0)
    utility, described = generator.normal(size=(20, 3)), generator.normal(size=(20, 3, 4))
    best, crops = np.argsort(utility.min(1))[:pool], utility.argmin(1)
    for seed in (0, 1):
        chosen = select_class(
            utility, lambda rows, crops: described[rows, crops], 4, "lowest", 0.5, "k_means", factor, seed=seed
        )
        assert chosen.rows.tolist() == best[k_means(described[best, crops[best]], 4, seed)].tolist()
        assert chosen.crops.tolist() == crops[chosen.rows].tolist()


def test_equal_scores_go_to_the_lower_row_or_as_told():
    assert select_class(np.zeros((5, 2)), no_features, 3, "highest", 0.5, "top", 3.0).rows.tolist() == [0, 1, 2]
    counts, draw = np.array([[2.0], [7.0], [2.0], [0.0], [2.0]]), np.array([3, 0, 1, 4, 2])
    chosen = select_class(counts, no_features, 4, "highest", 0.5, "top", 3.0, draw=draw, ties_by_draw=True)
    assert chosen.rows.tolist() == [1, 2, 4, 0]


def test_another_selection_is_not_taken_for_one_of_them():
    with pytest.raises(KeyError, match="farthest"):
        select_class(UTILITY, no_features, 2, "lowest", 0.5, "farthest", 3.0)


def test_a_class_of_too_few_candidates_is_named(tmp_path):
    settings = SelectionSettings(1, "grad_norm", "lowest", 0.5, "top", 3.0, 1.0, "features", 0.1, seed=0)
    boxes = [[[0, 0, 8, 8]] * 3] * 5
    scores = {"label": [0] + [1] * 4, "source_index": [*range(5)], "boxes": boxes, "heatmap": [None] * 5}
    pq.write_table(pa.table({**scores, "utility": [[1.0, 2.0, 3.0], *UTILITY.tolist()]}), tmp_path / "scores.parquet")
    tiles = select_tiles([tmp_path / "scores.parquet"], ["cat", "dog"], 1, settings)
    assert [[(tile.row, tile.box, tile.score) for tile in each] for each in tiles] == [
        [(0, (0, 0, 8, 8), 1.0)],
        [(4, (0, 0, 8, 8), 0.0)],
    ]
    with pytest.raises(ValueError, match="Class 'cat' must have at least 2 candidates. Got 1."):
        select_tiles([tmp_path / "scores.parquet"], ["cat", "dog"], 2, settings)
