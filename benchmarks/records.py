"""Which measurements are there already."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

__all__ = ["is_measured"]


def is_measured(identity: dict[str, Any], records: Iterable[dict[str, Any]], apart_from: Iterable[str] = ()) -> bool:
    """Whether one of the records has all fields of `identity`, but for those that need not be the same.

    So that tables can be completed with networks made anew by the same commands, fingerprints need not be.
    """
    skipped = set(apart_from)
    wanted = {name: value for name, value in json.loads(json.dumps(identity)).items() if name not in skipped}
    return any(all(record.get(name) == value for name, value in wanted.items()) for record in records)
