"""Claim: per-sample gradient norms in batches equal a loop of batch 1 to rounding, and are faster.

    python benchmarks/utility.py --teacher runs/teacher --dataset uoft-cs/cifar10

All methods score the same images; their timed runs alternate within one process. `layers` is what `grad_norm` does,
`torch.func` its fallback for networks with other layers, `last` the closed form of the last layer beside a loop over
that layer's gradients. Results, with hardware and versions, go to benchmarks/results/utility.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from setting import describe, load_setting, setting_parser, spread, synchronize, write_result
from torch import Tensor, nn

from decoct.infoutil.utility import grad_norm, grad_norm_last, grad_norms_by_func
from decoct.models.classifier import Classifier
from decoct.models.throughput import fastest_batch_size


def loop(classifier: Classifier, pixels: Tensor, labels: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Gradient norms image by image with plain autograd."""
    norms = []
    for image, label in zip(pixels.split(1), labels.split(1), strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(classifier(image), label), parameters)
        norms.append(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())
    return torch.stack(norms)


@torch.no_grad()
def last_layer(classifier: Classifier, pixels: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """The closed form, in batches."""
    parts = zip(pixels.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([grad_norm_last(*classifier.features_and_logits(part), label) for part, label in parts])


def by_func(classifier: Classifier, pixels: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """`torch.func`, in batches."""
    parts = zip(pixels.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([grad_norms_by_func(classifier, part, label, None) for part, label in parts])


def main() -> None:
    args = setting_parser(__doc__, images=64).parse_args()
    classifier, pixels, labels = load_setting(args, args.images)
    classifier.requires_grad_(True)
    size = args.batch_size or fastest_batch_size(classifier, pixels)
    everything, head = list(classifier.parameters()), list(classifier.head.parameters())
    works: dict[str, Callable[[], Tensor]] = {
        "loop": lambda: loop(classifier, pixels, labels, everything),
        "layers": lambda: grad_norm(classifier, pixels, labels, chunk_size=size),
        "torch.func": lambda: by_func(classifier, pixels, labels, size),
        "loop_last": lambda: loop(classifier, pixels, labels, head),
        "last": lambda: last_layer(classifier, pixels, labels, size),
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    norms = {name: work() for name, work in works.items()}
    for _ in range(args.repeats):
        for name, work in works.items():
            synchronize(args.device)
            start = time.perf_counter()
            work()
            synchronize(args.device)
            rates[name].append(len(pixels) / (time.perf_counter() - start))
    result = describe(args, classifier, pixels, labels) | {"images": len(pixels), "batch_size": size}
    for name, reference in (("layers", "loop"), ("torch.func", "loop"), ("last", "loop_last")):
        difference = (norms[name] - norms[reference]).abs() / norms[reference]
        ratios = [rate / slow for rate, slow in zip(rates[name], rates[reference], strict=True)]
        result[name] = {
            "images_per_second": spread(rates[name]),
            "loop_images_per_second": spread(rates[reference]),
            "speedup_over_loop": spread(ratios),
            "max_relative_difference": float(f"{difference.max().item():.2g}"),
        }
    write_result(args, "utility.json", classifier, result)


if __name__ == "__main__":
    main()
