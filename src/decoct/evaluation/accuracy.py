"""Students trained on a distilled set, and on random images beside it, and measured on real images."""

from __future__ import annotations

from typing import Any

import torch

from decoct.config import EvaluateConfig
from decoct.evaluation.records import make_records
from decoct.evaluation.run import Evaluation, seconds_per_image
from decoct.evaluation.units import Unit
from decoct.models.zoo import build_classifier
from decoct.pages.report import write_report
from decoct.results.records import merge_records
from decoct.results.statistics import place_of, verdict
from decoct.results.tables import format_plan, format_table, fraction
from decoct.run.processes import close, open_accelerator

__all__ = ["evaluate", "format_evaluation", "format_plan", "format_table"]


def evaluate(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Trains and measures students of every (IPC, student, protocol, label mode, seed); the seeds share a record.

    Beside each student, one is trained on random real images of the same source with everything else equal
    (`RandomBaseline`), unless `baseline` is off. With `ranking`, hard labels have records of their own wherever the
    protocol is defined for them, for the metrics of DD-Ranking. The records are added to `results.json`, and the
    `report.html` of a distilled run folder is written anew.

    Each student's accuracy is saved under `<output_dir>/evaluation/`, or beside the random images, as soon as it is
    known, so a killed run continues where it was; processes started by `accelerate launch` share the students.

    Returns:
        The records of this call, one per IPC, student, protocol and label mode; accuracies are fractions, `seconds` is
        the mean training time of a student. With `dry_run`: the plan, for `format_plan`; nothing is written.

    Raises:
        ValueError: If the distilled set, the data and the teacher do not fit together, or lack what was asked for, or
            a protocol is defined for none of the label modes.
    """
    accelerator = open_accelerator(config.mixed_precision)
    with accelerator.main_process_first():
        run = Evaluation(config)
        run.check()
    if config.dry_run:
        rows = plan(run, accelerator.device)
        close(accelerator)
        return rows
    run.baseline.make(run.draws, accelerator)
    with accelerator.main_process_first():
        missing = [unit for unit in run.units if not run.is_done(unit)]
    accelerator.wait_for_everyone()  # all processes must see the same list before the first unit is saved
    for unit in missing[accelerator.process_index :: accelerator.num_processes]:
        run.train(unit, accelerator)
    accelerator.wait_for_everyone()
    records: list[dict[str, Any]] = []
    if accelerator.is_main_process:
        records = make_records(run, accelerator.device)
        merge_records(run.folder / "results.json", records)
        if (run.folder / "manifest.json").is_file() and (run.folder / "data").is_dir():
            write_report(run.folder)
    close(accelerator)
    return records


def format_evaluation(records: list[dict[str, Any]]) -> str:
    """The tables of an evaluation, then in words whether each set beats random images, and its DD-Ranking metrics."""
    lines = []
    for record in records:
        lines.append(f"{place_of(record)}: {verdict(record)}")
        if (ranking := record["dd_ranking"]) is not None:
            values = [f"{name.upper()} {fraction(ranking[name])}" for name in ("hlr", "ior", "lrs")]
            note = f" ({ranking['note']})" if ranking["note"] else ""
            lines.append(f"  DD-Ranking: {', '.join(values)}{note}")
    return "\n".join([format_table(records), "", *lines])


def plan(run: Evaluation, device: torch.device) -> list[dict[str, Any]]:
    """Rows for `format_plan`: per setting, on distilled and on random images, the students still to train.

    What one costs comes from a timing of two steps on the distilled images.
    """
    rows = []
    for setting in run.settings:
        distilled, online = run.sets[setting.ipc], setting.labels == "online"
        seen = len(distilled) * run.epochs(setting)
        seconds = seen * seconds_per_image(
            build_classifier(setting.student, run.spec),
            distilled,
            run.protocols[setting.protocol],
            setting.labels,
            run.teachers.online(setting.ipc) if online else None,
            device,
            run.config.mixed_precision,
        )
        for random in [False] if run.notes[setting] else [False, True]:
            done = sum(run.is_done(Unit(setting, seed, random)) for seed in run.seeds)
            rows.append(
                {
                    "ipc": setting.ipc,
                    "student": setting.student,
                    "protocol": setting.protocol,
                    "labels": setting.labels,
                    "random": random,
                    "students": len(run.seeds) - done,
                    "done": done,
                    "images_seen": seen,
                    "seconds": seconds,
                }
            )
    return rows
