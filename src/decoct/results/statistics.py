"""Means, spreads and verdicts: whether one set of accuracies is above another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student_t

from decoct.methods import method_name
from decoct.results.tables import percent

__all__ = ["CONFIDENCE", "VERDICTS", "difference_interval", "judge", "mean_and_std", "place_of", "verdict"]

Record = Mapping[str, Any]


# Of the intervals that decide whether two sets are level.
CONFIDENCE = 0.95


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def difference_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the difference of two means (Welch's t); None if a side has fewer than two values."""
    if min(len(first), len(second)) < 2:
        return None
    difference = statistics.fmean(first) - statistics.fmean(second)
    if statistics.variance(first) + statistics.variance(second) == 0:
        return difference, difference
    from scipy.stats import ttest_ind  # takes a while to import

    interval = ttest_ind(first, second, equal_var=False).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def place_of(record: Record) -> str:
    """What was measured, in words: IPC, student, protocol and labels."""
    return f"IPC {record['ipc']}, {record['student']}, {record['protocol']}, {record['labels']} labels"


def verdict(record: Record) -> str:
    """Whether a distilled set beats random images, by how many points, and whether the seeds' spread allows to say so.

    Sets are called level where 0 lies in the difference's confidence interval (`difference_interval`); with one seed
    on a side the spread is unknown, and the sentence says that.
    """
    method = method_name(record["method"])
    method = method[:1].upper() + method[1:]
    baseline = record.get("baseline")
    if record["method"] == "random":
        return f"{method} are the baseline themselves ({percent(record['accuracy_mean'])})."
    if baseline is None:
        note = record.get("baseline_note") or "none is recorded"
        return f"{method} was not compared with random images: {note}."
    difference = record["accuracy_mean"] - baseline["accuracy_mean"]
    seeds = [len(record["seeds"]), len(baseline["seeds"])]
    accuracies = f"{percent(record['accuracy_mean'])} against {percent(baseline['accuracy_mean'])}"
    known = f"{accuracies}; {seeds[0]} and {seeds[1]} seeds"
    points = f"{abs(100 * difference):.1f} points"
    interval = difference_interval(record["accuracies"], baseline["accuracies"])
    if interval is None:
        side = "above" if difference > 0 else "below" if difference < 0 else "from"
        return f"{method} is {points} {side} random images ({known}; with one seed on a side the spread is unknown)."
    low, high = (f"{100 * end:+.1f}" for end in interval)
    shown = f"{known}; 95 % interval of the difference {low} to {high}"
    if interval[0] <= 0 <= interval[1]:
        return (
            f"{method} is level with random images, as far as the seeds tell ({100 * difference:+.1f} points, {shown})."
        )
    return f"{method} {'beats' if difference > 0 else 'is beaten by'} random images by {points} ({shown})."


VERDICTS = ("holds", "does not hold", "undecided")


def judge(differences: Sequence[float]) -> tuple[str, str]:
    """Whether paired differences (one per seed, as fractions) show that a claim holds, and the numbers behind it.

    `holds` or `does not hold` if the mean is above or below 0 by more than the 97.5 % quantile of Student's t
    distribution times its standard error, else `undecided`; one seed decides nothing.

    Returns:
        The verdict and its numbers in words.
    """
    count, mean = len(differences), statistics.fmean(differences)
    if count < 2:
        return VERDICTS[2], f"{100 * mean:+.1f} points with one seed, whose spread is unknown"
    error = statistics.stdev(differences) / math.sqrt(count)
    needed = float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    verdict = VERDICTS[0] if mean > needed else VERDICTS[1] if mean < -needed else VERDICTS[2]
    above = sum(difference > 0 for difference in differences)
    return verdict, f"{100 * mean:+.1f} ± {100 * error:.1f} points, {above} of {count} seeds above 0"
