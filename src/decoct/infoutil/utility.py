"""Utility of a sample: how far it would move the teacher's weights (InfoUtil, section 3.2.2).

All scores are those of the cross-entropy, in nats, at the hard label, with the network in eval mode; each is returned
as `(batch,)` float32. The residual p - e_y is computed without cancellation, so that scores still rank samples of which
the teacher is nearly certain.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from decoct.models.classifier import Classifier
from decoct.models.eval_mode import eval_mode

__all__ = ["cross_entropy_loss", "grad_norm", "grad_norm_last", "gradient_flow"]


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, of shape `(batch,)` (RDED's score).

    Args:
        logits: `(batch, classes)`.
        labels: `(batch,)` int64.
    """
    chosen = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    others = logits.float().masked_fill(chosen, -torch.inf).logsumexp(dim=1)
    own = logits.float().masked_fill(~chosen, 0).sum(dim=1)
    return F.softplus(others - own)


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """p - e_y, the gradient of the cross-entropy with respect to the logits, of shape `(batch, classes)`."""
    chosen = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    others = logits.float().softmax(dim=1).masked_fill(chosen, 0)
    return torch.where(chosen, -others.sum(dim=1, keepdim=True), others)


def grad_norm_last(features: Tensor, logits: Tensor, labels: Tensor, bias_factor: float = 1.0) -> Tensor:
    """Gradient norm over the last linear layer's weight and bias: ||p - e_y|| sqrt(||h||^2 + 1).

    Args:
        features: `(batch, width)`, h, the last layer's input.
        logits: `(batch, classes)`, its output.
        labels: `(batch,)` int64.
        bias_factor: In the place of 1, where the layer has no bias, or there are several (`Classifier.bias_factor`).
    """
    return residual(logits, labels).norm(dim=1) * (features.float().square().sum(dim=1) + bias_factor).sqrt()


def gradient_flow(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    reference_features: Tensor,
    reference_logits: Tensor,
    reference_labels: Tensor,
    bias_factor: float = 1.0,
) -> Tensor:
    """InfoUtil's Definition 3 with last-layer gradients: max_j |(p_i - e_i).(p_j - e_j) (h_i.h_j + 1)|.

    Removing sample i from a step changes the loss of sample j by the learning rate times the inner product of their
    gradients; the maximum is over the references j.

    Args:
        features, logits, labels, bias_factor: As in `grad_norm_last`.
        reference_features: `(references, width)`.
        reference_logits: `(references, classes)`.
        reference_labels: `(references,)` int64.
    """
    residuals = residual(logits, labels) @ residual(reference_logits, reference_labels).T
    return (residuals * (features.float() @ reference_features.float().T + bias_factor)).abs().amax(dim=1)


def grad_norm(
    classifier: Classifier,
    pixels: Tensor,
    labels: Tensor,
    chunk_size: int = 32,
    autocast_dtype: torch.dtype | None = None,
) -> Tensor:
    """Gradient norm over all parameters of the network (InfoUtil, Definition 5), of shape `(batch,)`.

    Args:
        classifier: Put into eval mode for the call.
        pixels: `(batch, channels, side, side)`, in [0, 1].
        labels: `(batch,)` int64.
        chunk_size: Images whose gradients are in memory at a time.
        autocast_dtype: Run the network under autocast in this precision.
    """
    labels = labels.to(pixels.device)
    norms = []
    with eval_mode(classifier):
        for part, label in zip(pixels.split(chunk_size), labels.split(chunk_size), strict=True):
            found = grad_norms_by_layer(classifier, part, label, autocast_dtype)
            norms.append(grad_norms_by_func(classifier, part, label, autocast_dtype) if found is None else found)
    return torch.cat(norms)


