"""Grids as data: a YAML file says what is varied, and a command where the data and the networks are (`Sweep`).

    records: cifar10.json           # file of the records; `{dataset}` stands for the dataset's name
    fields: {stage: final}          # further fields of every record, which tell it from those of other grids

    ipc: [10]                       # what the command line can say otherwise:
    seeds: [0]                      # a seed draws the images of a set and starts the student
    students: [convnet3]
    labels: [online]
    protocol: rded_kd               # a name, or a YAML file

    distil: {mixed_precision: bf16} # options of `decoct distill` that all sets share, such as a `seed` for all
    evaluate: {rrc_scale: 0.08}     # options of `decoct evaluate` that all students share

    sets:                           # what is distilled, by the name that records call `setting`
      random: {method: random}
      "{selection}, views {views}":                      # stands for all combinations
        method: infoutil
        vary: {selection: [top, k_center], views: [10, 50]}
      "beta {beta:g}":
        method: igds
        min_ipc: 2                                       # or max_ipc: only at some images per class
        vary: {beta: [0, 1, 3]}

    training:                       # how students are trained: fields of the protocol in place of its own; records
      as it is: {}                  # call the name `training`. Left out: the protocol as it is.
      "{option} {value:g}":                              # one at a time, the others as the protocol has them
        one_at_a_time: {ema_decay: [0, 0.9], batch_factor: [0.5, 2]}

    networks: [prior, estimator]    # networks that the command names; records state them, and both estimates of the
                                    # information of each set by the estimator
    figure: {over: beta, curve: "scale {guidance_scale:g}", lines: [random]}
                                    # accuracy over an option: its curves, the sets that are drawn as lines, the
                                    # `points` that others report, and whether its axis is `logarithmic`

A student is trained on each set for every IPC, way of training, architecture, label mode and seed. `batch_factor` and
`learning_rate_factor` multiply the protocol's batch sizes and all its learning rates; `epochs` take the place of its
`steps`, and `steps` that of its epochs. A label teacher `epoch_N` is the one in that folder of the teacher's, and
`../other` the one in another folder beside it. Views and mixed views are stored where students with `views` or `mixed`
are asked for, or a set says how many.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decoct.config import DistillConfig, EvaluateConfig
from decoct.files import read_yaml, shown
from decoct.training.protocols import Protocol

__all__ = ["GridFile", "Variant", "read_grid", "varied"]

# What multiplies fields of a protocol, in place of setting them.
FACTORS = ("batch_factor", "learning_rate_factor")
# Keys of an entry that are no options.
KEYS = ("min_ipc", "max_ipc", "vary", "one_at_a_time")
FIGURE = {"over", "curve", "lines", "points", "logarithmic"}  # of `decoct.results.figures.save_option_curves`
OPTIONS = {
    "sets": {each.name for each in dataclasses.fields(DistillConfig)},
    "training": {*FACTORS, *(each.name for each in dataclasses.fields(Protocol))},
}


@dataclass(frozen=True)
class Variant:
    """Options by a name; a set is made, or a student trained, with them.

    Args:
        min_ipc: Fewest images per class at which there is such a set.
        max_ipc: Most images per class; None: no limit.
    """

    name: str
    options: dict[str, Any]
    min_ipc: int = 1
    max_ipc: int | None = None


@dataclass(frozen=True, kw_only=True)
class GridFile:
    """What is varied, as the module describes it."""

    records: str
    sets: list[Variant]
    training: list[Variant] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    ipc: list[int] = field(default_factory=lambda: [10])
    seeds: list[int] = field(default_factory=lambda: [0])
    students: list[str] = field(default_factory=lambda: ["convnet3"])
    labels: list[str] = field(default_factory=lambda: ["online"])
    protocol: str = "rded_kd"
    distil: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    networks: list[str] = field(default_factory=list)
    figure: dict[str, Any] = field(default_factory=dict)


def read_grid(path: Path, vary: Mapping[str, Sequence[Any]] | None = None) -> GridFile:
    """The grid in a YAML file.

    Args:
        vary: Values of varied options, in place of those in the file.

    Raises:
        ValueError: If the file is no grid, names an option that there is not, or does not vary one of `vary`.
    """
    content = read_yaml(path)
    known = {each.name for each in dataclasses.fields(GridFile)}
    if not isinstance(content, dict) or not {"records", "sets"} <= set(content) <= known:
        found = sorted(map(str, content)) if isinstance(content, dict) else content
        raise ValueError(f"{path} must have records and sets, and no keys but {sorted(known)}. Got {shown(found)}.")
    check_values(path, content)
    entries = {kind: {name: entry or {} for name, entry in (content.get(kind) or {}).items()} for kind in OPTIONS}
    for kind, members in entries.items():
        for entry in members.values():
            options = {*entry, *entry.get("vary", ()), *entry.get("one_at_a_time", ())} - set(KEYS)
            if unknown := sorted(options - OPTIONS[kind]):
                raise ValueError(f"{kind} of {path} must have options among {sorted(OPTIONS[kind])}. Got {unknown}.")
    lists = {option for members in entries.values() for entry in members.values() for option in entry.get("vary", ())}
    if unknown := sorted(set(vary or ()) - lists):
        raise ValueError(f"vary must name options that {path} varies, {sorted(lists)}. Got {unknown}.")
    variants = {
        kind: [each for name, entry in members.items() for each in named_variants(path, name, entry, vary or {})]
        for kind, members in entries.items()
    }
    return GridFile(**{**content, **variants})


def check_values(path: Path, content: Mapping[str, Any]) -> None:
    """Raises ValueError for a value of a grid file that is not of its kind, with the file and the key."""

    def expect(right: bool, key: str, expected: str, got: Any) -> None:
        if not right:
            raise ValueError(f"{path}: {key} must be {expected}. Got {got!r}.")

    def whole(value: Any) -> bool:
        return type(value) is int

    for key in ("records", "protocol"):
        expect(isinstance(content.get(key, ""), str), key, "text", content.get(key))
    for key in ("fields", "distil", "evaluate", "figure"):
        expect(isinstance(content.get(key, {}), dict), key, "a mapping of names to values", content.get(key))
    for key in ("ipc", "seeds"):
        values = content.get(key, [0])
        expect(isinstance(values, list) and all(map(whole, values)), key, "a list of whole numbers", values)
    for key in ("students", "labels", "networks"):
        values = content.get(key, [""])
        expect(
            isinstance(values, list) and all(isinstance(each, str) for each in values), key, "a list of names", values
        )
    if figure := content.get("figure"):
        expect(set(figure) <= FIGURE, "figure", f"options among {sorted(FIGURE)}", sorted(figure))
        expect({"over", "curve"} <= set(figure), "figure", "options with `over` and `curve`", figure)
    for key, config_class in (("distil", DistillConfig), ("evaluate", EvaluateConfig)):
        options = {each.name for each in dataclasses.fields(config_class)}
        for name in content.get(key, {}):
            expect(name in options, key, f"options of {config_class.__name__}", name)
    for kind in OPTIONS:
        members = content.get(kind) or {}
        expect(isinstance(members, dict), kind, "a mapping of names to options", members)
        for name, entry in members.items():
            place = f"{kind}, {name!r}"
            expect(isinstance(name, str), kind, "a mapping with names of text", name)
            expect(isinstance(entry or {}, dict), place, "a mapping of options", entry)
            for limit in ("min_ipc", "max_ipc"):
                expect(
                    whole((entry or {}).get(limit, 1)), f"{place}, {limit}", "a whole number", (entry or {}).get(limit)
                )
            for lists in ("vary", "one_at_a_time"):
                varied_options = (entry or {}).get(lists, {})
                expect(
                    isinstance(varied_options, dict),
                    f"{place}, {lists}",
                    "a mapping of options to lists",
                    varied_options,
                )
                for option, values in varied_options.items():
                    words = f"{place}, {lists}, {option}"
                    expect(option != "seed", words, "among the grid's seeds", values)
                    expect(isinstance(values, list) and bool(values), words, "a list of values", values)
    expect(bool(content["sets"]), "sets", "one or more sets", content["sets"])


def named_variants(path: Path, name: str, entry: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """`variants_of`, with the file in the error of a name that cannot be filled in."""
    try:
        return variants_of(name, entry, vary)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path}: the name {name!r} must be filled in by its options. Got {error!r}.") from None


def variants_of(name: str, entry: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """All that an entry of `sets` or `training` stands for."""
    limits = {limit: entry[limit] for limit in ("min_ipc", "max_ipc") if limit in entry}
    shared = {option: value for option, value in entry.items() if option not in KEYS}
    lists = {option: vary.get(option, values) for option, values in entry.get("vary", {}).items()}
    single = [(option, value) for option, values in entry.get("one_at_a_time", {}).items() for value in values]
    variants = []
    for values in itertools.product(*lists.values()):
        options = {**shared, **dict(zip(lists, values, strict=True))}
        for option, value in single:
            title = name.format(**options, option=option.replace("_", " "), value=value)
            variants.append(Variant(title, {**options, option: value}, **limits))
        if not single:
            variants.append(Variant(name.format(**options), options, **limits))
    return variants


def varied(protocol: Protocol, options: Mapping[str, Any]) -> Protocol:
    """A protocol with other values in some of its fields, under the same name."""
    changed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if changed.get(one) is not None:
            changed.setdefault(other, None)
    batch, rate = (changed.pop(name, None) for name in FACTORS)
    if batch is not None:
        changed["batch_sizes"] = {ipc: max(2, round(batch * size)) for ipc, size in protocol.batch_sizes.items()}
    if rate is not None:
        changed["learning_rate"] = rate * protocol.learning_rate
        changed["learning_rates"] = {name: rate * value for name, value in protocol.learning_rates.items()}
        if protocol.matrix_learning_rate is not None:
            changed["matrix_learning_rate"] = rate * protocol.matrix_learning_rate
    return dataclasses.replace(protocol, **changed)
