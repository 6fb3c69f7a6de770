"""Reproduces every table of the README, from nothing but the data.

    python benchmarks/reproduce.py --cifar10 uoft-cs/cifar10 --imagenette path/to/imagenette
    python benchmarks/reproduce.py --cifar10 ... --imagenette ... --dry_run     # the commands; runs none
    python benchmarks/reproduce.py --cifar10 ... --only cifar10                 # one group of tables

Trains the teachers, the prior and the estimator, distils, trains the students and writes the tables. Records that are
in `benchmarks/results/` are not made again, nor is a finished training in `--runs`: the command resumes, and on a
fresh clone it trains the teachers, measures what the Hub costs on this machine, and finds the rest done.
`--from_scratch` moves the records that are there to `results/earlier/` first. On one CPU core the sample takes an hour,
Imagenette about five, CIFAR-10 about twenty.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from timing import public_name

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GROUPS = ("sample", "cifar10", "imagenette", "hub")
# Records that the tables are made from, by group.
RECORDS = {
    "sample": ("beta_sweep_sample.json", "strong_kd.json"),
    "cifar10": ("cifar10.json", "beta_sweep_cifar10.json"),
    "imagenette": ("ablation_imagenette.json",),
    "hub": ("hub.json",),
}
PATHS = ("dataset", "teacher", "scoring_teacher")
BF16 = ("--mixed_precision", "bf16")


@dataclass(frozen=True)
class Step:
    """One command; `script` is relative to the repository, `copies` what it leaves in `results/` (from, to)."""

    script: str
    arguments: tuple[str, ...]
    copies: tuple[tuple[Path, str], ...] = ()

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, str(ROOT / self.script), *self.arguments]


def steps(group: str, dataset: str, runs: Path) -> list[Step]:
    """The commands of a group of tables, in order."""
    makers = {"sample": sample_steps, "cifar10": cifar10_steps, "imagenette": imagenette_steps, "hub": hub_steps}
    return makers[group](dataset, runs)


def sample_steps(dataset: str, runs: Path) -> list[Step]:
    """IGDS with the embedded prior and estimator, and the sweep behind `strong_kd`."""
    teacher, distilled = runs / "sample-teacher", runs / "sample-infoutil"
    sweep = words(
        f"--dataset {dataset} --teacher {teacher} --prior sample --estimator sample --student convnet3_w64 "
        "--guidance_scales 0.2"
    )
    strong = words(f"--distilled {distilled} --dataset {dataset} --student convnet3_w64 --ipc 10")
    return [
        Step("scripts/train_teacher.py", words(f"--preset demo --dataset {dataset} --output_dir {teacher}")),
        *(
            Step("benchmarks/beta_sweep.py", (*sweep, *words(grid)))
            for grid in (
                "--ipc 1 --betas 0 --seeds 0 1 2 --label_modes views hard",
                "--ipc 10 --betas 0 1 3 10 --seeds 0 1 2 --label_modes views hard",
                "--ipc 50 --betas 0 3 10 --seeds 0 --label_modes views",
            )
        ),
        Step(
            "scripts/distill.py",
            words(f"--method infoutil --dataset {dataset} --teacher {teacher} --ipc 10 --output_dir {distilled}"),
        ),
        Step("benchmarks/strong_kd.py", (*strong, *words("--seeds 0 1 --only"))),
        Step("benchmarks/strong_kd.py", (*strong, *words("--seeds 0 1 --epochs 300"))),
    ]


def cifar10_steps(dataset: str, runs: Path) -> list[Step]:
    """The baselines, InfoUtil and IGDS on CIFAR-10, with all label modes."""
    teacher, prior, estimator = (runs / f"cifar10-{name}" for name in ("teacher", "prior", "estimator"))
    common = words(f"--dataset {dataset} --teacher {teacher} --runs {runs / 'cifar10'} --stage final --seeds 0 1 2")
    sweep = words(f"--dataset {dataset} --teacher {teacher} --prior {prior} --estimator {estimator}")
    strong = []
    for method, ipc in product(("infoutil", "random"), (1, 10)):
        folder = runs / f"cifar10-{method}-ipc{ipc}"
        distilling = f"--method {method} --dataset {dataset} --teacher {teacher} --ipc {ipc} --output_dir {folder}"
        training = f"--distilled {folder} --dataset {dataset} --ipc {ipc} --seeds 0 1 --only"
        strong += [
            Step("scripts/distill.py", words(distilling) + BF16),
            Step("benchmarks/strong_kd.py", words(training)),
        ]
    return [
        Step(
            "scripts/train_teacher.py",
            words(f"--preset cifar10 --dataset {dataset} --save_epochs 2 5 10 --output_dir {teacher}"),
        ),
        Step("benchmarks/cifar10.py", (*common, *words("--ipc 1 10 --labels online views tiles hard"))),
        Step("benchmarks/cifar10.py", (*common, *words("--ipc 50 --labels online"))),
        *strong,
        Step(
            "scripts/train_prior.py",
            words(
                f"--dataset {dataset} --epochs 5 --channels 32 64 96 --batch_size 64 --learning_rate 0.001 "
                f"--ema_decay 0.999 --sample_every 1 --output_dir {prior}"
            )
            + BF16,
        ),
        Step(
            "scripts/train_estimator.py",
            words(f"--dataset {dataset} --encoder resnet10_w16 --epochs 30 --batch_size 256 --output_dir {estimator}")
            + BF16,
        ),
        Step(
            "benchmarks/beta_sweep.py",
            (*sweep, *words("--ipc 10 --betas 0 3 --guidance_scales 0.2 1 5 --label_modes online hard --seeds 0 1")),
        ),
    ]


def imagenette_steps(dataset: str, runs: Path) -> list[Step]:
    """InfoUtil's ablation grid on Imagenette at 64 px."""
    teacher, ablation = runs / "imagenette64-teacher", runs / "imagenette64-ablation"
    data = words(f"--dataset {dataset} --eval_split validation --image_size 64") + BF16
    return [
        Step(
            "scripts/train_teacher.py",
            (*data, *words("--model convnet4 --epochs 20 --save_epochs 5 10 --learning_rate 0.003"))
            + words(f"--output_dir {teacher}"),
        ),
        Step(
            "scripts/ablate.py",
            (*data, *words(f"--teacher {teacher} --output_dir {ablation} --students convnet4 --ipc 1 10"))
            + words("--candidates_per_class 100 --epochs 100 --seeds 5 --batch_size 32"),
            copies=((ablation / "ablation.json", "ablation_imagenette.json"),),
        ),
    ]


