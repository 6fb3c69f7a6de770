"""Distil a dataset into a few images per class with soft labels.

On the embedded sample, for 1 and 10 images per class:

    accelerate launch scripts/distill.py --dataset sample --teacher runs/teacher --ipc 1 10 --output_dir runs/sample

CIFAR-10 by InfoUtil, and a baseline made by the same code (rded, random, herding, k_center, k_means, forgetting):

    accelerate launch scripts/distill.py --preset cifar10 --teacher runs/teacher --output_dir runs/infoutil
    accelerate launch scripts/distill.py --preset cifar10 --teacher runs/teacher --method rded --output_dir runs/rded

What it would compute and what that would cost:

    accelerate launch scripts/distill.py --preset cifar10 --teacher runs/teacher --dry_run

The same command continues a run that was interrupted. Read the result with
`load_dataset("runs/infoutil", "ipc_10", split="train")`.

With `--push_to_hub user/name` the result is published as `scripts/publish.py` would, once it is finished.
"""

from decoct.arguments import parse_config, run
from decoct.config import DistillConfig


def main() -> None:
    config = parse_config(DistillConfig, description=__doc__)
    from accelerate import PartialState

    from decoct.hub.publish import publish_run, require_publishing
    from decoct.pages.printed import distill_report, format_settings
    from decoct.synthesis.distill import distill

    if config.push_to_hub and not config.dry_run:
        require_publishing(config)
    manifest = distill(config)
    if PartialState().is_main_process:
        print(format_settings(manifest) if config.dry_run else distill_report(manifest, config.output_dir))
        if config.push_to_hub and not config.dry_run:
            print(publish_run(config, config.output_dir))


if __name__ == "__main__":
    run(main)
