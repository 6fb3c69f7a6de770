"""What the YAML header of a distilled dataset's card must say, so that `load_dataset` reads the files of each IPC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features

from decoct.distilled.schema import expected_features
from decoct.files import read_card_header, shown

__all__ = ["card_problems"]

CONFIG_KEYS = {"config_name", "data_files", "description", "default"}


def card_problems(path: Path | None, manifest: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the YAML header: `load_dataset` must find each IPC's own files, and no others."""
    if path is None:
        yield "is missing."
        return
    try:
        header = read_card_header(path)
    except ValueError as error:
        yield f"has no YAML header that can be read: {shown(str(error))}"
        return
    configs = header.get("configs")
    configs = configs if isinstance(configs, list) else []
    named = [config.get("config_name") if isinstance(config, dict) else None for config in configs]
    expected = [f"ipc_{ipc}" for ipc in manifest["ipcs"]]
    if Counter(map(shown, named)) != Counter(expected):
        yield f"must have the configurations {expected}. Got {shown(named)}."
    for config, name in zip(configs, named, strict=True):
        if name in expected:
            path_of = f"data/{name}/*.parquet"
            if config.get("data_files") not in ([{"split": "train", "path": each}] for each in (path_of, [path_of])):
                yield f"{name} must load {path_of} as split train. Got {shown(config.get('data_files'))}."
            if extra := {*map(str, config)} - CONFIG_KEYS:
                yield f"{name} must have no keys but {sorted(CONFIG_KEYS)}. Got {shown(sorted(extra))}."
    yield from info_problems(header.get("dataset_info"), expected_features(manifest))


def info_problems(content: Any, features: Features) -> Iterator[str]:
    """What is wrong with `dataset_info`, whose features `load_dataset` takes instead of the files' own."""
    for info in content if isinstance(content, list) else [content]:
        stored = info.get("features") if isinstance(info, dict) else None
        if stored is None:
            continue
        try:
            same = Features._from_yaml_list(stored) == features
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            same = False
        if not same:
            name = shown(info.get("config_name"))
            yield f"dataset_info of {name} must have the columns, shapes and label names of the manifest."
