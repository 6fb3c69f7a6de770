"""The figure of the beta study: accuracy against the contextual score (IGDS, Fig. 2)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["save_beta_study"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito


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
        for color, ipc in zip(_colors(len(ipcs)), ipcs, strict=True):
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
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=120, facecolor="white", metadata={"Software": None})


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


def _figure(width: float, height: float) -> Figure:
    """A figure in inches that needs no display."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _colors(count: int) -> list[str]:
    return [COLORS[number % len(COLORS)] for number in range(count)]
