"""`decoct evaluate`: what a distilled set is worth, by the task that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from decoct.config import EvaluateConfig
from decoct.evaluation.accuracy import AccuracyEvaluation, format_accuracy
from decoct.evaluation.continual import ContinualEvaluation, format_continual
from decoct.evaluation.plan import plan_students
from decoct.evaluation.run import Evaluation
from decoct.evaluation.transfer import TransferEvaluation, format_transfer
from decoct.pages.report import write_report
from decoct.results.records import merge_records, read_results
from decoct.run.lock import one_writer
from decoct.run.processes import close, open_accelerator

__all__ = ["evaluate", "format_evaluation", "plan_evaluate"]

Format = Callable[[Sequence[dict[str, Any]]], str]

TASKS: dict[str, tuple[type[Evaluation[Any]], Format]] = {
    "accuracy": (AccuracyEvaluation, format_accuracy),
    "continual": (ContinualEvaluation, format_continual),
    "transfer": (TransferEvaluation, format_transfer),
}


def evaluate(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Trains and measures the students of `config.task`, and adds a record per setting to `results.json`.

    Beside each student, one is trained on random real images of the same source with everything else equal
    (`RandomBaseline`), unless `baseline` is off. The `report.html` of a distilled run folder is written anew.

    Each student's accuracy is saved under `<output_dir>/evaluation/`, or beside the random images, as soon as it is
    known, so a killed run continues with the next student; processes started by `accelerate launch` share the students.

    Returns:
        The records of this call, one per IPC, student, protocol and label mode; none where this process is not the main
        one. Accuracies are fractions.

    Raises:
        ValueError: If the distilled set, the data and the teacher do not fit together, or lack what was asked for, or
            a protocol is defined for none of the label modes.
    """
    folder = Path(config.output_dir or config.distilled)
    with one_writer(folder if config.output_dir is not None or folder.is_dir() else None):
        accelerator = open_accelerator(config.mixed_precision)
        evaluation = _checked(config, accelerator)
        read_results(folder / "results.json")  # what could not be added to is found before the work
        records = evaluation.run(accelerator)
        if accelerator.is_main_process:
            merge_records(folder / "results.json", records)
            if (folder / "manifest.json").is_file() and (folder / "data").is_dir():
                write_report(folder)
        close(accelerator)
    return records


def plan_evaluate(config: EvaluateConfig) -> list[dict[str, Any]]:
    """What `evaluate` would train, for `format_students_plan`; nothing is written."""
    accelerator = open_accelerator(config.mixed_precision)
    rows = plan_students(_checked(config, accelerator), accelerator.device)
    close(accelerator)
    return rows


def _checked(config: EvaluateConfig, accelerator: Accelerator) -> Evaluation[Any]:
    evaluation_class, _ = TASKS[config.task]
    with accelerator.main_process_first():
        evaluation = evaluation_class(config)
        evaluation.check()
    return evaluation


def format_evaluation(records: Sequence[dict[str, Any]]) -> str:
    """Records as plain text, those of each task as it shows them."""
    parts = {task: [record for record in records if record["task"] == task] for task in TASKS}
    return "\n\n".join(TASKS[task][1](members) for task, members in parts.items() if members)
