"""Fields with help texts, checks of their values, and configurations as JSON-ready values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import types
from dataclasses import field
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = [
    "check_choice",
    "check_choices",
    "check_types",
    "config_hash",
    "fields_that_matter_for",
    "option",
    "require",
    "to_dict",
    "values_for",
]

Matters: TypeAlias = Literal["result", "extent", "machine", "command", "publishing", "selection", "sampling"]
# In the order in which `--help` shows them.
Group: TypeAlias = Literal[
    "data",
    "method",
    "selection",
    "sampling",
    "labels",
    "training",
    "comparison",
    "continual",
    "transfer",
    "run",
    "publishing",
]
Values = TypeVar("Values")

# Where `--help` shows a field that names no group of its own, by what it matters for.
GROUPS: dict[Matters, Group] = {
    "result": "method",
    "extent": "method",
    "selection": "selection",
    "sampling": "sampling",
    "machine": "run",
    "command": "run",
    "publishing": "publishing",
}


def option(default: Any, help: str, matters: Matters = "result", group: Group | None = None) -> Any:
    """A dataclass field with its help text; lists are copied per instance.

    Args:
        matters: What the field matters for. `result`: what comes out. `selection`, `sampling`: what comes out, where
            tiles are chosen from real images, or sampled. `extent`: how much is computed, which the same folder may
            add to. `machine`: how fast it is computed, and with it a result's last digits. `command`: how one command
            is carried out, `publishing`: where its result goes on the Hub; neither is part of a run's identity.
        group: Heading in `--help`. Default: by what the field matters for.
    """
    metadata = {"help": help, "matters": matters, "group": group or GROUPS[matters]}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def fields_that_matter_for(config_class: Any, *purposes: Matters) -> tuple[str, ...]:
    """Names of the fields of a configuration that matter for one of the purposes, in their order."""
    return tuple(each.name for each in dataclasses.fields(config_class) if each.metadata.get("matters") in purposes)


def values_for(values_class: type[Values], config: Any) -> Values:
    """The values of a configuration that belong together, as a dataclass whose fields have the same names."""
    names = [each.name for each in dataclasses.fields(values_class)]  # type: ignore[arg-type]
    return values_class(**{name: getattr(config, name) for name in names})


def require(condition: bool, name: str, expected: str, got: Any) -> None:
    """Raises ValueError("name must be expected. Got got.") unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {expected}. Got {got!r}.")


def check_types(config: Any) -> None:
    """Raises ValueError for a field whose value is not of its type; paths become text and tuples lists, in place.

    `True` is no number and a text no list, though Python would take them for one.
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        value = list(value) if isinstance(value, tuple) else value
        require(_is_of(hint, value), name, _words_for(hint), value)
        setattr(config, name, value)


def _is_of(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotated type; a whole number is a number with fractions too."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_of(part, value) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return type(value) in set(map(type, get_args(hint)))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_is_of(get_args(hint)[0], each) for each in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint if hint in (int, bool, str, types.NoneType) else True


def _words_for(hint: Any) -> str:
    """A type in words."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_words_for, get_args(hint)))
    if get_origin(hint) is list:
        return f"a list, each {_words_for(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return f"one of {list(get_args(hint))}"
    return {
        int: "a whole number", float: "a finite number", bool: "True or False", str: "text", types.NoneType: "None"
    }.get(hint, str(hint))  # fmt: skip


def check_choices(config: Any) -> None:
    """Raises ValueError for a field whose value is not of its type (`check_types`), or not among its choices."""
    check_types(config)
    for name, hint in get_type_hints(type(config)).items():
        _require_choice(hint, name, getattr(config, name))


def check_choice(config_class: Any, name: str, value: Any) -> None:
    """Raises ValueError for a value that a field's Literal does not have among its choices."""
    _require_choice(get_type_hints(config_class)[name], name, value)


def _require_choice(hint: Any, name: str, value: Any) -> None:
    literals = [hint, *get_args(hint)]
    choices = [choice for part in literals if get_origin(part) is Literal for choice in get_args(part)]
    if choices and value is not None:
        require(value in choices, name, f"one of {choices}", value)


def config_hash(values: dict[str, Any]) -> str:
    """Twelve hex digits that identify JSON-ready values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as JSON-ready values."""
    return dataclasses.asdict(config)
