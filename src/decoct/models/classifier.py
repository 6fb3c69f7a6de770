"""Any image classifier as one callable: pixels in [0, 1] to logits, with its features, label names and fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from decoct.data.spec import ImageSpec
from decoct.models.eval_mode import eval_mode
from decoct.run.precision import convolution_layout

__all__ = ["Classifier", "Head", "fingerprint_of"]

PROBES = 4  # images by which the last layers are found
TOLERANCE = 1e-4  # of the largest logit


class Head(NamedTuple):
    """A last linear layer, and the factor by which its outputs are part of the logits."""

    layer: nn.Linear
    factor: float


class Classifier(nn.Module):
    """A transformers classifier that takes pixels in [0, 1] and normalises them itself.

    Args:
        model: Network whose `forward(pixel_values)` returns an output with `logits`.
        spec: The images it was trained on.
        name: Folder or Hub id it came from; kept in manifests.
        channel_order: Which normalised channel the network takes first, second and third, `(2, 1, 0)` for one that was
            trained on BGR. Default: as they are.
        classes: Which of the network's outputs are the logits of the labels of `spec`, in their order. Default: all.

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
        classes: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.layout = convolution_layout(model)
        self.model = model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.spec = spec
        self.name = name
        self.channel_order = None if channel_order == tuple(range(spec.channels)) else channel_order
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)
        self.classes = classes
        self._heads: list[Head] | None = None
        linear = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        # Of a network with more classes than are asked for, any may be the one.
        heads = [path for path, layer in linear if classes is not None or layer.out_features == spec.num_classes]
        if not heads:
            raise ValueError(
                f"model must end in a linear layer with {spec.num_classes} outputs, one per label. "
                f"Got {type(model).__name__}, which has none."
            )
        self._head = heads[-1]

    @property
    def head(self) -> nn.Linear:
        """The last linear layer, from features to logits, of decoct's own networks; of others see `linear_heads`."""
        return self.model.get_submodule(self._head)  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self.mean.device

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of shape `(batch, classes)` for pixels in [0, 1] of shape `(batch, channels, side, side)`."""
        return self.logits_of(self.model(self.normalised(pixels)))

    def normalised(self, pixels: Tensor) -> Tensor:
        """The network's own input for pixels in [0, 1]."""
        normalised = (pixels - self.mean) / self.std
        if self.channel_order is not None:
            normalised = normalised[:, list(self.channel_order)]
        return normalised.contiguous(memory_format=self.layout)

    def logits_of(self, output: Any) -> Tensor:
        """The logits of the labels, of the network's own output."""
        return output.logits if self.classes is None else output.logits[:, list(self.classes)]

    def restricted_to(self, label_names: Sequence[str], classes: Sequence[int]) -> Classifier:
        """The same network for some of its classes: its logits and label names are theirs alone, in their order.

        Args:
            label_names: Names of the classes; they may be others than the network's own.
            classes: The network's outputs for them.
        """
        spec = dataclasses.replace(self.spec, label_names=tuple(label_names))
        chosen = Classifier(self.model, spec, self.name, self.channel_order, tuple(classes))
        return chosen.to(self.device).train(self.training)

    def linear_heads(self) -> list[Head]:
        """The linear layers, of one feature vector each, whose outputs times their factors are the logits.

        One in most networks, two where those of distillation are averaged (DeiT, LeViT). They are found by comparing
        the outputs of all linear layers with the logits of a few random images.

        Raises:
            ValueError: If the logits are computed otherwise.
        """
        if self._heads is None:
            self._heads = self._find_heads()
        return self._heads

    @property
    def bias_factor(self) -> float:
        """What the biases add to the inner product of two images' features, in that of their last-layer gradients."""
        return sum(head.factor**2 for head in self.linear_heads() if head.layer.bias is not None)

    def features_and_logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's input of shape `(batch, width)`, and the logits.

        Of several last layers, the inputs times their factors stand beside each other, so that inner products of
        features are those that their gradients have.

        Raises:
            ValueError: As `linear_heads`.
        """
        heads, seen = self.linear_heads(), {}

        def keep(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[layer] = inputs[0].flatten(1)

        hooks = [head.layer.register_forward_pre_hook(keep) for head in heads]
        try:
            logits = self(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        if len(heads) == 1 and heads[0].factor == 1:
            return seen[heads[0].layer], logits
        return torch.cat([seen[head.layer] * head.factor for head in heads], dim=1), logits

    @torch.no_grad()
    def _find_heads(self) -> list[Head]:
        calls: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {}

        def keep(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if isinstance(layer, nn.Linear):
                calls.setdefault(layer, []).append((inputs[0], output))

        hooks = [layer.register_forward_hook(keep) for layer in self.model.modules() if isinstance(layer, nn.Linear)]
        side, generator = self.spec.image_size, torch.Generator().manual_seed(0)
        pixels = torch.rand(PROBES, self.spec.channels, side, side, generator=generator).to(self.device)
        try:
            with eval_mode(self), torch.autocast(self.device.type, enabled=False):
                logits = self.model(self.normalised(pixels)).logits
        finally:
            for hook in hooks:
                hook.remove()
        close = TOLERANCE * float(logits.abs().max())
        outputs = {
            layer: seen[0][1].reshape(logits.shape)
            for layer, seen in calls.items()
            if len(seen) == 1
            and seen[0][1].numel() == logits.numel()
            and seen[0][0].numel() == PROBES * layer.in_features
        }
        for layer, output in reversed(outputs.items()):
            if float((output - logits).abs().max()) <= close:
                return [Head(layer, 1.0)]
        if outputs:
            columns = torch.stack([output.flatten() for output in outputs.values()], dim=1).double().cpu()
            factors = torch.linalg.lstsq(columns, logits.double().cpu().flatten(), driver="gelsd").solution
            if float((columns @ factors - logits.double().cpu().flatten()).abs().max()) <= close:
                heads = zip(outputs, factors.tolist(), strict=True)
                return [Head(layer, factor) for layer, factor in heads if abs(factor) > TOLERANCE]
        raise ValueError(
            f"teacher must have logits that are linear in one feature vector, for last-layer scores ('grad_norm_last', "
            f"'gradient_flow') and for the features that a selection other than 'top' compares. Got {self.name!r}, a "
            f"{type(self.model).__name__} that computes them otherwise: choose --utility grad_norm --selection top, or "
            "another teacher."
        )

    def fingerprint(self) -> str:
        """Sha256 over names, shapes and values of all weights and buffers, and the chosen outputs where not all are."""
        weights = fingerprint_of({"": self.model})
        if self.classes is None:
            return weights
        return hashlib.sha256(f"{weights} {list(self.classes)}".encode()).hexdigest()


def fingerprint_of(networks: Mapping[str, nn.Module]) -> str:
    """Sha256 over names, shapes and values of all weights and buffers of networks by name."""
    digest = hashlib.sha256()
    for name, network in networks.items():
        for key, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name}{key}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
