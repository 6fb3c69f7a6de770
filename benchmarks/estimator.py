"""Claim: the contextual term of the variational estimator's loss does not cost accuracy, and longer training serves it.

    python benchmarks/estimator.py --dataset DATASET --encoder resnet10_w16

Trains an estimator for each reference of the contextual term (q_mode), weight of that term (lambda) and number of
epochs; each number of epochs is a training of its own, with its own cosine schedule. At weight 0 the reference does not
matter, so it is trained once. On the evaluation split: the accuracy of the linear classifier and of 20 nearest
neighbours, the prototype information (at most the labels' entropy) and the contextual score (at most log(dim), at
temperature 0.07), both in nats.

Every estimator is one record, written as soon as it is known; records that are there are not made again and a killed
training continues, so the command resumes; `--part 0/2` and `--part 1/2` run side by side. `seconds` is missing where a
training was resumed. Results, with hardware and versions, go to benchmarks/results/estimator.json; the figure shows
those of the present call's conditions.

How long: an epoch of the embedded sample (4,000 images) takes about 3 s with resnet10_w16 on one CPU core, so the
default grid of 5 settings and 3 lengths takes about half an hour.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from timing import RESULTS, device_name, part_of, public_name

MEASURED = {
    "linear_accuracy": "linear classifier, accuracy",
    "knn_accuracy": "20 nearest neighbours, accuracy",
    "prototype": "prototype information, nats",
    "contextual": "contextual score, nats",
}


def parser() -> argparse.ArgumentParser:
    """The grid, and what all of it shares."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset", default="sample", help="Hub id, folder, or `sample`.")
    options.add_argument("--train_split", default="train")
    options.add_argument("--eval_split", help="Split that is measured on. Default: `test`, else `validation`.")
    options.add_argument("--encoder", default="resnet10_w16")
    options.add_argument("--q_modes", nargs="+", choices=("two_view", "class_mean"), default=["two_view", "class_mean"])
    options.add_argument("--kl_weights", type=float, nargs="+", default=[0.0, 0.1, 1.0], help="Values of lambda.")
    options.add_argument("--epochs", type=int, nargs="+", default=[10, 30, 60])
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--batch_size", type=int, default=256)
    options.add_argument("--queue_size", type=int, default=2048)
    options.add_argument("--projection_dim", type=int, default=128)
    options.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="bf16")
    options.add_argument("--runs", type=Path, default=Path("runs/estimators"), help="Where the estimators are kept.")
    options.add_argument("--output", type=Path, default=RESULTS / "estimator.json", help="Result file.")
    options.add_argument(
        "--part", type=part_of, default=(0, 1), help="i/n: every n-th estimator, beginning with the i-th."
    )
    return options


def grid(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The settings, short trainings first; without the contextual term the reference is None."""
    for seed, epochs, weight in itertools.product(args.seeds, args.epochs, args.kl_weights):
        for q_mode in args.q_modes if weight > 0 else [None]:
            yield {"q_mode": q_mode, "kl_weight": weight, "epochs": epochs, "seed": seed}


def name_of(setting: dict[str, Any]) -> str:
    """The setting of the loss, in words."""
    return f"lambda {setting['kl_weight']:g}, {setting['q_mode']}" if setting["q_mode"] else "lambda 0"


def conditions_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the records of this call share."""
    from decoct.data.loading import eval_split_name

    names = ("train_split", "encoder", "batch_size", "queue_size", "projection_dim", "mixed_precision")
    return {
        "dataset": public_name(args.dataset),
        "eval_split": eval_split_name(args.dataset, None, args.eval_split),
        **{name: getattr(args, name) for name in names},
    }


def measure(args: argparse.Namespace, conditions: dict[str, Any], setting: dict[str, Any], key: str) -> dict[str, Any]:
    """Trains one estimator, or takes the one that is there, and measures it; returns its record."""
    import torch

    from decoct import load_images
    from decoct.config import EstimatorConfig
    from decoct.igds.loading import load_estimator
    from decoct.igds.measuring import measure as measure_information
    from decoct.training.estimator import train_estimator

    folder = args.runs / f"{name_of(setting).replace(',', '').replace(' ', '_')}-epochs{setting['epochs']}-{key}"
    resumed = folder.exists()
    shared = ("dataset", "train_split", "eval_split", "encoder", "batch_size", "queue_size", "projection_dim")
    start = time.perf_counter()
    training = train_estimator(
        EstimatorConfig(
            **{name: getattr(args, name) for name in (*shared, "mixed_precision")},
            **{**setting, "q_mode": setting["q_mode"] or "two_view"},
            output_dir=str(folder),
        )
    )
    seconds = None if resumed else round(time.perf_counter() - start, 1)
    estimator = load_estimator(folder)
    side = estimator.config.image_size
    images = load_images(args.dataset, conditions["eval_split"], image_size=side)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = measure_information(images, estimator, image_size=side, device=device)
    last = training["epochs"][-1]
    return {
        **setting,
        **{name: training[name] for name in ("linear_accuracy", "knn_accuracy", "rank", "full_rank")},
        **{name: getattr(report, name) for name in ("prototype", "contextual", "label_entropy")},
        **{f"{name}_loss": last[name] for name in ("contrastive", "contextual")},
        **conditions,
        "seconds": seconds,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": training["versions"],
        "config_hash": key,
    }


def draw_figure(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """All four measures against the epochs, a line per setting, with the standard deviation over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from decoct.results.figures import COLORS
    from decoct.results.statistics import mean_and_std

    figure = Figure(figsize=(9.0, 6.6))
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2).flat
    names = list(dict.fromkeys(map(name_of, records)))
    for panel, (measured, title) in zip(panels, MEASURED.items(), strict=True):
        for name, color in zip(names, itertools.cycle(COLORS), strict=False):
            line = [record for record in records if name_of(record) == name]
            epochs = sorted({record["epochs"] for record in line})
            spreads = [mean_and_std([each[measured] for each in line if each["epochs"] == e]) for e in epochs]
            means, stds = zip(*spreads, strict=True)
            panel.errorbar(epochs, means, yerr=stds, color=color, marker="o", markersize=4, capsize=2, label=name)
        panel.set(xlabel="epochs", ylabel=title)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(path, format="png", dpi=120, facecolor="white", metadata={"Software": None})


def main(words: Sequence[str] | None = None) -> None:
    args = parser().parse_args(words)
    args.output.parent.mkdir(parents=True, exist_ok=True)

    from decoct.config import config_hash
    from decoct.results.records import merge_records, read_results

    conditions = conditions_of(args)
    done = {record["config_hash"] for record in read_results(args.output)}
    keyed = {config_hash({**conditions, **setting}): setting for setting in grid(args)}
    part, parts = args.part
    for key, setting in list(keyed.items())[part::parts]:
        if key in done:
            continue
        record = measure(args, conditions, setting, key)
        with FileLock(args.output.with_suffix(".lock")):
            merge_records(args.output, [record])
        values = ", ".join(f"{measured} {record[measured]:.4f}" for measured in MEASURED)
        print(f"{name_of(record)}, {record['epochs']} epochs, seed {record['seed']}: {values}", flush=True)
    shown = [each for each in read_results(args.output) if all(each[name] == conditions[name] for name in conditions)]
    if shown:
        draw_figure(args.output.with_suffix(".png"), shown)


if __name__ == "__main__":
    main()
