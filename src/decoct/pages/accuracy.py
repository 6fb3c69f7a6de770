"""Tables and charts of the accuracies in results.json, one per setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import MaxNLocator

from decoct.methods import method_name
from decoct.results.records import group_by_setting, is_accuracy_record
from decoct.results.statistics import verdict
from decoct.results.tables import decimals, percent

__all__ = ["Chart", "SettingTable", "accuracy_chart", "setting_tables"]

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 14, 44
TICKS = 5


@dataclass(frozen=True)
class Chart:
    """Accuracy over IPC, in the coordinates of a drawing of `width` x `height`.

    Args:
        series: Each with `name`, `baseline` (drawn dashed), `color` (a number) and `points` of `x`, `y`, the ends of
            the error bar `low` and `high` (below and above in the drawing), and `text`.
        ipcs: Place and name of the ticks along x.
        accuracies: Likewise along y.
    """

    series: list[dict[str, Any]]
    ipcs: list[tuple[float, str]]
    accuracies: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class SettingTable:
    """What one table shows: the setting that all its numbers share, its rows, and what they say in words."""

    dataset: str
    protocol: str
    labels: str
    epoch: str
    rows: list[dict[str, Any]]
    chart: Chart | None


def setting_tables(records: Sequence[dict[str, Any]]) -> list[SettingTable]:
    """A table for each setting of the records that are accuracies; different settings are never mixed."""
    groups = group_by_setting(record for record in records if is_accuracy_record(record))
    tables = []
    for (dataset, protocol, labels, epoch), members in groups.items():
        ordered = sorted(members, key=lambda record: (record["student"], record["method"], record["ipc"]))
        chart = accuracy_chart(ordered) if len({record["ipc"] for record in ordered}) > 1 else None
        tables.append(SettingTable(dataset, protocol, labels, epoch, [table_row(each) for each in ordered], chart))
    return tables


def table_row(record: dict[str, Any]) -> dict[str, Any]:
    """A record's cells, its verdict and notes."""
    baseline, ranking = record.get("baseline"), record.get("dd_ranking") or {}
    return {
        "method": method_name(record["method"]),
        "tiles": record.get("tiles", 1),
        "ipc": record["ipc"],
        "student": record["student"],
        "teacher": percent(record.get("teacher_accuracy")),
        "accuracy": with_spread(record),
        "seeds": len(record["seeds"]),
        "random": "-" if baseline is None else with_spread(baseline),
        **{name: decimals(ranking.get(name)) for name in ("hlr", "ior", "lrs")},
        "ranking_note": ranking.get("note") or "",
        "verdict": verdict(record),
    }


def with_spread(record: dict[str, Any]) -> str:
    """Mean and, of several seeds, standard deviation, in percent."""
    spread = f" ± {percent(record['accuracy_std'])}" if len(record["seeds"]) > 1 else ""
    return percent(record["accuracy_mean"]) + spread


def accuracy_chart(records: Sequence[dict[str, Any]]) -> Chart:
    """Accuracy in percent over IPC (logarithmic): a line for each method, number of tiles and student, and a dashed
    one for its random images; error bars are a standard deviation of the seeds.
    """
    lines: dict[tuple[str, bool], list[tuple[int, float, float]]] = {}
    for record in records:
        name = f"{method_name(record['method'])}, k = {record.get('tiles', 1)}, {record['student']}"
        for baseline, measured in ((False, record), (True, record.get("baseline"))):
            if measured is not None:
                spread = measured["accuracy_std"] if len(measured["seeds"]) > 1 else 0.0
                point = (record["ipc"], 100 * measured["accuracy_mean"], 100 * spread)
                lines.setdefault((name, baseline), []).append(point)
    ipcs = sorted({record["ipc"] for record in records})
    ends = [end for line in lines.values() for _, mean, spread in line for end in (mean - spread, mean + spread)]
    ticks = MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(min(ends), max(ends))
    first, last = math.log(ipcs[0]), math.log(ipcs[-1])

    def x_of(ipc: int) -> float:
        share = (math.log(ipc) - first) / (last - first) if last > first else 0.5
        return round(LEFT + 20 + share * (WIDTH - LEFT - RIGHT - 40), 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - TOP - BOTTOM), 1)

    names = list(dict.fromkeys(name for name, _ in lines))
    series = [
        {
            "name": f"random images for {name}" if baseline else name,
            "baseline": baseline,
            "color": names.index(name) % 4 + 1,
            "points": [
                {
                    "x": x_of(ipc),
                    "y": y_of(mean),
                    "low": y_of(mean - spread),
                    "high": y_of(mean + spread),
                    "text": f"IPC {ipc}: {mean:.1f} %" + (f" ± {spread:.1f}" if spread else ""),
                }
                for ipc, mean, spread in sorted(line)
            ],
        }
        for (name, baseline), line in lines.items()
    ]
    accuracies = [(y_of(tick), f"{tick:g}") for tick in ticks]
    return Chart(series, [(x_of(ipc), str(ipc)) for ipc in ipcs], accuracies)
