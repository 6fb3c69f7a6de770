"""Grids as data: a YAML file says what is varied, and a command where the data and the networks are.

    records: cifar10.json           # file of the records; `{dataset}` stands for the dataset's name
    fields: {stage: final}          # further fields of every record, which tell it from those of other grids

    ipc: [10]                       # what the command line can say otherwise:
    seeds: [0]                      # a seed draws the images of a set and starts the student
    students: [convnet3]
    labels: [online]
    protocol: rded_kd               # a name, or a YAML file

    distil: {mixed_precision: bf16} # options of `decoct distill` that all sets share, such as a `seed` for all
    evaluate: {rrc_scale: 0.08}     # options of `decoct evaluate` that all students share

    sets:                           # what is distilled, by the name that records call `setting`
      random: {method: random}
      "{selection}, views {views}":                      # stands for all combinations
        method: infoutil
        vary: {selection: [top, k_center], views: [10, 50]}
      "beta {beta:g}":
        method: igds
        min_ipc: 2                                       # or max_ipc: only at some images per class
        vary: {beta: [0, 1, 3]}

    training:                       # how students are trained: fields of the protocol in place of its own; records
      as it is: {}                  # call the name `training`. Left out: the protocol as it is.
      "{option} {value:g}":                              # one at a time, the others as the protocol has them
        one_at_a_time: {ema_decay: [0, 0.9], batch_factor: [0.5, 2]}

    networks: [prior, estimator]    # networks that the command names; records state them, and both estimates of the
                                    # information of each set by the estimator
    figure: {over: beta, curve: "scale {guidance_scale:g}", lines: [random]}
                                    # accuracy over an option: its curves, and the sets that are drawn as lines

A student is trained on each set for every IPC, way of training, architecture, label mode and seed. `batch_factor` and
`learning_rate_factor` multiply the protocol's batch sizes and learning rates. A label teacher `epoch_N` is the one in
that folder of the teacher's. Stored views are made where students with `views` are asked for, or a set says so.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator

from decoct.config import DistillConfig, EvaluateConfig, config_hash, fields_that_matter_for, to_dict
from decoct.distilled.dataset import read_manifest
from decoct.evaluation.accuracy import AccuracyEvaluation
from decoct.evaluation.grid import Cell, DistilledGrid, agrees, known_of
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.loading import load_estimator
from decoct.igds.measuring import measure
from decoct.models.classifier import fingerprint_of
from decoct.run.folder import identity_of
from decoct.synthesis.run import read_ipc
from decoct.training.protocols import Protocol, batch_size, learning_rate, load_protocol, student_name

__all__ = ["FileGrid", "GridFile", "Source", "Variant", "cells_of", "read_grid", "varied"]

# Networks that a command names beside the teacher.
NETWORKS = ("prior", "estimator")
FACTORS = {"batch_factor": "batch_sizes", "learning_rate_factor": "learning_rates"}
OPTIONS = {
    "sets": {each.name for each in dataclasses.fields(DistillConfig)},
    "training": {each.name for each in dataclasses.fields(Protocol)} | set(FACTORS),
}


@dataclass(frozen=True)
class Variant:
    """Options by a name; a set is made, or a student trained, with them.

    Args:
        min_ipc: Fewest images per class at which there is such a set.
        max_ipc: Most images per class; None: no limit.
    """

    name: str
    options: dict[str, Any]
    min_ipc: int = 1
    max_ipc: int | None = None


@dataclass(frozen=True, kw_only=True)
class GridFile:
    """What is varied, as the module describes it."""

    records: str
    sets: list[Variant]
    training: list[Variant] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    ipc: list[int] = field(default_factory=lambda: [10])
    seeds: list[int] = field(default_factory=lambda: [0])
    students: list[str] = field(default_factory=lambda: ["convnet3"])
    labels: list[str] = field(default_factory=lambda: ["online"])
    protocol: str = "rded_kd"
    distil: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    networks: list[str] = field(default_factory=list)
    figure: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where the data, the networks and the results of a grid are.

    Args:
        dataset: Hub id or folder.
        teacher: Folder or Hub id; None: of a set that is there, the one in its manifest.
        folder: Grid folder.
        networks: Folders or Hub ids by name, see `NETWORKS`.
        distilled: Run folder of a set that is there, in place of those that the grid makes.
    """

    dataset: str
    teacher: str | None
    folder: Path
    networks: Mapping[str, str] = field(default_factory=dict)
    distilled: str | None = None


