"""Logits in 8 and 4 bits: what is lost, how many bytes they take, and that a softmax needs no offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decoct.distilled.logit_codes import BITS, code_width, decode_logits, encode_logits


def logits(classes: int, scale: float = 5.0, rows: int = 40) -> np.ndarray:
    return (scale * np.random.default_rng(classes).normal(size=(rows, 3, classes)) + 7).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("classes", [2, 3, 10, 101])
def test_a_logit_is_off_by_at_most_half_a_step(bits, classes):
    given = logits(classes)
    codes, scales = encode_logits(given, bits)
    assert codes.dtype == np.uint8 and codes.shape == (40, 3, code_width(classes, bits))
    assert scales.dtype == np.float16 and scales.shape == (40, 3)
    decoded = decode_logits(torch.from_numpy(codes), torch.from_numpy(scales), classes, bits).numpy()
    assert decoded.shape == given.shape and decoded.dtype == np.float32
    raised = given - given.min(-1, keepdims=True)
    step = raised.max(-1, keepdims=True) / (2**bits - 1)
    assert (np.abs(decoded - raised) <= 0.51 * step).all()
    assert (decoded.argmax(-1) == given.argmax(-1)).mean() > (0.99 if bits == 8 else 0.7)


def test_bytes_of_a_view():
    assert [code_width(10, bits) for bits in BITS] == [10, 5]
    assert [code_width(7, bits) for bits in BITS] == [7, 4]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_no_offset_is_needed_for_a_softmax(temperature):
    given = logits(10)
    codes, scales = encode_logits(given, 8)
    decoded = decode_logits(torch.from_numpy(codes), torch.from_numpy(scales), 10, 8)
    expected = (torch.from_numpy(given) / temperature).softmax(-1)
    assert torch.allclose((decoded / temperature).softmax(-1), expected, atol=0.02)
    shifted, _ = encode_logits(given + np.float32(64), 8)
    assert (shifted == codes).mean() > 0.99


def test_known_codes():
    codes, scales = encode_logits(np.array([[-1.0, 0.0, 2.0]], dtype=np.float32), 4)
    assert scales[0] == pytest.approx(0.2, abs=1e-3)
    # 0, 5 and 15 steps of a fifth: classes 0 and 1 share the first byte, class 2 has the low half of the second.
    assert codes.tolist() == [[0 | 5 << 4, 15]]


@pytest.mark.parametrize("bits", BITS)
def test_equal_logits_and_large_ones(bits):
    for given in (np.full((1, 4), 3.0, np.float32), np.array([[0.0, 3e4, -3e4, 1.0]], np.float32)):
        codes, scales = encode_logits(given, bits)
        decoded = decode_logits(torch.from_numpy(codes), torch.from_numpy(scales), 4, bits)
        assert torch.isfinite(decoded).all() and (scales > 0).all()
        assert np.abs(decoded.numpy() - (given - given.min())).max() <= 0.51 * np.ptp(given) / (2**bits - 1) + 1e-6


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38])
def test_what_cannot_be_coded(bits, odd):
    with pytest.raises(ValueError, match=r"label_bits must be one of \[8, 4\]. Got 6"):
        encode_logits(logits(3), 6)
    given = logits(3)
    given[7, 1, 2] = odd
    with pytest.raises(ValueError, match="logits must be finite"):
        encode_logits(given, bits)


@pytest.mark.parametrize("bits", BITS)
def test_views_are_coded_each_by_itself(bits):
    """However many are coded at once, and whatever else is among them."""
    given = logits(10)
    codes, scales = encode_logits(given, bits)
    for row in range(3):
        alone, scale = encode_logits(given[row, 2], bits)
        np.testing.assert_array_equal(alone, codes[row, 2])
        assert scale == scales[row, 2]


def test_codes_are_told_by_plain_arithmetic():
    """What another reader of the columns has to do, byte by byte."""
    given = logits(7)
    for bits in BITS:
        codes, scales = encode_logits(given, bits)
        decoded = decode_logits(torch.from_numpy(codes), torch.from_numpy(scales), 7, bits)
        for label in range(7):
            line = codes[3, 1].tolist()
            code = line[label] if bits == 8 else line[label // 2] >> 4 * (label % 2) & 15
            assert decoded[3, 1, label].item() == pytest.approx(code * float(scales[3, 1]), rel=1e-6)
