"""Writes the tables of ablation, `strong_kd`, training speed and the Hub from the records in benchmarks/results/.

    python benchmarks/evaluation_tables.py
    python benchmarks/evaluation_tables.py --check     # exit code 1 if a table is not what the records say

Only what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced, NAME being `claims`, `hub` and
`strong` in README.md, and `ablation`, `strong_kd`, `throughput` and `downstream` in benchmarks/README.md.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import NO_RECORDS, Section, markdown, mean_and_spread, read, section_command, span

from decoct.evaluation.continual import format_continual
from decoct.evaluation.transfer import format_transfer
from decoct.results.claims import format_ablation
from decoct.results.comparison import format_matrix

ABLATION = "ablation_imagenette.json"
SET = ("dataset", "ipc", "method", "labels", "student")
STRONG = ("batch_size", "ema_decay", "epochs", "rrc_scale", "learning_rate")
SAME = ("student", "protocol", "labels", "mixed_precision", "teacher_accuracy")
METHODS = {"random": "random images", "infoutil": "InfoUtil"}


def ablation_section(results: Path) -> str:
    """Tables and claims as `decoct ablate` writes them, below this file's own headings."""
    records = read(results / ABLATION)
    if not records:
        return NO_RECORDS
    text = format_ablation(records).split("\n", 1)[1].strip()
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def claims_section(results: Path) -> str:
    """The README's part: the table of scoring and cropping, and the claims."""
    parts = re.split(r"^(?=#{3,} )", ablation_section(results), flags=re.MULTILINE)
    wanted = [part.strip() for part in parts if re.match(r"#+ (Table 6|Claims)", part)]
    caption = next((part.split("\n", 1)[1].strip() for part in parts if re.match(r"### ", part)), NO_RECORDS)
    return "\n\n".join([caption, *(re.sub(r"^#+ (.*)", r"**\1**", part) for part in wanted)])


def strong_section(results: Path) -> str:
    """Settings of the sweep behind `strong_kd`, the best first."""
    records = read(results / "strong_kd.json")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(record[name] for name in SET), []).append(record)
    parts = []
    for (dataset, ipc, method, labels, student), members in sorted(groups.items()):
        settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for record in members:
            settings.setdefault(tuple(record[name] for name in STRONG), []).append(record)
        ranked = sorted(settings.items(), key=lambda item: -statistics.fmean(r["accuracy"] for r in item[1]))
        rows = [
            [*(f"{value:g}" for value in setting), mean_and_spread([100 * record["accuracy"] for record in each])]
            for setting, each in ranked
        ]
        seconds = span(round(statistics.fmean(r["seconds"] for r in each)) for each in settings.values())
        parts.append(f"{dataset}, IPC {ipc}, {method}, labels `{labels}`, {student}; {seconds} s a student:")
        parts.append(markdown([*(name.replace("_", " ") for name in STRONG), "accuracy %"], rows))
    return "\n\n".join(parts) or NO_RECORDS


def strong_cifar10_section(results: Path) -> str:
    """CIFAR-10 under `strong_kd`: methods by IPC.

    Raises:
        ValueError: If records of one IPC differ in how the students were trained.
    """
    records = [record for record in read(results / "strong_kd.json") if record["dataset"] == "cifar10"]
    if not records:
        return NO_RECORDS
    cells: dict[tuple[str, int], list[float]] = {}
    conditions: dict[int, set[tuple[Any, ...]]] = {}
    for record in records:
        cells.setdefault((record["method"], record["ipc"]), []).append(100 * record["accuracy"])
        conditions.setdefault(record["ipc"], set()).add(tuple(record[name] for name in (*SAME, *STRONG)))
    for ipc, found in conditions.items():
        if len(found) > 1:
            raise ValueError(f"Students of IPC {ipc} must all be trained in the same way. Got {sorted(found)}.")
    rows = [
        [METHODS[method], *(mean_and_spread(cells[method, ipc]) if (method, ipc) in cells else "–" for ipc in ipcs)]
        for ipcs in [sorted(conditions)]
        for method in METHODS
    ]
    student, protocol, labels, precision, teacher = next(iter(next(iter(conditions.values()))))[: len(SAME)]
    trained = "; ".join(
        f"{settings[len(SAME) + 2]:g} epochs in batches of {settings[len(SAME)]:g} at IPC {ipc}"
        for ipc, (settings,) in sorted(conditions.items())
    )
    return "\n\n".join(
        [
            markdown(["", *(f"IPC {ipc}" for ipc in sorted(conditions))], rows),
            f"Student {student}, protocol `{protocol}`, labels `{labels}`, last epoch, {precision}, {trained}. Teacher "
            f"that labels: {100 * teacher:.2f} %. Mean ± standard deviation over students (their number) on one set of "
            "each method, accuracy in %.",
        ]
    )