class FileGrid(DistilledGrid):
    """The grid of a file.

    Args:
        grid: What is varied.
        source: Where the data, the networks and the results are.
        file: JSON file of the records.
        accelerator: Of this process.
        part: `(i, n)`: every n-th set, beginning with the i-th; of fewer sets, every n-th student.
        report: Called with every new record.
    """

    def __init__(
        self,
        grid: GridFile,
        source: Source,
        file: Path,
        accelerator: Accelerator,
        part: tuple[int, int] = (0, 1),
        report: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        self.whole = cells_of(grid, source)
        super().__init__(part_of(self.whole, *part), source.folder, file, accelerator)
        self.grid, self.networks, self.report = grid, source.networks, report

    def recorded(self, record: dict[str, Any]) -> None:
        self.report(record)

    def own_records(self) -> list[dict[str, Any]]:
        """The records of this grid, of all parts."""
        records = [(record, known_of(record)) for record in self.records()]
        return [record for record, known in records if any(agrees(known, cell.identity) for cell in self.whole)]

    def record(self, cell: Cell, result: dict[str, Any], evaluation: AccuracyEvaluation) -> dict[str, Any]:
        images, protocol, epochs = evaluation.sets[cell.ipc], cell.protocol, cell.epochs
        trained = {
            "epochs": epochs,
            "batch_size": batch_size(protocol, cell.ipc, images.spec.num_classes, len(images)),
            "learning_rate": learning_rate(protocol, 0, epochs, cell.evaluate.students[0]),
            "ema_decay": protocol.ema_decay,
            "rrc_scale": protocol.rrc_scale if cell.evaluate.rrc_scale is None else cell.evaluate.rrc_scale,
            "mixed_precision": cell.evaluate.mixed_precision,
            "distilled": evaluation.fingerprints[cell.ipc][:12],
            "distill_seconds": evaluation.manifest["seconds"],
        }
        return {**super().record(cell, result, evaluation), **trained, **self._information(cell, evaluation.manifest)}

    def _information(self, cell: Cell, manifest: dict[str, Any]) -> dict[str, Any]:
        """Both mean terms of a set, in nats, and the fingerprints of the networks; nothing without an estimator.

        The terms are those of the samples before they are packed or, for real images, of the tiles.
        """
        if "estimator" not in self.grid.networks:
            return {}
        found = manifest.get("information", {}).get(str(cell.ipc))
        if found is None:
            images = read_ipc(Path(cell.evaluate.distilled), cell.ipc).select_columns(["image", "label"])
            report = measure(images, self._estimator, tiles_per_image=manifest["config"]["tiles_per_image"])
            found = {"prototype": report.prototype - report.label_entropy, "contextual": report.contextual}
        fingerprints = {"teacher": manifest["teacher"]["fingerprint"], **self._fingerprints}
        return {
            "prototype": found["prototype"],
            "contextual": found["contextual"],
            "fingerprints": {name: fingerprint[:12] for name, fingerprint in fingerprints.items()},
        }

    @cached_property
    def _estimator(self) -> VariationalEstimator:
        return load_estimator(self.networks["estimator"])

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        """Of the networks beside the teacher."""
        found = {"estimator": fingerprint_of({"": self._estimator})}
        if "prior" in self.networks:
            from decoct.igds.prior import load_pipeline, prior_fingerprint  # diffusers takes seconds to import

            found["prior"] = prior_fingerprint(load_pipeline(self.networks["prior"], None))
        return found


def part_of(cells: list[Cell], part: int, parts: int) -> list[Cell]:
    """The cells of every n-th set or, of fewer sets, every n-th cell."""
    sets = list(dict.fromkeys(cell.evaluate.distilled for cell in cells))
    if len(sets) < parts:
        return cells[part::parts]
    mine = set(sets[part::parts])
    return [cell for cell in cells if cell.evaluate.distilled in mine]


def read_grid(path: Path, vary: Mapping[str, Sequence[Any]] | None = None) -> GridFile:
    """The grid in a YAML file.

    Args:
        vary: Values of varied options, in place of those in the file.

    Raises:
        ValueError: If the file is no grid, names an option that there is not, or does not vary one of `vary`.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {each.name for each in dataclasses.fields(GridFile)}
    if not isinstance(content, dict) or not {"records", "sets"} <= set(content) <= known:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must have records and sets, and no keys but {sorted(known)}. Got {found}.")
    replaced = dict(vary or {})
    expanded = {kind: _variants(content.get(kind) or {}, kind, replaced, path) for kind in ("sets", "training")}
    varies = {name for kind in expanded for entry in (content.get(kind) or {}).values() for name in _varied(entry)}
    if unknown := sorted(set(replaced) - varies):
        raise ValueError(f"vary must name options that {path} varies, {sorted(varies)}. Got {unknown}.")
    return GridFile(**{**content, **expanded})


def _varied(entry: dict[str, Any] | None) -> dict[str, Sequence[Any]]:
    return (entry or {}).get("vary", {})


def _variants(
    entries: Mapping[str, Any], kind: str, replaced: Mapping[str, Sequence[Any]], path: Path
) -> list[Variant]:
    """All that the entries of `sets` or `training` stand for."""
    variants = []
    for name, entry in entries.items():
        options = dict(entry or {})
        limits = {limit: options.pop(limit) for limit in ("min_ipc", "max_ipc") if limit in options}
        lists, single = options.pop("vary", {}), options.pop("one_at_a_time", {})
        if unknown := sorted({*options, *lists, *single} - OPTIONS[kind]):
            raise ValueError(f"{kind} of {path} must have options among {sorted(OPTIONS[kind])}. Got {unknown}.")
        values = [replaced.get(option, found) for option, found in lists.items()]
        for combination in itertools.product(*values):
            chosen = {**options, **dict(zip(lists, combination, strict=True))}
            if single:
                for option, value in ((option, value) for option, found in single.items() for value in found):
                    title = name.format(**chosen, option=option.replace("_", " "), value=value)
                    variants.append(Variant(title, {**chosen, option: value}, **limits))
            else:
                variants.append(Variant(name.format(**chosen), chosen, **limits))
    return variants


def varied(protocol: Protocol, options: Mapping[str, Any]) -> Protocol:
    """A protocol with other values in some of its fields, under the same name."""
    rate, batch = options.get("learning_rate_factor", 1.0), options.get("batch_factor", 1.0)
    factors = {
        "learning_rate": rate * protocol.learning_rate,
        "learning_rates": {name: rate * value for name, value in protocol.learning_rates.items()},
        "batch_sizes": {entry: max(2, round(batch * size)) for entry, size in protocol.batch_sizes.items()},
    }
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
        if name not in FACTORS
    }
    return dataclasses.replace(protocol, **{**(factors if set(options) & set(FACTORS) else {}), **given})


def cells_of(grid: GridFile, source: Source) -> list[Cell]:
    """The students of a grid: seed by seed, IPC by IPC, set by set."""
    trainings = grid.training or [Variant("", {})]
    protocol = load_protocol(grid.protocol)
    protocols = {training.name: varied(protocol, training.options) for training in trainings}
    sets = grid.sets
    if source.distilled is not None:
        sets = [Variant(Path(source.distilled).name, {"method": read_manifest(source.distilled)["config"]["method"]})]
    cells = []
    for seed, ipc, variant in itertools.product(grid.seeds, grid.ipc, sets):
        if not variant.min_ipc <= ipc <= (variant.max_ipc or ipc):
            continue
        distil = set_config(grid, source, variant, ipc, seed) if source.distilled is None else None
        distilled = distil.output_dir if distil is not None else str(source.distilled)
        options = grid.evaluate if source.distilled is None else {"teacher": source.teacher, **grid.evaluate}
        for training, student, labels in itertools.product(trainings, grid.students, grid.labels):
            evaluate = EvaluateConfig(
                dataset=source.dataset,
                distilled=distilled,
                output_dir=str(source.folder / "students"),
                ipc=[ipc],
                seed=seed,
                students=[student],
                protocols=[grid.protocol],
                labels=[labels],
                baseline=False,  # random images are among the sets
                ranking=False,
                **options,
            )
            used = protocols[training.name]
            identity = {
                "dataset": Path(source.dataset).name,
                "ipc": ipc,
                "student": student_name(used, student),
                "protocol": used.name,
                "labels": labels,
                "epoch": evaluate.epoch,
                "seeds": [seed],
                **grid.fields,
                "setting": variant.name,
                **({"training": training.name, "settings": settings_stated(used)} if grid.training else {}),
                **results_of(DistillConfig, grid.distil),
                **results_of(EvaluateConfig, grid.evaluate),
                **{name: public_name(source.networks[name]) for name in grid.networks},
                **variant.options,
            }
            stated = {
                "options": variant.options,
                **({"teacher": public_name(source.teacher)} if source.teacher is not None else {}),
                "seed": seed,
                "distill_seed": grid.distil.get("seed", seed),
                "student_seed": seed,
            }
            cells.append(Cell(distil, evaluate, used, identity, stated))
    return cells


def set_config(grid: GridFile, source: Source, variant: Variant, ipc: int, seed: int) -> DistillConfig:
    """The configuration of a set; options of the sampling have no part in real images."""
    options = {**source.networks, **grid.distil, **variant.options}
    if options.get("method") != "igds":
        sampling = fields_that_matter_for(DistillConfig, "sampling")
        options = {name: value for name, value in options.items() if name not in sampling}
    if "views" not in options and "views" not in grid.labels:
        options["views"] = 0
    if str(options.get("label_teacher", "")).startswith("epoch_"):
        options["label_teacher"] = f"{source.teacher}/{options['label_teacher']}"
    options = {"batch_size": BATCH_SIZE, "seed": seed, **options}
    config = DistillConfig(dataset=source.dataset, teacher=str(source.teacher), ipc=[ipc], **options)
    words = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in variant.name)
    folder = f"{words}-ipc{ipc}-seed{config.seed}-{config_hash(identity_of(to_dict(config)))}"
    return dataclasses.replace(config, output_dir=str(source.folder / "sets" / folder))


# Fixed, since the fastest one differs from run to run, and logits with it in their last digits.
BATCH_SIZE = 64


def results_of(config_class: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that matter for what comes out, and not only for how it is computed; but the seed."""
    apart = ("seed", *fields_that_matter_for(config_class, "machine", "command", "publishing"))
    return {name: value for name, value in options.items() if name not in apart}


def settings_stated(protocol: Protocol) -> dict[str, Any]:
    """How a protocol trains, as JSON-ready values; its name stands apart, and its label modes say nothing of it."""
    values = json.loads(json.dumps(protocol.to_dict()))
    return {name: value for name, value in values.items() if name not in ("name", "labels")}


def public_name(name: str) -> str:
    """A folder's name without what leads to it, or a Hub id as it is."""
    return Path(name).name if Path(name).exists() else name
