"""Named training protocols: every number a student is trained with, read from `presets/protocols/<name>.yaml`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

__all__ = ["Protocol", "batch_size", "crop_scale", "learning_rate", "load_protocol"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How students are trained; results of different protocols never share a table.

    Args:
        name: Name that every result states.
        epochs: Passes over the distilled set.
        optimizer: `adamw`.
        learning_rate: Initial learning rate of architectures that `learning_rates` does not name.
        learning_rates: Initial learning rate by architecture.
        betas: AdamW's averaging coefficients.
        weight_decay: Weight decay; none on one-dimensional parameters.
        batch_sizes: Images a step, by images per class.
        many_classes: Number of classes from which the batch grows by `many_classes_factor`.
        many_classes_factor: See `many_classes`.
        temperature: Temperature of the soft labels and of the student's outputs.
        rrc_scale: Smallest area of a random-resized crop, in (0, 1]; None: 1 / sqrt(tiles per image).
        rrc_ratio: Aspect ratios of a random-resized crop.
        flip: Probability of a horizontal flip.
        cutmix_alpha: CutMix draws its share from Beta(alpha, alpha); 0 turns it off.
    """

    name: str
    epochs: int
    optimizer: str
    learning_rate: float
    learning_rates: dict[str, float] = field(default_factory=dict)
    betas: tuple[float, float]
    weight_decay: float
    batch_sizes: dict[int, int]
    many_classes: int
    many_classes_factor: int
    temperature: float
    rrc_scale: float | None
    rrc_ratio: tuple[float, float]
    flip: float
    cutmix_alpha: float

    def __post_init__(self) -> None:
        if self.optimizer != "adamw":
            raise ValueError(f"optimizer must be one of ['adamw']. Got {self.optimizer!r} in protocol {self.name!r}.")
        if not self.batch_sizes:
            raise ValueError(f"batch_sizes must name at least one IPC. Got none in protocol {self.name!r}.")


def load_protocol(name_or_path: str | Path) -> Protocol:
    """The protocol of that name, or the one in a YAML file.

    Raises:
        ValueError: If there is no such protocol or file, or its fields are not a protocol's.
    """
    folder = files("decoct.presets") / "protocols"
    names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if str(name_or_path) in names:
        text = (folder / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text(encoding="utf-8")
    else:
        raise ValueError(f"protocol must be one of {names} or a YAML file. Got {str(name_or_path)!r}.")
    values: dict[str, Any] = yaml.safe_load(text)
    expected = {field.name for field in dataclasses.fields(Protocol)}
    wrong = sorted(set(values) ^ expected)
    if wrong:
        raise ValueError(
            f"Protocol {name_or_path} must have the fields {sorted(expected)}. Missing or unknown: {wrong}."
        )
    values["betas"], values["rrc_ratio"] = tuple(values["betas"]), tuple(values["rrc_ratio"])
    return Protocol(**values)


def learning_rate(protocol: Protocol, epoch: int, epochs: int, architecture: str | None = None) -> float:
    """Learning rate of an epoch: lr * 0.5 * (1 + cos(pi * epoch / epochs / 2)) (RDED, validation/main.py).

    Args:
        protocol: Gives the initial learning rate of the architecture.
        epoch: 0 to `epochs` - 1.
        epochs: Epochs of the whole training.
        architecture: Name of the student; None takes the protocol's general learning rate.
    """
    initial = protocol.learning_rates.get(architecture or "", protocol.learning_rate)
    return initial * 0.5 * (1 + math.cos(math.pi * epoch / epochs / 2))


def batch_size(protocol: Protocol, ipc: int, classes: int, images: int) -> int:
    """Images a step: the table's value, linear between its IPCs and constant outside, at most the set's size."""
    table = sorted(protocol.batch_sizes.items())
    size = round(float(np.interp(ipc, [row[0] for row in table], [row[1] for row in table])))
    if classes >= protocol.many_classes:
        size *= protocol.many_classes_factor
    return min(size, images)


def crop_scale(protocol: Protocol, tiles_per_image: int) -> float:
    """Smallest area of a random-resized crop as a share of the image's: 1 / sqrt(tiles) unless the protocol sets it."""
    return protocol.rrc_scale if protocol.rrc_scale is not None else 1 / math.sqrt(tiles_per_image)
