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

from decoct.arguments import Stage, run_stage
from decoct.config import PriorConfig


def stage(config: PriorConfig) -> Stage:
    from decoct.pages.printed import prior_report
    from decoct.training.prior import plan_prior, train_prior

    return Stage(train_prior, plan_prior, lambda record: prior_report(record, config.output_dir))


if __name__ == "__main__":
    run_stage(PriorConfig, stage, __doc__)
