"""Train students on a distilled dataset and measure them on real images.

Every IPC of a run folder, three students each, with the stored labels of mixed views:

    accelerate launch scripts/evaluate.py --distilled runs/sample --dataset sample --students convnet3 --seeds 3

Two label modes side by side; `online` asks the teacher about every augmented view:

    accelerate launch scripts/evaluate.py --distilled runs/infoutil --preset cifar10 --labels mixed online

Random images of the same source are evaluated beside every set; `--no_baseline` and `--no_ranking` leave out what is
trained for the comparison. Other tasks, on the same distilled set:

    accelerate launch scripts/evaluate.py --task continual --labels online --distilled runs/infoutil --preset cifar10
    accelerate launch scripts/evaluate.py --task transfer --distilled runs/infoutil --target_dataset uoft-cs/cifar100

The tables are printed; the records go to `results.json` in the run folder.
"""

from pathlib import Path

from decoct.arguments import Stage, run_stage
from decoct.config import EvaluateConfig


def stage(config: EvaluateConfig) -> Stage:
    from decoct.evaluation.evaluate import evaluate, format_evaluation, plan_evaluate
    from decoct.results.tables import format_students_plan

    see = f"\n\nSee   {Path(config.output_dir or config.distilled) / 'results.json'}"
    return Stage(evaluate, plan_evaluate, lambda records: format_evaluation(records) + see, format_students_plan)


if __name__ == "__main__":
    run_stage(EvaluateConfig, stage, __doc__)
