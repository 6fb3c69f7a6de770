"""Classifiers of the Hub that this machine has downloaded before; nothing is asked of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

from decoct.files import read_object
from decoct.models.label_map import match_classes

__all__ = ["fitting_classifiers"]


def fitting_classifiers(label_names: Sequence[str]) -> list[str]:
    """Hub ids of the image classifiers in the cache that know all these classes by name."""
    cache = Path(constants.HF_HUB_CACHE)
    names = [path.name.removeprefix("models--").replace("--", "/") for path in sorted(cache.glob("models--*--*"))]
    return [name for name in names if _fits(name, label_names, cache)]


def _fits(name: str, label_names: Sequence[str], cache: Path) -> bool:
    file = try_to_load_from_cache(name, "config.json", cache_dir=cache)
    if not isinstance(file, str):
        return False
    try:
        config = read_object(Path(file))
        if not any(str(each).endswith("ForImageClassification") for each in config.get("architectures") or []):
            return False
        known = {int(label): str(each) for label, each in config["id2label"].items()}
        match_classes([known[label] for label in range(len(known))], label_names, name, "the dataset")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True
