# /// script
# requires-python = ">=3.10"
# dependencies = ["decoct", "datatrove"]
# ///
"""Distil with the ranks of an executor of datatrove, and finish. The words after `--` are options of `decoct distill`.

On this machine:

    uv run examples/many_machines/datatrove_ranks.py --tasks 4 --logging_dir runs/logs -- \
        --dataset sample --teacher runs/teacher --ipc 1 --batch_size 16 --output_dir runs/shared

On Slurm, whose jobs see the same folders:

    python examples/many_machines/datatrove_ranks.py --executor slurm --partition gpu --tasks 64 --logging_dir logs -- \
        --dataset user/images --teacher user/teacher --ipc 10 --batch_size 128 --output_dir /shared/run --wait 3600

A rank that is done is marked in `--logging_dir` and not started again; one that failed is, by the same command.
"""

import argparse
import subprocess
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=("local", "slurm"), default="local", help="where ranks run")
    parser.add_argument("--tasks", type=int, default=4, help="ranks (default: 4)")
    parser.add_argument("--workers", type=int, default=-1, help="ranks at a time (default: all)")
    parser.add_argument("--logging_dir", required=True, help="folder of datatrove's logs and marks")
    parser.add_argument("--partition", default="gpu", help="partition of Slurm (default: gpu)")
    parser.add_argument("--time", default="04:00:00", help="time limit of a rank on Slurm (default: 04:00:00)")
    parser.add_argument("words", nargs="+", help="options of `decoct distill`, after `--`")
    options = parser.parse_args()
    from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor

    command = [sys.executable, "-m", "decoct.cli", "distill"]

    def one_rank(data: object, rank: int, world_size: int) -> None:
        shared = ["--world_size", str(world_size), "--rank", str(rank)]
        subprocess.run([*command, *options.words, *shared], check=True)

    def finish(data: object, rank: int, world_size: int) -> None:
        subprocess.run([*command, *options.words, "--merge"], check=True)

    if options.executor == "local":
        ranks = LocalPipelineExecutor(
            [one_rank], tasks=options.tasks, workers=options.workers, logging_dir=f"{options.logging_dir}/ranks"
        )
        ranks.run()
        finish(None, 0, 1)
        return
    machine = {"partition": options.partition, "time": options.time, "gpus_per_task": 1, "cpus_per_task": 8}
    shares = SlurmPipelineExecutor(
        [one_rank],
        tasks=options.tasks,
        workers=options.workers,
        logging_dir=f"{options.logging_dir}/ranks",
        job_name="decoct-ranks",
        **machine,
    )
    SlurmPipelineExecutor(
        [finish],
        tasks=1,
        depends=shares,
        run_on_dependency_fail=True,  # the shards of lost ranks are computed by the last job
        logging_dir=f"{options.logging_dir}/merge",
        job_name="decoct-merge",
        **machine,
    ).run()


if __name__ == "__main__":
    main()
