"""Muon on kernels of convolutions; on a CPU in fp32, by matrices as small as the kernels have rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["kernel_muon", "orthogonalised"]


def kernel_muon(
    kernels: Iterable[nn.Parameter], learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Muon (Jordan et al., 2024) on kernels of convolutions `(out, in, height, width)`, as matrices with a row per out.

    The matrices share the memory of the kernels and of their gradients, which therefore must stay where they are.

    Raises:
        ValueError: If PyTorch has no Muon yet.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"optimizer 'muon' must have PyTorch 2.9 or newer. Got {torch.__version__}.")
    kernels = list(kernels)
    matrices = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in kernels]
    for kernel, matrix in zip(kernels, matrices, strict=True):
        kernel.grad = torch.zeros_like(kernel)  # of the kernel's memory format
        matrix.grad = _as_matrix(kernel.grad)
    on_cpu = all(kernel.device.type == "cpu" for kernel in kernels)
    return (_CpuMuon if on_cpu else _InPlaceMuon)(
        matrices, lr=learning_rate, momentum=momentum, weight_decay=weight_decay
    )


class _InPlaceMuon(torch.optim.Muon if hasattr(torch.optim, "Muon") else torch.optim.Optimizer):  # type: ignore[misc]
    """Muon that sets gradients to zero where they are, and never to None."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        super().zero_grad(set_to_none=False)


class _CpuMuon(_InPlaceMuon):
    """The same steps with `orthogonalised`: PyTorch's own is in bf16, which most processors only emulate."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One step; a closure is not called."""
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                average = state.setdefault("momentum_buffer", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(average, group["momentum"])  # Nesterov's
                update = orthogonalised(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = matrix.shape
                matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def orthogonalised(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, smallest_norm: float
) -> Tensor:
    """A matrix with its singular values near 1, by Muon's Newton-Schulz iteration X <- (a + b X Xᵀ + c (X Xᵀ)²) X.

    All factors are polynomials of the first X Xᵀ, so that they are multiplied with each other, and with X once, at the
    end: 2.7 times fewer multiplications where there are nine times as many columns as rows. In fp32 it is nearer to the
    exact iteration than the plain one in bf16; in bf16 X Xᵀ would lose the small singular values.

    Args:
        matrix: Of shape `(rows, columns)`.
        coefficients: a, b and c.
        smallest_norm: What the norm, by which the matrix is divided first, is taken for at least.
    """
    a, b, c = coefficients
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=smallest_norm)
    gram = wide @ wide.T
    product = None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    wide = wide if product is None else product @ wide
    return wide.T if len(matrix) > matrix.shape[1] else wide


def _as_matrix(kernel: Tensor) -> Tensor:
    """A view `(out, -1)` of a kernel; the order of its columns is that of memory, which does not matter to Muon."""
    return kernel.view(len(kernel), -1) if kernel.is_contiguous() else kernel.permute(0, 2, 3, 1).view(len(kernel), -1)
