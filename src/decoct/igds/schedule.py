"""The default weight of contextual information for a number of images per class."""

from __future__ import annotations

import math

__all__ = ["default_beta"]

# decoct's own, from the sweep in benchmarks/results/beta_sweep_sample.json; the paper's figures use 0, 0.1 and 0.5.
MEASURED = ((1, 0.0), (10, 1.0), (50, 3.0))


def default_beta(ipc: int) -> float:
    """decoct's beta of an IPC, interpolated in log(IPC) between measured ones and constant beyond them.

    Larger sets want more contextual information (IGDS, section 5.2 and Fig. 5); the paper gives no values.
    """
    if ipc <= MEASURED[0][0]:
        return MEASURED[0][1]
    for (low, low_beta), (high, high_beta) in zip(MEASURED, MEASURED[1:], strict=False):
        if ipc <= high:
            share = math.log(ipc / low) / math.log(high / low)
            return low_beta + share * (high_beta - low_beta)
    return MEASURED[-1][1]
