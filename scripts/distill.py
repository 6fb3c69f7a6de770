"""Distil a dataset into a few images per class with soft labels.

The whole way from a dataset to a report, with a teacher that is trained first; `decoct distill photos --help` has its
options:

    decoct distill photos

On the embedded sample, for 1 and 10 images per class:

    accelerate launch scripts/distill.py --dataset sample --teacher runs/teacher --ipc 1 10 --output_dir runs/sample

CIFAR-10 by InfoUtil, and a baseline made by the same code (rded, random, herding, k_center, k_means, forgetting):

    accelerate launch scripts/distill.py --preset cifar10 --teacher runs/teacher --output_dir runs/infoutil
    accelerate launch scripts/distill.py --preset cifar10 --teacher runs/teacher --method rded --output_dir runs/rded

What it would compute and what that would cost:

    accelerate launch scripts/distill.py --preset cifar10 --teacher runs/teacher --dry_run

Shared by four machines, and finished by one:

    decoct distill --preset cifar10 --teacher runs/teacher --batch_size 64 --world_size 4 --rank 0
    decoct distill --preset cifar10 --teacher runs/teacher --batch_size 64 --merge

The same command continues a run that was interrupted. Read the result with
`load_dataset("runs/infoutil", "ipc_10", split="train")`.

With `--push_to_hub user/name` the result is published as `scripts/publish.py` would, once it is finished.
"""

from typing import Any

from decoct.arguments import Stage, run_stage
from decoct.config import DistillConfig


def stage(config: DistillConfig) -> Stage:
    from decoct.pages.printed import distill_report, rank_report
    from decoct.synthesis.distill import distill, plan_distill

    def printed(made: dict[str, Any]) -> str:
        return (rank_report if "rank" in made else distill_report)(made, config.output_dir)

    return Stage(distill, plan_distill, printed)


if __name__ == "__main__":
    run_stage(DistillConfig, stage, __doc__)
