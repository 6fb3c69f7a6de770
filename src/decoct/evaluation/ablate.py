"""InfoUtil's ablations (section 4.3, App. D) with one teacher and one protocol, as a grid of distilled sets.

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
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from decoct.config import AblateConfig, DataConfig, DistillConfig, EvaluateConfig, fields_that_matter_for, to_dict
from decoct.data.source import dataset_fingerprint
from decoct.evaluation.grid import Cell, DistilledGrid
from decoct.results.claims import format_ablation
from decoct.results.factors import KEY, RANDOM_IMAGES, Factors, combinations_of
from decoct.run.folder import check_folder, claim_folder, identity_of, write_text
from decoct.run.lock import writes_alone
from decoct.run.processes import close, open_accelerator
from decoct.synthesis.inputs import with_held_out
from decoct.synthesis.run import shared_batch_size
from decoct.training.protocols import load_protocol, student_name

__all__ = ["ablate", "plan_ablate"]

VIEWS = 50  # for students with labels `views`, whether they are asked for now or later
WRITTEN = (
    *("ablation.json", "ablation.lock", "ablation.md"),
    *("heatmaps", "scores", "sets", "students", "batch_size.json"),
)


@writes_alone
def ablate(config: AblateConfig) -> list[dict[str, Any]]:
    """Fills the cells of the chosen tables: distils every setting, trains students on it, and compares them.

    A killed ablation continues where it was, and one with more tables, orders, label teachers, labels, students or
    seeds adds what is missing. Processes started by `accelerate launch` share the work and end with the same records.

    Returns:
        The content of ablation.json, in which a record is one student: its factors, its accuracy and the teacher's
        accuracy on its tiles, as fractions (design: by setting, label teacher, labels, IPC, student and seed);
        nothing where this process is not the main one.

    Raises:
        ValueError: If data, teacher, students and protocol do not fit together, or the folder belongs to an ablation
            with other data, candidates, IPCs, teacher or protocol.
    """
    accelerator = open_accelerator(config.mixed_precision)
    ablation = Ablation(config, accelerator)
    ablation.check()
    ablation.start()
    ablation.fill()
    records = ablation.records() if accelerator.is_main_process else []
    if accelerator.is_main_process:
        ablation.write_tables(records)
    close(accelerator)
    return records


def plan_ablate(config: AblateConfig) -> dict[str, Any]:
    """What `ablate` would compute, for `format_ablation_plan`; nothing is written."""
    accelerator = open_accelerator(config.mixed_precision)
    ablation = Ablation(config, accelerator)
    ablation.check()
    check_folder(ablation.folder, ablation.run_identity(), config.overwrite)
    plan = {
        "settings": list(dict.fromkeys(cell.identity["setting"] for cell in ablation.missing())),
        "label_teachers": config.label_teachers,
        "seeds": config.seeds,
        **ablation.plan(),
    }
    close(accelerator)
    return plan


class Ablation(DistilledGrid):
    """The grid of an ablation folder."""

    def __init__(self, config: AblateConfig, accelerator: Accelerator) -> None:
        self.config, folder = config, Path(config.output_dir)
        super().__init__(cells_of(config), folder, folder / "ablation.json", accelerator)

    def start(self) -> None:
        """Claims the folder, and sets the batch size that all of the ablation is computed with."""
        config, source = self.config, self.source(set_config(self.config))
        if self.accelerator.is_main_process:
            claim_folder(self.folder, self.run_identity(), config.overwrite, WRITTEN)
        source.teacher.to(self.accelerator.device)
        kept = self.folder / "batch_size.json"
        size = shared_batch_size(config.batch_size, kept, source.teacher, config.mixed_precision, self.accelerator)
        self.cells = cells_of(dataclasses.replace(config, batch_size=size))

    def run_identity(self) -> dict[str, Any]:
        """What all cells depend on."""
        config, source = self.config, self.source(set_config(self.config))
        extent = fields_that_matter_for(AblateConfig, "extent")
        fixed = {key: value for key, value in to_dict(config).items() if key not in extent}
        weights = source.teacher.fingerprint()
        identity = identity_of(fixed, data=dataset_fingerprint(source.images), weights=weights)
        identity["protocol"] = load_protocol(config.protocol).to_dict()
        found: dict[str, Any] = json.loads(json.dumps(identity))
        return found

    def recorded(self, record: dict[str, Any]) -> None:
        self.write_tables(self.records())

    def ordered(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        def place(record: dict[str, Any]) -> tuple[Any, ...]:
            setting, teacher, *trained, seed = (record[name] for name in KEY)
            return seed, str(teacher), *trained, setting

        return sorted(records, key=place)

    def write_tables(self, records: list[dict[str, Any]]) -> None:
        """Writes ablation.md."""
        write_text(self.folder / "ablation.md", format_ablation(records))


def cells_of(config: AblateConfig) -> list[Cell]:
    """The students of an ablation, seed by seed; hard labels come from no teacher, so one teacher's sets serve them."""
    protocol = load_protocol(config.protocol)
    students = list(dict.fromkeys(student_name(protocol, name) for name in config.students))
    variants = combinations_of(config.tables, config.utility_orders, config.full_grid)
    seeds = range(config.seed, config.seed + config.seeds)
    cells = []
    for seed, variant, teacher in itertools.product(seeds, variants, config.label_teachers):
        distil = set_config(config, variant, teacher, seed)
        modes = [mode for mode in config.labels if mode != "hard" or teacher == config.label_teachers[0]]
        for labels, ipc, student in itertools.product(modes, config.ipc, students):
            labelled_by = None if labels == "hard" else teacher
            identity = dict(zip(KEY, (variant.name, labelled_by, labels, ipc, student, seed), strict=True))
            evaluate = EvaluateConfig(
                **shared(config, "epochs", "rrc_scale"),
                distilled=distil.output_dir,
                output_dir=str(Path(config.output_dir) / "students"),
                seed=seed,
                ipc=[ipc],
                students=[student],
                protocols=[config.protocol],
                labels=[labels],
                baseline=False,
                ranking=False,
            )
            stated = {
                **dataclasses.asdict(variant),
                "cropping": variant.cropping,
                **{name: getattr(config, name) for name in ("candidates_per_class", "coalitions", "crop_fraction")},
                "scoring_teacher": config.teacher,
            }
            cells.append(Cell(distil, evaluate, protocol, identity, stated))
    return cells


def set_config(
    config: AblateConfig, variant: Factors = RANDOM_IMAGES, label_teacher: str = "converged", seed: int = 0
) -> DistillConfig:
    """The configuration of one distilled set."""
    folder = Path(config.output_dir) / "sets" / variant.name / label_teacher / f"seed_{seed}"
    names = ("teacher", "ipc", "tiles_per_image", "candidates_per_class", "coalitions", "batch_size")
    return with_held_out(
        DistillConfig(
            **shared(config, *names),
            **variant.distill_options(config.crop_fraction),
            label_teacher=[label_teacher],
            views=VIEWS,
            slots=0,
            seed=seed,
            output_dir=str(folder),
        )
    )


def shared(config: AblateConfig, *names: str) -> dict[str, Any]:
    """The values of some fields, and of those that say where the images come from and how they are computed with."""
    apart = ("output_dir", "seed", "overwrite", "dry_run")
    data = [field.name for field in dataclasses.fields(DataConfig) if field.name not in apart]
    return {name: getattr(config, name) for name in [*data, *names]}
