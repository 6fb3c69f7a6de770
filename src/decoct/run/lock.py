"""One writer at a time for a run folder, or the ranks of one run beside each other."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from decoct.run.files import named_errors, remove_leftovers

__all__ = ["LOCK_FILE", "one_writer", "writes_alone"]

LOCK_FILE = ".lock"
ENDING_SECONDS = 2  # one that was killed a moment ago holds it until the system has taken it apart
ORPHANS_SECONDS = 30  # children of a killed process hold its lock until they notice

StageType = TypeVar("StageType", bound=Callable[..., Any])


@contextlib.contextmanager
def one_writer(folder: Path | None, rank: int | None = None) -> Iterator[None]:
    """Keeps other processes from writing a folder inside the block, and clears away what killed ones left half written.

    The operating system releases the lock of a process that dies. Of several processes of one launch, the first holds
    it for all. A folder that was made for the lock and stays empty is removed.

    Args:
        folder: None: nothing is written.
        rank: Of a machine that computes a share of a run: other ranks may write beside it, and nothing is cleared away.

    Raises:
        ValueError: If another process writes there; it is named.
    """
    if folder is None or int(os.environ.get("RANK", 0)) != 0:
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    alone, ranked = folder / LOCK_FILE, folder / f"{LOCK_FILE}-{rank}"
    try:
        if rank is None:
            with _held(alone, folder):
                for each in sorted(folder.glob(f"{LOCK_FILE}-*")):
                    with _held(each, folder):  # no rank is at work
                        pass
                remove_leftovers(folder)
                yield
        else:
            with contextlib.ExitStack() as locks:
                with _held(alone, folder):  # nobody who works alone is
                    locks.enter_context(_held(ranked, folder))
                yield
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()


@contextlib.contextmanager
def _held(file: Path, folder: Path) -> Iterator[None]:
    """A lock that is held inside the block, and removed at its end."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=ENDING_SECONDS)
    except Timeout:
        holder = _holder(file)
        if not _is_dead(holder):
            raise ValueError(
                f"output_dir must be written by one command at a time. Got {folder}, where {_shown(holder)}. "
                "Wait for it to end, or use another --output_dir."
            ) from None
        lock.acquire(timeout=ORPHANS_SECONDS)
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with named_errors(file):
            file.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}))
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def writes_alone(stage: StageType) -> StageType:
    """A stage that holds its `output_dir` by `one_writer`, as its `rank` if it has one."""

    @functools.wraps(stage)
    def alone(config: Any) -> Any:
        folder = None if config.output_dir is None else Path(config.output_dir)
        with one_writer(folder, getattr(config, "rank", None)):
            return stage(config)

    return alone  # type: ignore[return-value]


def _holder(file: Path) -> dict[str, Any]:
    """Who holds a lock; empty if it does not say."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a process of this host that held a lock is gone, so that only its children can still hold it."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _shown(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process writes"
    return f"process {holder.get('pid')} on {holder.get('host')} has been writing since {holder.get('since')}"
