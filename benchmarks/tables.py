"""Writes the accuracy tables of README.md and benchmarks/README.md from benchmarks/results/cifar10.json.

    python benchmarks/tables.py
    python benchmarks/tables.py --check     # exit code 1 if a table is not what the records say; writes nothing

Only what stands between `<!-- results:begin -->` and `<!-- results:end -->`, or the same with `sweep`, is replaced.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Record = dict[str, Any]
# File, name of the section, and what makes it from the folder of results.
Section = tuple[str, str, Callable[[Path], str]]

ROWS = {
    "random": "random images",
    "herding": "herding",
    "k_center": "k-center",
    "k_means": "k-means",
    "forgetting": "forgetting",
    "rded": "RDED",
    "infoutil_paper": "InfoUtil, preset `infoutil_paper`",
    "infoutil": "InfoUtil, decoct's default",
}
LABELS = ("online", "views", "tiles", "hard")
IPCS = (1, 10, 50)
# InfoUtil, Table 1: CIFAR-10, ConvNet-3, a teacher with 82.24 %.
REPORTED = {"RDED, reported": (23.5, 50.2, 68.4), "InfoUtil, reported": (28.5, 54.1, 69.8)}
REPORTED_NOTE = (
    "Reported: InfoUtil, Table 1, with a teacher at 82.24 %. The paper's random images (14.4, 26.0, 43.4), herding "
    "(21.5, 31.6, 40.4) and forgetting (13.5, 23.3, 23.3 at IPC 1, 10, 50) are of another recipe and stand in no table."
)
# One table holds records that agree in all of these.
CONDITIONS = ("protocol", "epochs", "rrc_scale", "student", "precision", "epoch")
NO_RECORDS = "No records yet."


def results_section(records: Sequence[Record]) -> str:
    """The README's tables, one per label mode: methods by IPC.

    Raises:
        ValueError: If the records differ in their conditions, or one was made twice.
    """
    final = [record for record in records if record["stage"] == "final"]
    if not final:
        return NO_RECORDS
    check_conditions(final)
    cells = cells_of(final)
    parts = []
    for labels in LABELS:
        found = [(name, [cells.get((key, ipc, labels)) for ipc in IPCS]) for key, name in ROWS.items()]
        rows = [[name, *(value or "–" for value in values)] for name, values in found if any(values)]
        if labels == "online":
            rows += [[name, *(f"{value:.1f}" for value in values)] for name, values in REPORTED.items()]
        if rows:
            parts.append(f"CIFAR-10, accuracy in % by images per class (IPC), labels `{labels}`:")
            parts.append(markdown(["", *(f"IPC {ipc}" for ipc in IPCS)], rows))
    return "\n\n".join([*parts, f"{conditions_sentence(final)} {REPORTED_NOTE}"])


def sweep_section(records: Sequence[Record]) -> str:
    """All other records: one table per stage, IPC and label mode, the best setting first.

    Raises:
        ValueError: If the records of a table differ in their conditions, or one was made twice.
    """
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for record in records:
        if record["stage"] != "final":
            groups.setdefault((record["stage"], record["ipc"], record["labels"]), []).append(record)
    parts = []
    for (stage, ipc, labels), members in sorted(groups.items()):
        check_conditions(members)
        settings = {setting: [r for r in members if r["setting"] == setting] for setting in names_of(members)}
        ranked = sorted(settings.items(), key=lambda item: -statistics.fmean(r["accuracy"] for r in item[1]))
        cells = cells_of(members)
        rows = [
            [
                setting,
                cells[setting, ipc, labels],
                f"{100 * statistics.fmean(record['tile_accuracy'] for record in each):.1f}",
                span(100 * record["teacher_accuracy"] for record in each),
            ]
            for setting, each in ranked
        ]
        parts += [
            f"Stage `{stage}`, IPC {ipc}, labels `{labels}`:",
            markdown(["setting", "accuracy %", "teacher on tiles %", "label teacher %"], rows),
            conditions_sentence(members),
        ]
    return "\n\n".join(parts) or NO_RECORDS


def cells_of(records: Sequence[Record]) -> dict[tuple[str, int, str], str]:
    """Mean ± sample standard deviation in % (n), by setting, IPC and label mode.

    Raises:
        ValueError: If two records have the same setting, IPC, label mode and seeds.
    """
    values: dict[tuple[str, int, str], dict[tuple[int, int], float]] = {}
    for record in records:
        key = record["setting"], record["ipc"], record["labels"]
        seeds = record["distill_seed"], record["student_seed"]
        if seeds in values.setdefault(key, {}):
            raise ValueError(f"Records must be unique. Got two of {key} with the seeds {seeds}.")
        values[key][seeds] = 100 * record["accuracy"]
    return {key: mean_and_spread(list(by_seeds.values())) for key, by_seeds in values.items()}


def mean_and_spread(values: Sequence[float]) -> str:
    """`50.2 ± 0.3 (3)`, or `50.2 (1)`."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation} ({len(values)})"


