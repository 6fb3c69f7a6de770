"""What identifies a dataset, and what it says of itself: its content, its repository on the Hub, its licence."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from decoct.data.silence import give_up_on_silence
from decoct.files import read_card_header, read_object

__all__ = [
    "card_license",
    "dataset_fingerprint",
    "is_hub_id",
    "is_repo_id",
    "location_of",
    "model_location",
    "record_beside",
    "source_record",
]

logger = logging.getLogger(__name__)

SAMPLE = Path(__file__).parent / "sample"
LOCATION = "an existing folder or a Hub id 'user/name'"
MODEL_FOLDERS = {
    "config.json": "folder with config.json and model.safetensors",
    "model_index.json": "diffusers folder with model_index.json",
}


def dataset_fingerprint(images: Dataset) -> str:
    """Twelve hex digits from the number of images, all labels and the encoded bytes of 64 images spread evenly."""
    digest = hashlib.sha256(np.asarray(images["label"][:], dtype=np.int64).tobytes())
    rows = np.unique(np.linspace(0, len(images) - 1, 64).astype(int))
    for entry in images.select(rows).cast_column("image", Image(decode=False))["image"]:
        digest.update(entry["bytes"] if entry["bytes"] is not None else Path(entry["path"]).read_bytes())
    return digest.hexdigest()[:12]


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


def location_of(source: str | Path, role: str, expected: str = LOCATION) -> Path | str:
    """What a name stands for: an existing folder, as a path, or else a Hub id.

    Args:
        role: What it is the name of, and `expected` what that must be, for the message.

    Raises:
        ValueError: For what is neither a folder nor of the form of a Hub id.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_absolute() or str(source).count("/") != 1 or path.parent.is_dir():
        raise ValueError(f"{role} must be {expected}. Got {str(source)!r}.")
    give_up_on_silence()
    return str(source)


def model_location(
    name_or_path: str | Path, role: str, expected: str = LOCATION, index: str = "config.json"
) -> Path | str:
    """Where a model is, a folder or Hub id; `sample` is that of the embedded prior or estimator.

    Args:
        role: What the model is for: teacher, estimator, encoder or prior.
        expected: What it must be, for the message.
        index: File that its folder must have: one of `MODEL_FOLDERS`.

    Raises:
        ValueError: For what is neither such a folder nor of the form of a Hub id.
    """
    if name_or_path == "sample" and (SAMPLE / role).is_dir():
        return SAMPLE / role
    location = location_of(name_or_path, role, expected)
    if isinstance(location, Path) and not (location / index).is_file():
        raise ValueError(f"{role} must be a {MODEL_FOLDERS[index]}. Got {location}, without.")
    return name_or_path


def record_beside(network: str | Path, name: str) -> dict[str, Any] | None:
    """A JSON object that training left beside a network; None if there is none.

    Args:
        network: Folder or Hub id. Where the Hub cannot be asked, a warning says that the record is not known.
        name: Of the file.

    Raises:
        ValueError: If the file is no JSON object.
    """
    file = Path(network) / name
    if file.is_file():
        return read_object(file)
    if Path(network).exists() or str(network).count("/") != 1 or not is_repo_id(str(network)):
        return None
    give_up_on_silence()
    try:
        return read_object(Path(hf_hub_download(str(network), name)))
    except (RemoteEntryNotFoundError, RepositoryNotFoundError):
        return None
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        logger.warning("What %s of %s says is not known, since the Hub cannot be asked: %s", name, network, error)
        return None


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
            give_up_on_silence()
            card = Path(hf_hub_download(dataset, "README.md", repo_type="dataset"))
        license = read_card_header(card).get("license") if card.is_file() else None
    except (OSError, ValueError, HTTPError):
        return None
    licenses = license if isinstance(license, list) else [license]
    return ", ".join(each for each in licenses if isinstance(each, str)) or None
