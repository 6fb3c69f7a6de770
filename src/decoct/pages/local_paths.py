"""Paths of the machine that made something, which no published file shows.

`/home/me/runs/teacher` becomes `path/to/teacher`.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["PLACE", "without_local_paths"]

# Of three parts with the name, so that it is no Hub id.
PLACE = "path/to/"
# Their names are data and may look like anything, `/m/01g317` too.
LABELS = ("label_names", "teacher_label_names", "id2label", "label2id")

START = r"(?:file:/|/|~[\w.-]*[/\\]|[A-Za-z]:[/\\]|\\\\|(?:\.\.?[/\\])*\.\.[/\\])"
WHOLE = re.compile(rf"{START}[^\n]*|~|\.\.|[^\n]*[/\\]\.\.(?:[/\\][^\n]*)?")
QUOTED = re.compile(rf"(['\"`])({START}[^\n]*?)\1")
JOINED = " + "  # between the names of networks that label together
SEVERAL = re.compile(rf"{re.escape(JOINED)}(?={START})")
BARE = re.compile(rf"(?<![^\s=(,;\[])({START}(?:[^\s'\"`,;()\[\]]*[/\\])?[^\s'\"`,;()\[\]]*[^\s'\"`,;()\[\].:])")


def without_local_paths(value: Any) -> Any:
    """JSON-ready values in which a path from the root, the home or a parent folder is `path/to/` and its last part.

    Paths inside a text, such as an error's, are found by their quotes or up to the next blank. Hub ids, paths that
    begin in the working folder and label names stay.
    """
    if isinstance(value, dict):
        shown = {key: each if key in LABELS else without_local_paths(each) for key, each in value.items()}
        if "name" in shown and shown.get("members"):  # a name made of names, of which a path may end anywhere
            shown["name"] = JOINED.join(str(each["name"]) for each in shown["members"])
        return shown
    if isinstance(value, list):
        return [without_local_paths(each) for each in value]
    if not isinstance(value, str):
        return value
    if WHOLE.fullmatch(value):
        return JOINED.join(shortened(path) for path in SEVERAL.split(value))
    text = QUOTED.sub(lambda found: f"{found[1]}{shortened(found[2])}{found[1]}", value)
    return BARE.sub(lambda found: shortened(found[1]), text)


def shortened(path: str) -> str:
    """The last part of a path, after `path/to/`."""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..", "~", "file:")]
    return PLACE + (parts[-1] if parts else "folder")
