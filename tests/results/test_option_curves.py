"""Accuracy over an option that a grid varies: curves, lines, and the points that others report."""

from __future__ import annotations

import pytest
from matplotlib.axes import Axes

from decoct.results.figures import save_option_curves


def record(ipc, setting, accuracy, size):
    shared = {"labels": "mixed", "tiles": 1, "ipc": ipc}
    return {**shared, "setting": setting, "accuracy_mean": accuracy, "bytes": size, "method": setting}


@pytest.fixture
def drawn(monkeypatch):
    """Values of what is plotted as a marker of its own, by label, and the scale of each panel's axis."""
    points, scales = [], []
    plot, set_xscale = Axes.plot, Axes.set_xscale

    def record_plot(axes, *arguments, **options):
        if options.get("fillstyle") == "none":
            points.append((options["label"], *arguments[:2]))
        return plot(axes, *arguments, **options)

    def record_scale(axes, scale, **options):
        scales.append(scale)
        return set_xscale(axes, scale, **options)

    monkeypatch.setattr(Axes, "plot", record_plot)
    monkeypatch.setattr(Axes, "set_xscale", record_scale)
    return points, scales


def test_reported_points_stand_in_the_panel_of_their_ipc_or_in_all(drawn, tmp_path):
    records = [record(ipc, "infoutil", 0.5 + ipc / 100, 1000 * ipc) for ipc in (1, 10)]
    reported = [
        {"name": "DATM", "ipc": 1, "accuracy": 46.9, "bytes": 31120},
        {"name": "the teacher", "accuracy": 82.0, "bytes": 640000},
    ]
    file = tmp_path / "curves.png"
    save_option_curves(file, records, "bytes", "{method}", points=reported, logarithmic=True)
    points, scales = drawn
    assert points == [("DATM", 31120, 46.9), *[("the teacher", 640000, 82.0)] * 2]
    assert scales.count("log") == 2
    assert file.read_bytes().startswith(b"\x89PNG")


def test_an_axis_is_linear_unless_it_is_said(drawn, tmp_path):
    save_option_curves(tmp_path / "curves.png", [record(1, "infoutil", 0.5, 10)], "bytes", "{method}")
    assert drawn == ([], [])


def test_seeds_of_a_setting_are_a_point_at_the_mean_of_what_is_measured(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(Axes, "errorbar", lambda axes, *arguments, **options: drawn.append((*arguments, options)))
    measured = [("few", 0.5, 10), ("many", 0.7, 40), ("few", 0.6, 14), ("many", 0.7, 44)]
    records = [{**record(1, name, *values), "method": "infoutil"} for name, *values in measured]
    save_option_curves(tmp_path / "curves.png", records, "bytes", "{method}")
    ((values, means, options),) = drawn
    assert (
        values == (12, 42)
        and means == pytest.approx((55, 70))
        and options["yerr"] == pytest.approx((7.07, 0), abs=0.01)
    )
    drawn.clear()
    varied = [{**each, "setting": "all", "options": {"bytes": each["bytes"]}} for each in records]
    save_option_curves(tmp_path / "curves.png", varied, "bytes", "{method}")
    assert drawn[0][0] == (10, 14, 40, 44)


def test_a_curve_and_a_point_look_the_same_in_all_panels(monkeypatch, tmp_path):
    """One legend serves all panels, of which some lack a curve or a point."""
    looks: dict[str, set[object]] = {}
    plot, errorbar = Axes.plot, Axes.errorbar

    def record_plot(axes, *arguments, **options):
        if options.get("fillstyle") == "none":
            looks.setdefault(options["label"], set()).add(arguments[2])
        return plot(axes, *arguments, **options)

    def record_errorbar(axes, *arguments, **options):
        looks.setdefault(options["label"], set()).add(options["color"])
        return errorbar(axes, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", record_plot)
    monkeypatch.setattr(Axes, "errorbar", record_errorbar)
    records = [record(1, "infoutil", 0.5, 10), record(1, "random", 0.4, 10), record(10, "random", 0.6, 100)]
    reported = [
        {"name": "RaT-BPTT", "ipc": 1, "accuracy": 53.2, "bytes": 30720},
        {"name": "DATM", "ipc": 1, "accuracy": 46.9, "bytes": 31120},
        {"name": "DATM", "ipc": 10, "accuracy": 66.8, "bytes": 311200},
    ]
    save_option_curves(tmp_path / "curves.png", records, "bytes", "{method}", points=reported)
    assert {name: len(each) for name, each in looks.items()} == {"infoutil": 1, "random": 1, "RaT-BPTT": 1, "DATM": 1}
    assert len(set.union(*looks.values())) == 4, "and like no other"