def hub_steps(dataset: str, runs: Path) -> list[Step]:
    """What the Hub costs: a distilled CIFAR-10, and noise of ImageNet-1K's size."""
    teacher, folder = runs / "cifar10-teacher", runs / "cifar10-infoutil-ipc50"
    return [
        *cifar10_steps(dataset, runs)[:1],
        Step(
            "scripts/distill.py",
            words(f"--method infoutil --dataset {dataset} --teacher {teacher} --ipc 50 --output_dir {folder}") + BF16,
        ),
        Step("benchmarks/hub.py", words(f"--folder {folder} --name cifar10")),
        Step("benchmarks/hub.py", words("--classes 1000 --ipc 10 --name noise-1000-classes --repeats 1")),
    ]


def words(text: str) -> tuple[str, ...]:
    """A command line's words."""
    return tuple(shlex.split(text))


def run(step: Step) -> None:
    """Runs a step to its end.

    Raises:
        SystemExit: If it fails; the same command continues.
    """
    print(f"\n$ {shlex.join(step.command)}", flush=True)
    code = subprocess.run(step.command, cwd=ROOT).returncode
    if code:
        raise SystemExit(f"{step.script} must end without an error. Got exit code {code}; see above.")
    for source, name in step.copies:
        keep_records(source, RESULTS / name)


def keep_records(source: Path, target: Path) -> None:
    """Copies records; of local paths the last part alone."""
    records = json.loads(source.read_text(encoding="utf-8"))
    for record in records:
        record |= {name: public_name(record[name]) for name in PATHS if record.get(name)}
    target.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs or shows the steps of the groups whose data is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="CIFAR-10: Hub id or local folder")
    parser.add_argument("--imagenette", help="Imagenette: local folder with the splits train and validation")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="where trainings and sets go")
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="groups of tables; default: all with data")
    parser.add_argument("--from_scratch", action="store_true", help="move existing records away first")
    parser.add_argument("--dry_run", action="store_true", help="show the commands, run none")
    options = parser.parse_args(argv)
    data = {"sample": "sample", "cifar10": options.cifar10, "imagenette": options.imagenette, "hub": options.cifar10}
    chosen = options.only or [group for group in GROUPS if data[group]]
    for group in chosen:
        if not data[group]:
            option = "cifar10" if group == "hub" else group
            parser.error(f"--{option} must name the dataset for the group {group!r}. Got none.")
    runs = options.runs.resolve()
    planned = [step for group in chosen for step in steps(group, data[group], runs)]
    planned.append(Step("benchmarks/readme.py", ()))
    if options.dry_run:
        print("\n".join(shlex.join(step.command) for step in planned))
        return
    if options.from_scratch:
        set_aside(chosen)
    for step in planned:
        run(step)


def set_aside(groups: Sequence[str]) -> None:
    """Moves the groups' records to `results/earlier/`.

    Raises:
        SystemExit: If records of an earlier time lie there already.
    """
    earlier = RESULTS / "earlier"
    earlier.mkdir(exist_ok=True)
    names = [name for group in groups for name in RECORDS[group] if (RESULTS / name).is_file()]
    for name in names:
        if (earlier / name).exists():
            raise SystemExit(f"{earlier} must not hold {name} from an earlier time. Move it away; nothing was touched.")
    for name in names:
        (RESULTS / name).rename(earlier / name)


if __name__ == "__main__":
    main()
