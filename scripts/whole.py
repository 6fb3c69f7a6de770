"""The whole way from a dataset to a report: train a teacher, distil, train networks on the sets, measure them.

It says first what it will do and how long that takes on this machine; `--dry_run` says no more than that:

    decoct distill photos --dry_run
    decoct distill photos
    decoct distill uoft-cs/cifar10 --teacher runs/teacher --ipc 1 10

Each step can be stopped, and the same command continues. Everything that is not said follows from the images: their
side, the network, how long the teacher is trained, and the sizes of the distilled sets.
"""

import sys

from decoct.arguments import Stage, run_stage
from decoct.config import WholeConfig
from decoct.files import shown


def stage(config: WholeConfig) -> Stage:
    sys.stderr.write(f"Looking at {shown(config.dataset)} ...\n")  # the imports below take seconds
    from decoct.whole import distill_whole, format_outcome, plan_whole

    return Stage(distill_whole, plan_whole, printed=format_outcome, printed_plan=str)


if __name__ == "__main__":
    run_stage(WholeConfig, stage, __doc__, positional="dataset")
