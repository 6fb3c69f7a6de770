"""What publishing, verifying and loading a distilled set cost. Claim: tile labels take under 15 % of the images' bytes.

A distilled run folder, and a set of ImageNet-1K's size whose pixels and logits are noise:

    python benchmarks/hub.py --folder runs/cifar10-infoutil --name cifar10
    python benchmarks/hub.py --classes 1000 --ipc 10 --side 224 --tiles 4 --name noise-1000-classes

`tests/hub/server.py` serves as the Hub in a process of its own on this machine, so that seconds are those of hashing,
copying and decoding, without a network. Publishing, verifying and loading run in a fresh process each: `peak_mb` is
that process's `ru_maxrss`, `start_mb` after the imports, `anonymous_mb` (sampled, Linux) leaves out mapped files.
Loading starts with an empty cache. `rows_per_second` reads the labels in numpy format, in batches.

PNG cannot compress noise, and compresses smooth images too well; so the noise is smooth, with the grain that gives
files about as large as photographs': see `bytes_per_image`. The disk needs about five times the size of the set.
Results, with hardware and versions, go to benchmarks/results/hub.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from timing import (
    RESULTS,
    anonymous_mb,
    command_of,
    cpu_name,
    in_fresh_process,
    largest,
    peak_mb,
    spread,
    write_result,
)

SERVER = Path(__file__).parents[1] / "tests" / "hub" / "server.py"
REPOSITORY = "user/distilled"
STEPS = ("publish", "verify", "load")
SHARD = 100
READ_BATCH = 100
GRAIN = 5.0  # standard deviation of the noise of single pixels, in grey levels of 255


@contextlib.contextmanager
def local_hub(folder: Path) -> Iterator[dict[str, str]]:
    """A Hub in a process of its own, as the environment of its clients."""
    server = subprocess.Popen([sys.executable, str(SERVER), str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        url, token = server.stdout.readline().split()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
        quiet = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        yield {
            **inherited,
            **dict.fromkeys(quiet, "1"),
            "HF_ENDPOINT": url,
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "*",
        }
    finally:
        server.terminate()
        server.wait()


def smooth_noise(number: int, side: int) -> Any:
    """An image `(3, side, side)` uint8 that depends on its number alone: coarse noise, enlarged, with grain."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from decoct.run.seeding import numpy_generator

    generator = numpy_generator(0, "noise", number)
    coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, max(2, side // 16), max(2, side // 16))))
    enlarged = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)[0].numpy()
    grain = generator.normal(0, GRAIN, enlarged.shape)
    return torch.from_numpy(np.clip(enlarged + grain, 0, 255).astype(np.uint8))


