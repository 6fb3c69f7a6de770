"""Reproduces the README's table, and the tables under the papers' protocols, from nothing but the data.

    python benchmarks/reproduce.py --cifar10 uoft-cs/cifar10 --imagenette path/to/imagenette
    python benchmarks/reproduce.py --cifar10 ... --imagenette ... --dry_run     # the commands; runs none
    python benchmarks/reproduce.py --cifar10 ... --only cifar10                 # one group of tables

Trains the teachers, the prior and the estimator, distils, trains the students and writes the tables. Records that are
in `benchmarks/results/` are not made again, nor is a finished training in `--runs`: the command resumes, and on a
fresh clone it trains the teachers, measures what the Hub costs on this machine, and finds the rest done.
`--from_scratch` moves the records that are there to `results/earlier/` first. On one CPU core the sample takes an hour,
Imagenette about five, the self-contained sets of CIFAR-10 about four, the rest of it about twenty. The other tables of
`docs/results.md`, and the README's picture, have a grid each, whose commands stand at the head of its file in `grids/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timing import public_name

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Records that the tables are made from, by group.
RECORDS = {
    "self_contained": ("self_contained.json",),
    "sample": ("beta_sweep_sample.json",),
    "cifar10": ("cifar10.json", "beta_sweep_cifar10.json"),
    "imagenette": ("ablation_imagenette.json",),
    "hub": ("hub.json",),
}
PATHS = ("dataset", "teacher", "scoring_teacher")
BF16 = "--mixed_precision bf16"


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


def self_contained_steps(dataset: str, runs: Path) -> list[Step]:
    """The README's table: sets that need no teacher."""
    teacher = runs / "cifar10-held-out-teacher"
    training = f"--preset cifar10 --dataset {dataset} --validation_fraction 0.1 --save_epochs 2 5 10"
    common = f"--dataset {dataset} --teacher {teacher} --runs {runs}/cifar10-self-contained"
    return [
        step("train_teacher", f"{training} --output_dir {teacher}"),
        grid("self_contained", f"{common} --ipc 1 --seeds 0 1 2 3 4 5 6 7"),
        grid("self_contained", f"{common} --ipc 10 --seeds 0 1 2"),
        grid("self_contained", f"{common} --ipc 50 --seeds 0 1"),
    ]


def sample_steps(dataset: str, runs: Path) -> list[Step]:
    """IGDS with the embedded prior and estimator."""
    teacher = runs / "sample-teacher"
    common = f"--dataset {dataset} --teacher {teacher} --students convnet3_w64"
    sweep = f"{common} --prior sample --estimator sample --runs {runs}/sample-beta --vary guidance_scale 0.2"
    return [
        step("train_teacher", f"--preset demo --dataset {dataset} --output_dir {teacher}"),
        grid("beta_sweep", f"{sweep} --ipc 1 --seeds 0 1 2 --labels views hard"),
        grid("beta_sweep", f"{sweep} --ipc 10 --vary beta 0 1 3 10 --seeds 0 1 2 --labels views hard"),
        grid("beta_sweep", f"{sweep} --ipc 50 --vary beta 0 3 10 --labels views"),
    ]


def cifar10_steps(dataset: str, runs: Path) -> list[Step]:
    """The baselines, InfoUtil and IGDS on CIFAR-10, with all label modes."""
    teacher, prior, estimator = (runs / f"cifar10-{name}" for name in ("teacher", "prior", "ve"))
    common = f"--dataset {dataset} --teacher {teacher}"
    final = f"{common} --runs {runs}/cifar10 --seeds 0 1 2"
    return [
        cifar10_teacher(dataset, runs),
        grid("cifar10_final", f"{final} --ipc 1 10 --labels online views tiles hard"),
        grid("cifar10_final", f"{final} --ipc 50"),
        step(
            "train_prior",
            f"--dataset {dataset} --epochs 5 --channels 32 64 96 --batch_size 64 --learning_rate 0.001 "
            f"--ema_decay 0.999 --sample_every 1 {BF16} --output_dir {prior}",
        ),
        step(
            "train_estimator",
            f"--dataset {dataset} --encoder resnet10_w16 --epochs 30 --batch_size 256 {BF16} --output_dir {estimator}",
        ),
        grid(
            "beta_sweep",
            f"{common} --prior {prior} --estimator {estimator} --runs {runs}/cifar10-beta --ipc 10 --vary beta 0 3 "
            "--vary guidance_scale 0.2 1 5 --labels online hard --seeds 0 1",
        ),
    ]


