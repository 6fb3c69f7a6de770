"""Claim (IGDS, Fig. 5): the weight of contextual information that serves students best grows with the IPC.

    python benchmarks/beta_sweep.py --dataset DATASET --teacher TEACHER --prior PRIOR --estimator ESTIMATOR
    python benchmarks/beta_sweep.py ... --strips

Distils by IGDS for a grid of beta, step size of the guidance, what it works on, tiles, IPC and seed, and trains
students on each set, always beside random real images with the same teacher, labels and protocol, and beside the prior
alone (guidance off). Each IPC is distilled on its own, since the sets of one run are nested and begin with the tiles of
smaller ones. A single tile per class has no context: beta makes no difference there, and one value is measured.

The seed draws the samples (or the real images) and starts the student; a tile's noise is the same for every beta. Every
student is one record, written as soon as it is known; records that are there are not made again, also with networks
made anew under the same names, so the command resumes, and `--part 0/2` and `--part 1/2` run side by side. Records hold
the conditions they were made under, and the figure shows those of the present call. `distill_seconds` is sampling and
labelling, of the last attempt if it was interrupted. `prototype` is the mean of log P(y | x), and `contextual` that of
the divergence from the class's mean, of the samples before they are packed or, for real images, of the tiles.

--strips draws instead the samples of beta 0, 0.1 and 0.5 from the same noise, for all classes (Fig. 4).

How long: sampling takes IPC x tiles x classes x steps passes of prior and estimator, a student at IPC 10 about a minute
and at IPC 50 five on one CPU core. `--dry_run` counts what is missing.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from records import is_measured
from timing import public_name

RESULTS = Path(__file__).parent / "results"
STRIP_BETAS, STRIP_IMAGES = (0.0, 0.1, 0.5), 8
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito
FINGERPRINTS = ("fingerprints",)
# What records of one figure share.
CONDITIONS = (
    *("dataset", "train_split", "eval_split", "teacher", "prior", "estimator", "fingerprints", "sampling_steps"),
    *("scheduler", "student", "protocol", "epochs", "rrc_scale", "views", "mixed_precision"),
)


def parser() -> argparse.ArgumentParser:
    """The grid, and what all of it shares."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset", default="sample", help="Hub id, folder, or `sample`.")
    options.add_argument("--train_split", default="train", help="Split that random images come from.")
    options.add_argument("--eval_split", help="Split that students are measured on. Default: `test`.")
    options.add_argument("--teacher", required=True, help="Folder or Hub id, as are --prior and --estimator.")
    options.add_argument("--prior", required=True)
    options.add_argument("--estimator", required=True)
    options.add_argument("--betas", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.25, 0.5, 1.0])
    options.add_argument("--guidance_scales", type=float, nargs="+", default=[1.0], help="0, off, is always measured.")
    options.add_argument("--guide_on", nargs="+", choices=("sample", "x0_pred"), default=["sample"])
    options.add_argument("--tiles", type=int, nargs="+", choices=(1, 4), default=[1], help="Tiles per image.")
    options.add_argument("--ipc", type=int, nargs="+", default=[1, 10, 50])
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--label_modes", nargs="+", choices=("hard", "views", "online"), default=["online"])
    options.add_argument("--sampling_steps", type=int, default=50)
    options.add_argument("--scheduler", choices=("ddpm", "ddim", "dpm_solver"), default="ddim")
    options.add_argument("--student", default="convnet3")
    options.add_argument("--protocol", default="rded_kd")
    options.add_argument("--epochs", type=int, help="Default: the protocol's.")
    options.add_argument("--rrc_scale", type=float, default=0.08, help="Smallest area of the students' crops.")
    options.add_argument("--views", type=int, default=50, help="Stored views of an image.")
    options.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="bf16")
    options.add_argument("--runs", type=Path, default=Path("runs/beta_sweep"), help="Where distilled sets are kept.")
    options.add_argument("--output", type=Path, help="Default: results/beta_sweep_DATASET.json.")
    options.add_argument("--part", default="0/1", help="i/n: every n-th set, beginning with the i-th.")
    options.add_argument("--dry_run", action="store_true", help="Count what is missing, and stop.")
    options.add_argument("--strips", action="store_true", help="Draw strips of samples instead, and stop.")
    return options


