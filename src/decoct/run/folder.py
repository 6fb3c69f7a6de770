"""Output folders belong to one configuration: claimed at the start, resumed by the same one, refused to others."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from decoct.config import DistillConfig, TrainingConfig, fields_that_matter_for
from decoct.files import read_object
from decoct.run.files import remove_leftovers, remove_written, written_whole
from decoct.run.lock import LOCK_FILE

__all__ = ["RUN_FILE", "check_folder", "claim_folder", "identity_of", "json_text", "sha256", "write_json", "write_text"]

RUN_FILE = "run.json"

# A field that the identities of one kind of run alone have.
KINDS = {
    "source": "an imported dataset",
    "method": "a distilled dataset",
    "encoder": "an estimator",
    "channels": "a prior",
    "model": "a teacher",
    "betas": "samples of a prior",
    "weights": "an ablation",
}

# Fields that change how a run is carried out, never what comes out of it. Training has them all.
VOLATILE = {
    name for each in (TrainingConfig, DistillConfig) for name in fields_that_matter_for(each, "command", "publishing")
}


def identity_of(config: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """What a run's results depend on: its resolved configuration and, say, fingerprints of teacher and data."""
    return {**{key: value for key, value in config.items() if key not in VOLATILE}, **extra}


def claim_folder(
    folder: Path, identity: dict[str, Any], overwrite: bool, written: Iterable[str], alone: bool = True
) -> None:
    """Makes `folder` this run's: a new one, or one that an earlier call with the same identity left unfinished.

    A folder in which an earlier call of the same kind left nothing but its claim is as good as a new one.

    Args:
        identity: JSON-ready values (`identity_of`).
        overwrite: Remove what an earlier run with another identity wrote, and start again.
        written: Glob patterns, relative to the folder, of everything such a run writes; first what says that a run is
            finished, so that a kill on the way leaves none that says so and is not.
        alone: No other machine writes there, so that what killed processes left can be removed.

    Raises:
        ValueError: As `check_folder`.
    """
    check_folder(folder, identity, overwrite, alone)
    if folder.is_dir() and alone:
        remove_leftovers(folder)
    if (folder / RUN_FILE).is_file():
        if not differences(read_object(folder / RUN_FILE), identity):
            return
        remove_written(folder, written)
    write_json(folder / RUN_FILE, identity)


def check_folder(folder: Path, identity: dict[str, Any], overwrite: bool, alone: bool = True) -> None:
    """What `claim_folder` would say; nothing is touched.

    Raises:
        ValueError: If the folder belongs to another configuration (the difference is shown) and is not to be
            overwritten, or to another kind of run, or holds files that no run wrote.
    """
    run_file = folder / RUN_FILE
    names = foreign_names(folder)  # before the look for the run file: another rank may just be writing it
    if run_file.is_file():
        earlier = read_object(run_file)
        if alone and names == [RUN_FILE] and earlier.keys() == identity.keys():
            return  # a claim alone, and surely one of decoct's
        different = differences(earlier, identity)
        if different and kind_of(earlier) != kind_of(identity):
            raise ValueError(
                f"output_dir must be empty or hold {kind_of(identity)}. Got {folder}, which holds {kind_of(earlier)}. "
                "Nothing was touched; use another --output_dir."
            )
        if different and not overwrite:
            lines = "\n".join(f"  {key}: {earlier.get(key)!r} there, {identity.get(key)!r} now" for key in different)
            raise ValueError(
                f"output_dir must be empty or hold a run with the same configuration. Got {folder}, which differs in\n"
                f"{lines}\nUse another --output_dir, or --overwrite to start again there."
            )
    elif names:
        raise ValueError(
            f"output_dir must be empty or hold an earlier run. Got {folder}, which holds {names[:5]} and no "
            f"{RUN_FILE}. Nothing was touched; use another --output_dir."
        )


def foreign_names(folder: Path) -> list[str]:
    """What lies in a folder, but for locks and what a process left that was killed while it claimed the folder."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    left = re.compile(rf"{re.escape(LOCK_FILE)}(-\d+)?|{re.escape(RUN_FILE)}\.\d+\.tmp")
    return [name for name in names if not left.fullmatch(name)]


def differences(earlier: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Names of what two runs' identities do not share, but for the names of the same networks."""
    return sorted(
        key for key in {*earlier, *identity} if _by_content(earlier.get(key)) != _by_content(identity.get(key))
    )


def _by_content(value: Any) -> Any:
    """A value without the names of networks: by its fingerprint one is the same in a folder elsewhere."""
    if isinstance(value, list):
        return [_by_content(each) for each in value]
    if isinstance(value, dict):
        known = {"name"} if "fingerprint" in value else set()
        return {key: _by_content(each) for key, each in value.items() if key not in known}
    return value


def kind_of(identity: dict[str, Any]) -> str:
    """What a run makes, in words."""
    return next((kind for field, kind in KINDS.items() if field in identity), "another kind of run")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as `write_text` does."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """JSON as run folders have it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all; its folder is made if need be."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
