"""The Newton-Schulz iteration of Muon, against the same in float64 as it is written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decoct.training.muon import kernel_muon, orthogonalised

COEFFICIENTS, STEPS, SMALLEST = (3.4445, -4.775, 2.0315), 5, 1e-7


def iterated(matrix: Tensor) -> Tensor:
    """What the iteration gives without rounding."""
    a, b, c = COEFFICIENTS
    result = matrix.double() / matrix.double().norm().clamp(min=SMALLEST)
    for _ in range(STEPS):
        gram = result @ result.T
        result = a * result + (b * gram + c * gram @ gram) @ result
    return result


def of_small_singular_values(shape: tuple[int, int]) -> Tensor:
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    return left * torch.logspace(0, -6, len(values)) @ right


@pytest.mark.parametrize("shape", [(8, 27), (16, 144), (12, 12), (32, 9)])
@pytest.mark.parametrize("make", [torch.randn, of_small_singular_values])
def test_it_is_the_iteration_in_float64_and_nearer_to_it_than_bfloat16_is(shape, make):
    torch.manual_seed(0)
    matrix = make(shape)
    exact = iterated(matrix)

    def error(result: Tensor) -> float:
        return float((result - exact).norm() / exact.norm())

    ours = orthogonalised(matrix, COEFFICIENTS, STEPS, SMALLEST)
    theirs = torch.optim._muon._zeropower_via_newtonschulz(matrix, COEFFICIENTS, STEPS, SMALLEST)
    assert ours.shape == matrix.shape and ours.dtype == torch.float32
    assert error(ours) < 1e-3 and error(ours) < error(theirs) / 20


def test_no_steps_and_no_gradient():
    matrix = torch.ones(2, 8)
    assert torch.allclose(orthogonalised(matrix, COEFFICIENTS, 0, SMALLEST), matrix / 4)
    assert not orthogonalised(torch.zeros(2, 8), COEFFICIENTS, STEPS, SMALLEST).any()


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (16, 1, 2, 2)])
def test_momentum_decay_and_learning_rate_are_those_of_pytorch(shape, monkeypatch):
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", lambda update, *_: iterated(update).float())
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(shape))
    reference = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    ours = kernel_muon([kernel], 0.02, 0.9, 0.1)
    theirs = torch.optim.Muon([reference], lr=0.02, momentum=0.9, weight_decay=0.1)
    for _ in range(4):
        kernel.grad.copy_(torch.randn(shape))
        reference.grad = kernel.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    assert torch.allclose(kernel.flatten(1), reference, atol=1e-5)
