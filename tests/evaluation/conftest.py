"""A distilled run folder, real images and a teacher, all of three colour classes (`worlds`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import write_images, write_run, write_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> dict[str, str]:
    """A saved teacher (untrained), as a manifest names it."""
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """The real images."""
    return write_images(tmp_path_factory.mktemp("real") / "images")


@pytest.fixture(scope="session")
def written(tmp_path_factory, teacher) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", [1, 3], teacher=teacher, views=3, dataset="sample")


@pytest.fixture
def run_folder(written, tmp_path) -> Path:
    """A distilled run folder with IPC 1 and 3."""
    return Path(shutil.copytree(written, tmp_path / "run"))


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """Writes another run folder: name, IPCs, teacher, views."""
    return lambda name, ipcs, teacher, views=3: write_run(
        tmp_path / name, ipcs, teacher=teacher, views=views, dataset="sample"
    )


@pytest.fixture
def make_images(tmp_path) -> Callable[..., Path]:
    """Writes other real images: name, label names."""
    return lambda name, names: write_images(tmp_path / name, names)
