"""One rule says whether a set of accuracies is above another: a paired t test where the seeds pair, else Welch's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scipy import stats
from worlds import measured

from decoct.results.statistics import VERDICTS, compare_accuracies, verdict


def by_seed(values: Sequence[float], first: int = 0) -> dict[int, float]:
    return dict(enumerate(values, first))


def sentence(own: Sequence[float], random: Sequence[float], first: int = 0, method: str = "infoutil") -> str:
    return verdict({"method": method, **measured(*own), "baseline": measured(*random, first=first)})


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.05], "undecided"),  # one seed
        ([0.0, 0.0, 0.0], "undecided"),  # ties
        ([0.01, 0.01], "above"),  # no spread
        ([-0.01, -0.01], "below"),
        # t(0.975, 2 degrees of freedom) = 4.303: mean 0.02 against a standard error of 0.01 / sqrt(3) is 3.46
        ([0.01, 0.02, 0.03], "undecided"),
        # ... and against 0.005 / sqrt(3) is 6.93
        ([0.015, 0.02, 0.025], "above"),
        ([-0.015, -0.02, -0.025], "below"),
        ([0.2, -0.1, 0.1], "undecided"),
    ],
)
def test_paired_differences(differences, expected):
    base = [0.5, 0.3, 0.4][: len(differences)]
    found = compare_accuracies(
        by_seed([value + difference for value, difference in zip(base, differences, strict=True)]), by_seed(base)
    )
    assert found.verdict == expected and expected in VERDICTS
    assert found.paired and found.mean == pytest.approx(sum(differences) / len(differences))


def test_the_paired_interval_is_that_of_the_differences():
    # Standard error 0.01 / sqrt(3), and 4.3027 is the 97.5 % quantile of t with 2 degrees of freedom.
    found = compare_accuracies(by_seed([0.51, 0.72, 0.63]), by_seed([0.5, 0.7, 0.6]))
    half = 4.3027 * 0.01 / 3**0.5
    assert (found.low, found.high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-5)
    assert str(found) == "+2.0 points, 95 % interval -0.5 to +4.5"


def test_other_seeds_do_not_pair():
    # Equal variances of 1e-4 and 3 values each: Welch's t has 4 degrees of freedom, whose 97.5 % quantile is 2.776.
    found = compare_accuracies(by_seed([0.58, 0.59, 0.60]), by_seed([0.53, 0.54, 0.55], first=10))
    half = 2.776 * (2 * 0.01**2 / 3) ** 0.5
    assert not found.paired
    assert (found.low, found.high) == pytest.approx((0.05 - half, 0.05 + half), abs=1e-5)


def test_a_side_with_further_seeds_pairs_over_those_of_the_other():
    first, second = [0.51, 0.72, 0.63, 0.1], [0.5, 0.7, 0.6]
    found = compare_accuracies(by_seed(first), by_seed(second))
    expected = stats.ttest_rel(first[:3], second).confidence_interval(0.95)
    assert found.paired and (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(0.02)


def test_seeds_that_only_overlap_do_not_pair():
    first, second = by_seed([0.5, 0.6, 0.7]), by_seed([0.5, 0.4, 0.6], first=1)
    found = compare_accuracies(first, second)
    expected = stats.ttest_ind(list(first.values()), list(second.values()), equal_var=False).confidence_interval(0.95)
    assert not found.paired and (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_constant_sides_differ_for_sure():
    found = compare_accuracies(by_seed([0.5, 0.5]), by_seed([0.25, 0.25], first=5))
    assert (found.low, found.high, found.verdict) == (0.25, 0.25, "above")


def test_one_seed_on_a_side_decides_nothing():
    for first, second in (([0.4], [0.1, 0.2]), ([0.4, 0.5], [0.1]), ([0.4], [0.1])):
        found = compare_accuracies(by_seed(first), by_seed(second))
        assert found.low is None and found.verdict == "undecided"
    with pytest.raises(ValueError, match="one or more on each side. Got 0 and 1"):
        compare_accuracies({}, by_seed([0.1]))


# Words


def test_the_verdict_says_by_how_much_and_against_which_spread():
    assert sentence([0.58, 0.59, 0.60], [0.53, 0.54, 0.55], first=10) == (
        "InfoUtil beats random images (59.0 against 54.0; 3 and 3 seeds; +5.0 points, 95 % interval +2.7 to +7.3)."
    )
    loses = sentence([0.40, 0.41], [0.50, 0.51], first=5, method="k_center")
    assert loses.startswith("K-center is beaten by random images (40.5 against 50.5; 2 and 2 seeds; -10.0 points, ")


def test_a_difference_whose_interval_holds_zero_is_level():
    above = sentence([0.50, 0.52], [0.49, 0.51], first=5)
    assert above.startswith("InfoUtil is level with random images, as far as the seeds tell (51.0 against 50.0; ")
    # More than two standard errors, but two seeds a side know their spread too badly.
    assert "is level with" in sentence([0.50, 0.52], [0.46, 0.48], first=5)
    assert "is level with" in sentence([0.5, 0.5], [0.5, 0.5])


@pytest.mark.parametrize(("own", "random"), [([0.6], [0.5, 0.51]), ([0.6, 0.61], [0.5]), ([0.4], [0.5])])
def test_with_one_seed_the_spread_is_unknown_and_nobody_wins(own, random):
    words = sentence(own, random)
    assert "the spread is unknown" in words and "beat" not in words
    assert ("above" if own[0] > 0.5 else "below") in words


def test_without_a_baseline_the_verdict_says_why():
    note = "the teacher is out of reach: no such folder"
    alone = {"method": "infoutil", **measured(0.5), "baseline": None}
    assert verdict({**alone, "baseline_note": note}).endswith(f"not compared with random images: {note}.")
    assert "none is recorded" in verdict(alone)
    assert "themselves" in verdict({**alone, "method": "random"})
