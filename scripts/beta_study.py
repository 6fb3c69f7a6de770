"""Find out how much contextual information pays at each number of images per class (IGDS, section 5.2).

Subsets of real images with low to high contextual score are drawn, and a student is trained on each:

    accelerate launch scripts/beta_study.py --dataset sample --estimator runs/estimator --ipc 1 10 \\
        --output_dir runs/beta-study

More subsets and students for each setting, with a teacher's labels; what a killed study has done is kept:

    accelerate launch scripts/beta_study.py --dataset uoft-cs/cifar10 --estimator runs/estimator --ipc 1 10 50 \\
        --targets 7 --seeds 3 --labels online --teacher runs/teacher --output_dir runs/beta-study-cifar10

The output folder has `study.json` and `figure2.png`: accuracy against the score, and the best score over the IPC.
"""

from pathlib import Path

from decoct.arguments import Stage, run_stage
from decoct.config import BetaStudyConfig


def stage(config: BetaStudyConfig) -> Stage:
    from decoct.evaluation.beta_study import beta_study, plan_beta_study
    from decoct.results.tables import format_study, format_study_plan

    folder = Path(config.output_dir)
    see = f"\n\nSee   {folder / 'figure2.png'}, {folder / 'study.json'}"
    return Stage(beta_study, plan_beta_study, lambda result: format_study(result) + see, format_study_plan)


if __name__ == "__main__":
    run_stage(BetaStudyConfig, stage, __doc__)
