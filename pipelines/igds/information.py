"""The information of labelled images under an estimator, and its gradient (Algorithm 2 of the IGDS paper).

The two estimates of a labelled image `x` with class `y`, under a variational estimator with unit embeddings `f(x)` and
logits `g(f(x))`, are the prototype term `log P(y | g(f(x)))` and the contextual term `KL(softmax(f(x) / tau) || Q)`,
where `Q` is the mean of `softmax(f(x) / tau)` over the images of the class. The file stands alone: a copy of it travels
with every saved pipeline.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Estimate",
    "class_means",
    "contextual_terms",
    "information_gradient",
    "information_terms",
    "precise_dtype",
    "prototype_terms",
    "soft_assignments",
]

Estimate = Callable[[Tensor], tuple[Tensor, Tensor]]  # images to unit embeddings and logits


def soft_assignments(embeddings: Tensor, temperature: float) -> Tensor:
    """Distributions over the embedding's dimensions, `softmax(embeddings / temperature)`, of shape `(batch, dim)`."""
    return F.softmax(embeddings / temperature, dim=-1, dtype=precise_dtype(embeddings))


def class_means(assignments: Tensor, labels: Tensor) -> Tensor:
    """For each row of `(batch, dim)`, the mean over the rows that have its label (`Q` of the paper's Algorithm 2)."""
    _, classes, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = assignments.new_zeros(len(counts), assignments.shape[1]).index_add(0, classes, assignments)
    return (sums / counts[:, None])[classes]


def contextual_terms(embeddings: Tensor, means: Tensor, temperature: float) -> Tensor:
    """`KL(softmax(embeddings / temperature) || means)` of each row, in nats, of shape `(batch,)`."""
    logs = F.log_softmax(embeddings / temperature, dim=-1, dtype=precise_dtype(embeddings))
    return (logs.exp() * (logs - means.clamp_min(torch.finfo(means.dtype).tiny).log())).sum(dim=-1)


def prototype_terms(logits: Tensor, labels: Tensor) -> Tensor:
    """`log P(label | logits)` of each row, in nats, of shape `(batch,)`."""
    return F.log_softmax(logits, dim=-1, dtype=precise_dtype(logits)).gather(-1, labels[:, None]).squeeze(-1)


def information_terms(
    images: Tensor, labels: Tensor, estimate: Estimate, temperature: float, micro_batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """The prototype and contextual term of each image, both of shape `(batch,)`, in nats, without any gradient."""
    with torch.no_grad():
        parts = [estimate(chunk) for chunk in images.split(micro_batch or len(images))]
        embeddings, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        means = class_means(soft_assignments(embeddings, temperature), labels)
        return prototype_terms(logits, labels), contextual_terms(embeddings, means, temperature)


def information_gradient(
    images: Tensor,
    labels: Tensor,
    estimate: Estimate,
    beta: float,
    temperature: float,
    reduction: str = "sum",
    micro_batch: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the information estimate with respect to the images (IGDS, Algorithm 2, lines 8 to 13).

    The estimate is `sum_i [log P(y | g(f(x_i))) + beta * KL(softmax(f(x_i) / tau) || Q)]` over the images of a class in
    the batch. `Q`, their mean, counts as a constant: `sum_i dKL_i/dQ` is the same number in every dimension, and the
    entries of `Q` add up to one, so that their gradient vanishes.

    Args:
        images: Shape `(batch, channels, height, width)`: whatever `estimate` accepts, pixels or latents.
        labels: The class of each image, of shape `(batch,)`; several classes may be mixed.
        estimate: Maps images to unit embeddings `(batch, dim)` and logits `(batch, classes)`, differentiably.
        beta: Weight of the contextual term, at least 0.
        temperature: Temperature of the softmax over the embedding's dimensions, positive.
        reduction: `sum` over the images of a class, or their `mean` (the paper's Eq. 29).
        micro_batch: Images per pass; `Q` is of the whole batch all the same, so the result does not depend on it.

    Returns:
        The gradient, of the shape of `images`, and the prototype and contextual terms, of shape `(batch,)`, in nats.
    """
    images = images.detach()
    size = micro_batch or len(images)
    means = None
    if size < len(images) and beta:
        with torch.no_grad():
            assignments = [soft_assignments(estimate(chunk)[0], temperature) for chunk in images.split(size)]
        means = class_means(torch.cat(assignments), labels)

    gradients, embeddings, logits = [], [], []
    for rows in torch.arange(len(images), device=images.device).split(size):
        with torch.enable_grad():
            leaf = images[rows].requires_grad_(True)
            embedding, logit = estimate(leaf)
            objective = prototype_terms(logit, labels[rows]).sum()
            if beta:
                if means is None:
                    means = class_means(soft_assignments(embedding.detach(), temperature), labels)
                objective = objective + beta * contextual_terms(embedding, means[rows], temperature).sum()
            gradients.append(torch.autograd.grad(objective, leaf)[0])
        embeddings.append(embedding.detach())
        logits.append(logit.detach())

    gradient, embedding, logit = torch.cat(gradients), torch.cat(embeddings), torch.cat(logits)
    if reduction == "mean":
        counts = (labels[:, None] == labels[None, :]).sum(dim=1)
        gradient = gradient / counts.to(gradient.dtype)[:, None, None, None]
    if means is None:
        means = class_means(soft_assignments(embedding, temperature), labels)
    return gradient, prototype_terms(logit, labels), contextual_terms(embedding, means, temperature)


def precise_dtype(values: Tensor) -> torch.dtype:
    """The dtype of `values`, but at least float32."""
    return torch.promote_types(values.dtype, torch.float32)
