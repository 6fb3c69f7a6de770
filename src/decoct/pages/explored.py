"""What the explorer shows of distilled sets, as HTML: the images of a class, and two sets beside each other."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import Template
from PIL import Image

from decoct.distilled.dataset import commit_of, folder_of, read_manifest
from decoct.distilled.manifest import check_manifest
from decoct.distilled.parquet import check_data, ipc_files
from decoct.pages.contents import image_of
from decoct.pages.describe import Run, describe
from decoct.pages.report import REPORT, environment, kept_sources
from decoct.pages.shown import storage_of
from decoct.pages.sources import Sources, data_uri
from decoct.results.records import read_results

__all__ = [
    "PER_PAGE",
    "ExploredSet",
    "class_page",
    "comparison_page",
    "error_page",
    "facts_page",
    "open_set",
    "samples_page",
]

PER_PAGE = 12  # images of a class


@dataclass(frozen=True)
class ExploredSet:
    """A distilled set as the explorer holds it; images are read when they are shown.

    Args:
        name: Folder or Hub id.
        folder: Where its files lie.
        manifest: Its `manifest.json`.
        run: Its facts.
        sources: Real images that its report holds; None if there is no report.
    """

    name: str
    folder: Path
    manifest: dict[str, Any]
    run: Run
    sources: Sources | None

    def rows(self, ipc: int, label: int) -> list[dict[str, Any]]:
        """The images of a class, with labels and tiles, numbered from 1."""
        rows: list[dict[str, Any]] = []
        for path in ipc_files(self.folder, ipc):
            names = [name for name in ("image", "label", "tiles", "tile_logits") if name in pq.read_schema(path).names]
            rows += pq.read_table(path, columns=names, filters=[("label", "=", label)]).to_pylist()
        return [{"tiles": [], "tile_logits": None, **row, "number": number} for number, row in enumerate(rows, start=1)]


def open_set(name: str) -> ExploredSet:
    """A set in a folder or on the Hub.

    Raises:
        ValueError: If there is none, its manifest is not one, or a file would fill the memory.
    """
    revision = commit_of(name)
    manifest = read_manifest(name, revision)
    if problems := check_manifest(manifest):
        raise ValueError(f"{name}: manifest.json cannot be used. {problems[0]}")
    folder = Path(name)
    for ipc in manifest["ipcs"]:
        folder = folder_of(name, ipc, revision)
        check_data(folder, ipc, len(manifest["label_names"]), name)
    run = describe(manifest, read_results(folder / "results.json"))
    return ExploredSet(name, folder, manifest, run, kept_sources(folder / REPORT))


def class_page(shown: ExploredSet, ipc: int, label: int, page: int = 1) -> str:
    """The images of a class: each with its tiles' origins, heat maps and soft labels."""
    rows = shown.rows(ipc, label)
    first = (page - 1) * PER_PAGE
    images = [image_of(row, shown.run.classes, shown.sources) for row in rows[first : first + PER_PAGE]]
    return _template("class").render(
        images=images, shown=shown, total=len(rows), first=first, name=shown.run.classes[label]
    )


def facts_page(shown: ExploredSet) -> str:
    """How a set was made, what it stores and what it is worth."""
    return _template("facts").render(shown=shown, storage=storage_of(shown.folder, shown.manifest))


def comparison_page(one: ExploredSet, other: ExploredSet, ipc: int, label: int) -> str:
    """A class of two sets side by side, the settings that differ, and their accuracies.

    Raises:
        ValueError: If they have other classes, or one does not have this size.
    """
    if one.run.classes != other.run.classes:
        raise ValueError(f"Two sets must have the same classes. Got others in {one.name} and {other.name}.")
    for each in (one, other):
        if ipc not in each.run.ipcs:
            raise ValueError(f"ipc must be one of {each.run.ipcs}, those of {each.name}. Got {ipc}.")
    settings = [{name: value for name, value, _ in each.run.settings} for each in (one, other)]
    names = dict.fromkeys([*settings[0], *settings[1]])
    differing = [(name, *(each.get(name, "–") for each in settings)) for name in names]
    sides = [
        {
            "set": each,
            "images": [image_of(row, each.run.classes, None) for row in each.rows(ipc, label)[:PER_PAGE]],
            "bytes": next(size for size in storage_of(each.folder, each.manifest) if size.ipc == ipc),
        }
        for each in (one, other)
    ]
    return _template("comparison").render(
        sides=sides, name=one.run.classes[label], ipc=ipc, differing=[row for row in differing if row[1] != row[2]]
    )


def samples_page(samples: Mapping[float, Mapping[str, Sequence[Any]]], name: str) -> str:
    """Samples of a class, a row for each beta: `samples` has by beta the PNG bytes and the terms in nats."""
    rows = []
    for beta, columns in samples.items():
        pictures = [data_uri(Image.open(io.BytesIO(each))) for each in columns["image"]]
        means = {term: sum(columns[term]) / len(columns[term]) for term in ("prototype", "contextual")}
        rows.append({"beta": beta, "pictures": pictures, **means})
    return _template("samples").render(rows=rows, name=name)


def error_page(error: Exception) -> str:
    """What went wrong, in the place of a page."""
    return f'<p class="decoct-note">{html.escape(str(error))}</p>'


def _template(part: str) -> Template:
    return environment().get_template(f"explored_{part}.html.jinja")
