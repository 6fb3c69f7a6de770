"""The dataset that something was made from: its name, licence and attribution, as far as they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from decoct.config.licences import LICENCES
from decoct.data.source import is_hub_id, is_repo_id
from decoct.pages.local_paths import PLACE

__all__ = ["GivenInfo", "Source", "licence_fields", "source_of"]


@dataclass(frozen=True, kw_only=True)
class GivenInfo:
    """What only a user can say of what is published; None is left out of the card.

    Args:
        license: By its Hub identifier (`mit`, `cc-by-4.0` …): a model's own, or that of the source of a dataset.
        attribution: Who made the source dataset, as a sentence or citation.
        pretty_name: Name that the card shows instead of a generated one.
    """

    license: str | None = None
    attribution: str | None = None
    pretty_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source dataset.

    Args:
        name: As it was named in the configuration; of a path its last part.
        hub_id: Its repository on the Hub; None if it is a folder, a file, the embedded sample or in memory.
        license: None if it is not known.
        attribution: Likewise.
        license_text: The full text, where copies must carry it.
    """

    name: str
    hub_id: str | None = None
    license: str | None = None
    attribution: str | None = None
    license_text: str | None = None


def source_of(dataset: str, recorded: Mapping[str, Any] | None = None, given: GivenInfo | None = None) -> Source:
    """The source of that name.

    Args:
        dataset: The configured dataset.
        recorded: What the dataset said of itself when it was used (`source_record`); None if that is not known.
        given: Goes before everything else.
    """
    given = given or GivenInfo()
    if dataset == "sample":
        return Source(
            name="Fashion-MNIST sample",
            license=given.license or "mit",
            attribution=given.attribution
            or "A part of Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist) by Han Xiao, Kashif Rasul "
            "and Roland Vollgraf, arXiv 1708.07747, © 2017 Zalando SE.",
            license_text=(files("decoct.data") / "sample" / "LICENSE").read_text(encoding="utf-8"),
        )
    is_path = Path(dataset).is_absolute() or dataset.startswith(PLACE)
    known = {name: value for name, value in (recorded or {}).items() if isinstance(value, str)}
    hub_id = dataset if recorded is None and is_hub_id(dataset) else known.get("hub_id", "")
    return Source(
        name=Path(dataset).name or dataset if is_path else dataset,
        hub_id=hub_id if is_repo_id(hub_id) else None,
        license=given.license or known.get("license"),
        attribution=given.attribution or known.get("citation") or known.get("homepage"),
    )


def licence_fields(license: str | None) -> dict[str, str]:
    """The licence in a card's header: by its identifier, or `other` for one that the Hub does not know."""
    if license is None:
        return {}
    identifier = license.strip().lower()
    return {"license": identifier if identifier in LICENCES else "other"}
