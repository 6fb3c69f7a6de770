"""Seconds of a step of Muon as decoct takes it on a CPU, and as PyTorch does, on the same gradients in one run.

    python benchmarks/muon.py --students convnet3 resnet18

The kernels are those of untrained students, the gradients those of one batch of noise. `error` is what the
orthogonalised matrices differ by from the same iteration in float64, as a share of it. `ratio` above 1: decoct is
faster.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from timing import RESULTS, alternate, device_name, ratios, spread, timed, write_result
from torch import Tensor, nn
from torch.optim import _muon

from decoct.data.spec import ImageSpec
from decoct.models.zoo import build_classifier
from decoct.run.versions import installed_versions
from decoct.training.muon import kernel_muon, orthogonalised

SETTINGS = {"learning_rate": 0.02, "momentum": 0.95, "weight_decay": 0.01}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=["convnet3", "resnet18"], help="Architectures.")
    parser.add_argument("--batch_size", type=int, default=25, help="Images of the batch.")
    parser.add_argument("--repeats", type=int, default=5, help="Timed steps of each, interleaved.")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads.")
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    for student in args.students:
        write_result(args.output_dir / "muon.json", student, measure(student, args))


def measure(student: str, args: argparse.Namespace) -> dict[str, object]:
    """The record of an architecture."""
    spec = ImageSpec(32, 3, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(10))))
    torch.manual_seed(0)
    network, images = build_classifier(student, spec), torch.randn(args.batch_size, 3, 32, 32)
    kernels = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1]

    def pass_through() -> None:
        network(images).square().mean().backward()

    pass_through()
    gradients = [kernel.grad.flatten(1).clone() for kernel in kernels]
    optimizers = {"decoct": kernel_muon(kernels, **SETTINGS), "PyTorch": plain_muon(kernels, gradients)}
    for kernel, gradient in zip(kernels, gradients, strict=True):
        kernel.grad.copy_(gradient.view_as(kernel))
    for optimizer in optimizers.values():
        optimizer.step()
    seconds = alternate({name: optimizer.step for name, optimizer in optimizers.items()}, args.repeats, "cpu")
    pass_seconds = [timed(pass_through, "cpu")[0] for _ in range(args.repeats)]
    ours, theirs = (errors(gradients, each) for each in (orthogonalised, _muon._zeropower_via_newtonschulz))
    return {
        "student": student,
        "kernels": len(kernels),
        "largest": list(max(gradients, key=Tensor.numel).shape),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "forward_and_backward_seconds": spread(pass_seconds),
        "batch_size": args.batch_size,
        "ratio": spread(ratios(seconds["PyTorch"], seconds["decoct"])),
        "error": {"decoct": ours, "PyTorch": theirs},
        "repeats": args.repeats,
        "device": device_name("cpu"),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "threads": torch.get_num_threads(),
        "versions": installed_versions(),
    }


def plain_muon(kernels: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> torch.optim.Optimizer:
    """PyTorch's Muon on copies of the kernels as matrices."""
    matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    for matrix, gradient in zip(matrices, gradients, strict=True):
        matrix.grad = gradient.clone()
    names = {"lr": SETTINGS["learning_rate"], "momentum": SETTINGS["momentum"]}
    return torch.optim.Muon(matrices, **names, weight_decay=SETTINGS["weight_decay"])


def errors(gradients: Sequence[Tensor], iterate: Callable[..., Tensor]) -> float:
    """Median over matrices of the distance to the iteration in float64, as a share of it."""
    settings = ((3.4445, -4.775, 2.0315), 5, 1e-7)
    found = []
    for gradient in gradients:
        exact = orthogonalised(gradient.double(), *settings)
        found.append(float((iterate(gradient, *settings) - exact).norm() / exact.norm()))
    return float(f"{statistics.median(found):.2g}")


if __name__ == "__main__":
    main()
