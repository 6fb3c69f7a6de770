"""The metrics of DD-Ranking (Li et al., 2025, arXiv 2505.13300): what the images give, apart from their labels."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["dd_ranking", "hard_label_recovery", "improvement_over_random", "label_robust_score"]


def hard_label_recovery(real_hard: float, distilled_hard: float) -> float:
    """HLR: accuracy on all real images minus that on the distilled ones, both with hard labels; lower is better."""
    return real_hard - distilled_hard


def improvement_over_random(distilled_own: float, random_own: float) -> float:
    """IOR: accuracy on distilled images minus that on random ones, both with the set's own labels; higher is better."""
    return distilled_own - random_own


def label_robust_score(hlr: float, ior: float) -> float:
    """LRS: (e^a - e^-1) / (e - e^-1) with a = IOR / 2 - HLR / 2, between 0 (worst) and 1 (best).

    Args:
        hlr: Hard label recovery, in [-1, 1].
        ior: Improvement over random, in [-1, 1].
    """
    advantage = 0.5 * ior - 0.5 * hlr
    return (math.exp(advantage) - math.exp(-1)) / (math.e - math.exp(-1))


def dd_ranking(
    *,
    own: float,
    random: float | None,
    hard: float | None,
    real: float | None,
    student: str,
    protocol: str,
    baseline_note: str,
) -> dict[str, Any]:
    """The metrics of one setting as a record holds them; what cannot be known is None, and `note` says why.

    Args:
        own: Accuracy of students trained on the distilled images with the setting's labels, as a fraction.
        random: Likewise on random images.
        hard: Likewise on the distilled images with hard labels.
        real: Accuracy of the same student trained on all real images with hard labels.
        student: Name of the student.
        protocol: Name of the protocol.
        baseline_note: Why there are no random images, if so.
    """
    hlr = None if real is None or hard is None else hard_label_recovery(real, hard)
    ior = None if random is None else improvement_over_random(own, random)
    notes = []
    if hard is None:
        notes.append(f"no HLR: protocol {protocol} is not defined for hard labels")
    elif real is None:
        notes.append(
            f"no HLR: the accuracy of {student} on all real images is unknown; "
            f"give it with --real_accuracy {student}=FRACTION"
        )
    if random is None:
        notes.append(f"no IOR, for there are no random images: {baseline_note}")
    return {
        "hlr": hlr,
        "ior": ior,
        "lrs": None if hlr is None or ior is None else label_robust_score(hlr, ior),
        "real_accuracy": real,
        "note": "; ".join(notes),
    }
