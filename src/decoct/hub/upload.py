"""Bringing a repository of the Hub to the state of a folder, in one commit that can be interrupted anywhere."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.constants import DEFAULT_REVISION
from huggingface_hub.hf_api import RepoFile

from decoct.distilled.manifest import MANIFEST
from decoct.hub.contents import CARD, Contents, repo_type_of
from decoct.pages.markdown import is_sealed
from decoct.run.folder import differences, identity_of

__all__ = ["Push", "push"]

logger = logging.getLogger(__name__)

GIT_FILE = ".gitattributes"  # the Hub writes it into every repository
# What the configurations of a card read, however it came there.
READ_BY_CARD = re.compile(r"data/ipc_[^/]*/[^/]*\.parquet")
# What a manifest says a dataset is, beside its configuration.
IDENTITY = ("dataset", "label_names", "teacher", "label_teachers", "prior", "estimator")


@dataclass(frozen=True)
class Push:
    """A folder's state on its way to the Hub.

    Args:
        contents: What the folder holds.
        files: Files with their names in the repository, hashed; card and manifest are written for it.
        overwrite: Publish into a repository that holds something else.
    """

    contents: Contents
    repo_id: str
    files: list[CommitOperationAdd]
    message: str
    revision: str = DEFAULT_REVISION
    private: bool = False
    overwrite: bool = False

    @property
    def kind(self) -> str:
        """One of `decoct.hub.contents.KINDS`."""
        return self.contents.kind

    @property
    def names(self) -> set[str]:
        """The files' names in the repository."""
        return {file.path_in_repo for file in self.files}

    def content(self, name: str) -> bytes:
        """The content of one of the files."""
        file = next(file for file in self.files if file.path_in_repo == name)
        with file.as_file() as content:
            return content.read()


@dataclass(frozen=True)
class Difference:
    """Why a repository holds something else, and what of it would be taken for a part of the upload."""

    reason: str
    stale: set[str]


def push(api: HfApi, wanted: Push) -> str:
    """Uploads what the repository does not have yet, makes it visible in one commit, and compares the hashes.

    Until the commit the repository is as it was; what a push that was cut off has uploaded is not uploaded again.

    Returns:
        The repository's address.

    Raises:
        ValueError: If the repository holds something else and `overwrite` is off, is public and should be private, or
            does not hold afterwards what was uploaded.
        HfHubHTTPError: From the client, see `hub_errors`.
    """
    repo: dict[str, Any] = {"repo_id": wanted.repo_id, "repo_type": repo_type_of(wanted.kind)}
    url = str(api.create_repo(**repo, private=wanted.private or None, exist_ok=True))
    main = info = api.repo_info(**repo)
    if wanted.private and not info.private:
        raise ValueError(
            f"{wanted.repo_id} must be private, as --private says. Got a public repository: make it private in its "
            "settings, or leave out --private."
        )
    if wanted.revision != DEFAULT_REVISION:
        api.create_branch(**repo, branch=wanted.revision, exist_ok=True)
        info = api.repo_info(**repo, revision=wanted.revision)
        url = f"{url}/tree/{wanted.revision}"
    present = listing(api, repo, info.sha)
    difference = find_difference(wanted, present, lambda name: read_file(api, repo, name, info.sha))
    deleted: set[str] = set()
    if difference is not None and wanted.revision != DEFAULT_REVISION and info.sha == main.sha:
        # A branch that is still a copy of main has nothing of its own.
        deleted = set(present) - wanted.names - {GIT_FILE}
    elif difference is not None and wanted.overwrite:
        deleted = difference.stale
    elif difference is not None:
        raise ValueError(
            f"{wanted.repo_id} must be empty or hold an earlier upload of this {wanted.kind}. Got {difference.reason}. "
            "Nothing was changed: choose another repository or --revision, or replace it by --overwrite."
        )
    changed = [file for file in wanted.files if not same(file, present.get(file.path_in_repo))]
    if not changed and not deleted:
        logger.warning("%s holds these %d files already: nothing to upload.", url, len(wanted.files))
        return url
    for file in changed:
        if file.path_in_repo.endswith((".parquet", ".safetensors")):
            api.preupload_lfs_files(**repo, additions=[file], revision=wanted.revision)
    deletions = [CommitOperationDelete(name, is_folder=False) for name in sorted(deleted)]
    commit = api.create_commit(
        **repo,
        operations=[*changed, *deletions],
        commit_message=wanted.message,
        revision=wanted.revision,
        parent_commit=info.sha,
    )
    arrived = listing(api, repo, commit.oid)
    if wrong := [file.path_in_repo for file in wanted.files if not same(file, arrived.get(file.path_in_repo))]:
        raise ValueError(f"{url} must hold what was uploaded. Got another {wrong[0]}: run the command again.")
    return url


