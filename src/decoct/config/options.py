"""Fields with help texts, checks of their values, and configurations as JSON-ready values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import field
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

__all__ = [
    "check_choice",
    "check_choices",
    "config_hash",
    "fields_that_matter_for",
    "option",
    "require",
    "to_dict",
    "values_for",
]

Matters: TypeAlias = Literal["result", "extent", "machine", "command", "publishing", "selection", "sampling"]
Values = TypeVar("Values")


def option(default: Any, help: str, matters: Matters = "result") -> Any:
    """A dataclass field with its help text; lists are copied per instance.

    Args:
        matters: What the field matters for. `result`: what comes out. `selection`, `sampling`: what comes out, where
            tiles are chosen from real images, or sampled. `extent`: how much is computed, which the same folder may
            add to. `machine`: how fast it is computed, and with it a result's last digits. `command`: how one command
            is carried out, `publishing`: where its result goes on the Hub; neither is part of a run's identity.
    """
    metadata = {"help": help, "matters": matters}
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


def check_choices(config: Any) -> None:
    """Raises ValueError for a field whose value is not among its Literal's choices."""
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