def noise_rows(start: int, end: int, ipc: int, side: int, config: Any, features: Any) -> Any:
    """Rows of a shard, as distilling makes them, with noise for pixels and logits."""
    import numpy as np
    from datasets import Dataset

    from decoct.run.seeding import numpy_generator
    from decoct.synthesis.relabel import draw_views
    from decoct.synthesis.tiles import png_bytes

    classes = features["label"].num_classes
    generator = numpy_generator(0, "logits", start)
    count, tiles, half = end - start, config.tiles_per_image, side // config.tile_rows

    def logits(rows: int) -> list[Any]:
        return list(generator.normal(0, 3, (count, rows, classes)).astype(np.float16))

    tile = {"source_index": 0, "box": [0, 0, half, half], "score": 0.5, "heatmap": [[0.0] * 4] * 4}
    columns: dict[str, Any] = {
        "image": [{"bytes": png_bytes(smooth_noise(number, side)), "path": None} for number in range(start, end)],
        "label": [number // ipc for number in range(start, end)],
        "tile_logits": logits(tiles),
        "tiles": [[{**tile, "source_index": number}] * tiles for number in range(start, end)],
        "correct": [[True] * tiles] * count,
    }
    if config.views:
        columns["view_logits"] = logits(config.views)
        columns["view_boxes"] = [draw_views(generator, config.views, config.view_scale) for _ in range(count)]
    return Dataset.from_dict(columns, features=features)


def make_noise(folder: Path, classes: int, ipc: int, side: int, tiles: int, views: int) -> None:
    """Writes a run folder of noise in shards, with the columns, files and manifest of a distilled set."""
    from accelerate import Accelerator
    from PIL import Image

    from decoct.config import DistillConfig, to_dict
    from decoct.data.spec import ImageSpec
    from decoct.distilled.schema import image_features, spec_fields
    from decoct.run.shards import run_shards
    from decoct.run.versions import installed_versions
    from decoct.synthesis.output import merge_shards, write_card

    config = DistillConfig(dataset="noise", ipc=[ipc], tiles_per_image=tiles, views=views, slots=0)  # type: ignore[arg-type]
    spec = ImageSpec(side, 3, (0.5,) * 3, (0.25,) * 3, tuple(f"class {number}" for number in range(classes)))
    features = image_features(spec, config.method, config.tiles_per_image, config.views)

    def rows(start: int, end: int) -> Any:
        return noise_rows(start, end, ipc, side, config, features)

    shards = run_shards(folder / "shards", f"ipc_{ipc}", classes * ipc, SHARD, Accelerator(cpu=True), rows)
    merge_shards(shards, folder / f"data/ipc_{ipc}", features)
    for path in shards:
        path.unlink()
    (folder / "shards").rmdir()
    Image.new("RGB", (side, side)).save(folder / "preview.png")
    manifest = {
        "decoct_version": installed_versions().get("decoct", "unknown"),
        "config": to_dict(config),
        "dataset": "noise",
        **spec_fields(spec),
        "ipcs": [ipc],
        "versions": installed_versions(),
        "teacher": None,
        "label_teachers": {},
    }
    write_card(folder, manifest)


def publish_step(folder: Path, ipc: int) -> Callable[[], dict[str, Any]]:
    from decoct.config import PublishConfig
    from decoct.hub.publish import publish

    def run() -> dict[str, Any]:
        publish(PublishConfig(folder=str(folder), push_to_hub=REPOSITORY))
        return {}

    return run


def verify_step(folder: Path, ipc: int) -> Callable[[], dict[str, Any]]:
    from decoct.hub.verify import verify_folder

    def run() -> dict[str, Any]:
        report = verify_folder(folder)
        if not report.ok:
            raise ValueError(str(report))
        return {"images_verified": report.images}

    return run


def load_step(folder: Path, ipc: int) -> Callable[[], dict[str, Any]]:
    from datasets import load_dataset

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        dataset = load_dataset(REPOSITORY, f"ipc_{ipc}", split="train")
        first, began = time.perf_counter() - began, time.perf_counter()
        load_dataset(REPOSITORY, f"ipc_{ipc}", split="train")
        again, began = time.perf_counter() - began, time.perf_counter()
        columns = [name for name in ("label", "tile_logits", "view_logits", "view_boxes") if name in dataset.features]
        for batch in dataset.select_columns(columns).with_format("numpy").iter(READ_BATCH):
            if len(batch["label"]) > READ_BATCH:
                raise ValueError("A batch has too many rows.")
        return {
            "load_dataset_seconds": first,
            "load_dataset_again_seconds": again,
            "rows_per_second": len(dataset) / (time.perf_counter() - began),
        }

    return run


def measure(step: str, folder: Path, ipc: int) -> dict[str, Any]:
    """One step in this process: its seconds, memory, and what it counts itself."""
    run = {"publish": publish_step, "verify": verify_step, "load": load_step}[step](folder, ipc)
    start, began = peak_mb(), time.perf_counter()
    with largest(anonymous_mb) as found:
        counted = run()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "start_mb": start, "peak_mb": peak_mb(), "anonymous_mb": round(found[0], 1), **counted}


