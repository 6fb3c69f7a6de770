"""Measure the prototype information and the contextual score of a labelled image dataset.

Of the embedded sample, by class and overall:

    python scripts/information.py --dataset sample --estimator runs/estimator

A distilled set beside the dataset it stands for:

    accelerate launch scripts/information.py --dataset uoft-cs/cifar10 --estimator runs/estimator \\
        --distilled runs/igds --output_dir runs/information

The table is printed; with `--output_dir` everything is written to `information.json` there.
"""

from decoct.arguments import parse_config, run
from decoct.config import InformationConfig


def main() -> None:
    config = parse_config(InformationConfig, description=__doc__)
    from decoct.igds.measuring import information
    from decoct.pages.printed import format_settings
    from decoct.results.tables import format_information

    result = information(config)
    print(format_settings(result) if config.dry_run else format_information(result))


if __name__ == "__main__":
    run(main)