def listing(api: HfApi, repo: dict[str, Any], revision: str | None) -> dict[str, RepoFile]:
    """The files of a repository with sizes and hashes, by name."""
    tree = api.list_repo_tree(**repo, recursive=True, revision=revision)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def read_file(api: HfApi, repo: dict[str, Any], name: str, revision: str | None) -> bytes:
    """The content of a small file of a repository."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(api.hf_hub_download(**repo, filename=name, revision=revision, cache_dir=folder)).read_bytes()


def same(file: CommitOperationAdd, remote: RepoFile | None) -> bool:
    """Whether the Hub has this very file: by sha256, or by git's hash where it is not kept as a large file."""
    if remote is None or remote.size != file.upload_info.size:
        return False
    if remote.lfs is not None:
        return remote.lfs.sha256 == file.upload_info.sha256.hex()
    with file.as_file() as content:
        data = content.read()
    return remote.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def find_difference(wanted: Push, present: dict[str, RepoFile], read: Callable[[str], bytes]) -> Difference | None:
    """How a repository differs from an earlier upload of the same thing; None if it is one, or empty.

    Args:
        present: The repository's files by name.
        read: Reads one of them.
    """
    if not set(present) - {GIT_FILE}:
        return None
    if wanted.kind == "dataset":
        return dataset_difference(wanted, present, read)
    weights = [file for file in wanted.files if file.path_in_repo.endswith(".safetensors")]
    other = [file.path_in_repo for file in weights if not same(file, present.get(file.path_in_repo))]
    if not other:
        card = read(CARD) if CARD in present else b""
        edited = card not in (b"", wanted.content(CARD)) and not is_sealed(card.decode(errors="replace"))
        return Difference(f"a {CARD} that was edited there", set()) if edited else None
    found = f"another {other[0]}" if other[0] in present else f"no {other[0]}, but {some_of(present)}"
    # Loading prefers one file of weights to several, and a stale one would be loaded in place of the uploaded.
    places = {PurePosixPath(file.path_in_repo).parent for file in weights}
    stale = {
        name
        for name in present
        if PurePosixPath(name).parent in places and name.endswith((".safetensors", ".safetensors.index.json"))
    }
    return Difference(found, {*stale, *({"training.json"} & set(present))} - wanted.names)


def dataset_difference(wanted: Push, present: dict[str, RepoFile], read: Callable[[str], bytes]) -> Difference | None:
    """`find_difference` for a distilled dataset: manifests are compared, and whether the card was edited on the Hub."""
    stale = {name for name in present if READ_BY_CARD.fullmatch(name)} - wanted.names
    if MANIFEST not in present:
        return Difference(f"no {MANIFEST}, but {some_of(present)}", stale)
    theirs, ours = (object_of(content) for content in (read(MANIFEST), wanted.content(MANIFEST)))
    expected = identity(ours)
    if different := [key for key in differences(identity(theirs), expected) if key in expected]:
        pages = ({"preview.png", "report.html", "results.json"} & set(present)) - wanted.names
        return Difference(f"another dataset, which differs in {', '.join(different[:5])}", stale | pages)
    if stale:
        return Difference(f"{sorted(stale)[0]}, which is not of this dataset", stale)
    card = read(CARD) if CARD in present else b""
    if card != wanted.content(CARD) and hashlib.sha256(card).hexdigest() != theirs["files"].get(CARD):
        return Difference(f"a {CARD} that was edited there", set())
    return None


def object_of(content: bytes) -> dict[str, Any]:
    """A manifest from its bytes; empty where it is not one."""
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    valid = isinstance(manifest, dict) and all(isinstance(manifest.get(key), dict) for key in ("config", "files"))
    return manifest if valid else {}


def identity(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a distilled dataset is, wherever it was made."""
    return identity_of(manifest.get("config", {}), **{key: manifest.get(key) for key in IDENTITY})


def some_of(present: dict[str, RepoFile]) -> str:
    """Some of a repository's files."""
    return ", ".join(sorted(set(present) - {GIT_FILE})[:5])
