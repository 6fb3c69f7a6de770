"""Images that are in two splits: a test image that was trained on flatters every accuracy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import datasets

__all__ = ["count_shared_images"]

TAIL = 256  # bytes; a compressed image's last ones depend on all of it
ROWS_READ = 1000


def count_shared_images(first: datasets.Dataset, second: datasets.Dataset) -> int:
    """Images of `second` with the same encoded bytes as an image of `first`; those that cannot be read do not count.

    Sizes and last bytes are compared first, so that of large files few are read as a whole.
    """
    tails = set(filter(None, (_tail(entry) for entry in _encoded(second))))
    rows = [row for row, entry in enumerate(_encoded(first)) if _tail(entry) in tails]
    if not rows:
        return 0
    known = set(map(_digest, _encoded(first.select(rows))))
    return sum(_digest(entry) in known for entry in _encoded(second) if _tail(entry) in tails)


def _encoded(images: datasets.Dataset) -> Iterator[dict[str, bytes | str | None]]:
    """Each image undecoded: `bytes`, or the `path` of its file."""
    undecoded = images.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    for batch in undecoded.iter(ROWS_READ):
        yield from batch["image"]


def _tail(entry: dict[str, bytes | str | None]) -> tuple[int, bytes] | None:
    """Size and last bytes of an encoded image; None for one inside an archive."""
    content, path = entry["bytes"], Path(str(entry["path"]))
    if isinstance(content, bytes):
        return len(content), content[-TAIL:]
    if not path.is_file():
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL))
        return size, file.read()


def _digest(entry: dict[str, bytes | str | None]) -> bytes:
    content = entry["bytes"]
    return hashlib.blake2b(content if isinstance(content, bytes) else Path(str(entry["path"])).read_bytes()).digest()
