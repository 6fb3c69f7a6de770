"""Measure the prototype information and the contextual score of a labelled image dataset.

Of the embedded sample, by class and overall:

    python scripts/information.py --dataset sample --estimator runs/estimator

A distilled set beside the dataset it stands for:

    accelerate launch scripts/information.py --dataset uoft-cs/cifar10 --estimator runs/estimator \\
        --distilled runs/igds --output_dir runs/information

The table is printed; with `--output_dir` everything is written to `information.json` there.
"""

from decoct.arguments import Stage, run_stage
from decoct.config import InformationConfig


def stage(config: InformationConfig) -> Stage:
    from decoct.igds.measuring import information, plan_information
    from decoct.results.tables import format_information

    return Stage(information, plan_information, format_information)


if __name__ == "__main__":
    run_stage(InformationConfig, stage, __doc__)
