"""The optimisers of students: those of a protocol, with Muon on the kernels of convolutions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from decoct.training.loop import parameter_groups
from decoct.training.muon import kernel_muon
from decoct.training.protocols import Protocol, initial_learning_rate

__all__ = ["set_learning_rates", "student_optimizers"]


def student_optimizers(
    student: nn.Module, protocol: Protocol, architecture: str | None = None
) -> list[torch.optim.Optimizer]:
    """A protocol's optimisers. Each of their groups has an `initial_lr`, for the schedule to multiply.

    Under `muon` kernels of convolutions are trained by Muon at `matrix_learning_rate`, all else by AdamW; so are the
    kernels of convolutions in groups, whose rows belong to different inputs and are no matrix together.

    Args:
        architecture: The student's name, for the learning rate.
    """
    learning_rate = initial_learning_rate(protocol, architecture)
    groups = parameter_groups(student, protocol.weight_decay)
    if protocol.decay_one_dimensional:
        groups = [{**group, "weight_decay": protocol.weight_decay} for group in groups]
    if protocol.optimizer == "sgd":
        return _scheduled(torch.optim.SGD(groups, lr=learning_rate, momentum=protocol.momentum, fused=True))
    kernels: list[nn.Parameter] = []
    if protocol.optimizer == "muon":
        full = {id(layer.weight) for layer in student.modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1}
        kernels = [weight for group in groups for weight in group["params"] if id(weight) in full]
        groups = [{**group, "params": [each for each in group["params"] if id(each) not in full]} for group in groups]
    kind = torch.optim.Adam if protocol.optimizer == "adam" else torch.optim.AdamW
    adam = kind(groups, lr=learning_rate, betas=protocol.betas or (0.9, 0.999), fused=True)
    if not kernels or protocol.matrix_learning_rate is None:
        return _scheduled(adam)
    muon = kernel_muon(kernels, protocol.matrix_learning_rate, protocol.momentum, protocol.weight_decay)
    return _scheduled(muon, adam)


def set_learning_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Sets each group's learning rate to its initial one times a factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


def _scheduled(*optimizers: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimisers, with their groups' learning rates kept as the initial ones."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return list(optimizers)
