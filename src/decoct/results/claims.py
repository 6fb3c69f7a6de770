"""What an ablation found, from its records alone: tables shaped like InfoUtil's 6, 7, 8 and 11, and its claims judged.

A table holds one dataset, protocol, label mode, epoch rule and label teacher; random whole images stand in each.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decoct.results.factors import NOISE, RANDOM_IMAGES, RDED, SHAPLEY, Factors, infoutil
from decoct.results.records import group_by_setting
from decoct.results.statistics import Difference, compare_accuracies, mean_and_std
from decoct.results.tables import accuracy_cell, markdown_table, percent

__all__ = ["Claim", "claims_of", "format_ablation", "format_ablation_plan"]

Record = dict[str, Any]

YES, NO = "✓", "✗"
# What a verdict on the difference says of a claim.
JUDGED = {"above": "holds", "below": "does not hold", "undecided": "undecided"}


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims, in one place of the grid: `better` beats `worse`, from which it differs in one factor.

    Args:
        text: The claim.
        where: The factors that both share and that other comparisons of the same claim do not.
    """

    text: str
    where: str
    better: Factors
    worse: Factors


def claims_of(orders: Iterable[str]) -> list[Claim]:
    """The claims of InfoUtil, section 4.3, wherever the grid can judge them, for each order of gradient norms."""
    score, crops = "Grad-norm scoring beats loss scoring", "Attribution crops beat random crops"
    by_loss = Factors("loss", "lowest", SHAPLEY, NOISE)
    claims = []
    for order in orders:
        full, first = infoutil(order), f"{order} gradient norm first"
        random_crops = replace(full, attribution=None, noise=None)
        claims += [
            Claim(score, f"{first}, random crops", random_crops, RDED),
            Claim(score, f"{first}, attribution crops", full, by_loss),
            Claim(crops, first, full, random_crops),
            Claim("Noise beats no noise", first, full, replace(full, noise=0.0)),
            Claim("Shapley beats Grad-CAM", first, full, replace(full, attribution="grad_cam")),
            Claim("InfoUtil beats RDED", first, full, RDED),
            Claim("InfoUtil beats random whole images", first, full, RANDOM_IMAGES),
        ]
    claims += [
        Claim(crops, "lowest loss first", by_loss, RDED),
        Claim("RDED beats random whole images", "lowest loss first", RDED, RANDOM_IMAGES),
    ]
    return claims


class _Group:
    """The records of one label teacher and setting of the tables, and of one student where it is named."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = list(records)
        self.ipcs = sorted({record["ipc"] for record in records})
        self.students = list(dict.fromkeys(record["student"] for record in records))
        self._by_seed: dict[tuple[Factors, int], dict[int, Record]] = {}
        for record in records:
            self._by_seed.setdefault((setting_of_record(record), record["ipc"]), {})[record["seed"]] = record
        self.settings = list(dict.fromkeys(setting for setting, _ in self._by_seed))
        self.orders = sorted({s.order for s in self.settings if s.scoring == "grad_norm" and s.order is not None})

    def by_seed(self, setting: Factors, ipc: int) -> dict[int, float]:
        """Accuracy by seed."""
        return {seed: record["accuracy_mean"] for seed, record in self._by_seed.get((setting, ipc), {}).items()}

    def cell(self, setting: Factors, ipc: int) -> str:
        """Mean, sample standard deviation and number of seeds."""
        values = list(self.by_seed(setting, ipc).values())
        return accuracy_cell(*mean_and_std(values), len(values), count=True) if values else "–"

    def on_tiles(self, setting: Factors, ipc: int) -> str:
        """The teacher's accuracy on the tiles, over the seeds."""
        values = [record["tile_accuracy"] for record in self._by_seed.get((setting, ipc), {}).values()]
        return percent(statistics.fmean(values)) if values else "–"

    def has(self, settings: Iterable[Factors]) -> bool:
        """Whether one of the settings was measured."""
        return not set(settings).isdisjoint(self.settings)

    def of(self, student: str) -> _Group:
        """The records of one student."""
        return _Group([record for record in self.records if record["student"] == student])


def setting_of_record(record: Record) -> Factors:
    """The setting that a record belongs to."""
    return Factors(*(record[name] for name in ("scoring", "order", "attribution", "noise")))


