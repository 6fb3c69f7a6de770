"""Claim: distilling a dataset of ImageNet-1K's shape decodes its candidates alone, in memory that does not grow.

    python benchmarks/many_images.py --photos path/to/imagenette/train.parquet --folder /tmp/many_images

Makes 1,000 classes of 1,300 images in `--folder` once: crops of 64 px of Imagenette's photos, JPEG in parquet. A class
is 100 crops of about ten photos, each of them stored 13 times, so that all rows and bytes are there.
Then, with an untrained ConvNet as teacher (time does not depend on what it has learnt):

- `share`: one rank of `--ranks` scores its share of the candidates by InfoUtil (300 a class, k = 4), so that the first
  candidate is drawn from all 1.3 million rows, and the rate of scoring is measured on the share alone;
- `all_classes`: random images, which need no attribution and no more candidates than tiles, go all the way for all
  classes: candidates, cutting, labels with 4 mixed views an image, files.

Seconds are given as wall clock and as this process's own CPU time, for the machine may be shared. `anonymous_mb` is
sampled (Linux), at the first and at the last shard of each kind too, which tells whether it grows. The projection to
224 px multiplies the forward passes, which are counted, by `--assumed_rate`, which is assumed and not measured.
Results go to benchmarks/results/many_images.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from timing import RESULTS, anonymous_mb, command_of, cpu_name, in_fresh_process, largest, peak_mb, save_result

CLASSES, IMAGES, SIDE, FILES, QUALITY = 1000, 1300, 64, 13, 85
DISTINCT = 100  # crops of a class, each stored in every file
IPC, CANDIDATES, SLOTS = 10, 300, 4


def write_dataset(photos: Path, folder: Path) -> None:
    """Writes `train-*.parquet`: each photo, its shorter side made 160 px, gives crops to one class after another."""
    import datasets
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image, ImageOps

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[f"class {label}" for label in range(CLASSES)])}
    )
    schema = features.arrow_schema
    source = datasets.Dataset.from_parquet(str(photos), keep_in_memory=True).select_columns(["image"])
    crops = CLASSES * DISTINCT
    photo_of = np.arange(crops) * len(source) // crops  # neighbours in this order share a photo, and so a class
    encoded: list[bytes] = []
    last, pixels = -1, np.empty(0)
    generator = np.random.default_rng(0)
    for photo, place in zip(photo_of.tolist(), generator.random((crops, 2)), strict=True):
        if photo != last:
            last, image = photo, source[photo]["image"].convert("RGB")
            pixels = np.asarray(ImageOps.scale(image, 160 / min(image.size)))
        top, left = (int(share * (size - SIDE)) for share, size in zip(place, pixels.shape[:2], strict=True))
        buffer = io.BytesIO()
        Image.fromarray(pixels[top : top + SIDE, left : left + SIDE]).save(buffer, "JPEG", quality=QUALITY)
        encoded.append(buffer.getvalue())
    kind = schema.field("image").type
    for number in range(FILES):
        path = folder / f"train-{number:05d}-of-{FILES:05d}.parquet"
        with pq.ParquetWriter(folder / "unfinished", schema) as writer:
            for some in np.array_split(generator.permutation(crops), 20):
                images = pa.array([{"bytes": encoded[row], "path": None} for row in some], type=kind)
                writer.write_table(pa.Table.from_arrays([images, pa.array(some // DISTINCT)], schema=schema))
        (folder / "unfinished").rename(path)


def write_teacher(data: Path, folder: Path, model: str) -> None:
    """An untrained teacher with the statistics of the images."""
    from decoct import build_classifier, load_images, measure_spec

    images = load_images(str(data), image_size=SIDE, read_unchecked=0)
    build_classifier(model, measure_spec(images, SIDE), seed=0).model.save_pretrained(folder)


def settings_of(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """The run of a part."""
    shared = {
        "dataset": str(options.folder / "data"),
        "teacher": str(options.folder / "teacher"),
        "allow_weak_teacher": True,
        "ipc": [IPC],
        "tiles_per_image": 4,
        "candidates_per_class": CANDIDATES,
        "slots": SLOTS,
        "batch_size": options.batch_size,
    }
    if name == "share":
        return {**shared, "world_size": options.ranks, "rank": 0}
    return {**shared, "method": "random", "candidates_per_class": 4 * IPC}


def run_part(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """One part in this process: its seconds, its memory, and what it left."""
    import shutil

    import torch

    from decoct.config import DistillConfig
    from decoct.run.versions import installed_versions
    from decoct.synthesis.distill import distill
    from decoct.synthesis.real import forward_passes

    folder = options.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    config = DistillConfig(**settings_of(options, name), output_dir=str(folder))
    stages: dict[str, dict[str, Any]] = {}
    done, began, cpu = threading.Event(), time.perf_counter(), time.process_time()

    def watch() -> None:
        seen: set[str] = set()
        while not done.wait(0.2):
            found = set(os.listdir(folder / "shards")) - seen if (folder / "shards").is_dir() else set()
            for name in sorted(each for each in found if each.endswith(".parquet")):
                now = {
                    "seconds": round(time.perf_counter() - began, 1),
                    "cpu_seconds": round(time.process_time() - cpu, 1),
                    "anonymous_mb": round(anonymous_mb(), 1),
                }
                stage = stages.setdefault(name.split("-")[0], {"shards": 0, "first": now})
                stage |= {"shards": stage["shards"] + 1, "last": now}
                seen.add(name)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with largest(anonymous_mb) as found:
            distill(config)
    finally:
        done.set()
        watching.join()
    passes = forward_passes(config, CLASSES * CANDIDATES, CLASSES)
    return {
        "stages": stages,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "anonymous_mb": round(found[0], 1),
        "peak_mb": peak_mb(),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "forward_passes_of_all": passes,
        "threads": torch.get_num_threads(),
        "versions": installed_versions(),
    }


def project(share: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """From the measured share to all candidates, and to 224 px on GPUs at an assumed rate."""
    scores = share["stages"]["scores"]
    more = scores["shards"] - 1  # after the first one
    seconds = {kind: (scores["last"][kind] - scores["first"][kind]) / more for kind in ("seconds", "cpu_seconds")}
    shards = CLASSES * CANDIDATES // 100
    passes = share["forward_passes_of_all"]
    scoring = passes["attribution"] + passes["utility"]
    gpu = sum(passes.values()) / options.assumed_rate
    return {
        "scoring_cpu_hours_of_all_candidates": round(seconds["cpu_seconds"] * shards / 3600, 2),
        "scoring_hours_of_all_candidates": round(seconds["seconds"] * shards / 3600, 2),
        "forward_passes_per_cpu_second": round(scoring / shards / seconds["cpu_seconds"]),
        "at_224_px": {
            "forward_passes": passes,
            "assumed_images_per_second": options.assumed_rate,
            "hours_on_one_h100": round(gpu / 3600, 2),
            "hours_on_eight_h100": round(gpu / 3600 / 8, 2),
            "assumed": "the rate of ResNet-18 in bf16 on an H100, and that decoding keeps up; passes are counted",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="Parquet file of Imagenette's training photos.")
    parser.add_argument("--folder", type=Path, required=True, help="For dataset, teacher and runs (about 7 GB).")
    parser.add_argument("--model", default="convnet3_w16", help="The teacher's architecture.")
    parser.add_argument("--ranks", type=int, default=600, help="The share that is scored is one of so many.")
    parser.add_argument("--batch_size", type=int, default=64, help="Images per forward pass.")
    parser.add_argument("--assumed_rate", type=float, default=12_000, help="Images/s of ResNet-18 on an H100.")
    parser.add_argument("--output", type=Path, default=RESULTS / "many_images.json", help="Result file.")
    parser.add_argument("--child", choices=("prepare", "share", "all_classes"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    data, teacher = options.folder / "data", options.folder / "teacher"
    if options.child == "prepare":
        if len(list(data.glob("*.parquet"))) < FILES:
            data.mkdir(parents=True, exist_ok=True)
            write_dataset(options.photos, data)
        if not (teacher / "config.json").is_file():
            write_teacher(data, teacher, options.model)
        print(sum(path.stat().st_size for path in data.glob("*.parquet")))
        return
    if options.child:
        print(json.dumps(run_part(options, options.child)))
        return
    words = sys.argv[1:]
    size = in_fresh_process(__file__, [*words, "--child", "prepare"])
    parts = {name: in_fresh_process(__file__, [*words, "--child", name]) for name in ("all_classes", "share")}
    versions = [part.pop("versions") for part in parts.values()][0]
    result = {
        "command": command_of(__file__, words),
        "images": CLASSES * IMAGES,
        "classes": CLASSES,
        "image_size": SIDE,
        "dataset_bytes": size,
        "candidates": CLASSES * CANDIDATES,
        "ipc": IPC,
        "tiles_per_image": 4,
        "mixed_views_per_image": SLOTS,
        "teacher": options.model,
        "share_is_one_of": options.ranks,
        **parts,
        "projection": project(parts["share"], options),
        "cpu": cpu_name(),
        "versions": versions,
    }
    save_result(options.output, result)


if __name__ == "__main__":
    main()
