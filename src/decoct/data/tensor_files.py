"""Tensors in files of others: safetensors, and what `torch.save` wrote, without running any code in it."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from decoct.files import shown

__all__ = ["SUFFIXES", "read_statistics", "read_tensors"]

SUFFIXES = (".pt", ".pth", ".safetensors")
STATISTICS = {"mean": ("mean", "image_mean"), "std": ("std", "image_std")}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by their names; `images` and `labels` of a pair, `""` of a tensor alone.

    Raises:
        ValueError: If the file cannot be read, or holds anything else than tensors: a pickle that asks for other code
            than that of tensors is refused by `torch.load(weights_only=True)`, and nothing in it is run.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Files of tensors must be one of {list(SUFFIXES)}. Got {path}.")
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_archive(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Of PyTorch's words the name alone: the rest is how to run the code all the same.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"It asks for {asked[1]}" if asked else "It holds something else"
        raise ValueError(
            f"{path} must hold tensors and nothing else. {what}, so it was refused, and nothing in it was run."
        ) from error
    except (OSError, SafetensorError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        first = shown(str(error).strip().split("\n")[0])
        raise ValueError(
            f"{path} must hold tensors and nothing else. It was refused, and nothing in it was run: {first}"
        ) from error
    return _named(found, path)


def read_statistics(path: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that a file of tensors says its images were normalised by; empty if it does not."""
    values: dict[str, Any] = {}
    if path.suffix.lower() == ".safetensors":
        with safe_open(path, framework="pt") as file:
            values = dict(file.metadata() or {})
    else:
        values = dict(read_tensors(path))
    found = []
    for name, spellings in STATISTICS.items():
        value: Any = next((values[each] for each in spellings if each in values), [])
        try:
            numbers = json.loads(value) if isinstance(value, str) else torch.as_tensor(value).flatten().tolist()
            found.append([float(each) for each in numbers])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} in {path} must be a list of numbers. Got {shown(value)}.") from error
    return found[0], found[1]


def _check_archive(path: Path) -> None:
    """Raises ValueError for a file that is not as `torch.save` writes it, or that would grow when it is read."""
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} must be a file that torch.save of version 1.6 or newer wrote. Got another: save its tensors as "
            "safetensors, on a machine that may run what is in it."
        )
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError(f"{path} must not be compressed, which torch.save never does. Got one that is.")


def _named(found: Any, path: Path) -> dict[str, Tensor]:
    """What was loaded, by names."""
    if isinstance(found, Tensor):
        found = {"": found}
    elif isinstance(found, Mapping) and _is_list(found.get("data")):  # of DC, DSA and DM, one entry a repetition
        found = found["data"]
    if _is_list(found) and len(found) == 1:
        found = found[0]
    if _is_list(found) and len(found) == 2 and all(isinstance(each, Tensor) for each in found):
        found = {"images": found[0], "labels": found[1]}
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{path} must hold a tensor, tensors by name, or a pair of images and labels. Got {type(found).__name__}."
        )
    tensors = {str(name): each for name, each in found.items() if isinstance(each, Tensor)}
    for name, each in tensors.items():
        # A few bytes that are repeated could stand for more than the memory holds.
        plain = each.layout == torch.strided and each.device.type == "cpu" and not each.is_quantized
        if not plain or each.numel() * each.element_size() > each.untyped_storage().nbytes():
            raise ValueError(f"{path} must store every value of its tensors. Got {name or 'one'} that repeats some.")
    return tensors


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