def format_ablation(records: Sequence[Record]) -> str:
    """The tables and claims as Markdown; tables that the records say nothing about are left out."""
    parts = ["# Ablation of InfoUtil"]
    for members in group_by_setting(records).values():
        for teacher in dict.fromkeys(record["label_teacher"] for record in members):
            group = _Group([record for record in members if record["label_teacher"] == teacher])
            parts += [_heading(group), _caption(group)]
            for student in group.students:
                mine = group.of(student)
                parts += [each(mine, student) for each, needed in TABLES if mine.has(needed(mine.orders))]
            if group.has([RDED]) and group.orders:
                parts.append(_table_11(group))
            for student in group.students:
                mine = group.of(student)
                parts += [_claims(mine, student), _all_settings(mine, student)]
    return "\n\n".join(parts) + "\n"


def _heading(group: _Group) -> str:
    first = group.records[0]
    source = "" if first["label_teacher"] is None else f" of the {first['label_teacher']} teacher"
    return f"## {first['dataset']}, {first['protocol']}, {first['labels']} labels{source}"


def _caption(group: _Group) -> str:
    first = group.records[0]
    overrides = ", ".join(f"{key}={value}" for key, value in sorted((first.get("overrides") or {}).items()))
    candidates = first["candidates_per_class"]
    tiles = first["tiles"]
    crops = "one crop is an image" if tiles == 1 else f"{tiles} crops make an image"
    labels = f"{first['labels']} labels"
    if first["label_teacher"] is not None:
        accuracy = first["teacher_accuracy"]
        known = "" if accuracy is None else f", accuracy {percent(accuracy)} %"
        labels += f" of the {first['label_teacher']} teacher ({first['teacher']}{known})"
    seeds = sorted({record["seed"] for record in group.records})
    protocol = first["protocol"] + (f" with {overrides}" if overrides else "")
    return (
        f"Dataset {first['dataset']}. Protocol {protocol}; {labels}; "
        f"accuracy of the {first['epoch']} epoch. Attribution and scores by {first['scoring_teacher']}. k = {tiles} "
        f"({crops}); {'all' if candidates is None else candidates} candidates a class; KernelSHAP with "
        f"{first['coalitions']} coalitions; attribution windows of {first['crop_fraction']:g} of the side. Each seed "
        f"({', '.join(map(str, seeds))}) draws its own candidates and starts its own student.\n\n"
        "Accuracy in %, mean ± sample standard deviation over the seeds (number of seeds). Random images are whole "
        "ones, drawn at random, with the same k, labels and training."
    )


# Tables


def _table_6(group: _Group, student: str) -> str:
    rows: list[tuple[list[str], Factors]] = [
        (["random images", "", ""], RANDOM_IMAGES),
        ([NO, NO, "lowest loss"], RDED),
        ([NO, YES, "lowest loss"], Factors("loss", "lowest", SHAPLEY, NOISE)),
    ]
    for order in group.orders:
        full = infoutil(order)
        rows.append(([YES, NO, f"{order} norm"], replace(full, attribution=None, noise=None)))
        rows.append(([YES, YES, f"{order} norm"], full))
    head = ["grad-norm scoring", "attribution crops", "first", *(f"IPC {ipc}" for ipc in group.ipcs)]
    body = [[*labels, *(group.cell(setting, ipc) for ipc in group.ipcs)] for labels, setting in rows]
    return _titled(f"Table 6: scoring and cropping, {student}", [head, *body])


def _table_7(group: _Group, student: str) -> str:
    columns = {"standard": infoutil, "w/o noise": lambda order: replace(infoutil(order), noise=0.0)}
    return _by_ipc(f"Table 7: noise on the heat map, {student}", group, columns)


def _table_8(group: _Group, student: str) -> str:
    columns = {"Grad-CAM": lambda order: replace(infoutil(order), attribution="grad_cam"), "Shapley": infoutil}
    return _by_ipc(f"Table 8: attribution, {student}", group, columns)


def _by_ipc(title: str, group: _Group, columns: dict[str, Callable[[str], Factors]]) -> str:
    """A table with a row per IPC and order, and random images in the last column."""
    rows = [["first", "IPC", *columns, "random images"]]
    for order in group.orders:
        for ipc in group.ipcs:
            cells = [group.cell(setting(order), ipc) for setting in (*columns.values(), lambda order: RANDOM_IMAGES)]
            rows.append([f"{order} norm", str(ipc), *cells])
    return _titled(title, rows)


