"""How fast a network is on this machine; that numbers are numbers, never how large they are."""

import torch
from worlds import spec_of

from decoct.models.throughput import images_per_second, throughput, training_throughput
from decoct.models.zoo import build_classifier


def test_images_per_second_counts_each_image_of_a_call(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    calls = []
    assert images_per_second(lambda pixels: calls.append(len(pixels)) or pixels, torch.zeros(8, 3)) == 8 / 2
    assert calls == [8, 8, 8], "the first call is not counted"


def test_a_forward_pass_is_timed_in_the_batch_that_is_asked_for():
    network = build_classifier("convnet3_w8", spec_of()).eval()
    sizes = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape))
    assert throughput(network, "no", batch_size=5) > 0
    assert set(sizes) == {(5, 3, 16, 16)}
    assert throughput(network, "no") > 0


def test_training_is_timed_and_the_network_stays_as_it_is():
    network = build_classifier("convnet3_w8", spec_of()).eval()
    before = network.fingerprint()
    assert training_throughput(network, images=4) > 0
    assert network.fingerprint() == before and not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
