"""Files that are written whole or not at all, and errors of the operating system that name the file."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["named_errors", "remove_leftovers", "remove_written", "write_tensors", "written_whole"]

# Of what torch says when it cannot write a checkpoint.
TORCH_WRITER = ("PytorchStreamWriter", "inline_container")
ROOM = 2**20
# What a killed process leaves: `NAME.NUMBER.tmp`.
LEFTOVER = re.compile(r".+\.\d+\.tmp")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` at the end of the block: a kill leaves the old file or the new.

    Raises:
        OSError: If the file cannot be written; it names the path, and leaves nothing behind.
    """
    # Others may write the same file, and the numbers of processes on two machines can be the same.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().int % 10**12}.tmp")
    try:
        with named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Raises OSError with the path for what the operating system refuses, whatever error the library makes of it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error
    except (SafetensorError, RuntimeError) as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None and not any(words in str(error) for words in TORCH_WRITER):
            raise
        # torch does not say why it could not write.
        number = int(found[1]) if found else errno.ENOSPC if _is_full(path) else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_full(path: Path) -> bool:
    """Whether the disk of a path, which need not exist, has next to no room left."""
    existing = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    return shutil.disk_usage(existing).free < ROOM


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file."""
    from safetensors.torch import save_file  # torch takes seconds to import

    with written_whole(path) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left half written below a folder; nobody else may be writing there."""
    for path in folder.rglob("*.tmp"):
        if LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink()


def remove_written(folder: Path, patterns: Iterable[str]) -> None:
    """Removes files and folders below a folder, pattern by pattern, and folders that are empty then."""
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            for parent in path.relative_to(folder).parents[:-1]:
                with contextlib.suppress(OSError):
                    (folder / parent).rmdir()
