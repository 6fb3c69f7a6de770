"""InfoUtil by the recipes of papers: methods on CIFAR-10, its ablation, other networks and other tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from decoct.evaluation.continual import format_continual
from decoct.evaluation.transfer import format_transfer
from decoct.methods import method_name
from decoct.results.claims import format_ablation
from decoct.results.comparison import format_matrix
from decoct.results.reported import is_same_protocol, is_same_task, load_reported
from decoct.results.tables import percent
from sections.cells import (
    LABELS,
    NO_RECORDS,
    accuracies,
    accuracy,
    best_first,
    conditions,
    grouped,
    mean_of,
    read,
    same,
    span,
    table,
    teachers,
)

# The rows of the CIFAR-10 tables.
ROWS = {
    **{name: method_name(name) for name in ("random", "herding", "k_center", "k_means", "forgetting", "rded")},
    "infoutil_paper": "InfoUtil, preset infoutil_paper",
    "infoutil": "InfoUtil, decoct's default",
}


# CIFAR-10


def results_section(results: Path) -> str:
    """Methods by IPC, a table per label mode, with the papers' numbers where the recipe is theirs."""
    records = [record for record in read(results / "cifar10.json") if record["stage"] == "final"]
    if not records:
        return NO_RECORDS
    one, ipcs = same(records), sorted({record["ipc"] for record in records})
    reported = [row for row in load_reported("infoutil") if is_same_task(row, one["dataset"], one["student"])]
    beside = [row for row in reported if is_same_protocol(row, one["protocol"], "online")]
    apart = [row for row in reported if not row.protocols and row.method in ROWS.values()]
    parts, modes = [], grouped(records, "labels")
    for (labels,), members in sorted(modes.items(), key=lambda item: LABELS.index(*item[0])):
        rows = accuracies(members, "setting", ROWS, "ipc", ipcs)
        if labels == "online":
            rows += [[f"{row.method}, reported", *reported_cells(row, ipcs)] for row in beside]
        parts.append(f"CIFAR-10, accuracy in % by images per class (IPC), labels `{labels}`:")
        parts.append(table(["", *(f"IPC {ipc}" for ipc in ipcs)], rows))
    others = ", ".join(f"{row.method} ({', '.join(reported_cells(row, ipcs))})" for row in apart)
    theirs = span((100 * row.teacher_accuracy for row in beside if row.teacher_accuracy is not None), ".2f")
    note = f"Reported: InfoUtil, {beside[0].where}, with a teacher at {theirs} %."
    recipe = f"The paper's {others}, at IPC {', '.join(map(str, ipcs))}, are of another recipe and stand in no table."
    return "\n\n".join([*parts, f"{conditions(records)} {note} {recipe}"])


def reported_cells(row: Any, ipcs: Iterable[int]) -> list[str]:
    """A reported row's means in percent."""
    return [percent(row.accuracy[ipc][0]) if ipc in row.accuracy else "–" for ipc in ipcs]


def sweep_section(results: Path) -> str:
    """All other records: a table per stage, IPC and label mode, the best setting first."""
    records = [record for record in read(results / "cifar10.json") if record["stage"] != "final"]
    parts = []
    for (stage, ipc, labels), members in sorted(grouped(records, "stage", "ipc", "labels").items()):
        rows = [
            [setting, accuracy(each), percent(mean_of(each, "tile_accuracy")), teachers(each)]
            for (setting,), each in best_first(grouped(members, "setting"))
        ]
        parts += [
            f"Stage `{stage}`, IPC {ipc}, labels `{labels}`:",
            table(["setting", "accuracy %", "teacher on tiles %", "label teacher %"], rows),
            conditions(members),
        ]
    return "\n\n".join(parts) or NO_RECORDS


# The ablation, other networks and other tasks, as the commands print them


def ablation_section(results: Path) -> str:
    """Tables and claims as `decoct ablate` writes them, below this file's own headings."""
    records = read(results / "ablation_imagenette.json")
    text = format_ablation(records).split("\n", 1)[1].strip() if records else NO_RECORDS
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def claims_section(results: Path) -> str:
    """Of the ablation the table of scoring and cropping, and the claims."""
    parts = re.split(r"^(?=#{3,} )", ablation_section(results), flags=re.MULTILINE)
    wanted = [part.strip() for part in parts if re.match(r"#+ (Table 6|Claims)", part)]
    caption = next((part.split("\n", 1)[1].strip() for part in parts if re.match(r"### ", part)), NO_RECORDS)
    return "\n\n".join([caption, *(re.sub(r"^#+ (.*)", r"**\1**", part) for part in wanted)])


def downstream_section(results: Path) -> str:
    """Accuracies by teacher and student, and of continual and transfer learning."""
    parts = []
    if cross := read(results / "cross_architecture.json"):
        parts.append(f"InfoUtil:\n\n{format_matrix(cross)}")
        parts.append(f"Random images:\n\n{format_matrix([{**record, **record['baseline']} for record in cross])}")
    for name, form in (("continual", format_continual), ("transfer", format_transfer)):
        if records := read(results / f"{name}.json"):
            parts.append(f"```\n{form(records)}\n```")
    return "\n\n".join(parts) or NO_RECORDS
