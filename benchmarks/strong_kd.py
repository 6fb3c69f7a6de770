"""The sweep behind `strong_kd`: one setting at a time around the protocol as it is, on one distilled set.

    python benchmarks/strong_kd.py --distilled runs/cifar10 --dataset path/to/cifar10 --ipc 10 --seeds 0 1 2
    python benchmarks/strong_kd.py --distilled runs/cifar10 --dataset path/to/cifar10 --ipc 10 --part 0/2

Trains a student per setting and seed and measures it after the last epoch. Every student is one record in
`results/strong_kd.json`, with all its settings; records that are there are not made again, also with another teacher or
set of the same kind, so the command resumes; move them away to measure anew. `--part 0/2` and `--part 1/2` run side by
side. The table has a row per setting: mean, standard deviation and seeds. `--only` with no name runs the centre alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from records import is_measured

RESULTS = Path(__file__).parent / "results" / "strong_kd.json"
# What is tried of each setting beside the protocol's own value. Batch sizes and learning rates are multiples of it.
FACTORS: dict[str, list[float]] = {
    "batch_factor": [0.4, 2.0, 4.0],
    "ema_decay": [0.0, 0.9, 0.999],
    "epochs": [300, 600, 2000],
    "rrc_scale": [0.25, 0.5, 1.0],
    "learning_rate_factor": [0.5, 2.0, 4.0],
}
SHARED = ("dataset", "method", "distilled", "ipc", "student", "protocol", "labels", "teacher", "mixed_precision")
SHOWN = ("batch_size", "ema_decay", "epochs", "rrc_scale", "learning_rate")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distilled", required=True, help="run folder of the distilled set")
    parser.add_argument("--dataset", required=True, help="real images: Hub id or local folder")
    parser.add_argument("--eval_split", help="split the students are measured on; default: the evaluation split")
    parser.add_argument("--teacher", help="teacher of online labels; default: the one in the set's manifest")
    parser.add_argument("--protocol", default="strong_kd", help="the centre: a protocol's name or YAML file")
    parser.add_argument("--student", default="convnet3")
    parser.add_argument("--labels", default="online")
    parser.add_argument("--ipc", type=int, nargs="+", default=[10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="*", choices=list(FACTORS), help="settings to vary, or none; default: all")
    parser.add_argument("--epochs", type=int, help="epochs of the centre; default: the protocol's at the IPC")
    parser.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="bf16")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th record, beginning with the i-th")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    part, parts = map(int, args.part.split("/"))
    units = [
        (ipc, setting, seed)
        for seed in args.seeds
        for ipc in args.ipc
        for setting in settings_of(args.only, args.epochs)
    ]
    sets = cache(lambda ipc: load_sets(args, ipc))
    for ipc, setting, seed in units[part::parts]:
        measure(args, ipc, setting, seed, *sets(ipc))
    from decoct.results.records import read_results

    print_table(read_results(args.output))


def settings_of(only: Sequence[str] | None, epochs: int | None) -> list[dict[str, float]]:
    """The centre, and each other value of each factor with the rest as in the centre."""
    centre = {} if epochs is None else {"epochs": epochs}
    varied = [{**centre, name: value} for name in (FACTORS if only is None else only) for value in FACTORS[name]]
    return [centre, *(setting for setting in varied if setting != centre)]


def load_sets(args: argparse.Namespace, ipc: int) -> tuple[Any, Any, Any, float | None]:
    """The distilled set, the images to measure on, the teacher and its accuracy (None where the labels need none)."""
    from decoct.data.loading import eval_split_name, load_images
    from decoct.data.tensors import PixelDataset
    from decoct.distilled.dataset import load_distilled
    from decoct.models.accuracy import accuracy
    from decoct.models.zoo import load_classifier

    distilled = load_distilled(args.distilled, ipc)
    split = eval_split_name(args.dataset, None, args.eval_split)
    images = PixelDataset(load_images(args.dataset, split), distilled.spec.image_size, distilled.spec.channels)
    if args.labels != "online":
        return distilled, images, None, None
    teacher = load_classifier(args.teacher or distilled.manifest["label_teachers"][str(ipc)]["name"])
    teacher = teacher.to(device_of(args)).requires_grad_(False)
    measured = accuracy(teacher, images, device=device_of(args), mixed_precision=args.mixed_precision)
    return distilled, images, teacher, measured


def device_of(args: argparse.Namespace) -> str:
    """The device that was asked for, or the one there is."""
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def varied_protocol(args: argparse.Namespace, ipc: int, setting: dict[str, float]) -> Any:
    """The protocol with a setting's values; batch sizes and learning rates are multiplied."""
    from decoct.training.protocols import load_protocol

    protocol = load_protocol(args.protocol)
    scale, rate = setting.get("batch_factor", 1.0), setting.get("learning_rate_factor", 1.0)
    return dataclasses.replace(
        protocol,
        batch_sizes={entry: max(2, round(scale * size)) for entry, size in protocol.batch_sizes.items()},
        learning_rate=rate * protocol.learning_rate,
        learning_rates={name: rate * value for name, value in protocol.learning_rates.items()},
        **{name: setting[name] for name in ("ema_decay", "epochs", "rrc_scale") if name in setting},
    )


