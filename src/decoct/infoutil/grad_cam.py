"""Grad-CAM, and the convolution whose map it shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

from decoct.models.classifier import Classifier

__all__ = ["GradCam", "deepest_convolution"]


class GradCam:
    """Grad-CAM (Selvaraju et al., 2017) of a classifier's deepest convolution, by captum (InfoUtil, Table 8).

    Args:
        classifier: In eval mode.
        grid_size: The map is averaged over, or interpolated to, this grid.

    Raises:
        ValueError: As `deepest_convolution`.
    """

    def __init__(self, classifier: Classifier, grid_size: int) -> None:
        self.classifier = classifier
        self.grid_size = grid_size
        self.layer = deepest_convolution(classifier)

    def attribute(self, pixels: Tensor, target: Tensor) -> Tensor:
        """Heat maps of shape `(batch, grid, grid)`, not negative."""
        from captum.attr import LayerGradCam

        method = LayerGradCam(self.classifier, self.layer)
        pixels = pixels.detach().requires_grad_(True)
        maps = method.attribute(pixels, target=target.to(pixels.device), relu_attributions=True).detach().float()
        size = (self.grid_size, self.grid_size)
        if min(maps.shape[-2:]) >= self.grid_size:
            return F.interpolate(maps, size, mode="area")[:, 0]
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]


def deepest_convolution(classifier: Classifier) -> nn.Conv2d:
    """The convolution with the most convolutions between the pixels and itself, whose map the head pools.

    Neither the order of the modules nor that of their execution tells: a shortcut's convolution may come last in both.
    So the depth is counted in the graph of one forward pass.

    Args:
        classifier: In eval mode.

    Raises:
        ValueError: If the network has no convolution, or no other than a patch embedding, as transformers have.
    """
    found: dict[Node, nn.Conv2d] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d) and output.grad_fn is not None:
            found[output.grad_fn] = layer

    hooks = [layer.register_forward_hook(keep) for layer in classifier.modules() if isinstance(layer, nn.Conv2d)]
    side, channels = classifier.spec.image_size, classifier.spec.channels
    pixels = torch.zeros(1, channels, side, side, device=classifier.device, requires_grad=True)
    try:
        with torch.enable_grad():
            logits = classifier(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    depths = _depths(logits.grad_fn, found)
    deepest = max((node for node in found if node in depths), key=lambda node: depths[node], default=None)
    layer = None if deepest is None else found[deepest]
    if layer is None or layer.kernel_size == layer.stride != (1, 1):
        raise ValueError(
            "attribution must be other than 'grad_cam' for a network without convolutions, or with none but a patch "
            f"embedding. Got {type(classifier.model).__name__}."
        )
    return layer


def _depths(end: Node, counted: dict[Node, nn.Conv2d]) -> dict[Node, int]:
    """For each node before `end` in an autograd graph: the most counted nodes on a way to it, itself included."""
    depths: dict[Node, int] = {}
    waiting = [end]
    while waiting:
        node = waiting[-1]
        before = [previous for previous, _ in node.next_functions if previous is not None]
        missing = [previous for previous in before if previous not in depths]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        depths[node] = max((depths[previous] for previous in before), default=0) + (node in counted)
    return depths
