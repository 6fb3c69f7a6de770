"""An import only ever runs down: a package imports those below it, and no module is part of a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import decoct

SOURCE = Path(decoct.__file__).parent
# Top floor first; a package may import those that stand after it. `pipelines` is the IGDS pipeline, which stands alone.
FLOORS = (
    "explorer",
    "whole",
    "demo",
    "cli",
    "arguments",
    "evaluation",
    "hub",
    "synthesis",
    "pages",
    "training",
    "infoutil",
    "igds",
    "results",
    "distilled",
    "models",
    "run",
    "data",
    "config",
    "methods",
    "files",
    "pipelines",
)


def imports_of(file: Path) -> Iterator[str]:
    """The modules of decoct that a file imports, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "decoct":
            for name in node.names:
                inner = SOURCE.joinpath(*node.module.split(".")[1:], f"{name.name}.py")
                yield f"{node.module}.{name.name}" if inner.is_file() else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "decoct")


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(["decoct", *(parts[:-1] if parts[-1] == "__init__" else parts)])


FILES = [file for file in sorted(SOURCE.rglob("*.py")) if file != SOURCE / "__init__.py"]  # it looks names up on use


def floor_of(module: str) -> str:
    return module.split(".")[1]


def test_every_package_has_a_floor():
    assert {floor_of(module_of(file)) for file in FILES} | {"pipelines"} == set(FLOORS)


@pytest.mark.parametrize("file", FILES, ids=[module_of(file) for file in FILES])
def test_imports_run_down(file):
    here = module_of(file)
    for there in imports_of(file):
        if there in ("decoct", "decoct.scripts", "decoct.presets", "decoct.hub_cards"):
            continue
        up = FLOORS.index(floor_of(there)) < FLOORS.index(floor_of(here))
        assert not up, f"{here} imports {there}, which stands above it ({floor_of(there)} over {floor_of(here)})"


def test_no_circles():
    graph = {module_of(file): set(imports_of(file)) - {module_of(file)} for file in FILES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle of imports: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        for other in graph.get(module, ()):
            visit(other, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_the_pipeline_stands_alone():
    pipeline = SOURCE.parents[1] / "pipelines" / "igds"
    if not pipeline.is_dir():  # an installed wheel
        pipeline = SOURCE / "pipelines" / "igds"
    files = list(pipeline.glob("*.py"))
    assert files
    for file in files:
        assert not list(imports_of(file)), f"{file.name} must not import decoct: a Hub copy of it is complete"
