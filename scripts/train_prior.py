"""Train a diffusion prior for IGDS: a small class-conditional (or unconditional) DDPM on the dataset's pixels.

On the embedded sample:

    accelerate launch scripts/train_prior.py --dataset sample --epochs 60 --channels 32 64 64 --output_dir runs/prior

CIFAR-10 from the Hub, with the settings of a preset:

    accelerate launch scripts/train_prior.py --preset cifar10 --output_dir runs/prior

Without classes; the information guidance alone then decides what is drawn:

    accelerate launch scripts/train_prior.py --preset cifar10 --no_conditional --output_dir runs/prior-unconditional

The same command continues a run that was interrupted. `DDPMPipeline.from_pretrained("runs/prior")` loads the result.

With `--push_to_hub user/name` the result is published as `scripts/publish.py` would, once it is finished.
"""

from decoct.arguments import parse_config, run
from decoct.config import PriorConfig


def main() -> None:
    config = parse_config(PriorConfig, description=__doc__)
    from accelerate import PartialState

    from decoct.hub.publish import publish_run, require_publishing
    from decoct.pages.printed import format_settings, prior_report
    from decoct.training.prior import train_prior

    if config.push_to_hub and not config.dry_run:
        require_publishing(config)
    record = train_prior(config)
    if PartialState().is_main_process:
        print(format_settings(record) if config.dry_run else prior_report(record, config.output_dir))
        if config.push_to_hub and not config.dry_run:
            print(publish_run(config, config.output_dir))


if __name__ == "__main__":
    run(main)
