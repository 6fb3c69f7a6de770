"""Which of several machines this is, where a scheduler says so."""

from __future__ import annotations

import os

__all__ = ["rank_of_environment"]


def rank_of_environment() -> tuple[int | None, int | None]:
    """Rank and number of ranks of a Slurm job array, else RANK and WORLD_SIZE; None for what is not said.

    RANK and WORLD_SIZE of a launcher (torchrun, accelerate), which sets LOCAL_RANK too, are for its own processes. They
    are taken out of the environment here, for libraries would take them for a launcher's.
    """
    variables = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    if variables[0] not in os.environ and "LOCAL_RANK" not in os.environ:
        variables = ("RANK", "WORLD_SIZE")
        found = [os.environ.pop(name, None) for name in variables]
    else:
        found = [os.environ.get(name) for name in variables]
    rank, ranks = (int(value) if value is not None and value.isdigit() else None for value in found)
    return rank, ranks
