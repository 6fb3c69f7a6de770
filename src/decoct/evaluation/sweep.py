"""A sweep: the students of a grid file with the data and networks that a command names, and what records state."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Image

from decoct.config import DistillConfig, EvaluateConfig, config_hash, default_values, fields_that_matter_for, to_dict
from decoct.data.loading import eval_split_name
from decoct.distilled.dataset import read_manifest
from decoct.evaluation.accuracy import AccuracyEvaluation
from decoct.evaluation.grid import SOURCE, Cell, DistilledGrid, known_of
from decoct.evaluation.grid_file import GridFile, Variant, varied
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.loading import load_estimator
from decoct.igds.measuring import measure
from decoct.models.classifier import fingerprint_of
from decoct.run.folder import identity_of
from decoct.synthesis.inputs import with_held_out
from decoct.synthesis.run import StoredLabels, label_bytes, read_ipc
from decoct.training.protocols import (
    Protocol,
    batch_size,
    entry_of,
    learning_rate,
    load_protocol,
    own_settings,
    student_name,
)

__all__ = ["Inputs", "Sweep", "cells_of", "part_of"]

# Fixed, since the fastest one differs from run to run, and logits with it in their last digits.
BATCH_SIZE = 64
# What records call the variants of a grid file.
NAMES = ("setting", "training")


@dataclass(frozen=True)
class Inputs:
    """Where the data and the networks of a sweep are.

    Args:
        dataset: Hub id or folder.
        teacher: Folder or Hub id; None: of a set that is there, the one in its manifest.
        networks: `prior` and `estimator`, folders or Hub ids.
        distilled: Run folder of a set that is there, in place of those that the grid makes.
    """

    dataset: str
    teacher: str | None
    networks: Mapping[str, str] = field(default_factory=dict)
    distilled: str | None = None


class Sweep(DistilledGrid):
    """The grid that a file describes.

    Args:
        grid: What is varied.
        inputs: The data and the networks.
        folder: Grid folder.
        file: JSON file of the records.
        accelerator: Of this process.
        part: `(i, n)`: every n-th set, beginning with the i-th; of fewer sets, every n-th student.
        report: Called with every new record.
    """

    def __init__(
        self,
        grid: GridFile,
        inputs: Inputs,
        folder: Path,
        file: Path,
        accelerator: Accelerator,
        part: tuple[int, int] = (0, 1),
        report: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        given = map(grid.evaluate.get, ("dataset_config", "eval_split", "label_column"))
        eval_split = eval_split_name(inputs.dataset, *given)
        self.whole = cells_of(grid, inputs, folder, eval_split)
        super().__init__(part_of(self.whole, *part), folder, file, accelerator)
        self.grid, self.networks, self.report = grid, inputs.networks, report

    def recorded(self, record: dict[str, Any]) -> None:
        self.report(record)

    def own_records(self) -> list[dict[str, Any]]:
        """The records of this grid, of all parts, each with the names of its set and its training."""
        records = [(record, known_of(record)) for record in self.records()]
        return [
            {**{name: cell.identity[name] for name in NAMES if name in cell.identity}, **record}
            for record, known in records
            if (cell := next((cell for cell in self.whole if cell.is_recorded_by(known)), None)) is not None
        ]

    def record(self, cell: Cell, result: dict[str, Any], evaluation: AccuracyEvaluation) -> dict[str, Any]:
        images, protocol = evaluation.sets[cell.ipc], cell.protocol
        epochs = cell.epochs(images.spec.num_classes)
        trained = {
            "epochs": epochs,
            "batch_size": batch_size(protocol, cell.ipc, images.spec.num_classes, len(images)),
            "learning_rate": learning_rate(protocol, 0, epochs, cell.evaluate.students[0]),
            "ema_decay": protocol.ema_decay,
            "rrc_scale": protocol.rrc_scale if cell.evaluate.rrc_scale is None else cell.evaluate.rrc_scale,
            "mixed_precision": cell.evaluate.mixed_precision,
            "distilled": evaluation.fingerprints[cell.ipc][:12],
            "distill_seconds": evaluation.manifest.get("seconds"),
            **bytes_of(Path(cell.evaluate.distilled), cell.ipc, evaluation.manifest),
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


def cells_of(grid: GridFile, inputs: Inputs, folder: Path, eval_split: str = "test") -> list[Cell]:
    """The students of a grid: seed by seed, IPC by IPC, set by set.

    Args:
        folder: Grid folder.
        eval_split: The dataset's own evaluation split, which is measured on where the file names none.

    Raises:
        ValueError: If the grid limits the steps of its students.
    """
    if (most := grid.evaluate.get("max_steps")) is not None:
        raise ValueError(f"evaluate.max_steps must be left out of a grid, whose training says `steps`. Got {most}.")
    sets = grid.sets
    if inputs.distilled is not None:
        method = read_manifest(inputs.distilled)["config"]["method"]
        sets = [Variant(Path(inputs.distilled).name, {"method": method})]
    trainings: list[Variant | None] = [*grid.training] or [None]
    protocol, cells = load_protocol(grid.protocol), []
    for seed, ipc, variant in itertools.product(grid.seeds, grid.ipc, sets):
        if not variant.min_ipc <= ipc <= (variant.max_ipc or ipc):
            continue
        distil = None if inputs.distilled is not None else set_config(grid, inputs, folder, variant, ipc, seed)
        options: dict[str, Any] = {**({} if distil is not None else {"teacher": inputs.teacher}), **grid.evaluate}
        for training, student, labels in itertools.product(trainings, grid.students, grid.labels):
            used = varied(protocol, training.options) if training is not None else protocol
            evaluate = EvaluateConfig(
                dataset=inputs.dataset,
                distilled=distil.output_dir if distil is not None else str(inputs.distilled),
                output_dir=str(folder / "students"),
                ipc=[ipc],
                seed=seed,
                students=[student],
                protocols=[grid.protocol],
                labels=[labels],
                baseline=False,  # random images are among the sets
                ranking=False,
                **options,
            )
            identity = {
                "dataset": Path(inputs.dataset).name,
                "ipc": ipc,
                "student": student_name(used, student),
                "protocol": used.name,
                "labels": labels,
                "epoch": evaluate.epoch,
                "seeds": [seed],
                "setting": variant.name,
                **grid.fields,
                **trained_with(training, used),
                **for_results(DistillConfig, grid.distil),
                **for_results(EvaluateConfig, grid.evaluate),
                **{name: public_name(inputs.networks[name]) for name in grid.networks},
                **variant.options,
                # What a record always states, whether the file does or not: without it here, an option that was taken
                # out of the file would be answered by the records that were made with it.
                "eval_split": evaluate.eval_split or eval_split,
                **length_of(used, ipc, evaluate.epochs),
                "mixed_precision": evaluate.mixed_precision,
            }
            stated = {
                "options": variant.options,
                "seed": seed,
                "distill_seed": grid.distil.get("seed", seed),
                "student_seed": seed,
                **({"teacher": public_name(inputs.teacher)} if inputs.teacher is not None else {}),
            }
            defaults = {} if distil is None else defaults_of(distil)
            cells.append(Cell(distil, evaluate, used, identity, stated, defaults))
    return cells


def defaults_of(config: DistillConfig) -> dict[str, Any]:
    """What a set has in the options that matter for what is made, but for those that name data and networks."""
    apart = {*SOURCE, "eval_split", "method", "ipc", "seed", "mixed_precision", "label_teacher", "prior", "estimator"}
    matter = fields_that_matter_for(DistillConfig, "result", "selection", "sampling")
    values = default_values(config.method, config.tiles_per_image)
    return {name: values[name] for name in matter if name not in apart}


def part_of(cells: list[Cell], part: int, parts: int) -> list[Cell]:
    """The cells of every n-th set or, of fewer sets, every n-th cell."""
    sets = list(dict.fromkeys(cell.evaluate.distilled for cell in cells))
    if len(sets) < parts:
        return cells[part::parts]
    mine = set(sets[part::parts])
    return [cell for cell in cells if cell.evaluate.distilled in mine]


def set_config(grid: GridFile, inputs: Inputs, folder: Path, variant: Variant, ipc: int, seed: int) -> DistillConfig:
    """The configuration of a set; options of the sampling have no part in real images."""
    options: dict[str, Any] = {
        "batch_size": BATCH_SIZE,
        "seed": seed,
        **inputs.networks,
        **grid.distil,
        **variant.options,
    }
    if options.get("method") != "igds":
        sampling = fields_that_matter_for(DistillConfig, "sampling")
        options = {name: value for name, value in options.items() if name not in sampling}
    stored = {"views": 50, "slots": 300}  # unless a set or the grid says how many
    for option, labels in (("views", "views"), ("slots", "mixed")):
        options.setdefault(option, stored[option] if labels in grid.labels else 0)
    if "label_teacher" in options:
        names = options["label_teacher"] if isinstance(options["label_teacher"], list) else [options["label_teacher"]]
        beside = ("epoch_", "../")  # what lies in the teacher's folder, and next to it
        options["label_teacher"] = [f"{inputs.teacher}/{name}" if name.startswith(beside) else name for name in names]
    config = with_held_out(DistillConfig(dataset=inputs.dataset, teacher=str(inputs.teacher), ipc=[ipc], **options))
    words = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in variant.name)
    name = f"{words}-ipc{ipc}-seed{config.seed}-{config_hash(identity_of(to_dict(config)))}"
    return dataclasses.replace(config, output_dir=str(folder / "sets" / name))


def trained_with(training: Variant | None, protocol: Protocol) -> dict[str, Any]:
    """What tells the protocol from others of its name, as JSON-ready values; nothing for a shipped one as it is."""
    if training is None and own_settings(protocol) is None:
        return {}
    settings = json.loads(json.dumps(protocol.to_dict()))
    del settings["name"], settings["labels"]  # the label modes it is defined for say nothing of how it trains
    return {**({} if training is None else {"training": training.name}), "settings": settings}


def length_of(protocol: Protocol, ipc: int, epochs: int | None) -> dict[str, Any]:
    """How long a student is trained: by the protocol, in epochs or in steps, or in `epochs` in its place."""
    if protocol.steps is None:
        return {"epochs": epochs or entry_of(protocol.epochs, ipc)}
    return {"steps": entry_of(protocol.steps, ipc)} if epochs is None else {"epochs": epochs, "steps": None}


def for_results(config_class: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that matter for what comes out, and not only for how it is computed; the seed stands apart."""
    apart = ("seed", *fields_that_matter_for(config_class, "machine", "command", "publishing"))
    return {name: value for name, value in options.items() if name not in apart}


def bytes_of(folder: Path, ipc: int, manifest: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of a set's images, as PNG, and of its stored labels."""
    absent = {"slots": 0, "label_bits": 8, "label_top_k": 0}  # in sets of earlier versions
    made = {**absent, **manifest["config"]}
    names = [field.name for field in dataclasses.fields(StoredLabels)]
    images = read_ipc(folder, ipc).select_columns(["image"]).cast_column("image", Image(decode=False))["image"]
    stored = StoredLabels(**{name: made[name] for name in names})
    labels = label_bytes(len(images), len(manifest["label_names"]), stored)
    pictures = sum(len(image["bytes"]) for image in images)
    return {"image_bytes": pictures, "label_bytes": labels, "bytes": pictures + labels}


def public_name(name: str) -> str:
    """A folder's name without what leads to it, or a Hub id as it is."""
    return Path(name).name if Path(name).exists() else name
