"""Set the results of several runs side by side, as tables, verdicts and figures.

Every run of a folder that has been evaluated; others are named and left out:

    decoct compare runs/*

Beside the numbers of the papers (`infoutil`, `igds`, or a YAML file of your own):

    python scripts/compare.py runs/infoutil runs/rded --reported infoutil --output_dir runs/comparison

Numbers of different datasets, protocols, label modes or epoch rules never share a table. The output folder has
`compare.md`, `compare.csv` (all records, one row each) and `figures/`.
"""

import sys

from decoct.arguments import parse_config, run
from decoct.config import CompareConfig


def main() -> None:
    config = parse_config(CompareConfig, run_words(sys.argv[1:]), description=__doc__)
    from decoct.results.compare import compare

    print(compare(config))


def run_words(arguments: list[str]) -> list[str]:
    """Arguments in which the words before the first option are the runs."""
    count = next((number for number, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return ["--runs", *arguments] if count and "--runs" not in arguments else arguments


if __name__ == "__main__":
    run(main)
