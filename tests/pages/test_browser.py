"""The report in headless Chromium: what a reader sees, with and without its script, and that it asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Browser, browser, needs_chromium, tab

from decoct.pages.report import write_report
from decoct.run.folder import write_json

pytestmark = needs_chromium

__all__ = ["browser", "tab"]


@pytest.fixture
def evaluated(copied, make_record) -> Callable[[str], Path]:
    """`evaluated(method)`: the report of a run folder with results."""

    def report(method: str) -> Path:
        folder = copied(method)
        records = [make_record(ipc, [0.4 + ipc / 20, 0.41 + ipc / 20], [0.3, 0.33], method=method) for ipc in (1, 3)]
        write_json(folder / "results.json", records)
        return write_report(folder)

    return report


def assert_quiet(tab: Browser) -> None:
    """Nothing but the file itself was asked for, and nothing was said on the console."""
    requested = [event["request"]["url"] for event in tab.named("Network.requestWillBeSent")]
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in requested if url.startswith("file:")]) == 1
    assert tab.named("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []
    assert tab.named("Page.javascriptDialogOpening") == []


SHOWN = "[...document.querySelectorAll('.label')].filter(label => label.checkVisibility()).map(label => label.id)"
ALL = "[...document.querySelectorAll('.label')].map(label => label.id)"


@pytest.mark.parametrize("method", ["infoutil", "random", "igds"])
def test_report_is_drawn_without_network_and_errors(tab, evaluated, method):
    tab.open(evaluated(method))
    assert_quiet(tab)
    assert tab.value("document.querySelector('h1').innerText").endswith("distilled to 1 or 3 images per class")
    assert ".Soft" not in tab.value("document.body.textContent"), "a blank parts two sentences"
    chart, *pictures = tab.value("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert chart > 400 and set(pictures) == {28}
    assert tab.value("[...document.querySelectorAll('svg image')].every(image => image.getBBox().width === 28)")
    assert tab.value("document.querySelectorAll('.chart img').length") == 1
    assert len(tab.value(SHOWN)) == tab.value("document.querySelectorAll('.image').length") > 0, "one label per image"
    assert tab.value("document.documentElement.scrollWidth") == 1280
    bars = "[...document.querySelectorAll('.label:not([hidden]) .bar')].map(bar => bar.getBoundingClientRect().height)"
    assert set(tab.value(bars)) == {4}


def test_labels_by_mouse_keyboard_and_touch(tab, evaluated):
    tab.open(evaluated("infoutil"))
    first = tab.value(ALL)[:4]
    assert set(tab.value(SHOWN)) & set(first) == {first[0]}
    place = tab.value(
        "(() => { const tile = document.querySelectorAll('.tile')[2]; tile.scrollIntoView({behavior: 'instant'});"
        "const box = tile.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    assert set(tab.value(SHOWN)) & set(first) == {first[2]}, "pointed at"
    assert tab.value("document.querySelector('.origin-of.chosen').dataset.tile") == first[2]
    tab.value("document.querySelectorAll('.tile')[0].focus()")
    for kind in ("keyDown", "keyUp"):
        tab.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert tab.value("document.activeElement.getAttribute('aria-controls')") == first[1]
    assert set(tab.value(SHOWN)) & set(first) == {first[1]}, "reached by Tab"
    assert tab.value("[...document.querySelectorAll('.image .tile[aria-pressed=true]')].length") == 8
    tab.value("document.querySelectorAll('.tile')[3].click()")
    assert set(tab.value(SHOWN)) & set(first) == {first[3]}, "tapped"
    assert_quiet(tab)


def test_readable_without_its_script(tab, evaluated):
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(evaluated("infoutil"))
    assert tab.value(SHOWN) == tab.value(ALL), "all labels are shown"
    assert not tab.value("document.querySelector('.scripted').checkVisibility()")


def test_dark_and_narrow(tab, evaluated):
    path = evaluated("infoutil")
    colors = []
    for scheme in ("light", "dark"):
        tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.open(path)
        style = "getComputedStyle(document.body)"
        colors.append(
            [sum(map(int, tab.value(f"{style}.{name}.match(/\\d+/g)"))) for name in ("backgroundColor", "color")]
        )
    (light_paper, light_ink), (dark_paper, dark_ink) = colors
    assert light_paper > 700 > 120 > light_ink
    assert dark_paper < 120 < 600 < dark_ink
    tab.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    tab.open(path)
    assert tab.value("document.documentElement.scrollWidth") == 360, "nothing is cut off or scrolls sideways"
    assert tab.value("document.querySelector('.tile').getBoundingClientRect().width") >= 44, "wide enough for a finger"


def test_hostile_names_stay_text(tab, hostile):
    tab.open(hostile / "report.html")
    assert_quiet(tab)
    names = [" ".join(name.split()) for name in json.loads((hostile / "manifest.json").read_text())["label_names"]]
    shown = tab.value("[...document.querySelectorAll('h3 bdi')].map(name => name.textContent)")
    assert [" ".join(name.split()) for name in shown] == names
    assert tab.value("document.querySelectorAll('main script, main img[src=x], main b b').length") == 0
    assert tab.value("document.scripts.length") == 2
    assert len(tab.value(SHOWN)) == tab.value("document.querySelectorAll('.image').length") == 8
    assert tab.value("document.documentElement.scrollWidth") == 1280
