"""Find out what each part of InfoUtil is worth, with one teacher and one protocol (InfoUtil, section 4.3 and App. D).

The tables of scoring, cropping, noise and attribution, three seeds each:

    accelerate launch scripts/ablate.py --dataset sample --teacher runs/teacher --tables 6 7 8 --ipc 1 10 \\
        --output_dir runs/ablation

RDED and InfoUtil on further students and with an early teacher's labels too, added to the same folder:

    accelerate launch scripts/ablate.py --dataset sample --teacher runs/teacher --tables 11 --ipc 1 10 \\
        --students convnet3 resnet18 --label_teachers converged early --output_dir runs/ablation

What a killed ablation has done is kept; `--dry_run` shows what it takes. The tables and what becomes of the paper's
claims are printed and written to `ablation.md`, the records to `ablation.json`.
"""

from pathlib import Path

from decoct.arguments import Stage, run_stage
from decoct.config import AblateConfig


def stage(config: AblateConfig) -> Stage:
    from decoct.evaluation.ablate import ablate, plan_ablate
    from decoct.results.claims import format_ablation, format_ablation_plan

    see = f"\n\nSee   {Path(config.output_dir) / 'ablation.md'}"
    return Stage(ablate, plan_ablate, lambda result: format_ablation(result) + see, format_ablation_plan)


if __name__ == "__main__":
    run_stage(AblateConfig, stage, __doc__)