def measure_afresh(step: str, folder: Path, ipc: int, environment: dict[str, str]) -> dict[str, Any]:
    """`measure` in a process of its own with empty caches."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as home:
        return in_fresh_process(__file__, words_of(step, folder, ipc=ipc), {**environment, "HF_HOME": f"{home}/hf"})


def words_of(step: str, folder: Path, **options: int) -> list[str]:
    """Arguments of a child process."""
    named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["--child", step, "--folder", str(folder), *named]


def repeated(folder: Path, ipc: int, work: Path, repeats: int) -> dict[str, Any]:
    """Every step `repeats` times, each time with a new Hub: `{step: {value: [min, median, max]}}`."""
    runs: dict[str, list[dict[str, Any]]] = {step: [] for step in STEPS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=work) as objects, local_hub(Path(objects)) as environment:
            for step in STEPS:
                runs[step].append(measure_afresh(step, folder, ipc, environment))
    return {
        step: {name: list(spread([run[name] for run in each]).values()) for name in each[0]}
        for step, each in runs.items()
    }


def sizes(folder: Path, ipc: int) -> dict[str, Any]:
    """Bytes of the published files, and of the columns of one IPC as they lie in the parquet files."""
    from decoct.distilled.parquet import column_bytes, ipc_files

    rows, columns = column_bytes(ipc_files(folder, ipc))
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        "classes": len(manifest["label_names"]),
        "ipc": ipc,
        "image_size": manifest["image_size"],
        "tiles_per_image": manifest["config"]["tiles_per_image"],
        "views": manifest["config"]["views"],
        "images": rows,
        "bytes": sum((folder / name).stat().st_size for name in (*manifest["files"], "manifest.json")),
        "column_bytes": columns,
        "bytes_per_image": round(columns["image"] / rows),
        "tile_labels_share_of_images": round(columns["tile_logits"] / columns["image"], 4),
        "versions": manifest.get("versions", {}),
    }


def parser_of_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="Distilled run folder. Default: a set of noise is made.")
    parser.add_argument("--classes", type=int, default=1000, help="Classes of the noise.")
    parser.add_argument("--ipc", type=int, help="Images per class. Default: 10, or the largest of the folder.")
    parser.add_argument("--side", type=int, default=224, help="Side of the noise images in pixels.")
    parser.add_argument("--tiles", type=int, default=4, choices=(1, 4), help="Tiles of a noise image (k).")
    parser.add_argument("--views", type=int, default=0, help="Views of a noise image (M).")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each step.")
    parser.add_argument("--name", default="noise", help="Key of the result.")
    parser.add_argument("--work_dir", type=Path, help="Folder for temporary files. Default: the system's.")
    parser.add_argument("--output", type=Path, default=RESULTS / "hub.json", help="Result file.")
    parser.add_argument("--child", choices=("make", "sizes", *STEPS), help=argparse.SUPPRESS)
    return parser


def child(options: argparse.Namespace) -> Any:
    """What a fresh process does."""
    if options.child == "make":
        make_noise(options.folder, options.classes, options.ipc, options.side, options.tiles, options.views)
        return None
    if options.child == "sizes":
        return sizes(options.folder, options.ipc)
    return measure(options.child, options.folder, options.ipc)


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    options = parser_of_arguments().parse_args(words)
    if options.child:
        print(json.dumps(child(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.work_dir) as temporary:
        work = Path(temporary)
        if options.folder is None:
            folder, ipc = work / "noise", options.ipc or 10
            made = {name: getattr(options, name) for name in ("classes", "side", "tiles", "views")}
            in_fresh_process(__file__, words_of("make", folder, ipc=ipc, **made))
        else:
            folder = options.folder.resolve()
            ipc = options.ipc or max(json.loads((folder / "manifest.json").read_text())["ipcs"])
        set_sizes = in_fresh_process(__file__, words_of("sizes", folder, ipc=ipc))
        steps = repeated(folder, ipc, work, options.repeats)
    result = {
        "command": command_of(__file__, words),
        **set_sizes,
        "repeats": options.repeats,
        "steps_min_median_max": steps,
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
    }
    write_result(options.output, options.name, result)


if __name__ == "__main__":
    main()
