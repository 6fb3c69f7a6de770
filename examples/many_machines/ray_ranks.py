# /// script
# requires-python = ">=3.10"
# dependencies = ["decoct", "ray[data]"]
# ///
"""Distil with ranks that Ray Data sends over a cluster, and finish. The words after `--` are those of `decoct distill`.

    python examples/many_machines/ray_ranks.py --ranks 16 --gpus 1 -- \
        --dataset user/images --teacher user/teacher --ipc 10 --batch_size 128 --output_dir /shared/run

`--address auto` joins a cluster that runs; without, one is started on this machine. Ray starts a rank again whose
machine is lost, and it goes on from the shards that are there.
"""

import argparse
import subprocess
import sys
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4, help="ranks (default: 4)")
    parser.add_argument("--cpus", type=float, default=1, help="cores of a rank (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a rank (default: 0)")
    parser.add_argument("--address", help="of a running cluster, as `auto` (default: start one here)")
    parser.add_argument("words", nargs="+", help="options of `decoct distill`, after `--`")
    options = parser.parse_args()
    import ray

    command = [sys.executable, "-m", "decoct.cli", "distill", *options.words]

    def one_rank(row: dict[str, Any]) -> dict[str, Any]:
        shared = ["--world_size", str(options.ranks), "--rank", str(row["id"])]
        subprocess.run([*command, *shared], check=True)
        return row

    ray.init(address=options.address)
    ranks = ray.data.range(options.ranks, override_num_blocks=options.ranks)
    ranks.map(one_rank, num_cpus=options.cpus, num_gpus=options.gpus).materialize()
    subprocess.run([*command, "--merge"], check=True)


if __name__ == "__main__":
    main()
