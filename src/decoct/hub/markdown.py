"""Text of others as Markdown, Python and shell words that show it and do nothing else."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

__all__ = ["code", "escape", "listed_labels", "one_line", "python_string", "shell_block", "shell_word"]

LABELS_SHOWN = 50


def one_line(text: object) -> str:
    """Text on one line, without control characters and marks that turn its direction."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(printable.split())


def escape(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&])", r"\\\1", one_line(text))


def code(text: object) -> str:
    """Text as a Markdown code span that is safe in a table cell."""
    line = one_line(text).replace("|", r"\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def python_string(text: str) -> str:
    """Text as a Python string literal, on one line; every character that would not show is an escape."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else ascii(text)


def shell_word(text: str) -> str:
    """Text as one word of a shell command, on one line."""
    return shlex.quote(one_line(text))


def shell_block(parts: Sequence[str]) -> str:
    """Words of a command that are quoted already, one part a line; empty if a part would not show as it is."""
    return " \\\n    ".join(parts) if all(part.isprintable() for part in parts) else ""


def listed_labels(names: Sequence[str]) -> str:
    """Label names in label order; of many, the first ones and how many more there are."""
    hidden = len(names) - LABELS_SHOWN
    shown = ", ".join(escape(name) for name in names[:LABELS_SHOWN])
    return shown + (f", and {hidden} more" if hidden > 0 else "")
