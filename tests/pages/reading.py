"""A written report as elements and text, and the pictures and rows that it must show."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import decoct
from decoct.data.pixels import to_pixels

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress"]
SIDE = 28


class Page(HTMLParser):
    """A page as its elements (name, attributes) and its text, without scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.parts: list[str] = []
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": []}.get(self._open, self.parts).append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        found = [attrs for name, attrs in self.elements if name == tag]
        return [
            attrs for attrs in found if all(attrs.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]


def picture(uri: str) -> np.ndarray:
    """The pixels of a data URI."""
    head, encoded = uri.split(",", 1)
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def rows_of(folder: Path, ipc: int, per_class: int) -> list[dict[str, Any]]:
    """The first stored rows of each class."""
    rows = pq.read_table(next(folder.glob(f"data/ipc_{ipc}/*.parquet"))).to_pylist()
    return [row for place, row in enumerate(rows) if place % ipc < per_class]


def real_pixels(sample_part: Path) -> np.ndarray:
    return to_pixels(decoct.load_images(str(sample_part))["image"][:], SIDE, 1).numpy()[:, 0]
