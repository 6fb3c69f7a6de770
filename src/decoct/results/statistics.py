"""Means, spreads and verdicts: whether one set of accuracies is above another, as far as their seeds tell."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decoct.methods import method_name
from decoct.results.tables import percent

__all__ = [
    "CONFIDENCE",
    "VERDICTS",
    "Difference",
    "accuracies_of",
    "compare_accuracies",
    "mean_and_std",
    "place_of",
    "verdict",
]

Record = Mapping[str, Any]

CONFIDENCE = 0.95  # of the intervals that decide
VERDICTS = ("above", "below", "undecided")


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def accuracies_of(results: Sequence[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Mean, standard deviation and single accuracies of students, one per seed."""
    accuracies = [result["accuracy"] for result in results]
    mean, std = mean_and_std(accuracies)
    return {"accuracy_mean": mean, "accuracy_std": std, "accuracies": accuracies, "seeds": list(seeds)}


@dataclass(frozen=True)
class Difference:
    """How far one set of accuracies is above another, as fractions.

    Args:
        mean: The difference of the means or, where seeds pair, the mean of the differences.
        low: Lower end of its 95 % confidence interval; None with one seed on a side, whose spread is unknown.
        high: Upper end.
        paired: Whether the seeds pair.
    """

    mean: float
    low: float | None
    high: float | None
    paired: bool

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`: undecided where the interval holds 0 or is unknown."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return VERDICTS[2]
        return VERDICTS[0] if self.mean > 0 else VERDICTS[1]

    def __str__(self) -> str:
        """`+5.0 points, 95 % interval +2.7 to +7.3`."""
        points = f"{100 * self.mean:+.1f} points"
        if self.low is None or self.high is None:
            return f"{points}; with one seed on a side the spread is unknown"
        return f"{points}, {100 * CONFIDENCE:.0f} % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"


def compare_accuracies(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """The difference of two sets of accuracies by seed, with its 95 % confidence interval.

    A paired t test where the seeds of one side are all among the other's, so that each has a partner; else Welch's.

    Raises:
        ValueError: If a side has no accuracy.
    """
    if not first or not second:
        raise ValueError(f"accuracies must be one or more on each side. Got {len(first)} and {len(second)}.")
    common = sorted(first.keys() & second.keys())
    paired = len(common) == min(len(first), len(second))
    one, other = (
        [[side[seed] for seed in common] for side in (first, second)]
        if paired
        else [list(side.values()) for side in (first, second)]
    )
    mean = statistics.fmean(one) - statistics.fmean(other)
    if min(len(one), len(other)) < 2:
        return Difference(mean, None, None, paired)
    # Of equal differences, or equal values, the spread is 0, and a t test divides by it.
    spread = [a - b for a, b in zip(one, other, strict=True)] if paired else [*_centred(one), *_centred(other)]
    if max(spread) - min(spread) < 1e-12:
        return Difference(mean, mean, mean, paired)
    from scipy.stats import ttest_ind, ttest_rel  # takes a while to import

    test = ttest_rel(one, other) if paired else ttest_ind(one, other, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.low), float(interval.high), paired)


def _centred(values: Sequence[float]) -> list[float]:
    return [value - values[0] for value in values]


# Words


def place_of(record: Record) -> str:
    """What was measured, in words: IPC, student, protocol and labels."""
    return f"IPC {record['ipc']}, {record['student']}, {record['protocol']}, {record['labels']} labels"


def verdict(record: Record) -> str:
    """Whether a distilled set beats random images, by how many points, and whether the seeds' spread allows to say so.

    Sets are called level where `compare_accuracies` does not decide; with one seed on a side the spread is unknown, and
    the sentence says that.
    """
    method = method_name(record["method"])
    method = method[:1].upper() + method[1:]
    baseline = record.get("baseline")
    if record["method"] == "random":
        return f"{method} are the baseline themselves ({percent(record['accuracy_mean'])})."
    if baseline is None:
        note = record.get("baseline_note") or "none is recorded"
        return f"{method} was not compared with random images: {note}."
    found = compare_accuracies(
        *(dict(zip(each["seeds"], each["accuracies"], strict=True)) for each in (record, baseline))
    )
    accuracies = f"{percent(record['accuracy_mean'])} against {percent(baseline['accuracy_mean'])}"
    known = f"({accuracies}; {len(record['seeds'])} and {len(baseline['seeds'])} seeds; {found})"
    if found.low is None:
        side = "above" if found.mean > 0 else "below" if found.mean < 0 else "level with"
        return f"{method} is {side} random images {known}."
    words = {"above": "beats random images", "below": "is beaten by random images"}
    return f"{method} {words.get(found.verdict, 'is level with random images, as far as the seeds tell')} {known}."
