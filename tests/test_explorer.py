"""The explorer: what it shows of sets, and in headless Chromium, where Gradio is installed (`make space`)."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import Browser, browser, needs_chromium, tab

from decoct.explorer import build_explorer, samples_over_beta
from decoct.pages.explored import class_page, comparison_page, facts_page, open_set

__all__ = ["browser", "tab"]

ROOT = Path(__file__).parents[1]
TAB = "[...document.querySelectorAll('[role=tab]')].find(tab => tab.innerText.includes('{}')).click()"
PICTURES = "[...document.images].filter(image => image.alt.startsWith('{}') && image.naturalWidth).length"
needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs Gradio: make space")


def test_a_class_is_shown_with_origins_and_labels(runs):
    shown = open_set(str(runs / "tiles"))
    page = class_page(shown, 5, 1)
    assert page.count('class="decoct-picture pixelated"') == 5 and "1 to 5 of 5 images" in page
    assert page.count("source image ") == 20 and page.count("decoct-bars") == 20  # four tiles each
    assert shown.run.classes[1] in page and shown.run.classes[0] in page  # in the labels
    assert "decoct-picture" not in class_page(shown, 5, 1, page=2)
    assert "random images" in facts_page(shown) and "IPC 5" in facts_page(shown)


def test_two_sets_are_compared_where_they_can_be(runs):
    one, other = open_set(str(runs / "tiles")), open_set(str(runs / "views"))
    page = comparison_page(one, other, 5, 0)
    assert page.count("decoct-picture") == 10 and "<code>tiles_per_image</code>" in page
    with pytest.raises(ValueError, match=r"one of \[5\]"):
        comparison_page(one, other, 1, 0)


def test_names_of_others_are_escaped(runs):
    shown = open_set(str(runs / "tiles"))
    hostile = "<script>alert(1)</script>"
    shown.run.classes[:] = [hostile, *shown.run.classes[1:]]
    assert hostile not in class_page(shown, 5, 0) and "&lt;script&gt;" in class_page(shown, 5, 0)


def test_samples_have_a_row_for_each_beta_and_the_same_seeds_give_the_same():
    page = samples_over_beta(7, [0.0, 10.0], 2, 5)
    assert page.count("decoct-picture") == 4 and "beta 0" in page and "beta 10" in page
    first = re.findall(r'src="([^"]+)"', samples_over_beta(7, [0.0], 2, 5))
    assert re.findall(r'src="([^"]+)"', page)[:2] == first


@pytest.mark.skipif(find_spec("gradio") is not None, reason="Gradio is installed")
def test_without_gradio_the_way_to_it_is_said():
    with pytest.raises(ValueError, match=r"decoct\[space\]"):
        build_explorer([])


@pytest.fixture(scope="module")
def address(runs) -> Iterator[str]:
    """Where the Space's own program serves two sets."""
    words = [sys.executable, str(ROOT / "spaces" / "explorer" / "app.py"), str(runs / "tiles"), str(runs / "views")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    printed, limit = "", time.monotonic() + 120
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", printed)):
            assert select.select([process.stdout], [], [], max(0.0, limit - time.monotonic()))[0], printed
            line = process.stdout.readline()
            assert line, printed
            printed += line
        yield found[0]
    finally:
        process.terminate()
        process.wait(30)


def until(tab: Browser, expression: str, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not tab.value(expression):
        assert time.monotonic() < limit, f"not {expression}: {tab.value('document.body.innerText')}"
        time.sleep(0.1)


@needs_gradio
@needs_chromium
def test_a_reader_browses_samples_and_compares(tab, address):
    tab.open(address)
    until(tab, f"{PICTURES.format('Distilled image')} >= 5")
    assert "T-shirt/top" in tab.value("document.body.innerText")
    tab.value(TAB.format("Sample"))
    until(tab, "[...document.querySelectorAll('button')].some(button => button.innerText == 'Sample')")
    tab.value("[...document.querySelectorAll('button')].find(button => button.innerText == 'Sample').click()")
    until(tab, f"{PICTURES.format('Sample')} == 12")
    assert "beta 10" in tab.value("document.body.innerText")
    tab.value(TAB.format("Compare"))
    until(tab, f"{PICTURES.format('Distilled image')} >= 15")
    assert "settings differ" in tab.value("document.body.innerText")
    asked = [event["request"]["url"] for event in tab.named("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert tab.named("Runtime.exceptionThrown") == []
