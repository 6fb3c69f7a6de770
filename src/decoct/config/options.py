"""Fields with help texts, checks of their values, and configurations as JSON-ready values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import field
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["check_choices", "config_hash", "option", "require", "to_dict"]


def option(default: Any, help: str) -> Any:
    """A dataclass field with its help text; lists are copied per instance."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def require(condition: bool, name: str, expected: str, got: Any) -> None:
    """Raises ValueError("name must be expected. Got got.") unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {expected}. Got {got!r}.")


def check_choices(config: Any) -> None:
    """Raises ValueError for a field whose value is not among its Literal's choices."""
    for name, hint in get_type_hints(type(config)).items():
        literals = [hint, *get_args(hint)]
        choices = [choice for part in literals if get_origin(part) is Literal for choice in get_args(part)]
        value = getattr(config, name)
        if choices and value is not None:
            require(value in choices, name, f"one of {choices}", value)


def config_hash(values: dict[str, Any]) -> str:
    """Twelve hex digits that identify JSON-ready values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as JSON-ready values."""
    return dataclasses.asdict(config)