def grid(args: argparse.Namespace, ipc: int) -> list[dict[str, Any]]:
    """The settings of an IPC: random images, the prior alone, and every weight and step size of the guidance."""
    settings: list[dict[str, Any]] = []
    for tiles in args.tiles:
        settings.append({"setting": "random", "method": "random", "tiles": tiles})
        unguided = {"beta": 0.0, "guidance_scale": 0.0, "guide_on": "sample"}
        settings.append({"setting": "guidance off", "method": "igds", "tiles": tiles, **unguided})
        betas = args.betas if ipc * tiles > 1 else [0.0]
        for guide_on, scale, beta in itertools.product(args.guide_on, args.guidance_scales, betas):
            if scale > 0:
                guidance = {"beta": beta, "guidance_scale": scale, "guide_on": guide_on}
                name = f"beta {beta:g}, scale {scale:g}, {guide_on}"
                settings.append({"setting": name, "method": "igds", "tiles": tiles, **guidance})
    return settings


def conditions_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the records of this call share; the networks by name and fingerprint."""
    from decoct.config import EvaluateConfig
    from decoct.data.loading import eval_split_name
    from decoct.igds.loading import load_estimator
    from decoct.igds.prior import load_pipeline, prior_fingerprint
    from decoct.models.classifier import fingerprint_of
    from decoct.models.zoo import load_classifier
    from decoct.training.protocols import load_protocol

    EvaluateConfig(students=[args.student], protocols=[args.protocol], rrc_scale=args.rrc_scale)  # raises if not valid
    protocol = load_protocol(args.protocol)
    if isinstance(protocol.epochs, dict) and not args.epochs:
        raise ValueError(f"epochs must be given for {args.protocol}, which has other ones for each IPC. Got None.")
    fingerprints = {
        "teacher": load_classifier(args.teacher).fingerprint(),
        "prior": prior_fingerprint(load_pipeline(args.prior, None)),
        "estimator": fingerprint_of({"": load_estimator(args.estimator)}),
    }
    shared = {name: getattr(args, name) for name in CONDITIONS if hasattr(args, name)}
    return shared | {
        **{name: public_name(getattr(args, name)) for name in ("dataset", "teacher", "prior", "estimator")},
        "eval_split": eval_split_name(args.dataset, None, args.eval_split),
        "epochs": args.epochs or protocol.epochs,
        "fingerprints": {name: fingerprint[:12] for name, fingerprint in fingerprints.items()},
    }


def measure(
    args: argparse.Namespace, conditions: dict[str, Any], setting: dict[str, Any], ipc: int, seed: int, done: list[Any]
) -> None:
    """Distils one set, trains a student per label mode and adds their records."""
    from decoct.config import EvaluateConfig
    from decoct.evaluation.evaluate import evaluate
    from decoct.results.records import merge_records

    missing = missing_modes(args, conditions, setting, ipc, seed, done)
    if not missing:
        return
    folder, described = distil(args, conditions, setting, ipc, seed)
    for labels, key in missing.items():
        config = EvaluateConfig(
            distilled=str(folder),
            dataset=args.dataset,
            eval_split=args.eval_split,
            labels=[labels],
            ipc=[ipc],
            seed=seed,
            students=[args.student],
            protocols=[args.protocol],
            epochs=args.epochs,
            rrc_scale=args.rrc_scale,
            mixed_precision=args.mixed_precision,
            baseline=False,  # random images are among the settings
            ranking=False,
        )
        (record,) = evaluate(config)
        result = {
            **setting,
            "ipc": ipc,
            "labels": labels,
            "seed": seed,
            "accuracy": record["accuracy_mean"],
            **described,
            **conditions,
            **{name: record[name] for name in ("teacher_accuracy", "epoch", "seconds", "device", "versions")},
            "config_hash": key,
        }
        with FileLock(args.output.with_suffix(".lock")):
            merge_records(args.output, [result])
        print(
            f"{setting['setting']}, {setting['tiles']} tiles, IPC {ipc}, {labels}, seed {seed}: "
            f"{result['accuracy']:.4f} (prototype {described['prototype']:.3f}, contextual "
            f"{described['contextual']:.3f}, teacher on tiles {described['tile_accuracy']:.3f})",
            flush=True,
        )


def missing_modes(
    args: argparse.Namespace, conditions: dict[str, Any], setting: dict[str, Any], ipc: int, seed: int, done: list[Any]
) -> dict[str, str]:
    """The label modes without a record, and the keys of the records to make."""
    from decoct.config import config_hash

    units = {
        labels: {**conditions, **setting, "ipc": ipc, "seed": seed, "labels": labels} for labels in args.label_modes
    }
    missing = {labels: unit for labels, unit in units.items() if not is_measured(unit, done, apart_from=FINGERPRINTS)}
    return {labels: config_hash(unit) for labels, unit in missing.items()}


def distil(
    args: argparse.Namespace, conditions: dict[str, Any], setting: dict[str, Any], ipc: int, seed: int
) -> tuple[Path, dict[str, Any]]:
    """The folder of a distilled set, made if it is not there, and what its record says of it."""
    from decoct.config import config_hash
    from decoct.synthesis.distill import distill

    names = ("dataset", "train_split", "fingerprints", "sampling_steps", "scheduler", "views", "mixed_precision")
    identity = {**{name: conditions[name] for name in names}, **setting, "ipc": ipc, "seed": seed}
    words = setting["setting"].replace(",", "").replace(" ", "_")
    folder = args.runs / f"{words}-tiles{setting['tiles']}-ipc{ipc}-seed{seed}-{config_hash(identity)}"
    manifest = distill(distill_config(args, setting, [ipc], seed, folder))
    if setting["method"] == "igds":
        information = manifest["information"][str(ipc)]
    else:
        information = measure_set(args, folder, ipc, setting["tiles"])
    return folder, {
        "prototype": information["prototype"],
        "contextual": information["contextual"],
        "tile_accuracy": manifest["tile_accuracy"][str(ipc)],
        "distill_seconds": manifest["seconds"],
    }


def distill_config(args: argparse.Namespace, setting: dict[str, Any], ipcs: list[int], seed: int, folder: Path) -> Any:
    """The configuration of one set; settings of the sampling have no part in random images."""
    from decoct.config import DistillConfig

    sampling = {}
    if setting["method"] == "igds":
        sampling = {name: getattr(args, name) for name in ("prior", "estimator", "sampling_steps", "scheduler")}
        sampling |= {name: setting[name] for name in ("beta", "guidance_scale", "guide_on")}
    return DistillConfig(
        method=setting["method"],
        dataset=args.dataset,
        train_split=args.train_split,
        teacher=args.teacher,
        ipc=ipcs,
        tiles_per_image=setting["tiles"],
        seed=seed,
        views=args.views,
        mixed_precision=args.mixed_precision,
        output_dir=str(folder),
        **sampling,
    )


def measure_set(args: argparse.Namespace, folder: Path, ipc: int, tiles: int) -> dict[str, float]:
    """Both mean terms of a set of real images, in nats, as the manifest has them of samples."""
    import datasets

    from decoct.igds.loading import load_estimator
    from decoct.igds.measuring import measure as measure_information

    images = datasets.load_dataset(str(folder), f"ipc_{ipc}", split="train").select_columns(["image", "label"])
    report = measure_information(images, load_estimator(args.estimator), tiles_per_image=tiles)
    return {"prototype": report.prototype - report.label_entropy, "contextual": report.contextual}


def draw_figure(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Accuracy against beta (Fig. 5): a panel per label mode and IPC, lines for random images and the prior alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    modes, ipcs = (list(dict.fromkeys(record[name] for record in records)) for name in ("labels", "ipc"))
    figure = Figure(figsize=(1.2 + 3.6 * len(ipcs), 0.6 + 3.2 * len(modes)))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(modes), len(ipcs), squeeze=False)
    shared: dict[str, Any] = {}
    for (row, labels), (column, ipc) in itertools.product(enumerate(modes), enumerate(sorted(ipcs))):
        panel = axes[row][column]
        draw_panel(panel, [record for record in records if (record["labels"], record["ipc"]) == (labels, ipc)])
        panel.set(title=f"IPC {ipc}, labels {labels}", xlabel="beta", ylabel="" if column else "accuracy, %")
        panel.spines[["top", "right"]].set_visible(False)
        shared |= {name: handle for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(shared.values(), shared.keys(), loc="lower center", ncols=3, fontsize=8, frameon=False)
    lines = (len(shared) + 2) // 3
    figure.tight_layout(rect=(0, (0.1 + 0.2 * lines) / figure.get_figheight(), 1, 1))
    figure.savefig(path, format="png", dpi=120, facecolor="white", metadata={"Software": None})


def draw_panel(panel: Any, records: Sequence[dict[str, Any]]) -> None:
    """Mean and standard deviation over the seeds: curves over beta for guided sets, lines for the others."""
    from decoct.results.statistics import mean_and_std

    curves: dict[tuple[str, int], dict[float, list[float]]] = {}
    for record in records:
        guided = record.get("guidance_scale", 0) > 0
        name = f"guided on {record['guide_on']}, scale {record['guidance_scale']:g}" if guided else record["setting"]
        points = curves.setdefault((name, record["tiles"]), {})
        points.setdefault(record["beta"] if guided else -1.0, []).append(100 * record["accuracy"])
    colors = itertools.cycle(COLORS)
    several_tiles = len({tiles for _, tiles in curves}) > 1
    for (name, tiles), points in sorted(curves.items()):
        means, stds = zip(*(mean_and_std(points[beta]) for beta in sorted(points)), strict=True)
        label = f"{name}, {tiles} tile{'s' if tiles > 1 else ''}" if several_tiles else name
        if name in ("random", "guidance off"):
            color, line = "0.2" if name == "random" else "0.6", ":" if tiles > 1 else "--"
            panel.axhline(means[0], color=color, linestyle=line, label=label)
            panel.axhspan(means[0] - stds[0], means[0] + stds[0], color=color, alpha=0.12, linewidth=0)
        else:
            style: dict[str, Any] = {"color": next(colors), "marker": "o", "markersize": 4, "capsize": 2}
            panel.errorbar(sorted(points), means, yerr=stds, label=label, **style)


def draw_strips(args: argparse.Namespace, path: Path) -> None:
    """Samples of all classes from the same noise for each of three weights (Fig. 4)."""
    from decoct.config import SampleConfig, config_hash
    from decoct.igds.loading import load_estimator
    from decoct.synthesis.samples import draw_samples

    shared = ("prior", "estimator", "sampling_steps", "scheduler", "mixed_precision")
    settings: dict[str, Any] = {
        **{name: getattr(args, name) for name in shared},
        "guidance_scale": max(args.guidance_scales),
        "guide_on": args.guide_on[0],
        "betas": list(STRIP_BETAS),
        "images_per_class": STRIP_IMAGES,
        "classes": list(range(load_estimator(args.estimator).config.num_labels)),
        "seed": args.seeds[0],
    }
    folder = args.runs / f"strips-{config_hash(settings)}"
    result = draw_samples(SampleConfig(**settings, output_dir=str(folder)))
    shutil.copyfile(folder / "samples.png", path)
    for beta, terms in result["betas"].items():
        print(f"beta {beta}: prototype {terms['prototype']:.3f}, contextual {terms['contextual']:.3f}", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    args = parser().parse_args(words)
    args.output = args.output or RESULTS / f"beta_sweep_{Path(args.dataset).name}.json"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if args.strips:
        draw_strips(args, args.output.with_name(f"{args.output.stem}_strips.png"))
        return

    from decoct.results.records import read_results

    conditions = conditions_of(args)
    done = read_results(args.output)
    part, parts = map(int, args.part.split("/"))
    # A seed is complete before the next one begins.
    places = itertools.product(args.seeds, args.ipc)
    units = [(setting, ipc, seed) for seed, ipc in places for setting in grid(args, ipc)][part::parts]
    missing = [unit for unit in units if missing_modes(args, conditions, *unit, done)]
    if args.dry_run:
        students = sum(len(missing_modes(args, conditions, *unit, done)) for unit in missing)
        samples = sum(ipc * setting["tiles"] for setting, ipc, _ in missing if setting["method"] == "igds")
        print(f"{len(missing)} of {len(units)} sets, {students} students, {samples} samples per class")
        return
    for unit in missing:
        measure(args, conditions, *unit, done)
    shown = [each for each in read_results(args.output) if is_measured(conditions, [each], apart_from=FINGERPRINTS)]
    draw_figure(args.output.with_suffix(".png"), shown)


if __name__ == "__main__":
    main()
