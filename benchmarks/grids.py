"""Runs one of the grids in `grids/`: distils its sets, trains a student on each, and records what they reach.

    python benchmarks/grids.py cifar10_final --dataset uoft-cs/cifar10 --teacher TEACHER --ipc 1 10 --seeds 0 1 2
    python benchmarks/grids.py beta_sweep --dataset sample --teacher TEACHER --prior sample --estimator sample \\
        --ipc 10 --vary beta 0 1 3 --vary guidance_scale 0.2 --dry_run
    python benchmarks/grids.py GRID.yaml --dataset DATASET --distilled RUN --training "as it is" --seeds 0 1

Every student is one record in the grid's file in `results/`, written as soon as it is known. Records that are there are
not made again, also with networks made anew by the same commands, so the command resumes; move them away to measure
anew. `--part 0/2` and `--part 1/2` run side by side, and `accelerate launch` shares the students between processes.
The table has a row per set and way of training: mean, standard deviation and number of seeds. `grids/README.md` says
what a grid file looks like.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timing import part_of

FOLDER = Path(__file__).parent / "grids"
RESULTS = Path(__file__).parent / "results"
# What records of one table share, and its rows.
TABLE = ("dataset", "ipc", "student", "protocol", "labels")
ROW = ("setting", "training")


def parser() -> argparse.ArgumentParser:
    """What a command says, and the grid file does not."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    options.add_argument("grid", help=f"one of {', '.join(names)}, or a YAML file")
    options.add_argument("--dataset", default="sample", help="Hub id, folder, or `sample`")
    options.add_argument("--teacher", help="folder or Hub id, as are --prior and --estimator")
    options.add_argument("--prior")
    options.add_argument("--estimator")
    options.add_argument("--distilled", help="run folder of a set to train on, in place of the grid's sets")
    options.add_argument("--ipc", type=int, nargs="+", help="default, as of the next four: the grid's")
    options.add_argument("--seeds", type=int, nargs="+", help="each draws the images and starts a student")
    options.add_argument("--labels", nargs="+")
    options.add_argument("--students", nargs="+")
    options.add_argument("--protocol", help="name or YAML file")
    options.add_argument("--only", nargs="+", help="sets by name")
    options.add_argument("--training", nargs="+", help="ways of training by name")
    options.add_argument("--vary", nargs="+", action="append", default=[], help="a varied option and its values")
    options.add_argument("--set", nargs="+", default=[], help="shared options: distil.views=10 evaluate.epochs=5")
    options.add_argument("--part", type=part_of, default=(0, 1), help="i/n: every n-th set, beginning with the i-th")
    options.add_argument("--runs", type=Path, help="where sets and students go; default: runs/GRID")
    options.add_argument("--output", type=Path, help="file of the records; default: the grid's in results/")
    options.add_argument("--dry_run", action="store_true", help="show what is missing, and stop")
    return options


def read(args: argparse.Namespace) -> Any:
    """The grid with what the command line says otherwise.

    Raises:
        ValueError: If `--only` or `--training` names none of the grid's, or `--set` no section of it.
    """
    from decoct.evaluation.grid_file import read_grid
    from decoct.files import parse_yaml

    path = Path(args.grid) if Path(args.grid).suffix == ".yaml" else FOLDER / f"{args.grid}.yaml"
    vary = {option: [parse_yaml(value, f"vary {option}") for value in values] for option, *values in args.vary}
    grid = read_grid(path, vary)
    given = {name: getattr(args, name) for name in ("ipc", "seeds", "labels", "students", "protocol")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, wanted in (("sets", args.only), ("training", args.training)):
        if wanted is not None:
            known = {variant.name: variant for variant in getattr(grid, name)}
            if unknown := sorted(set(wanted) - set(known)):
                raise ValueError(f"{name} must be among {list(known)}. Got {unknown}.")
            changes[name] = [known[each] for each in wanted]
    for text in args.set:
        place, _, value = text.partition("=")
        section, _, option = place.partition(".")
        if section not in ("distil", "evaluate") or not option:
            raise ValueError(f"set must be distil.OPTION=VALUE or evaluate.OPTION=VALUE. Got {text!r}.")
        changes[section] = {**changes.get(section, getattr(grid, section)), option: parse_yaml(value, place)}
    return dataclasses.replace(grid, **changes)


def main(words: Sequence[str] | None = None) -> None:
    args = parser().parse_args(words)
    grid = read(args)
    from decoct.evaluation.sweep import Inputs, Sweep
    from decoct.run.processes import close, open_accelerator

    found = {name: getattr(args, name) for name in ("teacher", "prior", "estimator") if getattr(args, name) is not None}
    for name in ["teacher"] * (args.distilled is None) + grid.networks:
        if name not in found:
            raise ValueError(f"{name} must be given for the grid {args.grid!r}. Got None.")
    networks = {name: path for name, path in found.items() if name != "teacher"}
    output = args.output or RESULTS / grid.records.format(dataset=Path(args.dataset).name)
    runs = args.runs or Path("runs") / Path(args.grid).stem
    inputs = Inputs(args.dataset, args.teacher, networks, args.distilled)
    accelerator = open_accelerator(grid.evaluate.get("mixed_precision", "no"))
    running = Sweep(grid, inputs, runs, output, accelerator, args.part, show)
    running.check()
    if args.dry_run:
        plan = running.plan()
        print(", ".join(f"{value:,} {name}" for name, value in plan.items() if isinstance(value, int)))
        print(
            ", ".join(f"{count:,} for {stage}" for stage, count in plan["forward_passes"].items()), "(forward passes)"
        )
    else:
        running.fill()
        if accelerator.is_main_process:
            finish(running.own_records(), grid.figure, output)
    close(accelerator)


def show(record: dict[str, Any]) -> None:
    """Prints a new record."""
    words = [record[name] for name in ROW if record.get(name)]
    place = f"{', '.join(words)}, IPC {record['ipc']}, {record['student']}, {record['labels']}, seed {record['seed']}"
    print(f"{place}: {record['accuracy_mean']:.4f} ({record['seconds']:.0f} s)", flush=True)


def finish(records: Sequence[dict[str, Any]], figure: dict[str, Any], output: Path) -> None:
    """Prints a table of each IPC, student and label mode, the best first, and draws the grid's figure."""
    from decoct.results.statistics import mean_and_std
    from decoct.results.tables import accuracy_cell, text_table

    row = [name for name in ROW if any(name in record for record in records)]
    for group in dict.fromkeys(tuple(record[name] for name in TABLE) for record in records):
        members = [record for record in records if tuple(record[name] for name in TABLE) == group]
        rows = []
        for names in dict.fromkeys(tuple(record.get(name, "") for name in row) for record in members):
            same = [record for record in members if tuple(record.get(name, "") for name in row) == names]
            mean, std = mean_and_std([record["accuracy_mean"] for record in same])
            seconds = sum(record["seconds"] for record in same) / len(same)
            rows.append((mean, [*names, accuracy_cell(mean, std, len(same), count=True), f"{seconds:.0f}"]))
        ordered = [row for _, row in sorted(rows, key=lambda each: -each[0])]
        print("\n" + text_table([[*row, "accuracy %", "seconds"], *ordered], ", ".join(map(str, group))))
    if figure and records:
        from decoct.results.figures import save_option_curves

        save_option_curves(output.with_suffix(".png"), records, **figure)


if __name__ == "__main__":
    from decoct.arguments import run

    run(main)