def cifar10_teacher(dataset: str, runs: Path) -> Step:
    """Training the teacher of all that is measured on CIFAR-10."""
    options = f"--preset cifar10 --dataset {dataset} --save_epochs 2 5 10 --output_dir {runs}/cifar10-teacher"
    return step("train_teacher", options)


def imagenette_steps(dataset: str, runs: Path) -> list[Step]:
    """InfoUtil's ablation grid on Imagenette at 64 px."""
    teacher, ablation = runs / "imagenette64-teacher", runs / "imagenette64-ablation"
    data = f"--dataset {dataset} --eval_split validation --image_size 64 {BF16}"
    training = "--model convnet4 --epochs 20 --save_epochs 5 10 --learning_rate 0.003"
    settings = "--students convnet4 --ipc 1 10 --candidates_per_class 100 --epochs 100 --seeds 5 --batch_size 32"
    return [
        step("train_teacher", f"{data} {training} --output_dir {teacher}"),
        dataclasses.replace(
            step("ablate", f"{data} --teacher {teacher} {settings} --output_dir {ablation}"),
            copies=((ablation / "ablation.json", "ablation_imagenette.json"),),
        ),
    ]


def hub_steps(dataset: str, runs: Path) -> list[Step]:
    """What the Hub costs: a distilled CIFAR-10, and noise of ImageNet-1K's size."""
    teacher, folder = runs / "cifar10-teacher", runs / "cifar10-infoutil-ipc50"
    return [
        cifar10_teacher(dataset, runs),
        step("distill", f"--dataset {dataset} --teacher {teacher} --ipc 50 {BF16} --output_dir {folder}"),
        step("hub", f"--folder {folder} --name cifar10", "benchmarks"),
        step("hub", "--classes 1000 --ipc 10 --name noise-1000-classes --repeats 1", "benchmarks"),
    ]


STEPS = {
    "self_contained": self_contained_steps,
    "sample": sample_steps,
    "cifar10": cifar10_steps,
    "imagenette": imagenette_steps,
    "hub": hub_steps,
}
# Groups whose dataset is another one's.
DATA = {"self_contained": "cifar10", "hub": "cifar10"}


def step(script: str, options: str, folder: str = "scripts") -> Step:
    """A script with its options."""
    return Step(f"{folder}/{script}.py", tuple(shlex.split(options)))


def grid(name: str, options: str) -> Step:
    """One of the grids."""
    return step("grids", f"{name} {options}", "benchmarks")


def run(one: Step) -> None:
    """Runs a step to its end.

    Raises:
        SystemExit: If it fails; the same command continues.
    """
    print(f"\n$ {shlex.join(one.command)}", flush=True)
    code = subprocess.run(one.command, cwd=ROOT).returncode
    if code:
        raise SystemExit(f"{one.script} must end without an error. Got exit code {code}; see above.")
    for source, name in one.copies:
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
    parser.add_argument("--only", nargs="+", choices=list(STEPS), help="groups of tables; default: all with data")
    parser.add_argument("--from_scratch", action="store_true", help="move existing records away first")
    parser.add_argument("--dry_run", action="store_true", help="show the commands, run none")
    options = parser.parse_args(argv)
    given = {"sample": "sample", "cifar10": options.cifar10, "imagenette": options.imagenette}
    data = {group: given[DATA.get(group, group)] for group in STEPS}
    chosen = options.only or [group for group in STEPS if data[group]]
    for group in chosen:
        if not data[group]:
            parser.error(f"--{DATA.get(group, group)} must name the dataset for the group {group!r}. Got none.")
    runs = options.runs.resolve()
    planned = [one for group in chosen for one in STEPS[group](data[group], runs)]
    planned.append(step("readme", "", "benchmarks"))
    if options.dry_run:
        print("\n".join(shlex.join(one.command) for one in planned))
        return
    if options.from_scratch:
        set_aside(chosen)
    for one in planned:
        run(one)


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
