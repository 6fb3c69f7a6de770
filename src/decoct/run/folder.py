"""Output folders belong to one configuration: claimed at the start, resumed by the same one, refused to others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from decoct.config import DistillConfig, TrainingConfig, fields_that_matter_for
from decoct.files import read_object

__all__ = ["claim_folder", "identity_of", "json_text", "sha256", "write_json", "write_text"]

RUN_FILE = "run.json"

# Fields that change how a run is carried out, never what comes out of it. Training has them all.
VOLATILE = {
    name for each in (TrainingConfig, DistillConfig) for name in fields_that_matter_for(each, "command", "publishing")
}


def identity_of(config: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """What a run's results depend on: its resolved configuration and, say, fingerprints of teacher and data."""
    return {**{key: value for key, value in config.items() if key not in VOLATILE}, **extra}


def claim_folder(folder: Path, identity: dict[str, Any], overwrite: bool, written: Iterable[str]) -> None:
    """Makes `folder` this run's: a new one, or one that an earlier call with the same identity left unfinished.

    Args:
        identity: JSON-ready values (`identity_of`).
        overwrite: Remove what an earlier run with another identity wrote, and start again.
        written: Glob patterns, relative to the folder, of everything such a run writes.

    Raises:
        ValueError: If the folder belongs to another configuration (the difference is shown), or holds files that no
            run wrote.
    """
    run_file = folder / RUN_FILE
    if run_file.is_file():
        earlier = read_object(run_file)
        different = sorted(key for key in {*earlier, *identity} if earlier.get(key) != identity.get(key))
        if not different:
            return
        if not overwrite:
            lines = "\n".join(f"  {key}: {earlier.get(key)!r} there, {identity.get(key)!r} now" for key in different)
            raise ValueError(
                f"output_dir must be empty or hold a run with the same configuration. Got {folder}, which differs in\n"
                f"{lines}\nUse another --output_dir, or --overwrite to start again there."
            )
        for pattern in [*written, RUN_FILE]:
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif folder.exists() and any(folder.iterdir()):
        names = sorted(path.name for path in folder.iterdir())[:5]
        raise ValueError(
            f"output_dir must be empty or hold an earlier run. Got {folder}, which holds {names} and no {RUN_FILE}. "
            "Nothing was touched; use another --output_dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(run_file, identity)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as `write_text` does."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """JSON as run folders have it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name and renames it, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # other commands may write the same file
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
