"""Named training protocols: every number a student is trained with, read from `presets/protocols/<name>.yaml`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from decoct.config import LABEL_MODES, config_hash
from decoct.files import read_yaml

__all__ = [
    "Protocol",
    "batch_size",
    "crop_scale",
    "entry_of",
    "epoch_count",
    "epochs_with",
    "initial_learning_rate",
    "learning_rate",
    "load_protocol",
    "load_protocols",
    "own_settings",
    "protocol_names",
    "schedule",
    "steps_per_epoch",
    "student_name",
]

NUMBERS = (
    *("learning_rate", "momentum", "weight_decay", "milestone_factor", "temperature", "flip"),
    *("cutmix_probability", "cutmix_alpha", "color_jitter", "lighting", "ema_decay", "hard_weight"),
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How students are trained; results of different protocols never share a table.

    Args:
        name: Name that every result states.
        labels: Label modes it is defined for.
        norm: Normalisation of the students, `batch` or `instance`; see `student_name`.
        epochs: Passes over the distilled set: a number, or numbers by images per class, see `epoch_count`; None where
            `steps` says how long students are trained.
        optimizer: `adamw`, `adam`, `sgd`, or `muon`: Muon on the kernels of convolutions, AdamW on the rest.
        learning_rate: Initial learning rate of architectures that `learning_rates` does not name; under Muon, of AdamW.
        learning_rates: Initial learning rate by architecture.
        betas: Averaging coefficients of AdamW and Adam, also beside Muon; None for SGD.
        momentum: Of SGD and Muon.
        weight_decay: Decoupled in AdamW and Muon, added to the gradient in Adam and SGD.
        decay_one_dimensional: Weight decay on one-dimensional parameters (biases, norms) too.
        schedule: `half_cosine`, `steps` or `constant`, see the function `schedule`.
        milestones: Shares of the epochs, as fractions in words (`2/3`), where `steps` lowers the learning rate.
        milestone_factor: What a milestone multiplies the learning rate by.
        batch_sizes: Images a step, by images per class.
        many_classes: Number of classes from which the batch grows by `many_classes_factor`; None: never.
        many_classes_factor: See `many_classes`.
        temperature: Temperature of the soft labels and of the student's outputs; hard labels have none.
        shuffle_tiles: Rearrange the tiles of mosaics.
        rrc_scale: Smallest area of a random-resized crop, in (0, 1]; None: 1 / sqrt(tiles per image).
        rrc_ratio: Aspect ratios of a random-resized crop.
        flip: Probability of a horizontal flip.
        color_jitter: Largest change of brightness, contrast and saturation; 0 turns it off.
        lighting: Standard deviation of the noise along the principal colours; 0 turns it off.
        cutmix_probability: Share of the steps with CutMix; 0 turns it off.
        cutmix_alpha: CutMix draws its share from Beta(alpha, alpha).
        ema_decay: Decay of the moving average of the weights, which is what is evaluated; 0: no average.
        matrix_learning_rate: Initial learning rate of Muon, for every architecture; None for other optimisers.
        steps: Optimiser steps in place of epochs: a number, or numbers by images per class, see `epoch_count`.
        ema_warmup: Whether the decay of the average after t steps is at most (1 + t) / (10 + t), so that a short
            training is not averaged with its beginning.
        loss: Of soft labels: `kl`, the KL divergence at the temperature, or `squared`, the squared error of the logits
            after their mean is taken off; hard labels have the cross-entropy.
        hard_weight: Weight of the cross-entropy with the hard labels that is added to the loss of soft labels.
        rand_augment: Number and magnitude of RandAugment's operations (`[2, 10]`), after the crops; null: none. Stored
            views are replayed without.

    Raises:
        ValueError: For a value outside these ranges; names the protocol and the field.
    """

    name: str
    labels: tuple[str, ...]
    norm: str
    epochs: int | dict[int, int] | None
    optimizer: str
    learning_rate: float
    learning_rates: dict[str, float]
    betas: tuple[float, float] | None
    momentum: float
    weight_decay: float
    decay_one_dimensional: bool
    schedule: str
    milestones: tuple[str, ...]
    milestone_factor: float
    batch_sizes: dict[int, int]
    many_classes: int | None
    many_classes_factor: int
    temperature: float
    shuffle_tiles: bool
    rrc_scale: float | None
    rrc_ratio: tuple[float, float]
    flip: float
    color_jitter: float
    lighting: float
    cutmix_probability: float
    cutmix_alpha: float
    ema_decay: float
    # With a default: what a protocol can leave out. Those that do have no such entry in `to_dict`.
    matrix_learning_rate: float | None = None
    steps: int | dict[int, int] | None = None
    ema_warmup: bool = False
    loss: str = "kl"
    hard_weight: float = 0.0
    rand_augment: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self._require(isinstance(self.name, str) and bool(self.name), "name", "a word", self.name)
        for field in NUMBERS:
            value = getattr(self, field)
            self._require(_is_number(value), field, "a number, such as 0.001 or 1.0e-3", value)
        for field in ("decay_one_dimensional", "shuffle_tiles", "ema_warmup"):
            self._require(isinstance(getattr(self, field), bool), field, "true or false", getattr(self, field))
        for field, choices in (
            ("norm", ["batch", "instance"]),
            ("optimizer", ["adamw", "adam", "sgd", "muon"]),
            ("schedule", ["half_cosine", "steps", "constant"]),
            ("loss", ["kl", "squared"]),
        ):
            self._require(getattr(self, field) in choices, field, f"one of {choices}", getattr(self, field))
        known = bool(self.labels) and set(self.labels) <= set(LABEL_MODES)
        self._require(known, "labels", f"one or more of {list(LABEL_MODES)}", list(self.labels))
        for field in ("epochs", "steps"):
            value = getattr(self, field)
            fits = value is None or _is_table(_by_ipc(value))
            self._require(fits, field, "a positive number, or such by IPC", value)
        self._require(
            (self.epochs is None) != (self.steps is None),
            "epochs",
            "null if it has steps, and given if not",
            self.epochs,
        )
        self._require(_is_table(self.batch_sizes), "batch_sizes", "positive numbers by IPC", self.batch_sizes)
        self._require(self.learning_rate > 0, "learning_rate", "positive", self.learning_rate)
        rates = self.learning_rates
        positive = isinstance(rates, dict) and all(_is_number(rate) and rate > 0 for rate in rates.values())
        self._require(positive, "learning_rates", "positive numbers by architecture, or {}", rates)
        many = self.many_classes
        self._require(many is None or _is_whole(many), "many_classes", "a positive whole number, or null", many)
        self._require(
            _is_whole(self.many_classes_factor),
            "many_classes_factor",
            "a positive whole number",
            self.many_classes_factor,
        )
        self._require(self.temperature > 0, "temperature", "positive", self.temperature)
        self._require(self.cutmix_alpha > 0, "cutmix_alpha", "positive", self.cutmix_alpha)
        for field in ("color_jitter", "lighting", "momentum", "weight_decay", "hard_weight"):
            self._require(getattr(self, field) >= 0, field, "at least 0", getattr(self, field))
        for field in ("flip", "cutmix_probability"):
            self._require(0 <= getattr(self, field) <= 1, field, "in [0, 1]", getattr(self, field))
        self._require(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)", self.ema_decay)
        scale, ratio = self.rrc_scale, self.rrc_ratio
        known = scale is None or (_is_number(scale) and 0 < scale <= 1)
        self._require(known, "rrc_scale", "in (0, 1], or null", scale)
        self._require(_are_two(ratio) and 0 < ratio[0] <= ratio[1], "rrc_ratio", "two positive numbers, rising", ratio)
        pair = _are_two(self.betas) and all(0 <= beta < 1 for beta in self.betas or ())
        self._require(pair or self.betas is None, "betas", "two numbers in [0, 1), or null", self.betas)
        self._require(
            self.optimizer == "sgd" or self.betas is not None, "betas", f"given for {self.optimizer}", self.betas
        )
        operations = self.rand_augment
        known = _are_two(operations) and all(map(_is_whole, operations or ())) and (operations or (0,))[0] <= 15
        known = operations is None or (known and operations[1] < 30)
        self._require(known, "rand_augment", "two whole numbers, up to 15 and 29, or null", operations)
        fractions = all(re.fullmatch(r"\d+/[1-9]\d*", text) and 0 < Fraction(text) < 1 for text in self.milestones)
        self._require(fractions, "milestones", "fractions of the epochs, such as 2/3", list(self.milestones))
        rate = self.matrix_learning_rate
        if self.optimizer == "muon":
            self._require(_is_number(rate) and (rate or 0) > 0, "matrix_learning_rate", "positive for muon", rate)
        else:
            self._require(rate is None, "matrix_learning_rate", f"left out for {self.optimizer}", rate)
        stepped = self.schedule != "steps" or bool(self.milestones)
        self._require(stepped, "milestones", "given for the schedule 'steps'", list(self.milestones))

    def to_dict(self) -> dict[str, Any]:
        """Its settings, without those that it leaves out, so that students trained before keep their names."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in dataclasses.asdict(self).items() if value != defaults[name]}

    def check_labels(self, labels: str) -> None:
        """Raises ValueError if the protocol is not defined for a label mode, and says which protocols to take."""
        if labels not in LABEL_MODES:
            raise ValueError(f"labels must be one of {list(LABEL_MODES)}. Got {labels!r}.")
        if labels not in self.labels:
            raise ValueError(
                f"labels must be one of {list(self.labels)} under protocol {self.name!r}, which is defined for no "
                f"others. Got {labels!r}. Protocols for it: {', '.join(_names_with(labels))}."
            )

    def _require(self, condition: bool, field: str, expected: str, got: Any) -> None:
        if not condition:
            raise ValueError(f"{field} of protocol {self.name!r} must be {expected}. Got {got!r}.")


def protocol_names() -> list[str]:
    """The protocols that come with the package, in alphabetical order."""
    folder = files("decoct.presets") / "protocols"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_protocol(name_or_path: str | Path) -> Protocol:
    """The protocol of that name, or the one in a YAML file.

    Raises:
        ValueError: If there is no such protocol or file, its fields are not a protocol's, or it takes the name of a
            shipped protocol with other settings: results of one name share tables.
    """
    names = protocol_names()
    if str(name_or_path) in names:
        values = read_yaml(files("decoct.presets") / "protocols" / f"{name_or_path}.yaml")
    elif Path(name_or_path).is_file():
        values = read_yaml(Path(name_or_path))
    else:
        raise ValueError(f"protocol must be one of {names} or a YAML file. Got {str(name_or_path)!r}.")
    protocol = Protocol(**_fields(values, str(name_or_path)))
    if str(name_or_path) not in names and protocol.name in names and protocol != load_protocol(protocol.name):
        raise ValueError(
            f"name must be none of {names}, whose settings are others. Got {protocol.name!r} in {name_or_path}."
        )
    return protocol


def load_protocols(names: Iterable[str]) -> dict[str, Protocol]:
    """Protocols by the name that they state.

    Raises:
        ValueError: If there is no such protocol, or two files state the same name.
    """
    protocols: dict[str, Protocol] = {}
    for name in dict.fromkeys(names):
        protocol = load_protocol(name)
        if protocol.name in protocols:
            raise ValueError(f"protocols must have names of their own. Got {protocol.name!r} twice.")
        protocols[protocol.name] = protocol
    return protocols


def _fields(values: Any, source: str) -> dict[str, Any]:
    """The fields of a protocol from its file, lists as tuples.

    Raises:
        ValueError: If a field is missing or unknown, or one that is a list is none.
    """
    fields = dataclasses.fields(Protocol)
    known, expected = (
        {field.name for field in fields if field.default is dataclasses.MISSING or every} for every in (True, False)
    )
    given = set(values) if isinstance(values, dict) else set()
    if not expected <= given <= known:
        raise ValueError(
            f"Protocol {source} must have every field once, and no other. Got one without "
            f"{sorted(expected - given)}, and with the unknown {sorted(map(str, given - known))}."
        )
    for field in ("betas", "rrc_ratio", "labels", "milestones"):
        if not isinstance(values[field], list | None if field == "betas" else list):
            raise ValueError(f"{field} of protocol {source} must be a list, as in `[a, b]`. Got {values[field]!r}.")
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    words = {name: tuple(map(str, values[name])) for name in ("labels", "milestones")}
    return {**values, **lists, **words}


def own_settings(protocol: Protocol) -> str | None:
    """Six hex digits of the settings of a user's own protocol, whose file may change; None for a shipped one.

    Records state them, so that results of one name and different settings share no table.
    """
    return None if protocol.name in protocol_names() else config_hash(protocol.to_dict())[:6]


def entry_of(values: int | dict[int, int] | None, ipc: int) -> int:
    """A number for an IPC: the table's first entry whose IPC is at least this one; beyond its last entry, the last."""
    table = sorted(_by_ipc(values).items())
    return next((value for entry, value in table if entry >= ipc), table[-1][1])


