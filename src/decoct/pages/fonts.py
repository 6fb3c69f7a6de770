"""Fonts for class names in pictures: those that are installed here, by the characters that they have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from matplotlib.font_manager import findfont, fontManager, get_font

__all__ = ["drawable"]

BUNDLED = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDERS = "Last Resort"  # has a box with a code for every character


def drawable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names as a picture can show them, and the font families to draw them with.

    A name with a character that no installed font has becomes `class N`, counted from 1: the card lists the names in
    the same order.
    """
    families, missing = [BUNDLED], {ord(each) for each in "".join(names) if each.isprintable() and not each.isspace()}
    missing -= characters_of(findfont(BUNDLED))
    for font in sorted(fontManager.ttflist, key=lambda font: (font.name, font.fname)) if missing else ():
        if font.name.startswith(PLACEHOLDERS) or not missing & characters_of(font.fname):
            continue
        families.append(font.name)
        missing -= characters_of(font.fname)
    shown = [f"class {number}" if missing & set(map(ord, name)) else name for number, name in enumerate(names, start=1)]
    return shown, families


@cache
def characters_of(file: str) -> frozenset[int]:
    """The characters that a font file has."""
    return frozenset(get_font(file).get_charmap())
