"""What a manifest must say before anything is read by it: fields, types, paths that stay inside the folder."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from decoct.config import DistillConfig, check_choice
from decoct.data.names import unshowable
from decoct.files import shown

__all__ = [
    "MANIFEST",
    "READ_FIELDS",
    "check_fields",
    "check_manifest",
    "check_mixed_views",
    "unsafe_path",
]

MANIFEST = "manifest.json"


def unsafe_path(name: str) -> str | None:
    """Why a path of a repository must not be opened, or None where it names a file inside the folder."""
    if not name or not name.isprintable():
        return "is empty or has control characters"
    if "\\" in name or name.startswith(("/", "~")) or re.match(r"[A-Za-z][A-Za-z+.]*:", name):
        return "is not relative to the folder"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "leaves the folder or is not in its normal form"
    return None


def is_whole(value: Any) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 1 on."""
    return is_whole(value) and value >= 1


def is_names(value: Any) -> bool:
    """Whether it is a list of different names; they may hold any character, since all that shows them escapes them."""
    strings = isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)
    return strings and len(set(value)) == len(value)


def is_statistics(value: Any) -> bool:
    """Whether it is a list of finite numbers, one or three."""
    return (
        isinstance(value, list)
        and len(value) in (1, 3)
        and all(isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in value)
    )


def is_hashes(value: Any) -> bool:
    """Whether it maps names to sha256 digests, at least one."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in value.values())
    )


FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "decoct_version": ("a string", lambda value: isinstance(value, str)),
    "dataset": ("a string", lambda value: isinstance(value, str)),
    "config": ("a mapping", lambda value: isinstance(value, dict)),
    "label_names": ("a list of different names", is_names),
    "image_mean": ("a list of 1 or 3 finite numbers", is_statistics),
    "image_std": (
        "a list of 1 or 3 positive numbers",
        lambda value: is_statistics(value) and all(each > 0 for each in value),
    ),
    "image_size": ("a positive whole number", is_count),
    "channels": ("1 or 3", lambda value: is_count(value) and value in (1, 3)),
    "ipcs": (
        "a list of different positive whole numbers",
        lambda value: (
            isinstance(value, list) and bool(value) and all(map(is_count, value)) and len(set(value)) == len(value)
        ),
    ),
    "files": ("a mapping of file names to sha256 digests", is_hashes),
}


# What reading images and labels takes.
READ_FIELDS = ("config", "label_names", "image_mean", "image_std", "image_size", "channels", "ipcs")


def check_fields(manifest: Any, names: Iterable[str] = READ_FIELDS) -> list[str]:
    """Which of the fields are missing or of a wrong type in a parsed manifest, a sentence each."""
    if not isinstance(manifest, dict):
        return [f"manifest.json must be a mapping. Got {type(manifest).__name__}."]
    problems = []
    for name in names:
        expected, valid = FIELDS[name]
        if name not in manifest:
            problems.append(f"{name} must be {expected}. It is missing.")
        elif not valid(manifest[name]):
            problems.append(f"{name} must be {expected}. Got {shown(manifest[name])}.")
    for name in ("image_mean", "image_std") if not problems else ():
        if len(manifest[name]) != manifest["channels"]:
            problems.append(f"{name} must have a value per channel, {manifest['channels']}. Got {manifest[name]}.")
    return problems


def check_manifest(manifest: Any) -> list[str]:
    """What is wrong with a parsed manifest, a sentence each; nothing of what it names is opened."""
    if problems := check_fields(manifest, FIELDS):
        return problems
    unprintable = [name for name in manifest["label_names"] if unshowable(name)]
    names = [f"label_names must have no control characters. Got {shown(name)}." for name in unprintable]
    return names + check_imported(manifest) + check_settings(manifest["config"], "imported" in manifest)


def check_imported(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with what a manifest says of a set of others."""
    imported = manifest.get("imported", {"labels": "hard"})
    if isinstance(imported, dict) and imported.get("labels") in ("hard", "soft"):
        return []
    return [f"imported must be a mapping whose labels are 'hard' or 'soft'. Got {shown(imported)}."]


def check_settings(config: dict[Any, Any], imported: bool = False) -> list[str]:
    """What is wrong with the settings that the columns depend on; `imported` sets may be of any method."""
    wrong = [
        f"config.{name} must be a whole number from {least} on. Got {shown(config.get(name))}."
        for name, least in (("tiles_per_image", 1), ("views", 0))
        if not is_whole(config.get(name)) or config[name] < least
    ]
    wrong += check_mixed_views(config)
    if not isinstance(config.get("method"), str):
        wrong.append(f"config.method must be a string. Got {shown(config.get('method'))}.")
    if wrong:
        return wrong
    try:
        for name in ("tiles_per_image",) if imported else ("method", "tiles_per_image"):
            check_choice(DistillConfig, name, config[name])
    except ValueError as error:
        return [f"config.{shown(str(error))}"]
    return []


def check_mixed_views(config: dict[Any, Any]) -> list[str]:
    """What is wrong with the settings that mixed views and the columns of their labels depend on."""
    if config.get("slots", 0) == 0:  # absent before there were mixed views
        return []
    scale = config.get("view_scale")
    right = {
        "slots": ("a whole number from 0 on", is_whole(config["slots"]) and config["slots"] > 0),
        "label_bits": ("one of [4, 8]", is_whole(config.get("label_bits")) and config["label_bits"] in (4, 8)),
        "label_top_k": (
            "a whole number from 0 on",
            is_whole(config.get("label_top_k", 0)) and config.get("label_top_k", 0) >= 0,
        ),
        "seed": ("a whole number", is_whole(config.get("seed"))),
        "view_scale": ("in (0, 1]", isinstance(scale, int | float) and 0 < scale <= 1),
    }
    return [
        f"config.{name} must be {expected}. Got {shown(config.get(name))}."
        for name, (expected, valid) in right.items()
        if not valid
    ]
