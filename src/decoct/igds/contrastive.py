"""Training of the encoder: momentum contrast with a contextual term (IGDS, Eq. 24 and Algorithm 1)."""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import gather
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from decoct.igds.estimator import VariationalEstimator
from decoct.pipelines.igds.information import contextual_terms, soft_assignments
from decoct.run.seeding import torch_generator

__all__ = ["ContrastiveLoss", "MomentumContrast", "contextual_loss", "info_nce", "update_class_means"]


class ContrastiveLoss(NamedTuple):
    """Means over the process's share of the batch, in nats: `loss = contrastive - kl_weight * contextual`."""

    loss: Tensor
    contrastive: Tensor
    contextual: Tensor


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of finding each query's key among that key and the queue (He et al., 2020, Eq. 1).

    Args:
        query: `(batch, dim)` unit vectors.
        key: `(batch, dim)` unit vectors, the positives; no gradient reaches them.
        queue: `(keys, dim)` unit vectors, the negatives.
        temperature: Divides the inner products.
    """
    positive = (query * key.detach()).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, query @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))


def contextual_loss(query: Tensor, reference: Tensor, temperature: float, literal: bool = False) -> Tensor:
    """Mean `KL(softmax(query / temperature) || reference)` in nats; no gradient reaches the reference.

    Args:
        query: `(batch, dim)` unit vectors.
        reference: `(batch, dim)`, rows sum to 1: the mean of both views' distributions (Algorithm 1, line 7), for which
            the value is at most log 2, or the mean of the image's class (Eq. 13).
        temperature: Divides the query inside the softmax.
        literal: Let the gradient reach the reference. The mean of both views depends on the query: where these are
            alike, its own gradient takes half of the term's away.
    """
    return contextual_terms(query, reference if literal else reference.detach(), temperature).mean()


def update_class_means(means: Tensor, seen: Tensor, assignments: Tensor, labels: Tensor, momentum: float) -> None:
    """Moves the running mean of each class that the batch contains, in place; a class's first mean is taken whole.

    Args:
        means: `(classes, dim)`.
        seen: `(classes,)` bool, which classes have had an image.
        assignments: `(batch, dim)`, rows sum to 1.
        labels: `(batch,)` int64.
        momentum: Share of the old mean that is kept.
    """
    members = F.one_hot(labels, len(means)).to(assignments.dtype).T  # products, whose order of summation is fixed
    counts = members.sum(dim=1)
    fresh = members @ assignments / counts.clamp_min(1)[:, None]
    kept = torch.where(seen, momentum, 0.0).to(means.dtype)[:, None]
    means.copy_(torch.where((counts > 0)[:, None], kept * means + (1 - kept) * fresh, means))
    seen.logical_or_(counts > 0)


class MomentumContrast(nn.Module):
    """Query encoder, momentum encoder and queue of keys; a forward pass in training gives the loss and enqueues.

    Keys and labels of all processes are gathered in the order of the global batch, so that the queue and the class
    means are the same on every process, and those of a single one. `update_momentum_encoder` is to be called after
    each optimiser step.

    The momentum encoder normalises with running statistics (evaluation mode), which follow the query encoder's as its
    weights do (EMAN, Cai et al., 2021, arXiv 2101.08482). Statistics of the batch would tell a query which key belongs
    to its own batch, which MoCo prevents by shuffling images among GPUs. The first batch sets the statistics of both
    encoders: averages that start at 0 and 1 keep a short training from learning anything. The query encoder's batch
    normalisation sees each process's share of the batch.

    Args:
        query: The estimator to train; its classifier takes no part.
        queue_size: Keys in the queue, a multiple of the global batch.
        momentum: Share of the momentum encoder that an update keeps.
        temperature: Of the contrastive loss.
        kl_weight: Weight of the contextual term; 0 is MoCo.
        kl_temperature: Of the softmax inside the contextual term.
        q_mode: Reference of the contextual term: `two_view` or `class_mean`.
        kl_gradient: `detached`: that reference is a constant; `literal`: it has its own gradient (Algorithm 1, line 7),
            which halves the term's where both views are alike.
        seed: Seed of the queue's first keys.

    Raises:
        ValueError: If the estimator has no projection.
    """

    CLASS_MEAN_MOMENTUM = 0.99

    queue: Tensor
    pointer: Tensor
    class_means: Tensor
    class_seen: Tensor
    calibrated: Tensor

    def __init__(
        self,
        query: VariationalEstimator,
        queue_size: int,
        momentum: float = 0.99,
        temperature: float = 0.1,
        kl_weight: float = 0.1,
        kl_temperature: float = 0.1,
        q_mode: Literal["two_view", "class_mean"] = "two_view",
        seed: int = 0,
        kl_gradient: Literal["detached", "literal"] = "detached",
    ) -> None:
        super().__init__()
        dim = query.config.projection_dim
        if dim is None:
            raise ValueError("The estimator to train must have a projection. Got projection_dim None.")
        self.momentum, self.temperature = momentum, temperature
        self.kl_weight, self.kl_temperature, self.q_mode = kl_weight, kl_temperature, q_mode
        self.kl_gradient = kl_gradient
        self.query = query
        self.query.classifier.requires_grad_(False)
        self.key = copy.deepcopy(query).requires_grad_(False)
        classes = len(query.config.id2label)  # type: ignore[arg-type]
        keys = torch.randn(queue_size, dim, generator=torch_generator(seed, "queue"))
        self.register_buffer("queue", F.normalize(keys, dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("class_means", torch.zeros(classes, dim))
        self.register_buffer("class_seen", torch.zeros(classes, dtype=torch.bool))
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))

    def train(self, mode: bool = True) -> MomentumContrast:
        """Training mode of the query encoder; the momentum encoder stays in evaluation mode."""
        super().train(mode)
        self.key.eval()
        return self

    def forward(self, query_views: Tensor, key_views: Tensor, labels: Tensor) -> ContrastiveLoss:
        """Loss of this process's share of the batch; the keys of the whole batch enter the queue afterwards.

        Args:
            query_views: `(batch, channels, side, side)` normalised pixels; `key_views` likewise, of the same images.
            labels: `(batch,)` int64; only `class_mean` uses them.
        """
        if not self.calibrated:
            self._calibrate(key_views)
        query = self.query(query_views).embeddings
        with torch.no_grad():
            key = self.key(key_views).embeddings
        with torch.autocast(query.device.type, enabled=False):
            contrastive = info_nce(query, key, self.queue.clone(), self.temperature)
            literal = self.kl_gradient == "literal"
            reference = self._reference(query if literal else query.detach(), key, labels)
            contextual = contextual_loss(query, reference, self.kl_temperature, literal)
        self.enqueue(gather(key))
        return ContrastiveLoss(contrastive - self.kl_weight * contextual, contrastive.detach(), contextual.detach())

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Puts the keys of a global batch in the place of the oldest ones.

        Raises:
            ValueError: If the queue's size is not a multiple of theirs.
        """
        if len(self.queue) % len(keys):
            raise ValueError(f"queue_size must be a multiple of the {len(keys)} keys. Got {len(self.queue)}.")
        start = int(self.pointer)
        self.queue[start : start + len(keys)] = keys
        self.pointer.fill_((start + len(keys)) % len(self.queue))

    @torch.no_grad()
    def update_momentum_encoder(self) -> None:
        """`f_m <- m * f_m + (1 - m) * f` (Algorithm 1, line 14), running statistics included."""
        for ours, theirs in zip(self.key.state_dict().values(), self.query.state_dict().values(), strict=True):
            ours.lerp_(theirs, 1 - self.momentum) if ours.is_floating_point() else ours.copy_(theirs)

    @torch.no_grad()
    def _calibrate(self, views: Tensor) -> None:
        """Sets the running statistics of both encoders, which are equal still, to those of a batch."""
        update_bn([views], self.key)
        for ours, theirs in zip(self.query.buffers(), self.key.buffers(), strict=True):
            ours.copy_(theirs)
        self.calibrated.fill_(True)

    def _reference(self, query: Tensor, key: Tensor, labels: Tensor) -> Tensor:
        """The reference distribution Q of each image."""
        assignments = soft_assignments(query, self.kl_temperature)
        if self.q_mode == "two_view":
            return (assignments + soft_assignments(key, self.kl_temperature)) / 2
        with torch.no_grad():
            update_class_means(
                self.class_means, self.class_seen, gather(assignments), gather(labels), self.CLASS_MEAN_MOMENTUM
            )
        return self.class_means[labels]
