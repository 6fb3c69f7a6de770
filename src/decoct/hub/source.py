"""The dataset that something was made from: its name, licence and attribution, as far as they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download, metadata_load
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from decoct.config.licences import LICENCES
from decoct.hub.local_paths import PLACE

__all__ = ["GivenInfo", "Source", "licence_fields", "source_of", "source_record"]


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


def is_hub_id(dataset: str) -> bool:
    """Whether a configured dataset is a repository on the Hub, and nothing in this folder."""
    return dataset != "sample" and is_repo_id(dataset) and not Path(dataset).exists()


def is_repo_id(text: str) -> bool:
    """Whether a text can be the id of a repository."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def source_record(dataset: str, info: Any) -> dict[str, str]:
    """What a dataset says of itself, as far as it does: its repository on the Hub, licence, citation and homepage.

    Args:
        dataset: As it was named in the configuration.
        info: Of the dataset that was loaded by this name; where it has no licence, that of the card is taken.
    """
    values = {name: getattr(info, name, None) for name in ("license", "citation", "homepage")}
    record = {name: value.strip() for name, value in values.items() if isinstance(value, str) and value.strip()}
    if is_hub_id(dataset):
        record["hub_id"] = dataset
    if "license" not in record and (license := card_license(dataset)):
        record["license"] = license
    return record


def card_license(dataset: str) -> str | None:
    """The licence in the card of a dataset on the Hub or in a folder; None if there is none, or it cannot be read."""
    try:
        card = Path(dataset).expanduser() / "README.md"
        if is_hub_id(dataset):
            card = Path(hf_hub_download(dataset, "README.md", repo_type="dataset"))
        license = (metadata_load(card) or {}).get("license") if card.is_file() else None
    except (OSError, ValueError, HTTPError, yaml.YAMLError):
        return None
    licenses = license if isinstance(license, list) else [license]
    return ", ".join(each for each in licenses if isinstance(each, str)) or None


def licence_fields(license: str | None) -> dict[str, str]:
    """The licence in a card's header: by its identifier, or `other` for one that the Hub does not know."""
    if license is None:
        return {}
    identifier = license.strip().lower()
    return {"license": identifier if identifier in LICENCES else "other"}