def measure(
    args: argparse.Namespace,
    ipc: int,
    setting: dict[str, float],
    seed: int,
    distilled: Any,
    images: Any,
    teacher: Any,
    teacher_accuracy: float | None,
) -> None:
    """Trains one student and adds its record, unless it is there."""
    from filelock import FileLock

    from decoct.config import config_hash
    from decoct.models.accuracy import accuracy
    from decoct.models.zoo import build_classifier
    from decoct.results.records import merge_records, read_results
    from decoct.run.versions import installed_versions
    from decoct.training.protocols import batch_size, epoch_count, learning_rate, student_name
    from decoct.training.student import train_student

    device = device_of(args)
    protocol = varied_protocol(args, ipc, setting)
    epochs, name = epoch_count(protocol, ipc), student_name(protocol, args.student)
    identity = {
        "dataset": Path(args.dataset).name,
        "eval_split": args.eval_split,
        "method": distilled.manifest["config"]["method"],
        "distilled": distilled.fingerprint()[:12],
        "ipc": ipc,
        "student": name,
        "labels": args.labels,
        "teacher": teacher.fingerprint()[:12] if teacher is not None else None,
        "mixed_precision": args.mixed_precision,
        "batch_size": batch_size(protocol, ipc, distilled.spec.num_classes, len(distilled)),
        "ema_decay": protocol.ema_decay,
        "epochs": epochs,
        "rrc_scale": protocol.rrc_scale,
        "learning_rate": learning_rate(protocol, 0, epochs, name),
        "protocol": protocol.name,
        "settings": dataclasses.asdict(protocol),
        "seed": seed,
    }
    if is_measured(identity, read_results(args.output), apart_from=("distilled", "teacher")):
        return
    student, start = build_classifier(name, distilled.spec, seed), time.perf_counter()
    options = {"device": device, "mixed_precision": args.mixed_precision}
    train_student(student, distilled, protocol, args.labels, teacher, seed=seed, architecture=name, **options)
    seconds = round(time.perf_counter() - start, 2)
    result = accuracy(student, images, **options)
    details = {
        **{"teacher_accuracy": teacher_accuracy, "epoch": "last", "seconds": seconds, "device": device},
        **{"versions": installed_versions(), "config_hash": config_hash(identity)},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(args.output.with_suffix(".lock")):
        merge_records(args.output, [{**identity, "accuracy": result, **details}])
    words = ", ".join(f"{field} {identity[field]:g}" for field in SHOWN)
    print(f"IPC {ipc}, {words}, seed {seed}: {result:.4f} ({seconds:.0f} s)", flush=True)


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """A row per setting, best first within what a comparison must share."""
    from decoct.results.statistics import mean_and_std

    for group in dict.fromkeys(tuple(record[name] for name in SHARED) for record in records):
        members = [record for record in records if tuple(record[name] for name in SHARED) == group]
        print("\n" + ", ".join(f"{name} {value}" for name, value in zip(SHARED, group, strict=True)))
        print("".join(f"{name:<15}" for name in (*SHOWN, "accuracy", "seconds")))
        rows = []
        for setting in dict.fromkeys(tuple(record[name] for name in SHOWN) for record in members):
            same = [record for record in members if tuple(record[name] for name in SHOWN) == setting]
            mean, std = mean_and_std([record["accuracy"] for record in same])
            seconds = sum(record["seconds"] for record in same) / len(same)
            rows.append((mean, setting, f"{100 * mean:.1f} ± {100 * std:.1f} ({len(same)})", f"{seconds:.0f}"))
        for _, setting, text, seconds in sorted(rows, key=lambda row: -row[0]):
            print("".join(f"{value!s:<15}" for value in (*setting, text, seconds)))


if __name__ == "__main__":
    main()
