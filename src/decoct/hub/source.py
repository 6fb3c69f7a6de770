"""The dataset that something was made from: its name, licence and attribution, as far as they are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

__all__ = ["GivenInfo", "Source", "licence_fields", "source_info", "source_of"]

LICENCE_ID = re.compile(r"[a-z0-9]+(?:[.+-][a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class GivenInfo:
    """What only a user can say of what is published; None is left out of the card.

    Args:
        license: Licence of the source dataset, by its Hub identifier (`mit`, `cc-by-4.0` …).
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
        name: As it was named in the configuration; of an absolute path its last part.
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
        recorded: What the dataset says of itself (`source_info`).
        given: Goes before everything else.
    """
    given, recorded = given or GivenInfo(), recorded or {}
    if dataset == "sample":
        return Source(
            name="sample of Fashion-MNIST",
            license=given.license or "mit",
            attribution=given.attribution
            or "A part of Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist) by Han Xiao, Kashif Rasul "
            "and Roland Vollgraf, arXiv 1708.07747, © 2017 Zalando SE.",
            license_text=(files("decoct.data") / "sample" / "LICENSE").read_text(encoding="utf-8"),
        )
    return Source(
        name=Path(dataset).name or dataset if Path(dataset).is_absolute() else dataset,
        hub_id=dataset if is_hub_id(dataset) else None,
        license=given.license or recorded.get("license"),
        attribution=given.attribution or recorded.get("citation") or recorded.get("homepage"),
    )


def is_hub_id(dataset: str) -> bool:
    """Whether a configured dataset is a repository on the Hub, and nothing on this machine."""
    try:
        validate_repo_id(dataset)
    except HFValidationError:
        return False
    return dataset != "sample" and not Path(dataset).exists()


def source_info(info: Any) -> dict[str, str]:
    """Licence, citation and homepage in a dataset's `info`, as far as they are given."""
    values = {name: getattr(info, name, None) for name in ("license", "citation", "homepage")}
    return {name: value for name, value in values.items() if isinstance(value, str) and value.strip()}


def licence_fields(license: str | None) -> dict[str, str]:
    """The licence in a card's header: by its identifier, or `other` for one that is given in words."""
    if license is None:
        return {}
    identifier = license.strip().lower()
    return {"license": identifier if LICENCE_ID.fullmatch(identifier) else "other"}
