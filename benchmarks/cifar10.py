"""Accuracy of ConvNet-3 students on CIFAR-10: the baselines, InfoUtil, and a sweep over InfoUtil's choices.

    python benchmarks/cifar10.py --dataset path/to/cifar10 --teacher runs/cifar10-teacher --stage sweep
    python benchmarks/cifar10.py --dataset path/to/cifar10 --teacher runs/cifar10-teacher --stage final

Protocol `rded_kd` with crops of 8 to 100 % of the area, bf16, last epoch. Every student is one record in
`results/cifar10.json`; records that are there are not made again, so the command resumes. A record's distillation seed
draws the candidates (and the random images), its student seed the student. `--part 0/2` and `--part 1/2` run side by
side.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "cifar10.json"
RRC_SCALE = 0.08
# What the scores of the candidates depend on, and with them whether two settings can share them.
SCORING = ("attribution", "crop_fraction", "utility", "selection", "candidates_per_class", "coalitions")


def whole(**options: Any) -> dict[str, Any]:
    """InfoUtil on whole images; the heat maps that do not matter to the selection are left out."""
    return {"method": "infoutil", "attribution": "whole", "crop_fraction": 1.0, "selection": "top", **options}


def windows(fraction: float, **options: Any) -> dict[str, Any]:
    """InfoUtil on Shapley windows."""
    return {"method": "infoutil", "crop_fraction": fraction, "selection": "top", **options}


BASELINES: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "herding": {"method": "herding", "candidates_per_class": 0},
    "rded": {"method": "rded"},
}
# Chosen among all images of a class, as is usual for them.
CORESETS: dict[str, dict[str, Any]] = {
    name: {"method": name, "candidates_per_class": 0} for name in ("k_center", "k_means", "forgetting")
}

ORDERS: dict[str, dict[str, Any]] = {
    "highest": {"utility_order": "highest"},
    "q0.75": {"utility_order": "quantile", "utility_quantile": 0.75},
    "q0.5": {"utility_order": "quantile", "utility_quantile": 0.5},
    "q0.25": {"utility_order": "quantile", "utility_quantile": 0.25},
    "lowest": {"utility_order": "lowest"},
}

SWEEP: dict[str, dict[str, Any]] = {
    **BASELINES,
    **{f"whole, {name}": whole(**order) for name, order in ORDERS.items()},
    **{
        f"whole, lowest, {selection} in best {10 * factor:g} of 300": whole(selection=selection, pool_factor=factor)
        for selection, factor in product(("herding", "k_center"), (3.0, 7.5, 15.0))
    },
    **{
        f"whole, lowest, {selection} in best {10 * factor:g} of 5,000": whole(
            candidates_per_class=0, utility="grad_norm_last", selection=selection, pool_factor=factor
        )
        for selection, factor in (("herding", 50.0), ("herding", 125.0), ("k_center", 5.0), ("k_center", 25.0))
    },
    "whole, lowest, all candidates": whole(candidates_per_class=0, utility="grad_norm_last"),
    **{f"whole, lowest, labels of epoch {epoch}": whole(label_teacher=f"epoch_{epoch}") for epoch in (2, 5, 10)},
    "random, labels of epoch 5": {"method": "random", "label_teacher": "epoch_5"},
    **{f"whole, {score}, lowest": whole(utility=score) for score in ("grad_norm_last", "loss", "gradient_flow")},
    **{f"windows 0.5, {name}": windows(0.5, **ORDERS[name]) for name in ("highest", "q0.5", "lowest")},
    **{f"windows 0.75, {name}": windows(0.75, **ORDERS[name]) for name in ("highest", "lowest")},
    "mosaic of 4 whole, lowest": whole(tiles_per_image=4),
    "mosaic of 4 windows 0.5, lowest": windows(0.5, tiles_per_image=4),
}

VIEWS: dict[str, dict[str, Any]] = {
    **{f"infoutil, {views} views": {"method": "infoutil", "views": views} for views in (10, 50, 100, 300)},
    "random, 50 views": {"method": "random", "views": 50},
}

# The paper's literal reading, with the labels that all rows have.
PAPER = windows(0.5, utility_order="highest", label_teacher="converged")
FINAL: dict[str, dict[str, Any]] = {
    **BASELINES,
    **CORESETS,
    "infoutil_paper": PAPER,
    "infoutil": {"method": "infoutil"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="CIFAR-10: Hub id or local parquet folder")
    parser.add_argument("--teacher", required=True, help="teacher's folder, with its epoch_N folders")
    parser.add_argument("--runs", default="runs/benchmark", help="where the run folders go")
    parser.add_argument("--stage", choices=["sweep", "views", "final"], default="final")
    parser.add_argument("--ipc", type=int, nargs="+", default=[10])
    parser.add_argument("--labels", nargs="+", default=["online"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each seeds the distillation and a student")
    parser.add_argument("--only", nargs="+", help="settings by name")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th setting, beginning with the i-th")
    arguments = parser.parse_args()
    settings = {"sweep": SWEEP, "views": VIEWS, "final": FINAL}[arguments.stage]
    part, parts = map(int, arguments.part.split("/"))
    names = [name for name in settings if arguments.only is None or name in arguments.only][part::parts]
    for seed in arguments.seeds:
        for ipc in arguments.ipc:
            for name in names:
                measure(arguments, name, settings[name], ipc, seed)


def measure(arguments: argparse.Namespace, name: str, options: dict[str, Any], ipc: int, seed: int) -> None:
    """Distils one setting, trains a student per label mode and adds their records."""
    done = {(r["setting"], r["ipc"], r["labels"], r["distill_seed"], r["student_seed"], r["stage"]) for r in records()}
    labels = [mode for mode in arguments.labels if (name, ipc, mode, seed, seed, arguments.stage) not in done]
    if not labels:
        return
    from decoct.config import EvaluateConfig
    from decoct.evaluation.evaluate import evaluate

    views = "views" in labels  # a set of its own: the same images, with stored views
    title = f"{arguments.stage}-{name.replace(' ', '_').replace(',', '')}-ipc{ipc}-seed{seed}"
    folder = Path(arguments.runs) / f"{title}{'-views' if views else ''}"
    manifest = distil(arguments, options, ipc, seed, folder, views)
    for record in evaluate(
        EvaluateConfig(
            distilled=str(folder),
            dataset=arguments.dataset,
            labels=labels,
            ipc=[ipc],
            seed=seed,
            rrc_scale=RRC_SCALE,
            mixed_precision="bf16",
            baseline=False,  # random images are among the settings
            ranking=False,
        )
    ):
        add(
            {
                "setting": name,
                "stage": arguments.stage,
                "distill_seed": seed,
                "student_seed": seed,
                "accuracy": record["accuracy_mean"],
                "tile_accuracy": manifest["tile_accuracy"][str(ipc)],
                "epochs": 300,
                "rrc_scale": RRC_SCALE,
                "precision": "bf16",
                "options": options,
                **{key: record[key] for key in ("method", "ipc", "labels", "protocol", "student", "teacher_accuracy")},
                **{key: record[key] for key in ("epoch", "seconds", "device", "versions")},
            }
        )
        print(f"{name}, IPC {ipc}, {record['labels']}, seed {seed}: {record['accuracy_mean']:.4f}", flush=True)


def distil(
    arguments: argparse.Namespace, options: dict[str, Any], ipc: int, seed: int, folder: Path, views: bool
) -> dict[str, Any]:
    """Distils one setting; settings that differ in their selection alone share one scoring of the candidates."""
    from accelerate import Accelerator

    from decoct import load_classifier, load_images
    from decoct.config import DistillConfig
    from decoct.synthesis.real import candidates_of, distill_images, score

    options = {"views": 50 if views else 0, "mixed_precision": "bf16", "batch_size": 16, **options}
    if options.get("label_teacher", "").startswith("epoch_"):
        options["label_teacher"] = f"{arguments.teacher}/{options['label_teacher']}"
    config = DistillConfig(
        dataset=arguments.dataset, teacher=arguments.teacher, ipc=[ipc], seed=seed, output_dir=str(folder), **options
    )
    accelerator = Accelerator(mixed_precision="bf16")
    teacher = load_classifier(arguments.teacher)
    images = load_images(arguments.dataset)
    key = "-".join(str(getattr(config, field)) for field in SCORING)
    scored = Path(arguments.runs) / "scores" / f"{key}-seed{seed}"
    candidates = candidates_of(config, images, teacher)
    scores = score(config, candidates, teacher, 16, accelerator, scored)
    manifest = distill_images(config, images, teacher, accelerator, scores)
    shutil.rmtree(folder / "shards", ignore_errors=True)
    return manifest


def records() -> list[dict[str, Any]]:
    """All records so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else []


def add(record: dict[str, Any]) -> None:
    """Adds a record, also while another part runs."""
    with open(RESULTS.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        RESULTS.write_text(json.dumps([*records(), record], indent=1) + "\n")


if __name__ == "__main__":
    main()
