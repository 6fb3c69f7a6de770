"""Muon on kernels of convolutions is torch's Muon on the same kernels as matrices, whatever their memory format."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from decoct.training.muon import kernel_muon, orthogonalised
from decoct.training.optimizers import set_learning_rates, student_optimizers
from decoct.training.protocols import learning_rate, load_protocol, schedule


def network(channels_last: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 5)
    )
    return layers.to(memory_format=torch.channels_last) if channels_last else layers


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return net(torch.randn(6, 3, 4, 4, generator=generator)).square().mean()


@pytest.mark.parametrize("channels_last", [False, True])
def test_kernels_are_trained_as_their_matrices_are(channels_last, monkeypatch):
    # PyTorch's is in bfloat16, whose rounding would hide a fault.
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", orthogonalised)
    net, reference = network(channels_last), network()
    kernels = [weight for weight in net.parameters() if weight.ndim == 4]
    ours = kernel_muon(kernels, 0.02, 0.95, 0.01)
    matrices = {name: nn.Parameter(weight.detach().flatten(1).clone())
                for name, weight in reference.named_parameters() if weight.ndim == 4}  # fmt: skip
    theirs = torch.optim.Muon(matrices.values(), lr=0.02, momentum=0.95, weight_decay=0.01)
    for step in range(4):
        loss_of(net, step).backward()
        ours.step()
        ours.zero_grad()
        net.zero_grad(set_to_none=False)
        loss_of(reference, step).backward()
        for name, weight in reference.named_parameters():
            if name in matrices:
                matrices[name].grad = weight.grad.flatten(1).clone()
        theirs.step()
        with torch.no_grad():
            for name, weight in reference.named_parameters():
                if name in matrices:
                    weight.copy_(matrices[name].view_as(weight))
        reference.zero_grad()
    for weight, expected in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(weight, expected, atol=1e-4)
    assert not torch.equal(net[0].weight, network()[0].weight)


def test_the_rest_is_trained_by_adamw_and_each_parameter_once():
    protocol = load_protocol("strong_kd")
    net = network()
    muon, adam = student_optimizers(net, protocol)
    assert isinstance(muon, torch.optim.Muon) and isinstance(adam, torch.optim.AdamW)
    assert sum(matrix.numel() for group in muon.param_groups for matrix in group["params"]) == 8 * 27 + 4 * 8
    rest = [weight for group in adam.param_groups for weight in group["params"]]
    assert {id(w) for w in rest} == {id(w) for w in net.parameters() if w.ndim != 4}
    assert {group["weight_decay"] for group in adam.param_groups if any(w.ndim == 1 for w in group["params"])} == {0.0}


def test_kernels_in_groups_are_trained_by_adamw():
    """Rows of a flattened depthwise kernel belong to other channels each, so that they are no matrix together; a kernel
    of one input channel in one group is."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=2)
    )
    muon, adam = student_optimizers(net, load_protocol("strong_kd"))
    assert {matrix.data_ptr() for group in muon.param_groups for matrix in group["params"]} == {
        net[layer].weight.data_ptr() for layer in (0, 2)
    }
    rest = {id(weight) for group in adam.param_groups for weight in group["params"]}
    assert rest == {id(weight) for weight in net.parameters()} - {id(net[0].weight), id(net[2].weight)}


def test_the_depthwise_kernels_of_a_mobilenet_are_among_them():
    from worlds import spec_of

    from decoct.models.zoo import build_classifier

    net = build_classifier("mobilenet_v2", spec_of(side=32))
    muon, _ = student_optimizers(net, load_protocol("strong_kd"))
    ours = {matrix.data_ptr() for group in muon.param_groups for matrix in group["params"]}
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert any(layer.groups > 1 for layer in convolutions)
    assert ours == {layer.weight.data_ptr() for layer in convolutions if layer.groups == 1}


def test_the_schedule_multiplies_the_learning_rates_of_all_groups():
    """An architecture's own learning rate is AdamW's; that of Muon is the same for all."""
    protocol = load_protocol("strong_kd")
    for architecture, expected in (("convnet3", 0.001), ("vgg11", 0.0005), ("mobilenet_v2", 0.0025)):
        optimizers = student_optimizers(network(), protocol, architecture)
        for epoch in (0, 5, 9):
            set_learning_rates(optimizers, schedule(protocol, epoch, 10))
            share = 0.5 * (1 + math.cos(math.pi * epoch / 20))
            muon, adam = ({group["lr"] for group in each.param_groups} for each in optimizers)
            assert muon == {0.02 * share} and adam == {expected * share}
            assert adam == {learning_rate(protocol, epoch, 10, architecture)}


def test_gradients_stay_where_they_are_linked():
    net = network(channels_last=True)
    optimizers = student_optimizers(net, load_protocol("strong_kd"))
    before = net[0].weight.detach().clone()
    for step in range(3):
        loss_of(net, step).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert net[0].weight.grad is not None and not net[0].weight.grad.any()
        assert net[5].weight.grad is None
        assert not torch.equal(net[0].weight, before)
        before = net[0].weight.detach().clone()


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [
        ("rded_kd", torch.optim.AdamW, 0.001),
        ("igds_adam", torch.optim.Adam, 0.01),
        ("minimax_hard", torch.optim.SGD, 0.01),
    ],
)
def test_other_protocols_have_one_optimiser(name, kind, rate):
    (optimizer,) = student_optimizers(network(), load_protocol(name))
    assert type(optimizer) is kind and {group["initial_lr"] for group in optimizer.param_groups} == {rate}


@pytest.mark.parametrize(("changes", "message"), [
    ({"matrix_learning_rate": None}, "of protocol 'strong_kd' must be positive for muon. Got None"),
    ({"matrix_learning_rate": 0}, "must be positive for muon"),
    ({"optimizer": "adamw"}, "must be left out for adamw. Got 0.02"),
])  # fmt: skip
def test_muon_has_a_learning_rate_of_its_own_and_others_none(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(load_protocol("strong_kd"), **changes)


def test_settings_of_protocols_without_muon_are_what_they_were():
    assert "matrix_learning_rate" not in load_protocol("rded_kd").to_dict()
    assert load_protocol("strong_kd").to_dict()["matrix_learning_rate"] == 0.02
