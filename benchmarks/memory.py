"""Claim: peak memory of distilling does not grow with the dataset beyond a few bytes an image; scores wait on disk.

    python benchmarks/memory.py --dataset uoft-cs/cifar10 --teacher runs/teacher
    python benchmarks/memory.py --dataset path/to/cifar10 --teacher runs/teacher --split_small "train[:5000]"

Each split is distilled by InfoUtil at IPC 10 in a fresh process of its own: every image is a candidate, scored by its
gradient norm. `peak_mb` is that process's `ru_maxrss` at the end, `start_mb` after loading libraries and teacher.
Memory-mapped pages of the dataset file count there although the system may drop them at any time, so `anonymous_mb`,
sampled (Linux), stands beside it. `disk_bytes_per_candidate` is the largest size of all shards, by the candidates.
Results, with hardware and versions, go to benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import (
    MB,
    RESULTS,
    anonymous_mb,
    command_of,
    cpu_name,
    in_fresh_process,
    largest,
    peak_mb,
    save_result,
)


def shard_bytes(folder: Path) -> float:
    """Bytes of all shards in a run folder; one that goes away meanwhile counts nothing."""
    total = 0
    for path in folder.glob("shards/*.parquet"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def distil_split(options: argparse.Namespace, split: str) -> dict[str, Any]:
    """Distils one split in this process and says what it took."""
    import torch

    from decoct.config import DistillConfig
    from decoct.models.zoo import load_classifier
    from decoct.synthesis.distill import distill

    load_classifier(options.teacher)
    start = peak_mb()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        config = DistillConfig(
            dataset=options.dataset,
            train_split=split,
            teacher=options.teacher,
            ipc=[options.ipc],
            candidates_per_class=0,
            views=50,
            slots=0,  # as the committed record was made
            utility="grad_norm",
            crop_fraction=1.0,
            batch_size=options.batch_size,
            output_dir=str(folder),
        )
        began = time.perf_counter()
        with largest(anonymous_mb, lambda: shard_bytes(folder)) as found:
            manifest = distill(config)
        seconds = time.perf_counter() - began
    return {
        "split": split,
        "images": manifest["candidates"],
        "start_mb": start,
        "peak_mb": peak_mb(),
        "anonymous_mb": round(found[0], 1),
        "disk_bytes_per_candidate": round(found[1] / manifest["candidates"], 1),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": manifest["versions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="CIFAR-10: Hub id or local parquet folder")
    parser.add_argument("--teacher", required=True, help="Folder or Hub id of a trained classifier.")
    parser.add_argument("--split_small", default="train[:5000]", help="The smaller split.")
    parser.add_argument("--split_large", default="train", help="The larger split.")
    parser.add_argument("--ipc", type=int, default=10, help="Images per class.")
    parser.add_argument("--batch_size", type=int, default=64, help="Images per forward pass.")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json", help="Result file.")
    parser.add_argument("--child", metavar="SPLIT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(distil_split(options, options.child)))
        return
    words, splits = sys.argv[1:], (options.split_small, options.split_large)
    runs = [in_fresh_process(__file__, [*words, "--child", split]) for split in splits]
    versions = [run.pop("versions") for run in runs][0]
    more = runs[1]["images"] - runs[0]["images"]
    growth = {
        f"{name}_growth_bytes_per_image": round((runs[1][f"{name}_mb"] - runs[0][f"{name}_mb"]) * MB / more, 1)
        for name in ("peak", "anonymous")
        if more
    }
    result = {
        "command": command_of(__file__, words),
        "runs": runs,
        **growth,
        "batch_size": options.batch_size,
        "cpu": cpu_name(),
        "versions": versions,
    }
    save_result(options.output, result)


if __name__ == "__main__":
    main()
