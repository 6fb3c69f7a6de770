"""Logits in 8 and 4 bits: what is lost, how many bytes they take, and that a softmax needs no offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decoct.distilled.logit_codes import (
    BITS,
    code_width,
    decode_logits,
    encode_logits,
    encode_top_k,
    kept_classes,
    spread,
)


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


# The largest logits alone


def decoded_top_k(given: np.ndarray, bits: int, top_k: int) -> torch.Tensor:
    codes, scales, kept, rest = encode_top_k(given, bits, top_k)
    assert codes.shape == (*given.shape[:-1], code_width(top_k, bits)) and codes.dtype == np.uint8
    assert kept.shape == (*given.shape[:-1], top_k) and kept.dtype == np.uint16
    assert scales.shape == rest.shape == given.shape[:-1] and rest.dtype == np.float16
    largest = decode_logits(torch.from_numpy(codes), torch.from_numpy(scales), top_k, bits)
    return spread(largest, torch.from_numpy(kept.astype(np.int32)), torch.from_numpy(rest), given.shape[-1])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("classes", "top_k"), [(10, 3), (101, 20), (1000, 7), (5, 4), (6, 1)])
def test_other_classes_share_the_teachers_mass_at_temperature_1(bits, classes, top_k):
    given = logits(classes)
    decoded = decoded_top_k(given, bits, top_k)
    _, _, kept, _ = encode_top_k(given, bits, top_k)
    assert (np.diff(kept.astype(int), axis=-1) > 0).all()
    for row, (view, slot) in enumerate(np.ndindex(40, 3)):
        teacher, ours = given[view, slot].astype(np.float64), decoded[view, slot].double().numpy()
        expected = set(np.argsort(teacher)[-top_k:].tolist())
        assert set(kept[view, slot].tolist()) == expected
        others = [label for label in range(classes) if label not in expected]
        assert len(set(ours[others].tolist())) == 1, "they have one logit"
        masses = [np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in (teacher, ours)]
        assert masses[1][others].sum() == pytest.approx(masses[0][others].sum(), rel=0.02), row  # a float16's logit
        members = sorted(expected)
        step = np.ptp(teacher[members]) / (2**bits - 1)
        assert np.abs(ours[members] - (teacher[members] - teacher[members].min())).max() <= 0.51 * step + 1e-5


@pytest.mark.parametrize("bits", BITS)
def test_improbable_classes_are_told_at_any_temperature(bits):
    """Their probability at temperature 1 is below what float32 holds; at 20 it is not."""
    given = np.array([[300.0, 290.0, 0.0, 1.0, -1.0]], np.float32)
    decoded = decoded_top_k(given, bits, 2)
    assert torch.isfinite(decoded).all()
    soft, expected = ((z / 20).softmax(-1)[0] for z in (decoded, torch.from_numpy(given)))
    assert torch.allclose(soft, expected, atol=2e-3) and soft[2] > 0


def test_bytes_and_shapes_of_the_largest_logits():
    assert [kept_classes(top_k, 10) for top_k in (0, 3, 9, 10, 11)] == [0, 3, 9, 0, 0]
    for top_k in (0, 10, 11):
        with pytest.raises(ValueError, match=f"label_top_k must be below the 10 classes.* Got {top_k}"):
            encode_top_k(logits(10), 8, top_k)
    broken = logits(10)
    broken[3, 1, 4] = np.nan
    with pytest.raises(ValueError, match="logits must be finite"):
        encode_top_k(broken, 8, 3)


def test_known_codes_of_the_largest_logits():
    """By plain arithmetic: classes 1 and 3 are kept, 1 apart; the others have e^-2 + e^-3 of e^0 + e^1."""
    codes, scales, kept, rest = encode_top_k(np.array([[-2.0, 0.0, -3.0, 1.0]], np.float32), 8, 2)
    assert kept.tolist() == [[1, 3]] and codes.tolist() == [[0, 255]]
    assert scales[0] == pytest.approx(1 / 255, rel=2e-3)
    assert rest[0] == pytest.approx(np.log((np.exp(-2) + np.exp(-3)) / 2), abs=3e-3)
