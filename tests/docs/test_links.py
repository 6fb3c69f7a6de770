"""Links between the pages of the repository lead to files and headings that are there."""

from __future__ import annotations

import re

import pytest

from .reading import PAGES, ROOT

OTHERS = [ROOT / "CHANGELOG.md", ROOT / "src" / "decoct" / "data" / "sample" / "README.md"]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue  # of the web, which tests do not ask
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} of {page.name}"
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), f"{link} of {page.name}"


def test_the_readme_fits_a_screen_and_a_half_and_shows_a_picture_on_the_first():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("![") for line in lines[:12])
    assert (ROOT / "docs" / "preview.png").stat().st_size < 100_000
