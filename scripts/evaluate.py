"""Train students on a distilled dataset and measure them on real images.

Every IPC of a run folder, three students each, with the stored labels of fixed views:

    accelerate launch scripts/evaluate.py --distilled runs/sample --dataset sample --students convnet3 --seeds 3

Two label modes side by side; `online` asks the teacher about every augmented view:

    accelerate launch scripts/evaluate.py --distilled runs/infoutil --preset cifar10 --labels views online

Random images of the same source are evaluated beside every set; `--no_baseline` and `--no_ranking` leave out what is
trained for the comparison. Other tasks, on the same distilled set:

    accelerate launch scripts/evaluate.py --task continual --distilled runs/infoutil --preset cifar10
    accelerate launch scripts/evaluate.py --task transfer --distilled runs/infoutil --target_dataset uoft-cs/cifar100

The tables are printed; the records go to `results.json`, `continual.json` or `transfer.json` in the run folder.
"""

from pathlib import Path

from decoct.arguments import parse_config, run
from decoct.config import EvaluateConfig


def main() -> None:
    config = parse_config(EvaluateConfig, description=__doc__)
    from accelerate import PartialState

    if config.task == "continual":
        from decoct.evaluation.continual import continual, format_continual

        records, table = continual(config), format_continual
    elif config.task == "transfer":
        from decoct.evaluation.transfer import format_transfer, transfer

        records, table = transfer(config), format_transfer
    else:
        from decoct.evaluation.accuracy import evaluate, format_evaluation, format_plan

        records, table = evaluate(config), format_plan if config.dry_run else format_evaluation
    if PartialState().is_main_process:
        print(table(records))
        if not config.dry_run:
            name = "results" if config.task == "accuracy" else config.task
            print(f"\nSee   {Path(config.output_dir or config.distilled) / name}.json")


if __name__ == "__main__":
    run(main)
