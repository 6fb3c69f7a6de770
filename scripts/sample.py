"""Draw samples of a prior under information guidance at several betas, side by side.

The embedded prior and estimator, in about a minute:

    python scripts/sample.py --prior sample --estimator sample --scheduler ddim --sampling_steps 50

Your own, and two classes only:

    python scripts/sample.py --prior runs/prior --estimator runs/estimator --betas 0 0.5 2 --classes 3 5

Guidance off, to see the prior alone:

    python scripts/sample.py --prior runs/prior --estimator runs/estimator --guidance_scale 0 --betas 0
"""

from decoct.arguments import Stage, run_stage
from decoct.config import SampleConfig


def stage(config: SampleConfig) -> Stage:
    from decoct.pages.printed import samples_report
    from decoct.synthesis.samples import draw_samples, plan_samples

    return Stage(draw_samples, plan_samples, lambda record: samples_report(record, config.output_dir))


if __name__ == "__main__":
    run_stage(SampleConfig, stage, __doc__)
