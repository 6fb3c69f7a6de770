"""Every file is written whole, and an error names it: no module writes one but by the helpers of `run/files.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import decoct

SOURCE = Path(decoct.__file__).parent
WRITERS = {"write_text", "write_bytes", "to_parquet", "save_pretrained", "savefig", "save_file", "save", "write_table"}
WRITERS |= {"ParquetWriter", "save_image", "dump"}
# Within these, a file is renamed when it is complete, or what says that it is there comes after it.
BLOCKS = {"written_whole", "named_errors"}
APART = {("run/supervision.py", "open")}  # the exit status and the stderr of a process


def name_of(call: ast.expr) -> str:
    function = call.func if isinstance(call, ast.Call) else call
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def writes(node: ast.AST, inside: bool = False) -> Iterator[tuple[int, str]]:
    """Line and name of what writes a file outside of the blocks."""
    if isinstance(node, ast.With):
        inside = inside or any(name_of(item.context_expr) in BLOCKS for item in node.items)
    if isinstance(node, ast.Call) and not inside:
        texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        opened = name_of(node) == "open" and any(
            set(text) <= set("rwxab+t") and set(text) & set("wxa+") for text in texts
        )
        in_memory = bool(node.args) and isinstance(node.args[0], ast.Name) and node.args[0].id == "buffer"
        if opened or (name_of(node) in WRITERS and isinstance(node.func, ast.Attribute) and not in_memory):
            yield node.lineno, name_of(node)
    for child in ast.iter_child_nodes(node):
        yield from writes(child, inside)


def test_files_are_written_whole():
    found = [
        (file.relative_to(SOURCE).as_posix(), line, name)
        for file in sorted(SOURCE.rglob("*.py"))
        for line, name in writes(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert [each for each in found if (each[0], each[2]) not in APART] == []
