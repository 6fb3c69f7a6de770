"""Opening accelerate: a precision that the processor computes in software is said to be slow. Processes share work."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState

from decoct.run import processes
from decoct.run.precision import convolution_layout, times_fp32


@pytest.mark.parametrize(
    ("precision", "slower", "warned"), [("bf16", 90.0, True), ("bf16", 0.6, False), ("no", 90.0, False)]
)
def test_a_precision_without_instructions_of_the_processor_is_warned_of(precision, slower, warned, monkeypatch, caplog):
    monkeypatch.setattr(processes, "times_fp32", lambda device, mixed_precision: slower)
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision
    try:
        processes.open_accelerator(precision)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    told = "This processor multiplies matrices 90 times as slowly in bf16 as in fp32: pass --mixed_precision no."
    assert [record.getMessage() for record in caplog.records] == ([told] if warned else [])


def test_a_precision_is_compared_with_fp32():
    assert times_fp32(torch.device("cpu"), "bf16") > 0


@pytest.mark.parametrize(("capability", "width", "kept"), [("AVX2", 4, False), ("AVX2", 8, True), ("AVX512", 4, True)])
def test_narrow_strided_convolutions_are_laid_out_so_that_their_gradient_is_safe(capability, width, kept, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    network = torch.nn.Sequential(torch.nn.Conv2d(width, 8, 1, stride=2))
    assert (convolution_layout(network) is torch.channels_last) == kept


def test_processes_share_the_pieces_of_work():
    events = []
    for rank in (0, 1):
        process = SimpleNamespace(process_index=rank, num_processes=2, wait_for_everyone=lambda: events.append("wait"))
        processes.share_out(process, list("abc"), events.append)
    assert events == ["wait", "a", "c", "wait", "wait", "b", "wait"]
