"""Figures of records: accuracy over images per class, teacher × student heat maps, the beta study (IGDS, Fig. 2)."""

from __future__ import annotations

import io
import itertools
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from decoct.results.comparison import Series, series_of, with_baselines
from decoct.results.statistics import mean_and_std
from decoct.run.files import written_whole

__all__ = [
    "accuracy_figure",
    "accuracy_svg",
    "save_accuracy_curves",
    "save_beta_study",
    "save_matrices",
    "save_option_curves",
]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "-.", ":")
BASELINE_GREYS = ("0.25", "0.5", "0.7")
REPORTED_MARKERS = ("*", "p", "h", "d", "<", ">")
# Accuracies are drawn over at least so many points.
SMALLEST_RANGE = 10.0
Reported = Mapping[str, Mapping[int, tuple[float, float | None]]]


def save_accuracy_curves(
    path: str | os.PathLike[str], series: Sequence[Series], student: str, title: str, reported: Reported | None = None
) -> None:
    """Accuracy of one student over the images per class as a PNG, as `accuracy_figure` draws it."""
    _save(accuracy_figure(series, student, title, reported), path)


def accuracy_svg(records: Sequence[dict[str, Any]]) -> str:
    """Accuracy over the images per class as SVG for a page: every student and method of one setting's records.

    Random images stand beside each as a dashed line. The same records give the same text; nothing in it refers to
    another file. Records of older versions, without `run` and `config_hash`, are told apart by their order.

    Raises:
        ValueError: If the records are of several settings, or there are none.
    """
    students = sorted({record["student"] for record in records})
    figure = _figure(6.6, 3.4)
    axes = figure.add_subplot()
    known = [
        {
            **{"run": "", "config_hash": f"record {row}"},
            **record,
            "baseline": record.get("baseline") and {"config_hash": f"baseline {row}", **record["baseline"]},
        }
        for row, record in enumerate(records)
    ]
    _draw_series(axes, series_of(with_baselines(known)), students)
    _finish(axes)
    legend = figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    figure.set_figheight(3.2 + 0.1 * len(legend.get_texts()))  # a legend of many lines takes no room from the axes
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "decoct", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": "Accuracy"})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def accuracy_figure(series: Sequence[Series], student: str, title: str, reported: Reported | None = None) -> Figure:
    """Accuracy of one student over the images per class, a band of one standard deviation around each mean.

    Args:
        series: One line each; the random baseline is dashed, and a mean of one seed has no band.
        student: Whose accuracies are drawn.
        title: What all lines share.
        reported: Other people's means and deviations (fractions) by label and images per class, as open marks.
    """
    figure = _figure(9.0, 4.6)
    axes = figure.add_subplot()
    _draw_series(axes, series, [student])
    for position, (label, cells) in enumerate((reported or {}).items()):
        axes.plot(
            list(cells),
            [100 * mean for mean, _ in cells.values()],
            color="black",
            linestyle="none",
            marker=REPORTED_MARKERS[position % len(REPORTED_MARKERS)],
            markersize=9,
            markerfacecolor="none",
            label=_text(label, 34),
        )
    _finish(axes)
    axes.set_title(_text(f"{student} on {title}", 84), fontsize=9, loc="left")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _draw_series(axes: Any, series: Sequence[Series], students: Sequence[str]) -> None:
    """A line for each series and student; what tells them apart stands in the legend."""
    teachers = {row.teacher for row in series}
    lines, baselines = 0, 0
    ipcs: set[int] = set()
    for row, student in itertools.product(series, students):
        points = sorted((each for each in row.records if each["student"] == student), key=lambda each: each["ipc"])
        if not points:
            continue
        label = row.label if len(teachers) == 1 else f"{row.label} (teacher {row.teacher})"
        label = label if len(students) == 1 else f"{label}, {student}"
        style = _baseline_style(baselines) if row.is_baseline else _style(lines)
        baselines, lines = baselines + row.is_baseline, lines + (not row.is_baseline)
        _draw(axes, points, label, style)
        ipcs |= {point["ipc"] for point in points}
    axes.set(xscale="log")
    axes.set_xticks(sorted(ipcs), [f"{ipc}" for ipc in sorted(ipcs)])
    if len(ipcs) == 1:  # a log axis around one point has no natural limits
        axes.set_xlim(min(ipcs) / 2, min(ipcs) * 2)