def throughput_section(results: Path) -> str:
    """Images a second of student training beside those of a loop written by hand."""
    found: dict[str, dict[str, Any]] = dict(read(results / "student_throughput.json"))
    rows = [
        [
            f"{entry['student']}, {entry['image_size']} px, batch {entry['batch_size']}, {entry['mixed_precision']}",
            *(f"{entry['images_per_second'][name]['median']:.0f}" for name in ("decoct", "plain")),
            f"{entry['ratio']['median']:.2f} ({entry['ratio']['min']:.2f} to {entry['ratio']['max']:.2f})",
            str(entry["repeats"]),
        ]
        for entry in found.values()
    ]
    header = ["student", "images/s", "plain loop, images/s", "ratio, median of pairs (range)", "pairs"]
    return markdown(header, rows) if rows else NO_RECORDS


def hub_section(results: Path) -> str:
    """What publishing, verifying and loading a set cost: medians, and the largest peak of the three processes."""
    found: dict[str, dict[str, Any]] = dict(read(results / "hub.json"))
    rows = []
    for name, entry in found.items():
        steps = entry["steps_min_median_max"]
        share = 100 * entry["tile_labels_share_of_images"]
        rows.append(
            [
                f"{name}: {entry['images']:,} images of {entry['image_size']} px",
                f"{entry['bytes'] / 1e6:,.1f}",
                f"{share:.1f} %",
                *(f"{steps[step]['seconds'][1]:.1f}" for step in ("publish", "verify", "load")),
                f"{steps['load']['rows_per_second'][1]:,.0f}",
                f"{max(values['peak_mb'][2] for values in steps.values()):.0f}",
                str(entry["repeats"]),
            ]
        )
    header = ["set", "MB", "tile labels / images", "publish, s", "verify, s", "load, s", "rows/s", "peak MB", "runs"]
    return markdown(header, rows) if rows else NO_RECORDS


def downstream_section(results: Path) -> str:
    """Accuracies by teacher and student, and of continual and transfer learning, as the commands print them."""
    parts = []
    if cross := read(results / "cross_architecture.json"):
        parts += [f"InfoUtil:\n\n{format_matrix(cross)}"]
        parts += [f"Random images:\n\n{format_matrix([{**record, **record['baseline']} for record in cross])}"]
    for name, form in (("continual", format_continual), ("transfer", format_transfer)):
        if records := read(results / f"{name}.json"):
            parts.append(f"```\n{form(records)}\n```")
    return "\n\n".join(parts) or NO_RECORDS


SECTIONS: list[Section] = [
    ("README.md", "claims", claims_section),
    ("README.md", "hub", hub_section),
    ("README.md", "strong", strong_cifar10_section),
    ("benchmarks/README.md", "ablation", ablation_section),
    ("benchmarks/README.md", "strong_kd", strong_section),
    ("benchmarks/README.md", "throughput", throughput_section),
    ("benchmarks/README.md", "downstream", downstream_section),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables, or compares them with the records."""
    return section_command(__doc__, SECTIONS, Path(__file__).name, argv)


if __name__ == "__main__":
    sys.exit(main())
