"""Linear and nearest-neighbour classifiers on features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from worlds import spec_of

from decoct.igds import probe
from decoct.igds.loading import build_estimator
from decoct.igds.probe import classifier_rank, extract_features, fit_linear_classifier, full_rank, knn_accuracy


def clusters(classes: int, per_class: int = 30, width: int = 5, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Features around one centre per class, on very different scales and far from 0; labels in order."""
    generator = np.random.default_rng(0)
    centres = 3 * generator.normal(size=(classes, width))
    labels = np.repeat(np.arange(classes), per_class)
    features = centres[labels] + spread * generator.normal(size=(len(labels), width))
    return (features * np.logspace(-2, 2, width) + 7).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_separable_labels_are_recovered(classes):
    features, labels = clusters(classes)
    weight, bias = fit_linear_classifier(features, labels, classes)
    assert (weight.shape, bias.shape) == ((classes, 5), (classes,))
    predicted = (torch.from_numpy(features) @ weight.T + bias).argmax(dim=1)
    assert np.array_equal(predicted.numpy(), labels)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_folded_weights_give_the_probabilities_of_the_standardised_classifier(classes):
    features, labels = clusters(classes, spread=2.0)
    weight, bias = fit_linear_classifier(features, labels, classes)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    expected = LogisticRegression(max_iter=2000).fit(scaled, labels).predict_proba(scaled)
    probabilities = (torch.from_numpy(features).double() @ weight.double().T + bias.double()).softmax(dim=1)
    assert np.allclose(probabilities.numpy(), expected, atol=1e-4)


def test_a_constant_feature_is_harmless():
    features, labels = clusters(3)
    features[:, 0] = 0
    weight, bias = fit_linear_classifier(features, labels, 3)
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()


def test_a_class_without_images_is_an_error():
    features, labels = clusters(3)
    with pytest.raises(ValueError, match=r"must have an image. Got none of \[3, 4\] of 5"):
        fit_linear_classifier(features, labels, 5)


def test_the_rank_leaves_out_what_softmax_ignores():
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert classifier_rank(weight) == full_rank(weight) == 3
    assert classifier_rank(weight[:, :2]) == full_rank(weight[:, :2]) == 2
    assert classifier_rank(torch.ones(4, 1) * weight[:1]) == 0, "a shift that all rows share"
    weight[1] = weight[0]
    assert classifier_rank(weight) == 2, "two classes that are never told apart"


def test_neighbours_are_found_by_angle():
    features = np.array([[1, 0.1], [1, -0.1], [0.1, 1], [-0.1, 1]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    queries = np.array([[90, 10], [0.01, 0.2]], dtype=np.float32)
    assert knn_accuracy(features, labels, queries, np.array([0, 1]), neighbours=1) == 1
    assert knn_accuracy(features, labels, queries, np.array([1, 1]), neighbours=1) == 0.5
    assert knn_accuracy(features, labels, queries, np.array([0, 0]), neighbours=20) == 1, "all four vote, a tie"


def test_features_are_those_of_normalised_resized_images():
    spec = spec_of(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    estimator = build_estimator("resnet10_w4", spec, 6).eval()
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, labels = extract_features(estimator, [(image, 1) for image in pixels], batch_size=2)
    mean, std = (torch.tensor(value)[:, None, None] for value in (spec.mean, spec.std))
    expected = estimator.features((pixels / 255 - mean) / std)
    assert torch.allclose(torch.from_numpy(features), expected, atol=1e-5)
    assert labels.tolist() == [1] * 5
    large = torch.nn.functional.interpolate(pixels.float(), 24, mode="nearest").to(torch.uint8)
    assert extract_features(estimator, [(image, 0) for image in large])[0].shape == features.shape


def test_processes_share_the_images(monkeypatch):
    estimator = build_estimator("resnet10_w4", spec_of(side=28, channels=1), 8).eval()
    generator = torch.Generator().manual_seed(0)
    images = [(torch.randint(256, (1, 28, 28), generator=generator).byte(), number) for number in range(7)]
    expected = extract_features(estimator, images, batch_size=2)
    mine = []
    monkeypatch.setattr(probe, "gather_object", lambda found: mine.extend(found) or (mine if len(mine) == 3 else found))
    for number in range(3):
        features, labels = extract_features(estimator, images, batch_size=2, share=(number, 3))
    assert np.array_equal(features, expected[0]) and labels.tolist() == list(range(7))
    assert [len(each[0]) for each in mine] == [2, 1, 1], "four batches"
