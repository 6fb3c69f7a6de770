"""Records as tables: plain text for a terminal, Markdown for pages; one maker of each, and one cell for an accuracy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from decoct.methods import method_name
from decoct.results.records import group_by_setting, is_accuracy_record

__all__ = [
    "accuracy_cell",
    "decimals",
    "escape_markdown",
    "format_information",
    "format_students_plan",
    "format_study",
    "format_study_plan",
    "format_table",
    "markdown_table",
    "percent",
    "record_cell",
    "text_table",
]

Record = Mapping[str, Any]


# Cells


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal; `-` for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def decimals(value: float | None) -> str:
    """A number with three decimals; `-` for None."""
    return "-" if value is None else f"{value:.3f}"


def accuracy_cell(mean: float, std: float, seeds: int, count: bool = False) -> str:
    """Mean and, of several seeds, sample standard deviation in percent; with `count` also the number of seeds."""
    spread = f" ± {percent(std)}" if seeds > 1 else ""
    return f"{percent(mean)}{spread}{f' ({seeds})' if count else ''}"


def record_cell(record: Record | None, count: bool = False) -> str:
    """`accuracy_cell` of a record or of the random images beside one; `-` for None."""
    if record is None:
        return "-"
    return accuracy_cell(record["accuracy_mean"], record["accuracy_std"], len(record["seeds"]), count)


# Tables


def text_table(rows: Sequence[Sequence[str]], title: str = "", align_right: bool = False) -> str:
    """A title and aligned columns as plain text; the first row is the heading.

    Args:
        align_right: Whether all columns but the first hold numbers, which end at their right.
    """
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    ends = [align_right and column > 0 for column in range(len(widths))]
    lines = [
        "  ".join(
            cell.rjust(width) if end else cell.ljust(width) for cell, width, end in zip(row, widths, ends, strict=True)
        ).rstrip()
        for row in [cells[0], ["-" * width for width in widths], *cells[1:]]
    ]
    return "\n".join([*([" ".join(title.split())] if title else []), *lines])


def markdown_table(rows: Sequence[Sequence[str]], align_right: bool = False) -> str:
    """Rows of cells, the first of them the heading, as a Markdown table whose columns also align as plain text.

    Args:
        align_right: Whether all columns but the first hold numbers, which end at their right.
    """
    cells = [[escape_markdown(cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    ends = [align_right and column > 0 for column in range(len(widths))]
    lines = [
        [cell.rjust(width) if end else cell.ljust(width) for cell, width, end in zip(row, widths, ends, strict=True)]
        for row in cells
    ]
    lines.insert(1, ["-" * (width - 1) + (":" if end else "-") for width, end in zip(widths, ends, strict=True)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(text: str) -> str:
    """Text on one line that Markdown shows as it is, also inside a table."""
    return re.sub(r"([\\`|<>*\[\]#~&$])", r"\\\1", " ".join(str(text).split()))


# Accuracies

COLUMNS = ("method", "k", "IPC", "student", "teacher %", "accuracy %", "seeds", "random %", "difference")


def format_table(records: Iterable[dict[str, Any]]) -> str:
    """Records as plain text, one table per setting (`setting_of`): different settings are never mixed.

    Beside the accuracy of each set stand the accuracy of random images and the difference, in points.
    """
    tables = []
    groups = group_by_setting(record for record in records if is_accuracy_record(record))
    for (dataset, protocol, labels, epoch), members in groups.items():
        chosen = " (chosen on the test set)" if epoch == "best" else ""
        title = f"{dataset}, protocol {protocol}, {labels} labels, {epoch} epoch{chosen}"
        tables.append(text_table([COLUMNS, *map(_row, sorted(members, key=_order))], title))
    return "\n\n".join(tables)


def _order(record: Record) -> tuple[Any, ...]:
    return record["student"], int(record["ipc"]), record["method"], record.get("tiles", 1), str(record["seeds"])


def _row(record: Record) -> tuple[str, ...]:
    baseline = record.get("baseline")
    return (
        method_name(record["method"]),
        str(record.get("tiles", 1)),
        str(record["ipc"]),
        record["student"],
        percent(record.get("teacher_accuracy")),
        record_cell(record),
        str(len(record["seeds"])),
        record_cell(baseline),
        "-" if baseline is None else f"{100 * (record['accuracy_mean'] - baseline['accuracy_mean']):+.1f}",
    )


def format_students_plan(rows: Iterable[Record]) -> str:
    """A dry run's students as plain text.

    Args:
        rows: With `title`, `students` (to train), `done`, and `images_seen` and `seconds` of all students to train.
    """
    lines, total = [], 0.0
    for row in rows:
        counts = f"{row['students']} students to train ({row['done']} done)"
        lines.append(f"{row['title']}: {counts}, {row['images_seen']:,} images seen, about {row['seconds']:,.0f} s")
        total += row["seconds"]
    return "\n".join([*lines, f"In all about {total:,.0f} s on one process, without measuring accuracy."])


# Information

ESTIMATES = {"prototype": "prototype", "contextual": "contextual", "to source": "contextual_to_reference"}


def format_information(result: dict[str, Any]) -> str:
    """Both estimates by class and overall; each IPC of a distilled set has columns of its own.

    Args:
        result: What `decoct.igds.measuring.information` returns.
    """
    reports = {"source": result["source"], **{f"IPC {ipc}": each for ipc, each in result["distilled"].items()}}
    source = result["source"]
    heads, columns = [], []
    for name, report in reports.items():
        for title, key in ESTIMATES.items():
            if report[key] is not None:
                heads.append((name, title))
                columns.append([*report[f"{key}_per_class"], report[key]])
    rows = [[label, *values] for label, *values in zip([*result["label_names"], "overall"], *columns, strict=True)]
    cells = [["class", *(f"{name}: {title}" for name, title in heads)]]
    cells += [[row[0], *map(decimals, row[1:])] for row in rows]
    lines = [
        f"Information in nats. H(Y) of the source is {source['label_entropy']:.3f}, the contextual score is at most "
        f"{result['contextual_bound']:.3f}.",
        text_table(cells, align_right=True),
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
        result: What `decoct.evaluation.beta_study.beta_study` returns.
    """
    cells = [["student", "IPC", "target", "contextual", "prototype", "accuracy %", ""]]
    for record in result["records"]:
        cells.append(
            [
                record["student"],
                str(record["ipc"]),
                *(decimals(record[name]) for name in ("target", "contextual", "prototype")),
                record_cell(record),
                "best" if record in result["best"] else "",
            ]
        )
    reach = (
        f"At sharpness {result['sharpness']:g} the subsets' expected scores cover {100 * result['reach']:.0f} % of the "
        f"targets' range; {result['suggested_sharpness']:.3g} would bring each half of the way to its target."
    )
    return "\n".join([text_table(cells, align_right=True), "", reach])


def format_study_plan(plan: dict[str, Any]) -> str:
    """A study's dry run as plain text."""
    return f"{plan['forward_passes']:,} forward passes of the estimator.\n{format_students_plan(plan['students'])}"
