"""Subsets of real images with a chosen contextual score (IGDS, App. A, Eq. 37).

How far the weights exp(-(KL - alpha)^2) reach follows from the formula. Of scores that are normally distributed within
a class with variance v, the draws' mean lies 2sv / (1 + 2sv) of the way from the class's mean to the target, with s the
factor in front of the square, which the paper leaves at 1. Scores are bounded by log(dim), 4.85 for 128 dimensions, and
those of one class lie far closer together: where they differ by 0.1 to 0.3 nats, the draws at s = 1 make 2 to 15 % of
the way, so that all targets give nearly the same subset. `sharpness` is that factor; at `suggested_sharpness` the draws
make half of the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch import Tensor

from decoct.data.pixels import to_pixels
from decoct.data.spec import ImageSpec
from decoct.distilled.dataset import DistilledSet
from decoct.igds.information import class_references, contextual_scores
from decoct.igds.measuring import Embedded
from decoct.run.seeding import numpy_generator

__all__ = ["ScoredImages", "distilled_set", "sampling_weights", "score_images"]


@dataclass(frozen=True)
class ScoredImages:
    """Images with their contextual terms, from which subsets are drawn.

    Args:
        scores: `(images,)` float64, KL(sigma(x) || Q^y) in nats; NaN where misclassified.
        labels: `(images,)` int64.
        label_names: Class names in label order.
    """

    scores: Tensor
    labels: Tensor
    label_names: Sequence[str]

    def members(self, label: int) -> Tensor:
        """Rows of the correctly classified images of a class."""
        return torch.nonzero((self.labels == label) & ~self.scores.isnan()).flatten()

    def targets(self, count: int) -> list[float]:
        """`count` target scores, spread evenly from the 5th to the 95th percentile of all scores."""
        low, high = np.nanquantile(self.scores.numpy(), (0.05, 0.95))
        return np.linspace(low, high, count).tolist()

    def require(self, ipc: int) -> None:
        """Raises ValueError that names every class with fewer than `ipc` correctly classified images."""
        counts = [len(self.members(label)) for label in range(len(self.label_names))]
        short = [f"{name} ({count})" for name, count in zip(self.label_names, counts, strict=True) if count < ipc]
        if short:
            raise ValueError(
                f"Every class must have at least {ipc} images that the estimator classifies correctly. Got fewer in "
                f"{', '.join(short)}. Ask for fewer images per class, or train the estimator longer."
            )

    def draw(self, ipc: int, target: float, sharpness: float = 1.0, seed: int = 0, number: int = 0) -> Tensor:
        """Rows of a subset: `ipc` correctly classified images of each class, drawn by Eq. 37 without replacement.

        One generator per (seed, class, number of the target). The subset of a smaller IPC is a part of that of a larger
        one: images are ranked by their exponent plus Gumbel noise, which equals drawing them one after the other.

        Args:
            ipc: Images per class.
            target: Contextual score to aim at (alpha), in nats.
            sharpness: Factor of the exponent; 1 is the paper's.
            seed: Run seed.
            number: Number of the target, for the generator alone.

        Returns:
            `(classes * ipc,)` int64, class by class.

        Raises:
            ValueError: If a class has too few correctly classified images; it names them all.
        """
        self.require(ipc)
        rows = []
        for label in range(len(self.label_names)):
            members = self.members(label)
            noise = numpy_generator(seed, "subset", label, number).gumbel(size=len(members))
            keys = _exponents(self.scores[members], target, sharpness) + torch.from_numpy(noise)
            rows.append(members[keys.argsort(descending=True, stable=True)[:ipc]])
        return torch.cat(rows)

    def expected(self, target: float, sharpness: float = 1.0) -> float:
        """Expected score, in nats, of a class's first image that is drawn for a target; mean over the classes."""
        means = []
        for label in range(len(self.label_names)):
            scores = self.scores[self.members(label)]
            means.append(float(sampling_weights(scores, target, sharpness) @ scores))
        return float(np.mean(means))

    def reach(self, targets: Sequence[float], sharpness: float = 1.0) -> float:
        """Range of the expected scores as a share of the targets' range: 0 if all subsets are alike."""
        low, high = (self.expected(target, sharpness) for target in (targets[0], targets[-1]))
        return (high - low) / (targets[-1] - targets[0]) if targets[-1] > targets[0] else 0.0

    def suggested_sharpness(self) -> float:
        """The sharpness at which draws make half of the way to their target: 1 / (2 variance within the classes)."""
        within = [self.scores[self.members(label)].var(correction=0) for label in range(len(self.label_names))]
        return float(1 / (2 * torch.stack(within).mean().clamp_min(1e-12)))


def sampling_weights(scores: Tensor, target: float, sharpness: float = 1.0) -> Tensor:
    """Probability of each image of one class to be drawn first (Eq. 37), `(images,)`.

    Args:
        scores: `(images,)` contextual terms, in nats.
        target: Contextual score to aim at (alpha), in nats.
        sharpness: Factor of the exponent; 1 is the paper's.
    """
    return _exponents(scores, target, sharpness).softmax(dim=0)


def _exponents(scores: Tensor, target: float, sharpness: float) -> Tensor:
    return -sharpness * (scores - target).square()


def score_images(embedded: Embedded, temperature: float, label_names: Sequence[str]) -> ScoredImages:
    """Scores images against the class means of the correctly classified ones, the others being left out (App. A)."""
    correct = embedded.correct
    embeddings, labels = embedded.embeddings[correct], embedded.labels[correct]
    scores = torch.full((len(correct),), torch.nan, dtype=torch.float64)
    if len(labels):
        means = class_references(embeddings, labels, temperature, len(label_names))
        scores[correct] = contextual_scores(embeddings, labels, temperature, means)
    return ScoredImages(scores, embedded.labels, label_names)


def distilled_set(images: datasets.Dataset, rows: Tensor, spec: ImageSpec) -> DistilledSet:
    """Real images as a set that students train on with `hard` or `online` labels.

    Args:
        images: Dataset with columns `image` and `label`.
        rows: `(classes * ipc,)` int64, the same number of each class.
        spec: Of the images.
    """
    chosen = images.select(rows.tolist())
    pixels = to_pixels(chosen["image"][:], spec.image_size, spec.channels)
    return DistilledSet.unlabelled(pixels, chosen["label"][:], len(rows) // spec.num_classes, 1, spec)