def grad_norms_by_func(
    classifier: Classifier, pixels: Tensor, labels: Tensor, autocast_dtype: torch.dtype | None
) -> Tensor:
    """Per-sample gradient norms by `torch.func`, for any network; holds every sample's gradient."""
    parameters = {name: parameter.detach() for name, parameter in classifier.model.named_parameters()}
    inputs = classifier.normalised(pixels)

    def along_residual(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(pixels.device.type, autocast_dtype, enabled=autocast_dtype is not None):
            logits = classifier.logits_of(torch.func.functional_call(classifier.model, weights, (image[None],)))
        direction, length = unit_residual(logits.detach(), label[None])
        return (logits.float() * direction).sum(), length[0]

    per_sample = torch.func.vmap(torch.func.grad(along_residual, has_aux=True), in_dims=(None, 0, 0))
    gradients, length = per_sample(parameters, inputs, labels)
    squares = [gradient.float().flatten(1).square().sum(1) for gradient in gradients.values()]
    return torch.stack(squares).sum(0).sqrt() * length


def unit_residual(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The residual as unit vectors `(batch, classes)` and lengths `(batch,)`.

    Gradients are propagated from the unit vectors, so that half precision does not lose those of easy samples.
    """
    direction = residual(logits, labels)
    length = direction.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return direction / length[:, None], length


def grad_norms_by_layer(
    classifier: Classifier, pixels: Tensor, labels: Tensor, autocast_dtype: torch.dtype | None
) -> Tensor | None:
    """Per-sample gradient norms from each layer's input and output gradient, in one batched backward pass.

    Exact, and several times faster than `torch.func`. None for a network that has parameters outside the layers of
    `LAYER_NORMS`, shares them, or calls a layer more than once.
    """
    model = classifier.model
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    owned = sum(len(list(layer.parameters(recurse=False))) for layer in layers)
    if not all(is_supported(layer) for layer in layers) or owned != len(parameters):
        return None
    calls: dict[nn.Module, int] = dict.fromkeys(layers, 0)
    first_outputs: list[Tensor] = []
    squares: list[Tensor] = []

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls[layer] += 1
        layer_input = inputs[0].detach()

        def measure(gradient: Tensor) -> None:
            squares.append(LAYER_NORMS[type(layer)](layer, layer_input.to(gradient.dtype), gradient))

        if not output.requires_grad:  # no gradient is needed below the first layer
            first_outputs.append(output.requires_grad_(True))
        output.register_hook(measure)
        return output.clone() if output.is_leaf else output  # a leaf could not be changed in place

    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = classifier.normalised(pixels)
            with torch.autocast(pixels.device.type, autocast_dtype, enabled=autocast_dtype is not None):
                logits = classifier.logits_of(torch.func.functional_call(model, parameters, (inputs,)))
            if set(calls.values()) != {1}:
                return None
            direction, length = unit_residual(logits.detach(), labels)
            torch.autograd.grad(logits, first_outputs, direction.to(logits.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(squares).sum(0).clamp_min(0).sqrt() * length


def is_supported(layer: nn.Module) -> bool:
    """Whether `LAYER_NORMS` covers the layer as it is configured."""
    if isinstance(layer, nn.Conv2d):
        return type(layer) in LAYER_NORMS and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.BatchNorm2d):
        return type(layer) in LAYER_NORMS and layer.running_mean is not None
    return type(layer) in LAYER_NORMS


def conv_squared_norm(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor) -> Tensor:
    """||sum_t g_t u_t^T||^2 over positions t, u_t the inputs under the kernel, plus the bias: `(batch,)`.

    With few positions it is sum_tt' (g_t.g_t') (u_t.u_t'), which never forms the gradient.
    """
    batch, groups = len(inputs), layer.groups
    bias = 0 if layer.bias is None else gradient.float().sum(dim=(2, 3)).square().sum(1)
    positions = gradient[0, 0].numel()
    width, channels = layer.weight[0].numel(), layer.out_channels // groups
    direct = positions * (width + channels) >= width * channels
    if direct and inputs.device.type == "cpu":  # one convolution per image: a batched product takes twice as long here
        size, geometry = layer.weight.shape, (layer.stride, layer.padding, layer.dilation, groups)
        pairs = zip(inputs.split(1), gradient.split(1), strict=True)
        weights = [conv2d_weight(row, size, gradients, *geometry).float().square().sum() for row, gradients in pairs]
        return torch.stack(weights) + bias
    padding = (int(layer.padding[0]), int(layer.padding[1]))
    patches = F.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
    patches = patches.reshape(batch * groups, width, positions)
    rows = gradient.reshape(batch * groups, channels, positions)
    if direct:
        squares = torch.bmm(patches, rows.mT).float().square()
    else:
        patches, rows = patches.float(), rows.float()  # the sum may cancel
        squares = torch.bmm(patches.mT, patches) * torch.bmm(rows.mT, rows)
    return squares.reshape(batch, -1).sum(1) + bias


def linear_squared_norm(layer: nn.Linear, inputs: Tensor, gradient: Tensor) -> Tensor:
    """||sum_t g_t h_t^T||^2 over the positions t between batch and width, plus the bias: `(batch,)`."""
    inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1]).float()
    gradient = gradient.reshape(len(gradient), -1, gradient.shape[-1]).float()
    bias = 0 if layer.bias is None else gradient.sum(1).square().sum(1)
    if inputs.shape[1] == 1:
        return inputs.square().sum((1, 2)) * gradient.square().sum((1, 2)) + bias
    return torch.bmm(gradient.mT, inputs).square().sum((1, 2)) + bias


def affine_squared_norm(layer: nn.BatchNorm2d | nn.GroupNorm, inputs: Tensor, gradient: Tensor) -> Tensor:
    """||sum_t g_t x_t||^2 + ||sum_t g_t||^2 per channel, x the normalised input: `(batch,)`."""
    inputs, gradient = inputs.float(), gradient.float()
    if isinstance(layer, nn.BatchNorm2d):
        normalised = F.batch_norm(inputs, layer.running_mean, layer.running_var, eps=layer.eps)
    else:
        normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
    scale = (gradient * normalised).flatten(2).sum(2)
    return scale.square().sum(1) + gradient.flatten(2).sum(2).square().sum(1)


LAYER_NORMS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv2d: conv_squared_norm,
    nn.Linear: linear_squared_norm,
    nn.BatchNorm2d: affine_squared_norm,
    nn.GroupNorm: affine_squared_norm,
}
