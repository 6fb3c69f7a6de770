"""Linear and nearest-neighbour classifiers on the features of a frozen encoder."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset
from tqdm.auto import tqdm

from decoct.igds.estimator import VariationalEstimator
from decoct.pipelines.igds.estimates import estimator_input

__all__ = ["classifier_rank", "extract_features", "fit_linear_classifier", "full_rank", "knn_accuracy"]

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 2000


@torch.no_grad()
def extract_features(
    estimator: VariationalEstimator,
    dataset: Dataset[Any],
    *,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> tuple[np.ndarray, np.ndarray]:
    """Features of un-augmented images, and their labels.

    Args:
        estimator: In eval mode, on the device.
        dataset: Items are (uint8 pixels, label), as `PixelDataset` gives them.
        batch_size: Images per forward pass.
        device: Where the estimator is.
        num_workers: Processes that read the dataset.
        share: This process's number and their count; each takes every so many batches, and all get all features.

    Returns:
        `(images, width)` float32 and `(images,)` int64.
    """
    features, labels = [], []
    rows = list(BatchSampler(range(len(dataset)), batch_size, drop_last=False))  # type: ignore[arg-type]
    batches = DataLoader(dataset, batch_sampler=rows[share[0] :: share[1]], num_workers=num_workers)
    for pixels, targets in tqdm(batches, desc="Features", unit="batch", leave=False):
        inputs = estimator_input(pixels.to(device).float() / 127.5 - 1, estimator.config)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        features.append(estimator.features(inputs).float().cpu().numpy())
        labels.append(targets.numpy())
    found = [(features, labels)] if share[1] == 1 else gather_object([(features, labels)])
    parts = [
        (each[0][turn], each[1][turn]) for turn in range(len(found[0][0])) for each in found if turn < len(each[0])
    ]
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))  # type: ignore[return-value]


def fit_linear_classifier(features: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a softmax classifier, fitted by L-BFGS on standardised features with L2 penalty (C = 1).

    The standardisation is folded into weight and bias, so that they take the features as they are.

    Args:
        features: `(images, width)`.
        labels: `(images,)` integers; every class must occur.
        num_classes: Classes, at least 2.

    Returns:
        `(num_classes, width)` and `(num_classes,)`, float32.

    Raises:
        ValueError: If classes have no image.
    """
    absent = sorted(set(range(num_classes)) - set(np.unique(labels).tolist()))
    if absent or num_classes < 2:
        raise ValueError(f"Each of 2 or more classes must have an image. Got none of {absent} of {num_classes}.")
    scaler = StandardScaler().fit(features.astype(np.float64))
    regression = LogisticRegression(solver="lbfgs", max_iter=MAX_ITERATIONS)
    regression.fit(scaler.transform(features.astype(np.float64)), labels)
    if regression.n_iter_.max() >= MAX_ITERATIONS:
        logger.warning("The linear classifier did not converge in %d iterations.", MAX_ITERATIONS)
    coefficients, intercept = regression.coef_, regression.intercept_
    if num_classes == 2:  # one row, the logit of the second class
        coefficients, intercept = (np.concatenate([-part, part]) / 2 for part in (coefficients, intercept))
    weight = coefficients / scaler.scale_
    bias = intercept - weight @ scaler.mean_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def classifier_rank(weight: Tensor) -> int:
    """Rank of a classifier's rows less their mean; softmax ignores a shift that all rows share.

    Args:
        weight: `(classes, width)`.
    """
    centred = weight.double() - weight.double().mean(dim=0)
    return int(torch.linalg.matrix_rank(centred, rtol=1e-6))


def full_rank(weight: Tensor) -> int:
    """The highest rank that `classifier_rank` can have: classes less one, or the width."""
    classes, width = weight.shape
    return min(classes - 1, width)


def knn_accuracy(
    features: np.ndarray, labels: np.ndarray, eval_features: np.ndarray, eval_labels: np.ndarray, neighbours: int = 20
) -> float:
    """Accuracy in [0, 1] of a vote among the nearest features by cosine; of all where there are fewer.

    Args:
        features: `(images, width)`, whose labels are known; `labels` of shape `(images,)`.
        eval_features: `(eval images, width)` to classify; `eval_labels` of shape `(eval images,)`.
        neighbours: How many vote.
    """
    classifier = KNeighborsClassifier(min(neighbours, len(features)), metric="cosine")
    return float(classifier.fit(features, labels).score(eval_features, eval_labels))
