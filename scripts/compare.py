"""Set the results of several runs side by side, as tables, verdicts and figures.

Every run of a folder that has been evaluated; others are named and left out:

    decoct compare runs/*

Beside the numbers of the papers (`infoutil`, `igds`, or a YAML file of your own):

    python scripts/compare.py runs/infoutil runs/rded --reported infoutil --output_dir runs/comparison

Numbers of different datasets, protocols, label modes or epoch rules never share a table. The output folder has
`compare.md`, `compare.csv` (all records, one row each) and `figures/`.
"""

from decoct.arguments import Stage, run_stage
from decoct.config import CompareConfig


def stage(config: CompareConfig) -> Stage:
    from decoct.results.compare import compare

    return Stage(compare)


if __name__ == "__main__":
    run_stage(CompareConfig, stage, __doc__, positional="runs")
