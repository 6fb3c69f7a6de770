"""Code blocks of the pages that people read, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Block", "blocks", "commands", "words_of"]

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "pipelines/igds/README.md")),
    ROOT / "spaces" / "explorer" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        page: File it stands in.
        language: As written after the fence.
        text: What stands in it.
        reason: Why it cannot be run, where the page says so.
    """

    page: Path
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.strip().splitlines()[0][:60]}"


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of a page in one language."""
    found = [
        Block(page, *match.group("language", "text", "reason")) for match in FENCE.finditer(page.read_text("utf-8"))
    ]
    return [block for block in found if block.language == language]


def commands(text: str) -> Iterator[str]:
    """Lines of a shell block, those that go on joined, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if command := re.sub(r"(^|\s)#.*", "", line).strip():
            yield command


def words_of(command: str) -> list[str]:
    """The words of a command, without the variables that are set before it."""
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return words