def epoch_count(protocol: Protocol, ipc: int, classes: int, images: int) -> int:
    """Epochs of training on a set; of a protocol with `steps`, the fewest that have as many."""
    if protocol.steps is None:
        return entry_of(protocol.epochs, ipc)
    return epochs_with(entry_of(protocol.steps, ipc), protocol, ipc, classes, images)


def epochs_with(steps: int, protocol: Protocol, ipc: int, classes: int, images: int) -> int:
    """The fewest epochs on a set that have as many steps."""
    return math.ceil(steps / steps_per_epoch(protocol, ipc, classes, images))


def steps_per_epoch(protocol: Protocol, ipc: int, classes: int, images: int) -> int:
    """Batches that an epoch of a set has."""
    size = batch_size(protocol, ipc, classes, images)
    # Batch norm cannot be trained on a last batch of one image, which is left out.
    return max(1, images // size if images % size <= 1 else math.ceil(images / size))


def learning_rate(protocol: Protocol, epoch: int, epochs: int, architecture: str | None = None) -> float:
    """Learning rate of an epoch: the initial one times `schedule`; Muon's kernels have their own initial one."""
    return initial_learning_rate(protocol, architecture) * schedule(protocol, epoch, epochs)


def initial_learning_rate(protocol: Protocol, architecture: str | None = None) -> float:
    """Learning rate of the first epoch.

    Args:
        architecture: Name of the student, with or without `_instance`; None takes the general learning rate.
    """
    return protocol.learning_rates.get((architecture or "").removesuffix("_instance"), protocol.learning_rate)


def schedule(protocol: Protocol, epoch: int, epochs: int) -> float:
    """What the initial learning rates are multiplied by in an epoch, 0 to `epochs` - 1.

    `half_cosine`: 0.5 * (1 + cos(pi * epoch / epochs / 2)), which ends at half (RDED, validation/main.py).
    `steps`: `milestone_factor` per milestone reached, at `floor(share * epochs)` (IDC, train.py).
    `constant`: 1.
    """
    if protocol.schedule == "half_cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs / 2))
    if protocol.schedule == "steps":
        reached = sum(epoch >= math.floor(Fraction(share) * epochs) for share in protocol.milestones)
        return protocol.milestone_factor**reached
    return 1.0


def batch_size(protocol: Protocol, ipc: int, classes: int, images: int) -> int:
    """Images a step: the table's value, linear between its IPCs and constant outside, at most the set's size."""
    table = sorted(protocol.batch_sizes.items())
    size = round(float(np.interp(ipc, [row[0] for row in table], [row[1] for row in table])))
    if protocol.many_classes is not None and classes >= protocol.many_classes:
        size *= protocol.many_classes_factor
    return min(size, images)


def crop_scale(protocol: Protocol, tiles_per_image: int) -> float:
    """Smallest area of a random-resized crop as a share of the image's: 1 / sqrt(tiles) unless the protocol sets it."""
    return protocol.rrc_scale if protocol.rrc_scale is not None else 1 / math.sqrt(tiles_per_image)


def student_name(protocol: Protocol, name: str) -> str:
    """The architecture under the protocol's normalisation.

    `convnet3` is `convnet3_instance` under a protocol with instance norm; architectures without such a variant, and
    those whose name has a norm already, stay as they are.
    """
    # Here and not above, because networks take seconds to import and protocols are read without them.
    from decoct.models.zoo import ARCHITECTURES

    stem, _, width = name.partition("_w")
    variant = f"{stem}_instance"
    if protocol.norm != "instance" or variant not in ARCHITECTURES:
        return name
    return f"{variant}_w{width}" if width else variant


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    """Whether this is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_two(values: Any) -> bool:
    """Whether these are two numbers."""
    return isinstance(values, tuple) and len(values) == 2 and all(map(_is_number, values))


def _by_ipc(values: Any) -> Any:
    """A table by IPC; a single number is its only entry."""
    return values if isinstance(values, Mapping) else {1: values}


def _is_table(values: Any) -> bool:
    """Whether these are positive whole numbers by positive whole numbers."""
    return isinstance(values, Mapping) and bool(values) and all(map(_is_whole, [*values, *values.values()]))


def _names_with(labels: str) -> list[str]:
    """The package's protocols that are defined for a label mode."""
    return [name for name in protocol_names() if labels in load_protocol(name).labels]