def check_conditions(records: Sequence[Record]) -> None:
    """Raises ValueError if records of one table differ in a condition."""
    for name in CONDITIONS:
        found = sorted({repr(record.get(name)) for record in records})
        if len(found) > 1:
            raise ValueError(f"{name} must be the same in all records of a table. Got {', '.join(found)}.")


def conditions_sentence(records: Sequence[Record]) -> str:
    """How the records of a table were made."""
    one = records[0]
    scale = "the protocol's crops" if one["rrc_scale"] is None else f"rrc_scale {one['rrc_scale']:g}"
    if any(record["labels"] == "views" for record in records):
        scale += " (stored views bring their own crops)"
    counts = Counter((record["setting"], record["ipc"], record["labels"]) for record in records)
    return (
        f"Student {one['student']}, protocol `{one['protocol']}` with {one['epochs']} epochs and {scale}, "
        f"{one.get('epoch', 'last')} epoch, {one['precision']}. "
        f"Teacher that labels: {span((100 * record['teacher_accuracy'] for record in records), '.2f')} %. "
        f"Mean ± standard deviation over seeds (their number, {span(counts.values())} here); "
        "a seed draws the candidates and starts the student."
    )


def names_of(records: Iterable[Record]) -> list[str]:
    """Settings in the order of their first record."""
    return list(dict.fromkeys(record["setting"] for record in records))


def span(values: Iterable[float], form: str = "g") -> str:
    """`3`, or `1 to 3`."""
    ordered = sorted(values)
    low, high = format(round(ordered[0], 2), form), format(round(ordered[-1], 2), form)
    return low if low == high else f"{low} to {high}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are aligned right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def replace_section(text: str, name: str, content: str, where: Path) -> str:
    """The text with new content between the markers of a section.

    Raises:
        ValueError: If the markers are not there, once each and in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{where} must hold the markers {begin} and {end}, once each. Add them where the table goes.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def read(path: Path) -> Any:
    """The content of a result file; an empty list if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def section_command(
    description: str | None, sections: Sequence[Section], script: str, argv: Sequence[str] | None
) -> int:
    """The command of a script that writes sections, or compares them with the records; 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md and benchmarks/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table is out of date")
    options = parser.parse_args(argv)
    root, check = options.root, options.check
    outdated = []
    for file, name, section in sections:
        path = root / file
        text = path.read_text(encoding="utf-8")
        fresh = replace_section(text, name, section(root / "benchmarks" / "results"), path)
        if fresh != text:
            outdated.append(f"{file}, section {name}")
            if not check:
                path.write_text(fresh, encoding="utf-8")
    for place in outdated:
        print(f"{place}: {f'out of date; run python benchmarks/{script}' if check else 'written'}")
    return int(check and bool(outdated))


def main(argv: Sequence[str] | None = None) -> int:
    """Writes both tables, or compares them with the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks/results/cifar10.json")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file with the markers `results`")
    parser.add_argument("--sweep_readme", type=Path, default=ROOT / "benchmarks/README.md", help="with `sweep`")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table is out of date")
    options = parser.parse_args(argv)
    records = json.loads(options.records.read_text(encoding="utf-8")) if options.records.is_file() else []
    sections = [(options.readme, "results", results_section), (options.sweep_readme, "sweep", sweep_section)]
    outdated = []
    for path, name, section in sections:
        text = path.read_text(encoding="utf-8")
        fresh = replace_section(text, name, section(records), path)
        if fresh != text:
            outdated.append(path)
            if not options.check:
                path.write_text(fresh, encoding="utf-8")
    for path in outdated:
        print(f"{path}: {'out of date; run python benchmarks/tables.py' if options.check else 'written'}")
    return int(options.check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
