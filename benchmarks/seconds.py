"""Claim: distilling takes seconds to minutes on a processor, from the dataset to the finished folder.

    python benchmarks/seconds.py --dataset uoft-cs/cifar10 --teacher runs/teacher --threads 1

Every set of an IPC is made anew in a fresh process, with the options of `grids/self_contained.yaml`. The seconds are
those of the whole command: reading the dataset, scoring, choosing, the labels of all stored views, heat maps, preview
and report; not those of training the teacher. Results, with hardware and versions, go to
benchmarks/results/seconds.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import RESULTS, command_of, cpu_name, in_fresh_process, save_result, spread


def distil_once(options: argparse.Namespace, ipc: int) -> dict[str, Any]:
    """Distils one set in this process and says how long it took."""
    began = time.perf_counter()  # importing the libraries counts
    import torch

    from decoct.config import DistillConfig
    from decoct.synthesis.distill import distill

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        manifest = distill(
            DistillConfig(
                dataset=options.dataset,
                teacher=options.teacher,
                method=options.method,
                ipc=[ipc],
                slots=300,
                label_bits=4,
                mixed_precision=options.mixed_precision,
                output_dir=str(Path(temporary) / "run"),
            )
        )
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 1),
        "dataset": Path(options.dataset).name,
        "candidates": manifest["candidates"],
        "versions": manifest["versions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Hub id or folder")
    parser.add_argument("--teacher", required=True, help="folder of a trained classifier")
    parser.add_argument("--method", default="infoutil", help="as in `decoct distill`")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10, 50], help="images per class, a set each")
    parser.add_argument("--repeats", type=int, default=3, help="how often each set is made")
    parser.add_argument("--mixed_precision", default="bf16", help="no or bf16")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path, default=RESULTS / "seconds.json", help="result file")
    parser.add_argument("--child", type=int, metavar="IPC", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(distil_once(options, options.child)))
        return
    words = sys.argv[1:]
    runs = {
        ipc: [in_fresh_process(__file__, [*words, "--child", str(ipc)]) for _ in range(options.repeats)]
        for ipc in options.ipc
    }
    one = next(iter(runs.values()))[0]
    result = {
        "command": command_of(__file__, words),
        "method": options.method,
        **{name: one[name] for name in ("dataset", "candidates", "versions")},
        "seconds": {str(ipc): spread([run["seconds"] for run in each]) for ipc, each in runs.items()},
        "repeats": options.repeats,
        "threads": options.threads,
        "cpu": cpu_name(),
    }
    save_result(options.output, result)


if __name__ == "__main__":
    main()
