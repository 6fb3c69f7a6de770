"""What the Hub of the tests keeps: repositories with their branches, commits and files.

It takes what the Hub takes and refuses the rest; `server.py` puts HTTP around it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

__all__ = ["Commit", "File", "Refusal", "Repository"]

LFS_ENDINGS = (".parquet", ".safetensors", ".bin", ".pkl", ".zip", ".png", ".jpg")
LFS_BYTES = 10 * 2**20
GIT_ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS)
LICENSES = {"apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit", "other", "unknown"}  # of the Hub's, a few


class Refusal(Exception):
    """An answer other than success: its HTTP status, the code by which clients tell causes apart, and what it adds."""

    def __init__(self, status: int, message: str, code: str = "", **content: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.content = status, code, content


@dataclass(frozen=True)
class File:
    """A file of a commit; its bytes lie under their `sha256` in the repository's folder of objects."""

    size: int
    sha256: str
    git_oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What a download names the file's content by."""
        return self.sha256 if self.lfs else self.git_oid

    def entry(self, path: str) -> dict[str, Any]:
        """The file as listings describe it."""
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 130}} if self.lfs else {}
        return {"type": "file", "oid": self.git_oid, "size": self.size, "path": path, **lfs}


@dataclass(frozen=True)
class Commit:
    """All files of the repository as the commit left them."""

    oid: str
    title: str
    files: dict[str, File]


@dataclass
class Repository:
    """A repository, which starts with one commit of `.gitattributes`.

    `branches` name commits; `uploaded` has the sizes of the LFS objects that were received, by their hash.
    """

    objects: Path
    kind: str
    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    uploaded: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add_commit("main", "initial commit", {".gitattributes": self.small_file(GIT_ATTRIBUTES.encode())})

    @property
    def address(self) -> str:
        return f"{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def commit(self, revision: str) -> Commit:
        """The commit of a branch, or of that hash."""
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def listing(self, revision: str, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The files and folders below a folder."""
        files = self.commit(revision).files
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
        start = f"{folder}/" if folder else ""
        inside = sorted(path for path in {*files, *folders} if path.startswith(start))
        if not inside:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        return [
            files[path].entry(path)
            if path in files
            else {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
            for path in inside
            if recursive or "/" not in path[len(start) :]
        ]

    def add_commit(self, branch: str, title: str, files: dict[str, File]) -> Commit:
        commit = Commit(secrets.token_hex(20), title, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def add_branch(self, name: str, start: str) -> None:
        if name in self.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        self.branches[name] = self.commit(start).oid

    def apply(self, branch: str, lines: list[dict[str, Any]]) -> Commit:
        """Makes a commit of a header and its operations: all of them, or none if one is refused."""
        header, *operations = lines
        if header["key"] != "header" or not header["value"]["summary"]:
            raise Refusal(400, "A commit starts with a header that has a summary.")
        if branch not in self.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = self.commit(branch)
        if header["value"].get("parentCommit", head.oid) != head.oid:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            self.change(files, operation["key"], operation["value"])
        return self.add_commit(branch, header["value"]["summary"], files)

    def change(self, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        """Applies one operation of a commit to `files`."""
        path = value["path"]
        check_path(path, files)
        if key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, f"A file with this name doesn't exist: {path!r}", "EntryNotFound")
        elif key == "file":
            content = base64.b64decode(value["content"], validate=True)
            if needs_lfs(path, len(content), content):
                raise Refusal(400, f"{path!r} must be uploaded as an LFS object")
            if path == "README.md" and (problems := card_problems(content.decode())):
                raise Refusal(400, f"Invalid metadata of README.md: {problems}")
            files[path] = self.small_file(content)
        elif key == "lfsFile":
            if value["oid"] not in self.uploaded:
                raise Refusal(400, f"{path!r} names an LFS object that was not uploaded: {value['oid']}")
            files[path] = lfs_file(value["oid"], self.uploaded[value["oid"]])
        else:
            raise Refusal(400, f"Unknown operation {key!r}")

    def small_file(self, content: bytes) -> File:
        """Keeps a file that comes inside a commit."""
        sha256 = hashlib.sha256(content).hexdigest()
        (self.objects / sha256).write_bytes(content)
        return File(len(content), sha256, git_hash(content), lfs=False)


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_file(sha256: str, size: int) -> File:
    """A large file, of which git has a pointer only."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return File(size, sha256, git_hash(pointer.encode()), lfs=True)


def needs_lfs(path: str, size: int, sample: bytes) -> bool:
    return size > 0 and (path.endswith(LFS_ENDINGS) or size > LFS_BYTES or b"\0" in sample)


def check_path(path: str, files: dict[str, File]) -> None:
    """Raises Refusal for a path that git does not take, or that would be a folder and a file at once."""
    if {"", ".", "..", ".git"} & set(path.split("/")) or not path.isprintable() or "\\" in path:
        raise Refusal(400, f"Invalid path: {path!r}")
    inside = any(name.startswith(f"{path}/") for name in files)
    if inside or any(str(parent) in files for parent in PurePosixPath(path).parents):
        raise Refusal(400, f"Both a file and a folder: {path!r}")


def card_problems(text: str) -> list[str]:
    """What the Hub refuses in a card's header."""
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    try:
        data = yaml.safe_load(block[1]) if block else {}
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    configs = [config["config_name"] for config in data.get("configs", [])]
    words = [word for key in ("tags", "task_categories", "size_categories") for word in data.get(key, [])]
    rules = {
        f'"license" must be one of {sorted(LICENSES)}': data.get("license", "other") in LICENSES,
        '"tags" and categories must be strings': all(isinstance(word, str) for word in words),
        '"configs" has a "config_name" twice': len(set(configs)) == len(configs),
        '"model-index" must have names and results': all(
            {"name", "results"} <= set(m) for m in data.get("model-index", [])
        ),
    }
    return [problem for problem, kept in rules.items() if not kept]
