"""Subsets with a chosen contextual score: the formula, what is drawn, and how far the draws reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from decoct.data.loading import load_images
from decoct.data.measuring import measure_spec
from decoct.data.pixels import to_pixels
from decoct.igds.information import class_references, contextual_scores
from decoct.igds.measuring import Embedded
from decoct.igds.subsets import ScoredImages, distilled_set, sampling_weights, score_images

NAMES = ["a", "b"]


def scored(count: int = 400, seed: int = 0, spread: float = 0.2) -> ScoredImages:
    """Two classes in turn, normally distributed scores, every fifth image misclassified."""
    generator = torch.Generator().manual_seed(seed)
    scores = 1 + spread * torch.randn(count, generator=generator, dtype=torch.float64)
    scores[::5] = torch.nan
    return ScoredImages(scores, torch.arange(count) % 2, NAMES)


@pytest.mark.parametrize("sharpness", [1.0, 30.0])
def test_the_weights_are_the_formula(sharpness):
    scores = [0.1, 0.4, 0.9]
    weights = [math.exp(-sharpness * (score - 0.5) ** 2) for score in scores]
    expected = [weight / sum(weights) for weight in weights]
    assert sampling_weights(torch.tensor(scores).double(), 0.5, sharpness).tolist() == pytest.approx(expected)


def test_single_draws_follow_the_weights():
    scores = torch.tensor([0.0, 0.3, 0.6, 1.2], dtype=torch.float64)
    images = ScoredImages(scores, torch.zeros(4, dtype=torch.int64), ["a"])
    draws = 4000
    counts = np.bincount([int(images.draw(1, 0.5, 5.0, seed=seed)) for seed in range(draws)], minlength=4)
    expected = sampling_weights(scores, 0.5, 5.0).numpy()
    errors = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) < 4.5 * errors).all()


def test_second_draws_follow_the_weights_of_what_is_left():
    scores = torch.tensor([0.0, 0.3, 0.6, 1.2], dtype=torch.float64)
    images = ScoredImages(scores, torch.zeros(4, dtype=torch.int64), ["a"])
    draws = 4000
    counts = np.zeros((4, 4))
    for seed in range(draws):
        first, second = images.draw(2, 0.5, 5.0, seed=seed).tolist()
        counts[first, second] += 1
    weights = sampling_weights(scores, 0.5, 5.0).numpy()
    expected = weights[:, None] * weights / (1 - weights[:, None]) * (1 - np.eye(4))
    errors = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) <= 4.5 * errors).all()


def test_only_correctly_classified_images_of_every_class_once():
    images = scored()
    rows = images.draw(30, 1.1, 10.0)
    assert rows.shape == (60,)
    assert images.labels[rows].tolist() == [0] * 30 + [1] * 30
    assert not images.scores[rows].isnan().any()
    assert len(rows.unique()) == 60


def test_draws_depend_on_seed_class_and_target_alone():
    images = scored()
    rows = images.draw(10, 1.1, 10.0, seed=3, number=2)
    assert torch.equal(rows, images.draw(10, 1.1, 10.0, seed=3, number=2))
    assert not torch.equal(rows, images.draw(10, 1.1, 10.0, seed=4, number=2))
    assert not torch.equal(rows, images.draw(10, 1.1, 10.0, seed=3, number=1))
    smaller = images.draw(4, 1.1, 10.0, seed=3, number=2)
    assert torch.equal(smaller, torch.cat([rows[:4], rows[10:14]]))


def test_all_of_a_class_can_be_drawn_and_no_more():
    images = scored(20)  # class a has 8 correct images, class b has 8
    assert sorted(images.draw(8, 1.0).tolist()) == torch.nonzero(~images.scores.isnan()).flatten().tolist()
    few = ScoredImages(images.scores[:17], images.labels[:17], NAMES)
    with pytest.raises(ValueError, match=r"at least 7 images that the estimator classifies correctly.* b \(6\)\."):
        few.draw(7, 1.0)
    with pytest.raises(ValueError, match=r"a \(8\), b \(8\)"):
        images.draw(9, 1.0)


def test_targets_are_evenly_spread_percentiles():
    images = ScoredImages(torch.arange(101, dtype=torch.float64), torch.zeros(101, dtype=torch.int64), ["a"])
    assert images.targets(4) == pytest.approx([5, 35, 65, 95])
    assert scored().targets(2)[1] < np.nanmax(scored().scores.numpy())


def test_the_papers_weights_hardly_move_the_scores_and_sharper_ones_do():
    images = scored(4000, spread=0.2)
    targets = images.targets(5)
    suggested = images.suggested_sharpness()
    assert suggested == pytest.approx(1 / (2 * 0.2**2), rel=0.1)
    # Normal scores with variance v: 2sv / (1 + 2sv) of the way.
    assert images.reach(targets) == pytest.approx(0.08 / 1.08, abs=0.02)
    assert images.reach(targets, suggested) == pytest.approx(0.5, abs=0.05)
    assert images.reach(targets, 100 * suggested) > 0.95
    drawn = images.scores[images.draw(200, targets[4], suggested)].mean()
    assert float(drawn) == pytest.approx(images.expected(targets[4], suggested), abs=0.05)


def test_the_sharpest_draws_are_the_nearest_scores():
    images = scored(100)
    rows = images.draw(20, 1.0, sharpness=1e9)
    for label, chosen in enumerate(rows.split(20)):
        members = images.members(label)
        distances = (images.scores[members] - 1.0).abs()
        assert set(chosen.tolist()) == set(members[distances.argsort()[:20]].tolist())


def test_equal_scores_reach_nowhere():
    images = ScoredImages(torch.ones(10, dtype=torch.float64), torch.arange(10) % 2, NAMES)
    assert images.reach(images.targets(3)) == 0
    assert images.expected(1.0) == pytest.approx(1)


def test_scores_are_those_against_the_means_of_the_correct_images():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(12, 8, generator=generator), dim=1)
    labels = torch.arange(12) % 2
    logits = torch.nn.functional.one_hot(labels, 2).float()
    logits[[1, 4]] = logits[[1, 4]].flip(1)
    images = score_images(Embedded(embeddings, logits, labels), 0.2, NAMES)
    assert torch.nonzero(images.scores.isnan()).flatten().tolist() == [1, 4]
    right = ~images.scores.isnan()
    means = class_references(embeddings[right], labels[right], 0.2, 2)
    expected = contextual_scores(embeddings[right], labels[right], 0.2, means)
    assert torch.allclose(images.scores[right], expected)
    wrong = score_images(Embedded(embeddings, -torch.nn.functional.one_hot(labels).float(), labels), 0.2, NAMES)
    with pytest.raises(ValueError, match=r"a \(0\), b \(0\)"):
        wrong.require(1)


def test_a_subset_as_a_set_to_train_on(sample_part):
    images = load_images(str(sample_part), "train")
    spec = measure_spec(images)
    labels = torch.tensor(images["label"][:])
    rows = torch.cat([torch.nonzero(labels == label).flatten()[2:5] for label in range(4)])
    subset = distilled_set(images, rows, spec)
    assert (subset.ipc, len(subset), subset.tiles_per_image) == (3, 12, 1)
    assert subset.spec == spec
    assert torch.equal(subset.labels, labels[rows])
    expected = to_pixels(images.select(rows.tolist())["image"][:], spec.image_size, spec.channels)
    assert torch.equal(subset.images, expected)
    with pytest.raises(ValueError, match="stores no views"):
        subset.check_labels("views")
