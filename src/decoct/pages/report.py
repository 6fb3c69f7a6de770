"""Writing the report: one HTML file that asks nothing of a network, and that can be written again later."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from decoct.distilled.dataset import read_manifest
from decoct.pages.contents import class_sections
from decoct.pages.describe import command_of, describe
from decoct.pages.shown import shown_ipc, storage_of
from decoct.pages.sources import Sources
from decoct.results.records import read_results
from decoct.run.folder import write_text

__all__ = ["REPORT", "kept_sources", "render", "write_report"]

REPORT = "report.html"
BLOCK = re.compile(r'<script type="application/json" id="report">(.*?)</script>', re.DOTALL)


def write_report(folder: Path, sources: Sources | None = None, manifest: dict[str, Any] | None = None) -> Path:
    """Writes `report.html` into a distilled run folder, from what lies there.

    Args:
        folder: Run folder, with `results.json` if it was evaluated.
        sources: Real images to show. Default: those that the report there holds already; without one, the new report
            shows none and says so.
        manifest: Default: the folder's `manifest.json`.

    Returns:
        Path of the report; a kill leaves the old one or the new one.

    Raises:
        ValueError: If the folder has no manifest, or its results cannot be read.
    """
    folder = Path(folder)
    path = folder / REPORT
    manifest = read_manifest(folder) if manifest is None else manifest
    sources = kept_sources(path) if sources is None else sources
    write_text(path, render(folder, manifest, read_results(folder / "results.json"), sources))
    return path


def kept_sources(path: Path) -> Sources | None:
    """The real images that an earlier report holds; None if there is none, or it holds none that can be read."""
    found = BLOCK.search(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    try:
        return Sources.from_json(json.loads(found.group(1))) if found else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def render(folder: Path, manifest: dict[str, Any], records: list[dict[str, Any]], sources: Sources | None) -> str:
    """The page of a run folder, by its manifest and the records of its evaluation."""
    script = source_text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    run = describe(manifest, records)
    return environment().get_template("page.html.jinja").render(
        style=Markup(source_text("page.css")),  # decoct's own file, not data
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        manifest=manifest,
        run=run,
        command=command_of(run.config),
        charts=[chart_uri(table.records) for table in run.tables],
        storage=storage_of(folder, manifest),
        shown_ipc=shown_ipc(manifest),
        classes=class_sections(folder, manifest, sources),
        sources=sources,
        block=None if sources is None else sources.to_json(),
    )  # fmt: skip


def chart_uri(records: Sequence[dict[str, Any]]) -> str | None:
    """Accuracy over the images per class of one setting; None where all records are of one IPC.

    As an image, an SVG runs nothing, loads nothing, and shares neither ids nor styles with the page.
    """
    if len({record["ipc"] for record in records}) < 2:
        return None
    from decoct.results.figures import accuracy_svg  # takes a while to import

    return f"data:image/svg+xml;base64,{base64.b64encode(accuracy_svg(records).encode()).decode('ascii')}"


@functools.lru_cache(maxsize=1)
def environment() -> Environment:
    """The template's environment: everything is escaped, and a name that is missing is an error."""
    made = Environment(
        loader=PackageLoader("decoct", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"bytes": format_bytes, "share": format_share, "probability": format_probability}
    made.filters |= {"nats": format_nats, "seconds": format_seconds, "shell": shlex.quote}
    return made


def source_text(name: str) -> str:
    """A file of the page, as it is."""
    return (files("decoct.pages") / name).read_text(encoding="utf-8")


def format_bytes(count: int | None) -> str:
    """`1.5 MB`, in powers of 1,000."""
    if count is None:
        return "unknown"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def format_share(share: float) -> str:
    """A fraction as a percentage with one decimal; more for tiny ones."""
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else f"{100 * share:.2g} %"


def format_probability(share: float) -> str:
    """A fraction as a percentage with one decimal, or as less than the smallest."""
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def format_nats(value: float) -> str:
    """Three decimals, and no minus sign before a zero."""
    return f"{round(value, 3) + 0.0:.3f}"


def format_seconds(seconds: float) -> str:
    """`12.3 s`, `4 min 10 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
