"""Several classifiers as one whose logits are the mean of theirs, for the labels of several teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from decoct.models.classifier import Classifier

__all__ = ["Ensemble"]


class Ensemble(Classifier):
    """A classifier without weights of its own, which only labels: it has no features and no head.

    Args:
        members: Two or more classifiers of the same classes, images of the same size and channels.

    Raises:
        ValueError: If they do not take the same images.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        nn.Module.__init__(self)
        first = members[0]
        for each in members[1:]:
            sizes = [(one.spec.image_size, one.spec.channels, one.spec.label_names) for one in (first, each)]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    f"label_teacher must name teachers of the same classes and images. Got {first.name} "
                    f"({sizes[0][0]} px, {sizes[0][1]} channels) and {each.name} ({sizes[1][0]} px, {sizes[1][1]})."
                )
        self.members = nn.ModuleList(members)
        self.spec = first.spec
        self.classes = None
        self.name = " + ".join(each.name for each in members)
        self.register_buffer("mean", first.mean.clone(), persistent=False)  # says which device it is on
        self.eval()  # a module is born in training mode, and whoever restores that mode would restore it to the members

    def forward(self, pixels: Tensor) -> Tensor:
        """Mean logits `(batch, classes)` of the members for pixels in [0, 1], float32; each normalises them itself."""
        return torch.stack([each(pixels).float() for each in self.members]).mean(dim=0)

    def fingerprint(self) -> str:
        """Sha256 over the members' fingerprints, in their order."""
        return hashlib.sha256(" ".join(each.fingerprint() for each in self.classifiers).encode()).hexdigest()

    @property
    def classifiers(self) -> list[Classifier]:
        """The members."""
        return [each for each in self.members if isinstance(each, Classifier)]
