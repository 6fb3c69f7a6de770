"""The grids that are shipped: what they hold, and that no committed record is measured again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from decoct.evaluation.grid import agrees, known_of
from decoct.evaluation.sweep import Inputs, cells_of

from .loading import BENCHMARKS, load

NAMES = (
    *("beta_sweep", "cifar10_final", "cifar10_igds", "cifar10_sweep", "cifar10_views", "demo"),
    *("fashion_mnist", "imagenette", "label_bytes", "label_teachers", "other_architectures", "selection"),
    *("self_contained", "strong_kd", "view_scale"),
)
# Two records of an earlier state of the code, which mixed stored views; the present code does not make them.
EARLIER = "mixed by CutMix"


@pytest.fixture(scope="module")
def grids() -> ModuleType:
    return load("grids")


def cells(grids: ModuleType, words: Sequence[str], dataset: str, networks: Sequence[str] = ("", "")) -> list[Any]:
    grid = grids.read(grids.parser().parse_args(words))
    inputs = Inputs(dataset, "teacher", dict(zip(("prior", "estimator"), networks, strict=True)))
    return cells_of(grid, inputs, Path("runs"))


def committed(name: str) -> list[dict[str, Any]]:
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())


def test_every_grid_states_its_claim_and_command(grids):
    assert sorted(path.stem for path in grids.FOLDER.glob("*.yaml")) == sorted(NAMES)
    for path in grids.FOLDER.glob("*.yaml"):
        head = path.read_text().split("records:")[0]
        assert head.startswith("# Claim") and f"python benchmarks/grids.py {path.stem} " in head


@pytest.mark.parametrize("stage", ["sweep", "views", "final"])
def test_committed_records_of_cifar10_are_each_that_of_one_cell(grids, stage):
    records = [each for each in committed("cifar10") if each["stage"] == stage and EARLIER not in each["setting"]]
    seeds = sorted({str(record["seeds"][0]) for record in records})
    words = [f"cifar10_{stage}", "--ipc", "1", "10", "50", "--seeds", *seeds]
    wanted = cells(grids, [*words, "--labels", "online", "views", "tiles", "hard"], "uoft-cs/cifar10")
    assert records
    for record in records:
        (cell,) = [cell for cell in wanted if agrees(known_of(record), cell.identity)]
        assert cell.identity["setting"] == record["setting"] and cell.evaluate.labels == [record["labels"]]


def test_committed_records_of_the_sweeps_over_beta_are_each_that_of_one_cell(grids):
    # Weights other than 0 at a single image per class come from before they were left out.
    varied = ["--vary", "beta", "0", "1", "3", "10", "--vary", "guidance_scale", "0.2", "1", "5"]
    varied += ["--vary", "guide_on", "sample", "x0_pred", "--seeds", "0", "1", "2"]
    for dataset, labels, student, networks in (
        ("sample", ("views", "hard"), "convnet3_w64", ("sample", "sample")),
        ("cifar10", ("online", "hard"), "convnet3", ("cifar10-prior", "cifar10-ve")),
    ):
        words = ["beta_sweep", "--labels", *labels, "--students", student, *varied]
        wanted = cells(grids, words, dataset, networks)
        found = 0
        for record in committed(f"beta_sweep_{dataset}"):
            if record["tiles"] == 1 and not (record["ipc"] == 1 and record.get("beta")):
                (cell,) = [cell for cell in wanted if agrees(known_of(record), cell.identity)]
                assert cell.identity["setting"] == record["setting"]
                found += 1
        assert found > 15


def test_other_settings_are_no_committed_record(grids):
    records = [known_of(record) for record in committed("cifar10")]

    def measured(*words: str) -> bool:
        (cell,) = cells(grids, ["cifar10_final", "--only", "infoutil", *words], "cifar10")
        return any(agrees(record, cell.identity) for record in records)

    assert measured()
    for words in (
        ["--seeds", "99"],
        ["--ipc", "3"],
        ["--labels", "views", "--ipc", "50"],
        ["--students", "resnet18"],
        ["--protocol", "strong_kd"],
        ["--set", "evaluate.rrc_scale=0.5"],
        ["--set", "evaluate.epochs=5"],
        ["--set", "evaluate.eval_split=validation"],
        ["--set", "distil.tiles_per_image=4"],
        ["--set", "distil.noise_scale=0"],
    ):
        assert not measured(*words), words
