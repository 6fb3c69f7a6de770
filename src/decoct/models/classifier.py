"""Any image classifier as one callable: pixels in [0, 1] to logits, with its features, label names and fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from decoct.data.spec import ImageSpec

__all__ = ["Classifier", "fingerprint_of"]


class Classifier(nn.Module):
    """A transformers classifier that takes pixels in [0, 1] and normalises them itself.

    Args:
        model: Network whose `forward(pixel_values)` returns an output with `logits`.
        spec: The images it was trained on.
        name: Folder or Hub id it came from; kept in manifests.
        channel_order: Which normalised channel the network takes first, second and third, `(2, 1, 0)` for one that was
            trained on BGR. Default: as they are.

    Raises:
        ValueError: If the network has no linear layer with one output per label.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        spec: ImageSpec,
        name: str = "in memory",
        channel_order: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.name = name
        self.channel_order = None if channel_order == tuple(range(spec.channels)) else channel_order
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)
        linear = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        heads = [path for path, layer in linear if layer.out_features == spec.num_classes]
        if not heads:
            raise ValueError(
                f"model must end in a linear layer with {spec.num_classes} outputs, one per label. "
                f"Got {type(model).__name__}, which has none."
            )
        self._head = heads[-1]

    @property
    def head(self) -> nn.Linear:
        """The last linear layer, from features to logits."""
        return self.model.get_submodule(self._head)  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self.mean.device

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of shape `(batch, classes)` for pixels in [0, 1] of shape `(batch, channels, side, side)`."""
        normalised = (pixels - self.mean) / self.std
        if self.channel_order is not None:
            normalised = normalised[:, list(self.channel_order)]
        return self.model(normalised.contiguous(memory_format=torch.channels_last)).logits

    def features_and_logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The head's input of shape `(batch, width)` (pooled penultimate layer), and the logits."""
        seen: list[Tensor] = []

        def keep(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.append(inputs[0])

        hook = self.head.register_forward_pre_hook(keep)
        try:
            logits = self(pixels)
        finally:
            hook.remove()
        return seen[-1], logits

    def fingerprint(self) -> str:
        """Sha256 over names, shapes and values of all weights and buffers."""
        return fingerprint_of({"": self.model})


def fingerprint_of(networks: Mapping[str, nn.Module]) -> str:
    """Sha256 over names, shapes and values of all weights and buffers of networks by name."""
    digest = hashlib.sha256()
    for name, network in networks.items():
        for key, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name}{key}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
