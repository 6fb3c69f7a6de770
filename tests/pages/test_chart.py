"""The report's chart: accuracies of one setting over the images per class, as an SVG image."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from decoct.pages.report import write_report
from decoct.results.figures import accuracy_svg
from decoct.run.folder import write_json

from .conftest import HOSTILE
from .reading import Page

SVG = "{http://www.w3.org/2000/svg}"


def chart_of(report: Path) -> ElementTree.Element:
    """The only chart of a report."""
    ((image),) = [each for each in Page(report).all("img") if each["src"].startswith("data:image/svg+xml")]
    assert image["alt"].startswith("Accuracy over images per class")
    return ElementTree.fromstring(base64.b64decode(image["src"].split(",")[1]))


def points_of(path: ElementTree.Element) -> np.ndarray:
    """The points of a path, `(points, 2)`."""
    return np.array(re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"]), dtype=float)


def ticks_of(chart: ElementTree.Element, axis: str) -> list[tuple[str, np.ndarray]]:
    """Text and place of the ticks of an axis."""
    groups = [each for each in chart.iter(f"{SVG}g") if each.get("id", "").startswith(f"{axis}tick")]
    marks = [next(iter(each.iter(f"{SVG}use"))) for each in groups]
    texts = ["".join(next(iter(each.iter(f"{SVG}text"))).itertext()) for each in groups]
    return [
        (text, np.array([mark.attrib["x"], mark.attrib["y"]], float)) for text, mark in zip(texts, marks, strict=True)
    ]


def lines_of(chart: ElementTree.Element) -> list[tuple[str, np.ndarray]]:
    """Style and points of the lines with a mark for each point."""
    groups = [each for each in chart.iter(f"{SVG}g") if each.get("id", "").startswith("line2d")]
    marked = [each for each in groups if each.find(f"{SVG}path") is not None and len(list(each.iter(f"{SVG}use"))) > 1]
    paths = [each.find(f"{SVG}path") for each in marked]
    return [(path.attrib["style"], points_of(path)) for path in paths if path is not None]


def bands_of(chart: ElementTree.Element) -> list[np.ndarray]:
    """The outlines of the bands around lines."""
    groups = [each for each in chart.iter(f"{SVG}g") if each.get("id", "").startswith("FillBetween")]
    outlines, places = ([next(each.iter(f"{SVG}{tag}")) for each in groups] for tag in ("path", "use"))
    return [
        points_of(outline) + np.array([place.attrib["x"], place.attrib["y"]], float)
        for outline, place in zip(outlines, places, strict=True)
    ]


def test_lines_bands_and_ticks_stand_at_the_accuracies(copied, make_record):
    folder = copied("random")
    ipcs = [1, 10, 100]
    records = [make_record(ipc, [0.2 + 0.1 * n, 0.4 + 0.1 * n], [0.1]) for n, ipc in enumerate(ipcs)]
    write_json(folder / "results.json", records)
    chart = chart_of(write_report(folder))
    assert chart.get("viewBox") and chart.find(f"{SVG}title") is not None
    (solid, made), (dashed, random) = lines_of(chart)
    assert "stroke-dasharray" in dashed and "stroke-dasharray" not in solid
    places = ticks_of(chart, "x")
    assert [text for text, _ in places] == ["1", "10", "100"]
    assert [place[0] for _, place in places] == pytest.approx(made[:, 0], abs=0.2)
    assert made[1, 0] - made[0, 0] == pytest.approx(made[2, 0] - made[1, 0], abs=0.2), "the axis is logarithmic"
    (low, low_place), *_, (high, high_place) = ticks_of(chart, "y")

    def value(y: np.ndarray) -> np.ndarray:
        return float(low) + (low_place[1] - y) / (low_place[1] - high_place[1]) * (float(high) - float(low))

    assert value(made[:, 1]) == pytest.approx([30, 40, 50], abs=0.3)
    assert value(random[:, 1]) == pytest.approx([10, 10, 10], abs=0.3)
    band, flat = (np.unique(np.round(value(points[:, 1]), 1)) for points in bands_of(chart))
    assert [band[0], band[-1]] == pytest.approx([30 - 14.14, 50 + 14.14], abs=0.3)
    assert flat == pytest.approx([10], abs=0.1), "one seed has no spread"


def test_the_same_records_draw_the_same_chart_whatever_their_version(make_record):
    records = [make_record(ipc, [0.4, 0.5], [0.3]) for ipc in (1, 10)]
    assert accuracy_svg(records) == accuracy_svg(records)
    known = [
        record | {"config_hash": f"{row}", "run": "here", "baseline": record["baseline"] | {"config_hash": f"b{row}"}}
        for row, record in enumerate(records)
    ]
    assert accuracy_svg(known) == accuracy_svg(records)


def test_many_students_leave_room_for_the_axes(make_record):
    records = [
        make_record(ipc, [0.4, 0.5], [0.3], student=f"resnet{student}_imagenet", baseline_note="")
        for student in range(12)
        for ipc in (1, 10)
    ]
    chart = ElementTree.fromstring(accuracy_svg(records))
    lines = lines_of(chart)
    assert len(lines) == 24 and sum("stroke-dasharray" in style for style, _ in lines) >= 12
    (_, low), *_, (_, high) = ticks_of(chart, "y")
    assert low[1] - high[1] > 60


@pytest.mark.parametrize("name", [*HOSTILE, "$x^2$ \\frac", "_hidden", "\x00\x1b[31m", "n" * 500])
def test_hostile_names_stay_text(make_record, name):
    records = [make_record(ipc, [0.5], student=name, method=name, dataset=name, protocol=name) for ipc in (1, 3)]
    chart = ElementTree.fromstring(accuracy_svg([*records, make_record(1, [0.4], dataset=name, protocol=name)]))
    tags = {each.tag.removeprefix(SVG) for each in chart.iter() if each.tag.startswith(SVG)}
    assert tags <= {
        "svg",
        "title",
        "metadata",
        "defs",
        "style",
        "g",
        "path",
        "use",
        "text",
        "tspan",
        "clipPath",
        "rect",
    }
    links = [value for each in chart.iter() for key, value in each.attrib.items() if key.endswith("href")]
    assert links and all(link.startswith("#") for link in links)
    assert not any(key.startswith("on") for each in chart.iter() for key in each.attrib)


def test_a_setting_of_one_ipc_has_none(copied, make_record):
    folder = copied("random")
    write_json(folder / "results.json", [make_record(3, [0.5]), make_record(3, [0.6], method="rded")])
    assert not Page(write_report(folder)).all("figure", class_="chart")


def test_the_charts_of_two_settings_share_no_ids_with_the_page(copied, make_record):
    folder = copied("random")
    records: list[dict[str, Any]] = [
        make_record(ipc, [0.5], labels=labels) for ipc in (1, 3) for labels in ("views", "hard")
    ]
    write_json(folder / "results.json", records)
    page = Page(write_report(folder))
    assert len(page.all("figure", class_="chart")) == 2
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert (folder / "report.html").stat().st_size < 200_000
