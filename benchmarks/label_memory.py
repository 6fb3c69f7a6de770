"""Claim: labelling mixed views holds a shard's labels at most: a thousand classes take little more memory than ten.

    python benchmarks/label_memory.py
    python benchmarks/label_memory.py --classes 10 1000 --ipc 1 --slots 50

Sets of random images of noise are distilled in a fresh process each, by an untrained network of as many outputs as
there are classes: once with all logits at `--label_bits`, once with the `--top_k` largest alone. The seconds are those
beyond a set without mixed views: of making views, of this network's forward passes, and of encoding logits.
`anonymous_mb` is the largest resident memory of the process without mapped files (sampled, Linux), `start_mb` before.
Results, with hardware and versions, go to benchmarks/results/label_memory.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import RESULTS, anonymous_mb, command_of, cpu_name, in_fresh_process, largest, save_result


def write_noise(folder: Path, classes: int, per_class: int, side: int) -> None:
    """A dataset of images of noise, `per_class` of each class, as a folder of parquet."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Picture

    from decoct.run.seeding import numpy_generator

    def rows() -> Any:
        for number in range(classes * per_class):
            pixels = numpy_generator(0, "noise", number).integers(0, 256, (side, side, 3))
            yield {"image": Picture.fromarray(pixels.astype(np.uint8)), "label": number // per_class}

    names = [f"class {number}" for number in range(classes)]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    with tempfile.TemporaryDirectory() as cache:
        images = Dataset.from_generator(rows, features=features, cache_dir=cache)
        folder.mkdir()
        images.to_parquet(folder / "train.parquet")


def label_set(options: argparse.Namespace, classes: int, top_k: int) -> dict[str, Any]:
    """Distils and labels one set in this process and says what it took."""
    from decoct.config import DistillConfig
    from decoct.data.spec import ImageSpec
    from decoct.models.zoo import build_classifier
    from decoct.synthesis.distill import distill

    with tempfile.TemporaryDirectory() as temporary:
        data, teacher = Path(temporary) / "noise", Path(temporary) / "teacher"
        write_noise(data, classes, options.ipc, options.side)
        names = tuple(f"class {number}" for number in range(classes))
        spec = ImageSpec(options.side, 3, (0.5,) * 3, (0.25,) * 3, names)
        build_classifier(options.model, spec, seed=0).model.save_pretrained(teacher)
        config: dict[str, Any] = {
            "dataset": str(data),
            "teacher": str(teacher),
            "allow_weak_teacher": True,
            "method": "random",
            "ipc": [options.ipc],
            "label_bits": options.label_bits,
            "label_top_k": top_k,
            "batch_size": options.batch_size,
            "mixed_precision": "no",
        }
        start = anonymous_mb()

        def distil(name: str, slots: int) -> tuple[float, float]:
            """Seconds and largest memory of a run."""
            began = time.perf_counter()
            with largest(anonymous_mb) as found:
                distill(DistillConfig(**config, slots=slots, output_dir=str(Path(temporary) / name)))
            return time.perf_counter() - began, found[0]

        distil("warm-up", 1)
        without, _ = distil("without", 0)
        seconds, most = distil("with", options.slots)
    views = classes * options.ipc * options.slots
    return {
        "classes": classes,
        "images": classes * options.ipc,
        "label_top_k": top_k,
        "views": views,
        "start_mb": round(start, 1),
        "anonymous_mb": round(most, 1),
        "milliseconds_a_view": round(1000 * (seconds - without) / views, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000], help="Sets, by their classes.")
    parser.add_argument("--ipc", type=int, default=10, help="Images per class.")
    parser.add_argument("--slots", type=int, default=100, help="Mixed views of an image.")
    parser.add_argument("--label_bits", type=int, default=4, choices=(4, 8), help="Bits of a logit.")
    parser.add_argument("--top_k", type=int, default=10, help="Logits kept in the second set of a number of classes.")
    parser.add_argument("--side", type=int, default=32, help="Of the images, in pixels.")
    parser.add_argument("--model", default="convnet3_w16", help="Architecture of the untrained network.")
    parser.add_argument("--batch_size", type=int, default=64, help="Views per forward pass.")
    parser.add_argument("--output", type=Path, default=RESULTS / "label_memory.json", help="Result file.")
    parser.add_argument("--child", type=int, nargs=2, metavar=("CLASSES", "TOP_K"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(label_set(options, *options.child)))
        return
    words = sys.argv[1:]
    runs = [
        in_fresh_process(__file__, [*words, "--child", str(classes), str(top_k)])
        for classes in options.classes
        for top_k in (0, options.top_k)
    ]
    from decoct.run.versions import installed_versions

    settings = {name: getattr(options, name) for name in ("ipc", "slots", "label_bits", "side", "model", "batch_size")}
    result = {
        "command": command_of(__file__, words),
        **settings,
        "threads": 1,
        "runs": runs,
        "cpu": cpu_name(),
        "versions": installed_versions(),
    }
    save_result(options.output, result)


if __name__ == "__main__":
    main()
