"""Train students on a distilled dataset and measure them on real images.

Every IPC of a run folder, three students each, with the stored labels of fixed views:

    accelerate launch scripts/evaluate.py --distilled runs/sample --dataset sample --students convnet3 --seeds 3

Two label modes side by side; `online` asks the teacher about every augmented view:

    accelerate launch scripts/evaluate.py --distilled runs/infoutil --preset cifar10 --labels views online

The table is printed; the records are written to `results.json` in the run folder.
"""

from decoct.arguments import parse_config, run
from decoct.config import EvaluateConfig


def main() -> None:
    config = parse_config(EvaluateConfig, description=__doc__)
    from accelerate import PartialState

    from decoct.evaluation.evaluate import evaluate, format_plan, format_table

    records = evaluate(config)
    if PartialState().is_main_process:
        print(format_plan(records) if config.dry_run else format_table(records))


if __name__ == "__main__":
    run(main)
