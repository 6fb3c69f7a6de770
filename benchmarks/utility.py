"""Claim: per-sample gradient norms in batches equal a loop of batch 1 to rounding, and are faster.

    python benchmarks/utility.py --teacher runs/teacher --dataset uoft-cs/cifar10

All methods score the same images; their timed runs alternate within one process. `layers` is what `grad_norm` does,
`torch.func` its fallback for networks with other layers, `last` the closed form of the last layer beside a loop over
that layer's gradients. Results, with hardware and versions, go to benchmarks/results/utility.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timing import alternate, describe, key_of, load_network, network_parser, ratios, spread, write_result
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


def main(words: Sequence[str] | None = None) -> None:
    args = network_parser(__doc__, images=64).parse_args(words)
    classifier, pixels, labels = load_network(args, args.images)
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
    norms = {name: work() for name, work in works.items()}
    seconds = alternate(works, args.repeats, args.device)
    rates = {name: [len(pixels) / each for each in runs] for name, runs in seconds.items()}
    result = describe(args, classifier, pixels, labels) | {"images": len(pixels), "batch_size": size}
    for name, reference in (("layers", "loop"), ("torch.func", "loop"), ("last", "loop_last")):
        difference = (norms[name] - norms[reference]).abs() / norms[reference]
        result[name] = {
            "images_per_second": spread(rates[name]),
            "loop_images_per_second": spread(rates[reference]),
            "speedup_over_loop": spread(ratios(rates[name], rates[reference])),
            "max_relative_difference": float(f"{difference.max().item():.2g}"),
        }
    write_result(args.output_dir / "utility.json", key_of(args, classifier), result)


if __name__ == "__main__":
    main()