def _table_11(group: _Group) -> str:
    methods = {"random images": RANDOM_IMAGES, "RDED": RDED}
    methods |= {f"InfoUtil, {order} norm first": infoutil(order) for order in group.orders}
    rows = [["student", "method", *(f"IPC {ipc}" for ipc in group.ipcs)]]
    for student in group.students:
        mine = group.of(student)
        rows += [[student, name, *(mine.cell(each, ipc) for ipc in group.ipcs)] for name, each in methods.items()]
    return _titled("Table 11: RDED and InfoUtil by student", rows)


# What only this table shows decides whether it is printed.
TABLES: list[tuple[Callable[[_Group, str], str], Callable[[list[str]], list[Factors]]]] = [
    (
        _table_6,
        lambda orders: [
            Factors("loss", "lowest", SHAPLEY, NOISE),
            *(Factors("grad_norm", order, None, None) for order in orders),
        ],
    ),
    (_table_7, lambda orders: [replace(infoutil(order), noise=0.0) for order in orders]),
    (_table_8, lambda orders: [replace(infoutil(order), attribution="grad_cam") for order in orders]),
]


def _all_settings(group: _Group, student: str) -> str:
    rows = [["setting", *(f"IPC {ipc}" for ipc in group.ipcs), *(f"teacher on tiles, IPC {ipc}" for ipc in group.ipcs)]]
    for setting in group.settings:
        cells = [group.cell(setting, ipc) for ipc in group.ipcs]
        rows.append([setting.name, *cells, *(group.on_tiles(setting, ipc) for ipc in group.ipcs)])
    title = f"All settings, and the teacher's accuracy on the chosen tiles in %, {student}"
    return _titled(title, rows)


# Claims


def _claims(group: _Group, student: str) -> str:
    lines = [
        f"### Claims, {student}",
        "",
        "Mean difference over the seeds with its 95 % confidence interval: a paired t test where the seeds pair, else "
        "Welch's. A claim holds, or does not, where the interval of this comparison by itself leaves 0 out; else it is "
        "undecided.",
    ]
    claims = claims_of(group.orders)
    for text in dict.fromkeys(claim.text for claim in claims):
        found = [
            (JUDGED[difference.verdict], difference, f"IPC {ipc}, {claim.where}")
            for claim in claims
            if claim.text == text
            for ipc in group.ipcs
            if (difference := _difference(group, claim, ipc)) is not None
        ]
        if found:
            counts = ", ".join(f"{name} in {sum(each[0] == name for each in found)}" for name in JUDGED.values())
            lines += ["", f"**{text}** ({counts} of {len(found)}):", ""]
            lines += [f"- {where}: {judged} ({difference})" for judged, difference, where in found]
    return "\n".join(lines)


def _difference(group: _Group, claim: Claim, ipc: int) -> Difference | None:
    """How far the better setting is above the worse one; None where one of them was not measured."""
    better, worse = group.by_seed(claim.better, ipc), group.by_seed(claim.worse, ipc)
    return compare_accuracies(better, worse) if better and worse else None


# Text


def _titled(title: str, rows: Sequence[Sequence[str]]) -> str:
    return f"### {title}\n\n{markdown_table(rows)}"


def format_ablation_plan(plan: dict[str, Any]) -> str:
    """A dry run as plain text."""
    passes = plan["forward_passes"]
    return "\n".join(
        [
            f"{len(plan['settings'])} settings: {', '.join(plan['settings']) or 'none'}",
            f"label teachers: {', '.join(plan['label_teachers'])}; seeds: {plan['seeds']}",
            f"{plan['heatmaps']} sets of heat maps, {plan['scorings']} scorings of the candidates, {plan['sets']} "
            f"distilled sets, {plan['students']:,} students to train ({plan['done']:,} done)",
            f"{sum(passes.values()):,} forward passes of the teacher to distil: "
            + ", ".join(f"{count:,} for {stage}" for stage, count in passes.items()),
            f"{plan['images_seen']:,} images seen by the students while they are trained",
        ]
    )
