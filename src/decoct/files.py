"""JSON and YAML as people and strangers leave them: read within bounds, and refused in one line that names the file."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # from Python 3.11 on

__all__ = ["one_line", "parse_yaml", "read_card_header", "read_json", "read_object", "read_yaml", "shown"]

MOST_BYTES = 64 * 2**20  # of a JSON file or a card, which are read at once
MOST_YAML_BYTES = 8 * 2**20  # a header with the label names of 20,000 classes for each of 5 IPCs has 3 MB
MOST_VALUES = 10**6  # of a YAML text, with all that its aliases repeat
MOST_DIGITS = 1000  # of a number in YAML
SHOWN_CHARACTERS = 200
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 4, 12, 12, 80, 80
BOOLEAN = "tag:yaml.org,2002:bool"
HEADER = re.compile(r"\A\ufeff?\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)")  # the Hub's own


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with the truth values of YAML 1.2: `no`, `yes`, `on` and `off` are text.

    So `mixed_precision: no` is one of its choices, and a class may be called `on`.
    """


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(BOOLEAN, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def shown(text: object) -> str:
    """Text, or another value as Python writes it, on one line without control characters, cut where it is long."""
    line = text if isinstance(text, str) else SHORT.repr(text)
    line = line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)


def one_line(error: BaseException) -> str:
    """What a library says in an error, on one line."""
    return " ".join(str(error).split())


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: If it is too large, not UTF-8, not JSON, nested too deeply, or names a key of an object twice.
    """
    try:
        return json.loads(_text(path, MOST_BYTES), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"{path} must be JSON. It is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{path} must be JSON. {shown(str(error))}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: As `read_json`, and if the file holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object. Got {shown(content)}: restore the file, or move it away.")
    return content


def read_yaml(path: Path | Traversable) -> Any:
    """The content of a YAML file; raises ValueError as `parse_yaml`."""
    try:
        text = _text(path, MOST_YAML_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} must be valid YAML. {shown(str(error))}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, where: object) -> Any:
    """Plain values of a YAML text.

    Args:
        where: File, for the message.

    Raises:
        ValueError: If it is not YAML, asks for anything but plain values, names a key twice, is nested too deeply, or
            is too large, with all that its aliases repeat.
    """
    try:
        if len(text) > MOST_YAML_BYTES:
            raise ValueError(f"It may have {MOST_YAML_BYTES:,} characters, and has {len(text):,}.")
        node = yaml.compose(text, PlainLoader)
        return None if node is None else _values(node)
    except RecursionError:
        raise ValueError(f"{where} must be valid YAML. It is nested too deeply.") from None
    except yaml.MarkedYAMLError as error:
        line = f"Line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{where} must be valid YAML. {line}{shown(str(error.problem))}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{where} must be valid YAML. {shown(str(error))}") from None


def read_card_header(path: Path) -> dict[Any, Any]:
    """The YAML header of a README.md; empty if it has none.

    Raises:
        ValueError: As `parse_yaml`, and for a card that is too large, or a header that is no mapping.
    """
    header = HEADER.match(_text(path, MOST_BYTES))
    content = parse_yaml(header[1], path) if header else None
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"The header of {path} must be a mapping. Got {shown(content)}.")
    return content or {}


def _text(path: Path | Traversable, most: int) -> str:
    """The text of a file; raises ValueError if it has more bytes than that, or is not UTF-8."""
    with path.open("rb") as file:  # not by its size alone, which a pipe does not have
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"It may have {most:,} bytes, and has more.")
    return content.decode("utf-8")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises ValueError for a key that it has twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"The key {twice!r} is there twice.")
    return content


def _values(node: yaml.Node) -> Any:
    """What nodes stand for; raises ValueError for what is not plain values within the bounds."""
    _check(node)
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except (LookupError, TypeError, AttributeError, OverflowError) as error:  # as of `!!float ""` and `!!bool x`
        raise ValueError(f"A value is not of the type that it names ({error}).") from None


def _check(root: yaml.Node) -> None:
    """Raises ValueError for a mapping that has a key twice, and for more values than a text may stand for.

    Looked at before anything is made of the nodes, since merging (`<<: *other`) copies what an alias stands for.
    """
    waiting, count, mappings = [root], 0, set()
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"Its aliases make more than {MOST_VALUES:,} values of it.")
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")):
            if len(node.value) > MOST_DIGITS:  # of base 60, `1:59:59`, each costs more than the last
                raise ValueError(f"A number may have {MOST_DIGITS:,} digits. Got {len(node.value):,}.")
        elif isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
            if id(node) not in mappings:
                mappings.add(id(node))
                _check_keys(node)


def _check_keys(node: yaml.MappingNode) -> None:
    """Raises ValueError for a mapping that has a key twice, whose last value would silently count."""
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"Line {line}: the key {shown(key.value)!r} is there twice.")
            seen.add((key.tag, key.value))
