"""Prototype information and contextual score of labelled images (IGDS, section 4.1), in nats.

The prototype information is, in expectation over images that the classifier was not trained on, a lower bound of
I(X; Y). The contextual score is I(X; sigma(f(X)) | Y), what the softmax over the features says about an image beyond
its class: at most log(dim), and only scores by one estimator at one temperature compare.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor

from decoct.pipelines.igds.information import contextual_terms, prototype_terms, soft_assignments

__all__ = [
    "ContextualScore",
    "InformationEstimate",
    "PrototypeInformation",
    "class_references",
    "contextual_score",
    "contextual_scores",
    "default_beta",
    "label_entropy",
    "prototype_information",
]

CHUNK = 8192  # rows whose softmax is in memory at a time


class InformationEstimate(NamedTuple):
    """A quantity of a labelled set, in nats: over all rows, and `(classes,)` by class, NaN for a class without rows."""

    overall: float
    per_class: Tensor

    def by_class(self) -> list[float | None]:
        """JSON-ready values by class; None for NaN."""
        return [None if math.isnan(value) else value for value in self.per_class.tolist()]


def label_entropy(labels: Tensor) -> float:
    """H(Y) of the labels' own distribution, in nats."""
    shares = torch.bincount(labels).double() / len(labels)
    return float(torch.special.entr(shares).sum())


def prototype_information(logits: Tensor, labels: Tensor) -> InformationEstimate:
    """Lower bound H(Y) - CE(g(f(x)), y) of I(X; Y) (Eqs. 7 and 9).

    It can be negative, where the classifier is worse than the label distribution. A class's value is
    -log P(y) - CE over its rows, a lower bound of KL(P(x|y) || P(x)); the overall value is their mean over the rows.

    Args:
        logits: `(rows, classes)`.
        labels: `(rows,)` int64.

    Raises:
        ValueError: If there are no rows, or a label is not a class of the logits.
    """
    logits, labels = logits.double().cpu(), labels.cpu()
    _check_labels(labels, logits.shape[1])
    terms = prototype_terms(logits, labels)
    shares = torch.bincount(labels, minlength=logits.shape[1]).double() / len(labels)
    per_class = _class_means(terms, labels, logits.shape[1]) - shares.log()
    return InformationEstimate(label_entropy(labels) + float(terms.mean()), per_class)


def contextual_score(
    embeddings: Tensor, labels: Tensor, temperature: float, reference: Tensor | None = None
) -> InformationEstimate:
    """Contextual score E KL(softmax(f(x) / tau) || Q^y) (Eq. 15), at most log(dim).

    Args:
        embeddings: `(rows, dim)` unit vectors f(x).
        labels: `(rows,)` int64.
        temperature: Temperature of the softmax (tau).
        reference: `(classes, dim)` class means Q, say of the dataset that these rows stand for (`class_references`).
            Default: the means of these rows, with which a class of one row scores 0.

    Raises:
        ValueError: If there are no rows, a label has no mean, or the means have another dimension.
    """
    classes = len(reference) if reference is not None else int(labels.max()) + 1 if len(labels) else 0
    _check_labels(labels, classes)
    if reference is None:
        reference = class_references(embeddings, labels, temperature, classes)
    terms = contextual_scores(embeddings, labels, temperature, reference)
    return InformationEstimate(float(terms.mean()), _class_means(terms, labels.cpu(), classes))


def contextual_scores(embeddings: Tensor, labels: Tensor, temperature: float, reference: Tensor) -> Tensor:
    """KL(softmax(f(x) / tau) || Q^y) of every row, `(rows,)` float64 on the CPU, given `(classes, dim)` means."""
    if reference.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"reference must have the embeddings' dimension {embeddings.shape[1]}. Got {reference.shape[1]}."
        )
    absent = reference.isnan().any(dim=1).nonzero().flatten()
    if torch.isin(labels, absent).any():
        raise ValueError(f"reference must have a mean for every label. Got none for the classes {absent.tolist()}.")
    parts = zip(embeddings.split(CHUNK), labels.split(CHUNK), strict=True)
    terms = [contextual_terms(part.double(), reference[rows].double(), temperature) for part, rows in parts]
    return torch.cat(terms).cpu()


def class_references(embeddings: Tensor, labels: Tensor, temperature: float, classes: int) -> Tensor:
    """Class means Q of softmax(f(x) / tau), `(classes, dim)` float64; NaN for a class without rows."""
    sums = embeddings.new_zeros((classes, embeddings.shape[1]), dtype=torch.float64)
    for part, rows in zip(embeddings.split(CHUNK), labels.split(CHUNK), strict=True):
        sums.index_add_(0, rows, soft_assignments(part.double(), temperature))
    return sums / torch.bincount(labels, minlength=classes).double()[:, None]


class PrototypeInformation(evaluate.Metric):
    """`prototype_information` of logits (predictions) and labels (references)."""

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(
            "Lower bound of the information between images and labels, in nats.",
            "predictions: logits, one row per image; references: class indices.",
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:  # type: ignore[override]
        logits, labels = torch.as_tensor(np.asarray(predictions)), torch.as_tensor(np.asarray(references))
        return _result("prototype_information", prototype_information(logits, labels))


class ContextualScore(evaluate.Metric):
    """`contextual_score` of embeddings (predictions) and labels (references), with `temperature` and `reference`."""

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(
            "How much an image's features say beyond its class, in nats; at most log(dim).",
            "predictions: unit vectors, one row per image; references: class indices; temperature: of the softmax; "
            "reference: class means to compare with, by default those of the predictions.",
        )

    def _compute(  # type: ignore[override]
        self, predictions: Any, references: Any, temperature: float = 0.07, reference: Any = None
    ) -> dict[str, Any]:
        embeddings, labels = torch.as_tensor(np.asarray(predictions)), torch.as_tensor(np.asarray(references))
        means = None if reference is None else torch.as_tensor(np.asarray(reference))
        return _result("contextual_score", contextual_score(embeddings, labels, temperature, means))


def _metric_info(description: str, inputs: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=inputs,
        features=datasets.Features(
            {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
        ),
    )


def _result(name: str, estimate: InformationEstimate) -> dict[str, Any]:
    return {name: estimate.overall, "per_class": estimate.by_class()}


def _class_means(terms: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean term of each class, `(classes,)`; NaN for a class without rows."""
    sums = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, terms)
    return sums / torch.bincount(labels, minlength=classes)


def _check_labels(labels: Tensor, classes: int) -> None:
    if len(labels) == 0:
        raise ValueError("labels must have at least one row. Got none.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in [0, {classes - 1}]. Got {low if low < 0 else high}.")


# decoct's own, from the sweep in benchmarks/results/beta_sweep_sample.json; the paper's figures use 0, 0.1 and 0.5.
MEASURED = ((1, 0.0), (10, 1.0), (50, 3.0))


def default_beta(ipc: int) -> float:
    """decoct's beta of an IPC, interpolated in log(IPC) between measured ones and constant beyond them.

    Larger sets want more contextual information (IGDS, section 5.2 and Fig. 5); the paper gives no values.
    """
    if ipc <= MEASURED[0][0]:
        return MEASURED[0][1]
    for (low, low_beta), (high, high_beta) in zip(MEASURED, MEASURED[1:], strict=False):
        if ipc <= high:
            share = math.log(ipc / low) / math.log(high / low)
            return low_beta + share * (high_beta - low_beta)
    return MEASURED[-1][1]
