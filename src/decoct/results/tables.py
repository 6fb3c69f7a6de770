"""Records as tables: plain text for a terminal, Markdown for pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from decoct.methods import method_name
from decoct.results.records import group_by_setting, is_accuracy_record

__all__ = [
    "accuracy_cell",
    "escape_markdown",
    "format_information",
    "format_plan",
    "format_study",
    "format_study_plan",
    "format_table",
    "fraction",
    "markdown_table",
    "percent",
    "text_table",
]

Record = Mapping[str, Any]

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
        result: What `decoct.evaluation.beta_study.beta_study` returns.
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


RECORD_COLUMNS = ("method", "k", "IPC", "student", "teacher %", "accuracy %", "seeds", "random %", "difference")


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal; `-` for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def fraction(value: float | None) -> str:
    """A fraction with three decimals; `-` for None."""
    return "-" if value is None else f"{value:.3f}"


def format_table(records: Iterable[dict[str, Any]]) -> str:
    """Records as plain text, one table per setting (`setting_of`): different settings are never mixed.

    Beside the accuracy of each set stand the accuracy of random images and the difference, in points.
    """
    tables = []
    groups = group_by_setting(record for record in records if is_accuracy_record(record))
    for (dataset, protocol, labels, epoch), members in groups.items():
        ordered = sorted(members, key=_order)
        rows = [RECORD_COLUMNS, *(_row(record) for record in ordered)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(RECORD_COLUMNS))]
        chosen = " (chosen on the test set)" if epoch == "best" else ""
        heading = f"{dataset}, protocol {protocol}, {labels} labels, {epoch} epoch{chosen}"
        lines = [" ".join(heading.split())]
        for row in [rows[0], tuple("-" * width for width in widths), *rows[1:]]:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _order(record: Record) -> tuple[Any, ...]:
    return record["student"], int(record["ipc"]), record["method"], record.get("tiles", 1), str(record["seeds"])


def _row(record: Record) -> tuple[str, ...]:
    baseline = record.get("baseline")
    cells = (
        method_name(record["method"]),
        str(record.get("tiles", 1)),
        str(record["ipc"]),
        record["student"],
        percent(record.get("teacher_accuracy")),
        _accuracy(record),
        str(len(record["seeds"])),
        "-" if baseline is None else _accuracy(baseline),
        "-" if baseline is None else f"{100 * (record['accuracy_mean'] - baseline['accuracy_mean']):+.1f}",
    )
    return tuple(" ".join(cell.split()) for cell in cells)


def _accuracy(record: Record) -> str:
    return accuracy_cell(record["accuracy_mean"], record["accuracy_std"], len(record["seeds"]))


def accuracy_cell(mean: float, std: float, seeds: int, count: bool = False) -> str:
    """Mean and, of several seeds, standard deviation in percent, with the number of seeds if asked for."""
    spread = f" ± {percent(std)}" if seeds > 1 else ""
    return f"{percent(mean)}{spread}{f' ({seeds})' if count else ''}"


def text_table(rows: Sequence[Sequence[str]], title: str = "") -> str:
    """Aligned columns below a title; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*([title] if title else []), lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def escape_markdown(text: str) -> str:
    """Text on one line that Markdown shows as it is, also inside a table."""
    return re.sub(r"([\\`|<>*\[\]#~&$])", r"\\\1", " ".join(str(text).split()))


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the heading, as a Markdown table whose columns also align as plain text."""
    cells = [[escape_markdown(cell) for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_plan(plan: list[dict[str, Any]]) -> str:
    """A dry run's plan as plain text.

    Args:
        plan: Rows with `ipc`, `student`, `labels`, `students` (still to train), `done`, `images_seen` by each student,
            `seconds` for each and, if they have them, `protocol` and `random` (trained on random images).
    """
    lines = [f"{_title(row)}: {row['students']} students to train ({row['done']} done), {_cost(row)}" for row in plan]
    total = sum(row["students"] * row["seconds"] for row in plan)
    return "\n".join([*lines, f"In all about {total:,.0f} s on one process, without measuring accuracy."])


def _title(row: dict[str, Any]) -> str:
    words = [f"IPC {row['ipc']}", row["student"]]
    words += [row["protocol"]] if "protocol" in row else []
    return ", ".join([*words, f"{row['labels']} labels", *(["random images"] if row.get("random") else [])])


def _cost(row: dict[str, Any]) -> str:
    return f"{row['images_seen']:,} images seen by each, about {row['seconds']:,.0f} s each"
