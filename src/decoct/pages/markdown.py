"""Cards from their templates, and text of others in Markdown, Python and shell that shows and does nothing else."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from huggingface_hub import CardData, RepoCard
from huggingface_hub.constants import DEFAULT_REVISION
from jinja2 import Environment, FunctionLoader, StrictUndefined

from decoct.data.names import is_showable

__all__ = [
    "code",
    "escape",
    "is_sealed",
    "listed_labels",
    "one_line",
    "python_string",
    "revision_argument",
    "render",
    "sealed",
    "shell_block",
    "shell_word",
]

LABELS_SHOWN = 50
SEAL = "<!-- Written by decoct; sha256 of the text above: {} -->"


def render(kind: type[RepoCard], template: str, data: CardData, **values: Any) -> str:
    """A card: a template of `hub_cards/` filled in, after its YAML header.

    Args:
        kind: Class of the card, by which the header is read again.
        template: Name of the file.
        data: The header.
        values: All that the template names; text of others must be escaped already, and is never rendered itself.
    """
    environment = Environment(
        loader=FunctionLoader(lambda name: (files("decoct.hub_cards") / name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return kind(environment.get_template(template).render(card_data=data.to_yaml(), **values)).content


def sealed(card: str) -> str:
    """A card with the hash of its text in a last line that is not shown, by which an edited one is told."""
    text = card.rstrip("\n") + "\n\n"
    return text + SEAL.format(hashlib.sha256(text.encode()).hexdigest()) + "\n"


def is_sealed(card: str) -> bool:
    """Whether a card is as `sealed` wrote it."""
    text = card[: card.rstrip("\n").rfind("\n") + 1]
    return card == text + SEAL.format(hashlib.sha256(text.encode()).hexdigest()) + "\n"


def one_line(text: object) -> str:
    """Text on one line, without control characters and marks that turn the line around."""
    printable = "".join(character if is_showable(character) else " " for character in str(text))
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


def revision_argument(revision: str) -> str:
    """What a call that loads from the Hub needs in addition, to load another branch than the main one."""
    return "" if revision == DEFAULT_REVISION else f", revision={python_string(revision)}"


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