def _finish(axes: Any) -> None:
    """Names and limits of the axes."""
    axes.set(xlabel="images per class", ylabel="accuracy on real test images, %")
    axes.minorticks_off()
    low, high = axes.get_ylim()
    if high - low < SMALLEST_RANGE:  # so that noise does not look like a difference
        axes.set_ylim((low + high - SMALLEST_RANGE) / 2, (low + high + SMALLEST_RANGE) / 2)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Any, points: Sequence[Mapping[str, Any]], label: str, style: dict[str, Any]) -> None:
    """One line with its band, or one mark with its error bar."""
    ipcs = [point["ipc"] for point in points]
    means = 100 * np.array([point["accuracy_mean"] for point in points])
    stds = 100 * np.array([point["accuracy_std"] if len(point["seeds"]) > 1 else 0.0 for point in points])
    axes.plot(ipcs, means, **style, markersize=5, linewidth=1.6, label=_text(label, 34))
    if len(points) == 1:
        axes.errorbar(ipcs, means, yerr=stds if stds[0] else None, color=style["color"], capsize=3, linestyle="none")
    else:
        axes.fill_between(ipcs, means - stds, means + stds, color=style["color"], alpha=0.15, linewidth=0)


def save_matrices(
    path: str | os.PathLike[str], by_ipc: Mapping[int, Sequence[Mapping[str, Any]]], label: str, title: str
) -> None:
    """Accuracy by teacher (rows) and student (columns) of one method, one panel for each number of images per class.

    Args:
        path: PNG to write.
        by_ipc: Records with `teacher_model`, `student` and `accuracy_mean`; all panels share rows, columns and colours.
        label: The method.
        title: What all cells share.
    """
    records = [record for members in by_ipc.values() for record in members]
    teachers = sorted({record["teacher_model"] for record in records})
    students = sorted({record["student"] for record in records})
    values = [100 * record["accuracy_mean"] for record in records]
    low, high = min(values), max(max(values), min(values) + 1)
    width = max(6.0, 1.5 + len(by_ipc) * max(2.2, 0.95 * len(students)))
    figure = _figure(width, 2.3 + 0.5 * len(teachers))
    panels = figure.subplots(1, len(by_ipc), squeeze=False, sharey=True)[0]
    for panel, (ipc, members) in zip(panels, by_ipc.items(), strict=True):
        grid = np.full((len(teachers), len(students)), np.nan)
        for record in members:
            grid[teachers.index(record["teacher_model"]), students.index(record["student"])] = record["accuracy_mean"]
        picture = panel.imshow(100 * grid, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        for (row, column), value in np.ndenumerate(100 * grid):
            dark = np.isfinite(value) and value < (low + high) / 2
            shown = f"{value:.1f}" if np.isfinite(value) else "-"
            panel.text(column, row, shown, ha="center", va="center", color="white" if dark else "black")
        panel.set_xticks(range(len(students)), [_text(name, 18) for name in students], rotation=30, ha="right")
        panel.set_yticks(range(len(teachers)), [_text(name, 18) for name in teachers])
        panel.set_title(f"IPC {ipc}", fontsize=10)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    panels[0].set_ylabel("teacher")
    figure.supxlabel("student", fontsize=10)
    figure.colorbar(picture, ax=panels, label="accuracy, %")
    figure.suptitle(_text(f"{label} on {title}", int(11 * width)), fontsize=10)
    _save(figure, path)


def _style(number: int) -> dict[str, Any]:
    """Colour, line and mark of a line, different for the first 21."""
    color = COLORS[number % len(COLORS)]
    return {
        "color": color,
        "linestyle": LINES[number // len(COLORS) % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def _baseline_style(number: int) -> dict[str, Any]:
    """A dashed grey line, a lighter one for the baseline of a further teacher."""
    return {"color": BASELINE_GREYS[number % len(BASELINE_GREYS)], "linestyle": "--", "marker": "x+1"[number % 3]}


def _text(text: str, width: int) -> str:
    """Text as it is, without formulas, wrapped, six lines at most."""
    line = "".join(each if each.isprintable() else " " for each in text)  # SVG must not hold control characters
    line = " ".join(line.split()).replace(" %", "\u00a0%")
    wrapped = textwrap.wrap(line, width, max_lines=6, placeholder=" ...")
    # Matplotlib reads `$` as a formula and leaves labels with a leading underscore out of a legend.
    shown = "\n".join(wrapped).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def save_beta_study(path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy against the contextual score for each IPC with the best marked, and the best score over IPC (Fig. 2).

    Args:
        path: PNG to write.
        records: With `student`, `ipc`, `contextual` (nats), `accuracy_mean` and `accuracy_std` (fractions); a row of
            panels for each student.

    Raises:
        ValueError: If there are no records.
    """
    if not records:
        raise ValueError("records must be one or more subsets. Got none.")
    students = list(dict.fromkeys(record["student"] for record in records))
    figure = _figure(9.0, 3.4 * len(students))
    axes = figure.subplots(len(students), 2, squeeze=False)
    for student, panels in zip(students, axes, strict=True):
        members = [record for record in records if record["student"] == student]
        ipcs = sorted({record["ipc"] for record in members})
        best = []
        for color, ipc in zip(itertools.cycle(COLORS), ipcs, strict=False):
            line = sorted((each for each in members if each["ipc"] == ipc), key=lambda each: each["contextual"])
            best.append(_draw_ipc(panels[0], line, ipc, color))
        panels[0].set(title=student, ylabel="accuracy, %", xlabel="contextual score of the subset, nats")
        panels[0].legend(fontsize=8, frameon=False)
        panels[1].plot(ipcs, best, color="0.4", marker="*", markersize=11)
        panels[1].set(xscale="log", xlabel="images per class", ylabel="best contextual score, nats")
        panels[1].set_xticks(ipcs, map(str, ipcs))
        panels[1].minorticks_off()
        for panel in panels:
            panel.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _draw_ipc(panel: Any, line: Sequence[Mapping[str, Any]], ipc: int, color: str) -> float:
    """Draws one IPC's accuracies, a star on the best; returns the best's contextual score."""
    scores = [record["contextual"] for record in line]
    accuracies = [100 * record["accuracy_mean"] for record in line]
    errors = [100 * record["accuracy_std"] for record in line]
    panel.errorbar(
        scores, accuracies, yerr=errors, color=color, marker="o", markersize=4, capsize=2, label=f"IPC {ipc}"
    )
    top = int(np.argmax(accuracies))
    panel.plot(scores[top], accuracies[top], color=color, marker="*", markersize=13)
    return float(scores[top])


def save_option_curves(
    path: str | os.PathLike[str],
    records: Sequence[Mapping[str, Any]],
    over: str,
    curve: str,
    lines: Sequence[str] = (),
    points: Sequence[Mapping[str, Any]] = (),
    logarithmic: bool = False,
) -> None:
    """Accuracy over an option that a grid varies, mean and standard deviation: a panel per label mode and IPC.

    Args:
        path: PNG to write.
        records: Of single students, with the option and `setting`, `labels`, `ipc`, `tiles` and `accuracy_mean`.
        over: The option; one that the records' `options` do not hold is measured, and is averaged over a setting.
        curve: Name of a record's curve; `{option}` stands for its value.
        lines: Settings that the option has no part in, drawn as a line each.
        points: What others report: `name`, `accuracy` in percent, a value for the option and, for one panel alone,
            `ipc`.
        logarithmic: Whether the option's axis is.
    """
    modes, ipcs = (list(dict.fromkeys(record[name] for record in records)) for name in ("labels", "ipc"))
    figure = Figure(figsize=(1.2 + 3.6 * len(ipcs), 0.6 + 3.2 * len(modes)))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(modes), len(ipcs), squeeze=False)
    shared: dict[str, Any] = {}
    # A curve and a point look the same in all panels, which have one legend.
    colors, greys = itertools.cycle(COLORS), itertools.cycle(BASELINE_GREYS)
    drawn = sorted({_curve_of(record, curve, lines) for record in records})
    color_of = {(name, tiles): next(greys if name in lines else colors) for name, tiles in drawn}
    marker_of = dict(zip(dict.fromkeys(point["name"] for point in points), itertools.cycle("sDv^P*Xph"), strict=False))
    for (row, labels), (column, ipc) in itertools.product(enumerate(modes), enumerate(sorted(ipcs))):
        panel = axes[row][column]
        members = [record for record in records if (record["labels"], record["ipc"]) == (labels, ipc)]
        _draw_option(panel, members, over, curve, lines, color_of)
        for point in points:
            name = point["name"]
            if point.get("ipc", ipc) == ipc:
                panel.plot(point[over], point["accuracy"], marker_of[name], color="black", fillstyle="none", label=name)
        if logarithmic:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set(title=f"IPC {ipc}, labels {labels}", xlabel=over, ylabel="" if column else "accuracy, %")
        panel.spines[["top", "right"]].set_visible(False)
        shared |= {name: handle for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(shared.values(), shared.keys(), loc="lower center", ncols=3, fontsize=8, frameon=False)
    rows = (len(shared) + 2) // 3
    figure.tight_layout(rect=(0, (0.1 + 0.2 * rows) / figure.get_figheight(), 1, 1))
    _save(figure, path)


def _curve_of(record: Mapping[str, Any], curve: str, lines: Sequence[str]) -> tuple[str, int]:
    """Name and tiles of the curve or line that a record belongs to."""
    return record["setting"] if record["setting"] in lines else curve.format_map(record), record["tiles"]


def _draw_option(
    panel: Any,
    records: Sequence[Mapping[str, Any]],
    over: str,
    curve: str,
    lines: Sequence[str],
    color_of: Mapping[tuple[str, int], str],
) -> None:
    """The curves and lines of one panel; those of packed tiles are named, and their lines dotted."""
    groups: dict[tuple[str, int], dict[Any, list[Mapping[str, Any]]]] = {}
    for record in records:
        # Of an option that is not set but measured, as bytes are, seeds differ.
        place = record[over] if over in record.get("options", {}) else record["setting"]
        groups.setdefault(_curve_of(record, curve, lines), {}).setdefault(place, []).append(record)
    several_tiles = len({tiles for _, tiles in groups}) > 1
    for (name, tiles), places in sorted(groups.items()):
        points = []
        for members in places.values():
            accuracies = [100 * record["accuracy_mean"] for record in members]
            value = 0.0 if name in lines else mean_and_std([record[over] for record in members])[0]
            points.append((value, *mean_and_std(accuracies)))
        values, means, stds = zip(*sorted(points), strict=True)
        label = f"{name}, {tiles} tile{'s' if tiles > 1 else ''}" if several_tiles else name
        color = color_of[name, tiles]
        if name in lines:
            panel.axhline(means[0], color=color, linestyle=":" if tiles > 1 else "--", label=label)
            panel.axhspan(means[0] - stds[0], means[0] + stds[0], color=color, alpha=0.12, linewidth=0)
        else:
            style: dict[str, Any] = {"color": color, "marker": "o", "markersize": 4, "capsize": 2}
            panel.errorbar(values, means, yerr=stds, label=label, **style)


def _figure(width: float, height: float) -> Figure:
    """A figure in inches that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with written_whole(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=120, facecolor="white", metadata={"Software": None})
