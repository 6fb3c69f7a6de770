"""Which characters a class name may have, so that cards, reports and errors can show it as it is."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from decoct.files import shown

__all__ = ["check_names", "is_showable", "unshowable"]

# Joiners of Persian and the scripts of India, word breaks of Thai and Khmer, single direction marks, the soft hyphen.
MARKS = frozenset("\u00ad\u061c\u200b\u200c\u200d\u200e\u200f\u2060")


def is_showable(character: str) -> bool:
    """Whether a character shows, is a space of any width, or joins and parts those beside it, on one line.

    Control characters, line separators, lone surrogates and the marks that turn whole lines around (U+202A to U+202E,
    U+2066 to U+2069) are none of these.
    """
    return character.isprintable() or unicodedata.category(character) == "Zs" or character in MARKS


def unshowable(name: str) -> str | None:
    """The first character of a name that cannot be shown, as `U+000A`; None if there is none."""
    return next((f"U+{ord(each):04X}" for each in name if not is_showable(each)), None)


def check_names(names: Sequence[str], where: str) -> None:
    """Raises ValueError for a class name that cards and pictures cannot show, and so cannot be published.

    Args:
        where: What has the names, for the message.
    """
    for label, name in enumerate(names):
        if found := unshowable(name):
            raise ValueError(
                f"Class names of {where} must have no control characters or marks that turn a line around. Got {found} "
                f"in {shown(name)!r}, label {label}: rename it, by "
                "`ds.cast_column('label', datasets.ClassLabel(names=...))` or in its folder."
            )
