"""InfoUtil's ablations (section 4.3, App. D) with one teacher and one protocol: distil, train, record, tabulate.

An ablation folder holds

    heatmaps/   heat maps of the candidates, by attribution and seed; all scores of the same attribution share them
    scores/     crops and scores of the candidates, by scoring and seed; all orders and label teachers share them
    sets/       one distilled run folder per setting, label teacher and seed
    students/   the accuracies of single students, as an evaluation saves them
    ablation.json, ablation.md
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, Features, List, Value
from torch import Tensor

from decoct.config import (
    AblateConfig,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    config_hash,
    fields_that_matter_for,
    to_dict,
    values_for,
)
from decoct.data.loading import load_split
from decoct.data.pixels import to_pixels
from decoct.data.source import dataset_fingerprint
from decoct.evaluation.accuracy import AccuracyEvaluation
from decoct.infoutil.processor import Attribution, HeatmapSettings, InfoUtilProcessor, build_attribution
from decoct.models.throughput import calibrated_batch_size
from decoct.models.zoo import build_classifier, load_classifier
from decoct.results.claims import format_ablation
from decoct.results.grid import BASELINE, NOISE, Cell, Setting, cells_of, key_of, keys_of
from decoct.results.records import read_results
from decoct.run.folder import claim_folder, identity_of, read_json, write_json
from decoct.run.processes import close, open_accelerator
from decoct.run.shards import run_shards
from decoct.synthesis.real import candidates_of, distill_images
from decoct.synthesis.run import label_teacher
from decoct.training.protocols import epoch_count, load_protocol, student_name

__all__ = ["ablate"]

WRITTEN = ("heatmaps", "scores", "sets", "students", "batch_size.json", "ablation.json", "ablation.md")
# Fields that add cells to an ablation and leave those that it has as they are.


def ablate(config: AblateConfig) -> list[dict[str, Any]] | dict[str, Any]:
    """Fills the cells of the chosen tables: distils every setting, trains students on it, and compares them.

    A killed ablation continues where it was, and one with more tables, orders, label teachers, labels, students or
    seeds adds what is missing. Processes started by `accelerate launch` share the work and end with the same records.

    Returns:
        The content of ablation.json, in which a record is one student: its factors, its accuracy and the teacher's
        accuracy on its tiles, as fractions (design: by setting, label teacher, labels, IPC, student and seed);
        nothing where this process is not the main one. With `dry_run`: the plan, for `format_ablation_plan`; nothing
        is written.

    Raises:
        ValueError: If data, teacher, students and protocol do not fit together, or the folder belongs to an ablation
            with other data, candidates, IPCs, teacher or protocol.
    """
    accelerator = open_accelerator(config.mixed_precision)
    with accelerator.main_process_first():
        run = _Ablation(config, accelerator)
        run.check()
    if config.dry_run:
        plan = run.plan()
        close(accelerator)
        return plan
    run.start()
    missing = run.missing()
    accelerator.wait_for_everyone()  # all processes must see the same list before the first record is written
    for _, each in itertools.groupby(missing, key=lambda cell: cell.seed):
        cells = list(each)
        for cell in cells:
            run.distil(cell)
        run.train(cells)
    records = run.records() if accelerator.is_main_process else []
    if accelerator.is_main_process:
        run.write_tables(records)
    close(accelerator)
    return records


class _StoredHeatmaps(InfoUtilProcessor):
    """The processor with heat maps that were computed before, by source index."""

    def __init__(self, *arguments: Any, heatmaps: dict[int, np.ndarray]) -> None:
        super().__init__(*arguments)
        self.stored = heatmaps

    def _heatmaps(self, pixels: Tensor, labels: Tensor, source: list[int]) -> Tensor | None:
        if self.attribution is None:
            return None
        return torch.from_numpy(np.stack([self.stored[row] for row in source])).to(pixels.device)


class _Ablation:
    """What the cells of one call share."""

    def __init__(self, config: AblateConfig, accelerator: Accelerator) -> None:
        self.protocol = load_protocol(config.protocol)
        students = list(dict.fromkeys(student_name(self.protocol, name) for name in config.students))
        self.config = config = dataclasses.replace(config, students=students)
        self.accelerator = accelerator
        self.folder = Path(config.output_dir)
        self.teacher = load_classifier(config.teacher)
        self.images = load_split(config, config.train_split, config.image_size or self.teacher.spec.image_size)
        self.batch_size = config.batch_size or 0
        self.cells = cells_of(config)
        # The seeds come one after another, and most of a seed's settings share heat maps.
        self.candidates = lru_cache(1)(self._candidates)
        self.heatmaps = lru_cache(1)(self._heatmaps)

    def check(self) -> None:
        """Raises ValueError for what would stop a cell later: candidates, teachers, students, labels, attribution."""
        config, known = self.config, self.protocol.labels
        if unknown := [mode for mode in config.labels if mode not in known]:
            raise ValueError(
                f"labels must be among {list(known)}, which protocol {self.protocol.name!r} is defined for. "
                f"Got {unknown}."
            )
        for student in config.students:
            build_classifier(student, self.teacher.spec)
        for choice in dict.fromkeys(cell.label_teacher for cell in self.cells):
            label_teacher(choice, self.teacher, config.ipc[0])
        self.candidates(config.seed)
        for attribution in dict.fromkeys(cell.setting.attribution for cell in self.cells):
            if attribution is not None:
                self.attribution(attribution, config.seed, batch_size=1)

    def start(self) -> None:
        """Claims the folder, and sets the batch size that all of the ablation is computed with."""
        config, main = self.config, self.accelerator.is_main_process
        if main:
            extent = fields_that_matter_for(AblateConfig, "extent")
            fixed = {key: value for key, value in to_dict(config).items() if key not in extent}
            identity = identity_of(fixed, data=dataset_fingerprint(self.images), weights=self.teacher.fingerprint())
            identity["protocol"] = self.protocol.to_dict()
            claim_folder(self.folder, json.loads(json.dumps(identity)), config.overwrite, WRITTEN)
        self.teacher.to(self.accelerator.device)
        kept = self.folder / "batch_size.json"
        sizes: list[int | None] = [config.batch_size]
        if config.batch_size is None and main:
            if not kept.is_file():
                write_json(kept, calibrated_batch_size(self.teacher, config.mixed_precision))
            sizes = [read_json(kept)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(sizes)
        self.batch_size = int(sizes[0] or 1)

    # Distilling

    def distill_config(self, cell: Cell) -> DistillConfig:
        """The configuration of one distilled set."""
        config = self.config
        shared = [field.name for field in dataclasses.fields(DataConfig)]
        shared += ["teacher", "ipc", "tiles_per_image", "candidates_per_class", "coalitions"]
        values = {name: getattr(config, name) for name in shared}
        values |= {"label_teacher": cell.label_teacher, "seed": cell.seed, "output_dir": str(self.set_folder(cell))}
        values |= {"batch_size": self.batch_size or None, "dry_run": False, "overwrite": False}
        return DistillConfig(**values, **cell.setting.distill_options(config))

    def set_folder(self, cell: Cell) -> Path:
        """Run folder of a distilled set."""
        return self.folder / "sets" / cell.setting.name / cell.label_teacher / f"seed_{cell.seed}"

    def is_distilled(self, cell: Cell) -> bool:
        """Whether a set is there."""
        return (self.set_folder(cell) / "manifest.json").is_file()

    def distil(self, cell: Cell) -> None:
        """Distils one set, all processes together, unless it is there."""
        finished = self.is_distilled(cell) or cell.setting.cropping == "whole"
        scores = None if finished else self.scores(cell)
        distill_images(self.distill_config(cell), self.images, self.teacher, self.accelerator, scores)

    def _candidates(self, seed: int) -> Dataset:
        """The candidates of a seed; they are the same in all settings."""
        return candidates_of(self.distill_config(Cell(BASELINE, "converged", seed)), self.images, self.teacher)

    def scores(self, cell: Cell) -> list[Path]:
        """Score shards of a set's candidates, as `decoct.synthesis.real.score` makes them."""
        config, candidates = self.distill_config(cell), self.candidates(cell.seed)
        attribution = cell.setting.attribution
        heatmaps = self.heatmaps(attribution, cell.seed) if attribution is not None else {}
        processor = _StoredHeatmaps(self.teacher, config, self.batch_size, heatmaps=heatmaps)

        def compute(start: int, end: int) -> Dataset:
            return candidates.select(range(start, end)).map(
                processor,
                batched=True,
                batch_size=self.batch_size,
                with_indices=True,
                features=processor.features,
                remove_columns=candidates.column_names,
                keep_in_memory=True,
                load_from_cache_file=False,
                new_fingerprint=f"{config_hash(to_dict(config))}{start:x}",
            )

        folder = self.folder / "scores" / cell.setting.scores / f"seed_{cell.seed}"
        return run_shards(folder, "scores", len(candidates), config.shard_size, self.accelerator, compute)

    def attribution(self, name: str, seed: int, batch_size: int) -> tuple[DistillConfig, Attribution | None]:
        """What makes a seed's heat maps: its configuration and method."""
        config = self.distill_config(Cell(Setting("grad_norm", "highest", name, NOISE), "converged", seed))
        return config, build_attribution(self.teacher, values_for(HeatmapSettings, config), batch_size)

    def _heatmaps(self, attribution: str, seed: int) -> dict[int, np.ndarray]:
        """Heat maps of a seed's candidates by source index."""
        config, method = self.attribution(attribution, seed, self.batch_size)
        candidates, spec = self.candidates(seed), self.teacher.spec
        features = Features({"source_index": Value("int64"), "heatmap": List(List(Value("float32")))})

        def compute(start: int, end: int) -> Dataset:
            maps = []
            for first in range(start, end, self.batch_size):
                batch = candidates.select(range(first, min(first + self.batch_size, end)))
                pixels = to_pixels(batch["image"][:], spec.image_size, spec.channels).to(self.accelerator.device)
                labels = torch.tensor(batch["label"][:], device=self.accelerator.device)
                if method is not None:
                    maps.append(method.attribute(pixels.float() / 255, labels).cpu())
            rows = candidates.select(range(start, end))["source_index"][:]
            return Dataset.from_dict({"source_index": rows, "heatmap": torch.cat(maps).numpy()}, features=features)

        folder = self.folder / "heatmaps" / attribution / f"seed_{seed}"
        paths = run_shards(folder, "heatmaps", len(candidates), config.shard_size, self.accelerator, compute)
        tables = [pq.read_table(path).to_pydict() for path in paths]
        pairs = (
            (row, grid) for each in tables for row, grid in zip(each["source_index"], each["heatmap"], strict=True)
        )
        return {row: np.array(grid, dtype=np.float32) for row, grid in pairs}

    # Students

    def missing(self) -> list[Cell]:
        """The sets whose records are not all there."""
        done = {key_of(record) for record in self.records()}
        return [cell for cell in self.cells if not done.issuperset(keys_of(cell, self.config))]

    def records(self) -> list[dict[str, Any]]:
        """The records so far."""
        return read_results(self.folder / "ablation.json")

    def evaluation(self, cell: Cell) -> AccuracyEvaluation:
        """The students of one set, all saved in one folder."""
        config = self.config
        shared = [field.name for field in dataclasses.fields(DataConfig)]
        values = {name: getattr(config, name) for name in [*shared, "ipc", "students", "epochs", "rrc_scale"]}
        values |= {"seed": cell.seed, "output_dir": str(self.folder / "students"), "overwrite": False}
        values |= {"distilled": str(self.set_folder(cell)), "protocols": [config.protocol]}
        labels = list(dict.fromkeys(key[2] for key in keys_of(cell, config)))
        evaluation = AccuracyEvaluation(EvaluateConfig(**values, labels=labels, seeds=1, baseline=False, ranking=False))
        evaluation.check()
        return evaluation

    def train(self, cells: Sequence[Cell]) -> None:
        """Trains the students of several sets, this process every n-th of them, and adds the sets' records."""
        main, turn = self.accelerator.is_main_process, itertools.cycle(range(self.accelerator.num_processes))
        left: list[Cell] = []
        for cell in cells:
            mine = [next(turn) == self.accelerator.process_index for _ in keys_of(cell, self.config)]
            evaluation = self.evaluation(cell) if any(mine) else None
            if evaluation is not None:
                for unit in itertools.compress(evaluation.units, mine):
                    if not evaluation.is_done(unit):
                        evaluation.train(unit, self.accelerator)
            if main and (evaluation is None or not self.add_records(cell, evaluation)):
                left.append(cell)
        self.accelerator.wait_for_everyone()
        for cell in left:
            self.add_records(cell, self.evaluation(cell))

    def add_records(self, cell: Cell, evaluation: AccuracyEvaluation) -> bool:
        """Adds the records of a set to ablation.json, if its students are trained; False where they are not."""
        if not all(map(evaluation.is_done, evaluation.units)):
            return False
        results = evaluation.make_records(self.accelerator.device)
        added = [self.record(cell, each, evaluation.manifest) for each in results]
        merged = {key_of(record): record for record in [*self.records(), *added]}
        records = [merged[key] for key in sorted(merged, key=lambda key: (key[-1], str(key[1]), *key[2:-1], key[0]))]
        write_json(self.folder / "ablation.json", records)
        self.write_tables(records)
        return True

    def record(self, cell: Cell, result: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
        """One student's record, from the evaluation's."""
        config, setting = self.config, cell.setting
        record = {
            "setting": setting.name,
            **dataclasses.asdict(setting),
            "cropping": setting.cropping,
            "label_teacher": None if result["labels"] == "hard" else cell.label_teacher,
            **{key: result[key] for key in ("labels", "ipc", "student")},
            "seed": cell.seed,
            "tile_accuracy": manifest["tile_accuracy"][str(result["ipc"])],
            "candidates_per_class": config.candidates_per_class,
            "coalitions": config.coalitions,
            "crop_fraction": config.crop_fraction,
            "scoring_teacher": config.teacher,
        }
        shared = ("task", "dataset", "method", "tiles", "protocol", "overrides", "epoch", "teacher", "teacher_accuracy")
        accuracies = ("seeds", "accuracies", "accuracy_mean", "accuracy_std")
        record |= {key: result[key] for key in (*shared, *accuracies, "seconds", "device", "versions")}
        return record

    def write_tables(self, records: list[dict[str, Any]]) -> None:
        """Writes ablation.md."""
        (self.folder / "ablation.md").write_text(format_ablation(records), encoding="utf-8")

    # Dry run

    def epochs(self, ipc: int) -> int:
        """Epochs that a student of an IPC is trained for."""
        return self.config.epochs or epoch_count(self.protocol, ipc)

    def plan(self) -> dict[str, Any]:
        """The cells, what they share, and the images that teacher and students would see."""
        config = self.config
        cells = [cell for cell in self.missing() if not self.is_distilled(cell)]
        candidates = len(self.candidates(config.seed))
        maps = {(cell.setting.attribution, cell.seed) for cell in cells if cell.setting.attribution is not None}
        scored = {(cell.setting.scores, cell.setting.scoring, cell.seed) for cell in cells if cell.setting.scoring}
        done = {key_of(record) for record in self.records()}
        keys = [key for cell in self.cells for key in keys_of(cell, config)]
        missing = [key for key in keys if key not in done]
        crops, views = DistillConfig.crops_per_image, DistillConfig.views
        classes = self.teacher.spec.num_classes
        per_image = {"kernel_shap": config.coalitions + 1, "grad_cam": 3}
        images = len(cells) * classes * sum(config.ipc)
        return {
            "settings": list(dict.fromkeys(cell.setting.name for cell in self.missing())),
            "label_teachers": config.label_teachers,
            "seeds": config.seeds,
            "heatmaps": len(maps),
            "scorings": len(scored),
            "sets": len(cells),
            "students": len(missing),
            "done": len(keys) - len(missing),
            "forward_passes": {
                "attribution": candidates * sum(per_image[attribution] for attribution, _ in maps),
                "scores": candidates * crops * sum(4 if score == "grad_norm" else 1 for _, score, _ in scored),
                "labels": images * (2 * config.tiles_per_image + views),
            },
            "images_seen": sum(classes * ipc * self.epochs(ipc) for *_, ipc, _, _ in missing),
        }
