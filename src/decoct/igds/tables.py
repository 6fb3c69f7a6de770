"""What `decoct information` and `decoct beta-study` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decoct.evaluation.plan import format_plan

__all__ = ["format_information", "format_study", "format_study_plan"]

COLUMNS = {"prototype": "prototype", "contextual": "contextual", "to source": "contextual_to_reference"}


def format_information(result: dict[str, Any]) -> str:
    """Both estimates by class and overall; each IPC of a distilled set has columns of its own.

    Args:
        result: What `decoct.igds.measuring.information` returns.
    """
    reports = {"source": result["source"], **{f"IPC {ipc}": each for ipc, each in result["distilled"].items()}}
    source = result["source"]
    heads, columns = [], []
    for name, report in reports.items():
        for title, key in COLUMNS.items():
            if report[key] is not None:
                heads.append((name, title))
                columns.append([*report[f"{key}_per_class"], report[key]])
    rows = [[label, *values] for label, *values in zip([*result["label_names"], "overall"], *columns, strict=True)]
    cells = [["", *(name for name, _ in heads)], ["class", *(title for _, title in heads)]]
    cells += [[row[0], *("-" if value is None else f"{value:.3f}" for value in row[1:])] for row in rows]
    lines = [
        f"Information in nats. H(Y) of the source is {source['label_entropy']:.3f}, the contextual score is at most "
        f"{result['contextual_bound']:.3f}.",
        *_aligned(cells),
        "",
        *(
            f"{name}: {report['images']:,} {_unit(name, result)}, {100 * report['accuracy']:.1f} % recognised"
            for name, report in reports.items()
        ),
    ]
    if result["distilled"]:
        lines.append("`contextual` compares with the set's own class means, `to source` with the source's.")
    return "\n".join(lines)


def _unit(name: str, result: dict[str, Any]) -> str:
    return "tiles" if name != "source" and result["tiles_per_image"] > 1 else "images"


def format_study(result: dict[str, Any]) -> str:
    """Accuracy of every subset, the best of each (student, IPC) marked, and how far the draws reached.

    Args:
        result: What `decoct.igds.study.beta_study` returns.
    """
    cells = [["student", "IPC", "target", "contextual", "prototype", "accuracy %", ""]]
    for record in result["records"]:
        spread = f" ± {100 * record['accuracy_std']:.1f}" if len(record["seeds"]) > 1 else ""
        cells.append(
            [
                record["student"],
                str(record["ipc"]),
                f"{record['target']:.3f}",
                f"{record['contextual']:.3f}",
                f"{record['prototype']:.3f}",
                f"{100 * record['accuracy_mean']:.1f}{spread}",
                "best" if record in result["best"] else "",
            ]
        )
    reach = (
        f"At sharpness {result['sharpness']:g} the subsets' expected scores cover {100 * result['reach']:.0f} % of the "
        f"targets' range; {result['suggested_sharpness']:.3g} would bring each half of the way to its target."
    )
    return "\n".join([*_aligned(cells), "", reach])


def format_study_plan(plan: dict[str, Any]) -> str:
    """A study's dry run as plain text."""
    return f"{plan['forward_passes']:,} forward passes of the estimator.\n{format_plan(plan['students'])}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, the first one flush left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
