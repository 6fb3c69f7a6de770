"""A Hugging Face Hub on this machine, for tests: what the real clients ask of it, and refusals for the rest.

    with LocalHub(folder) as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("user/name")

A request that is not known is answered 501 and kept in `hub.unexpected`; tests fail when there is one.

- Account: `GET /api/whoami-v2`; a wrong token is 401; without rights to write 403; a private repository that the token
  does not own is answered as one that does not exist (404; 401 without a token).
- Repositories: `POST /api/repos/create` (409 if it exists; starts with a commit of `.gitattributes`),
  `GET /api/{type}s/{id}[/revision/{rev}]`, `.../auth-check[/write]`.
- History: `GET .../refs`, `.../commits/{rev}`, `POST` and `DELETE .../branch/{name}`, `POST .../tag/{rev}`.
- Listing: `GET .../tree/{rev}[/folder]` in pages, `POST .../paths-info/{rev}`.
- Upload: `POST .../preupload/{rev}`, `POST /{id}.git/info/lfs/objects/batch`, `PUT` of each object (hash and size must
  be the declared ones), `POST .../commit/{rev}` (all of it or nothing; 412 if `parentCommit` is not the branch's head).
- Cards: `POST /api/validate-yaml`.
- Download: `HEAD` and `GET /{id}/resolve/{rev}/{path}` with `Range`, for models; under `/datasets` for datasets.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

__all__ = ["Commit", "File", "LocalHub", "Repo"]

FAULTS = ("drop", "500", "429", "stop", "lost")
LARGE = 10 * 1024 * 1024
HARNESSES = "/api/agent-harnesses"  # asked or not, by where the client runs: not counted
LFS_ENDINGS = "parquet arrow safetensors bin pt pth ckpt pkl npy npz h5 zip gz png jpg jpeg webp".split()
GIT_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS).encode()
LICENSES = set(
    """apache-2.0 mit openrail openrail++ creativeml-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause
    bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 eupl-1.2
    agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc ms-pl mpl-2.0 odc-by odbl osl-3.0 postgresql ofl-1.1
    ncsa unlicense zlib pddl unknown other""".split()
)


@dataclass(frozen=True)
class File:
    """A file of a commit; its bytes lie in the hub's folder under `sha256`."""

    size: int
    sha256: str
    git_oid: str
    lfs: bool


@dataclass(frozen=True)
class Commit:
    """A commit with all files of the repository as it left them."""

    oid: str
    parent: str | None
    title: str
    description: str
    date: str
    files: dict[str, File]


@dataclass
class Repo:
    """A repository: `branches` and `tags` name commits, `objects` are the LFS objects uploaded for it (hash: size)."""

    kind: str
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        """The commits of a revision, newest first."""
        commits = [self.commit(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def add(self, branch: str, title: str, description: str, files: dict[str, File]) -> Commit:
        parent = self.branches.get(branch)
        words = json.dumps([parent, title, len(self.commits), sorted((p, f.sha256) for p, f in files.items())])
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        commit = Commit(hashlib.sha1(words.encode()).hexdigest(), parent, title, description, date, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, **content: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.content = status, message, code, content


class Cut(Exception):
    """The client went away in the middle of its request, or is to see the server do so."""


class Server(ThreadingHTTPServer):
    """Many clients at once; those that hang up are nothing to report."""

    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class LocalHub:
    """A Hub on 127.0.0.1 that keeps its objects in `folder`; a context manager.

    `url` and `token` (of `user`, with all rights in that namespace) are what a client needs; `requests` lists what was
    asked, (method, path) each, `unexpected` what nothing here answers to or what broke.
    """

    def __init__(self, folder: Path | str, user: str = "user", page_size: int = 1000) -> None:
        self.folder, self.user, self.page_size = Path(folder), user, page_size
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.unexpected: list[str] = []
        self.accounts: dict[str, tuple[str, bool]] = {}
        self.token = self.add_token("hf_" + secrets.token_hex(17))
        self.uploads: dict[str, tuple[Repo, str, int]] = {}
        self.lock = threading.RLock()
        self.stopped = False
        self._faults: list[list[Any]] = []
        handler = type("Handler", (Handler,), {"hub": self})
        self._server = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_token(self, token: str, *, write: bool = True, user: str | None = None) -> str:
        """Makes `token` valid for a user, by default the hub's; without `write` it can only read."""
        self.accounts[token] = (user or self.user, write)
        return token

    def fail(self, k: int, how: str, on: str = "") -> None:
        """The k-th request from now (of those with `on` in "METHOD path") is answered by a fault.

        "drop": no answer, nothing done; "500", "429": that status, nothing done; "lost": done, but no answer;
        "stop": cut in the middle of its body, else of the answer's, and nothing is answered until `heal`.
        """
        if how not in FAULTS or k < 1:
            raise ValueError(f"how must be one of {FAULTS} and k at least 1. Got {how!r}, {k}.")
        self._faults.append([k, how, on])

    def heal(self) -> None:
        """Ends all faults."""
        self.stopped = False
        self._faults.clear()

    def files(self, repo_type: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository, with the `.gitattributes` every repository starts with."""
        files = self.repos[repo_type, repo_id].commit(revision).files
        return {path: (self.folder / file.sha256).read_bytes() for path, file in files.items()}

    def next_fault(self, method: str, path: str) -> str | None:
        """Counts a request; what is wrong with its answer."""
        if path == HARNESSES:
            return None
        with self.lock:
            self.requests.append((method, path))
            if self.stopped:
                return "drop"
            due = None
            for fault in self._faults:
                if fault[2] in f"{method} {path}":
                    fault[0] -= 1
                    due = due or (fault[1] if fault[0] == 0 else None)
            self._faults = [fault for fault in self._faults if fault[0] > 0]
            self.stopped = due == "stop"
            return due

    def keep(self, content: bytes) -> str:
        """Writes an object, and returns its hash."""
        name = hashlib.sha256(content).hexdigest()
        if not (self.folder / name).exists():
            (self.folder / name).write_bytes(content)
        return name


def small_file(hub: LocalHub, content: bytes) -> File:
    git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return File(len(content), hub.keep(content), git_oid, lfs=False)


def lfs_pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def lfs_file(oid: str, size: int) -> File:
    pointer = lfs_pointer(oid, size)
    return File(size, oid, hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest(), lfs=True)


def needs_lfs(path: str, size: int, sample: bytes) -> bool:
    named = any(fnmatch.fnmatch(PurePosixPath(path).name, f"*.{ending}") for ending in LFS_ENDINGS)
    return size > 0 and (named or size > LARGE or b"\0" in sample)


def check_path(path: str, files: dict[str, File]) -> None:
    """Raises Refusal for a path that git does not take, or that is a folder and a file at once."""
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts) or not path.isprintable() or "\\" in path:
        raise Refusal(400, f"Invalid path: {path!r}")
    if any(str(parent) in files for parent in PurePosixPath(path).parents) or any(
        p.startswith(path + "/") for p in files
    ):
        raise Refusal(400, f"Both a file and a folder: {path!r}")


def commit_lines(hub: LocalHub, repo: Repo, lines: list[dict[str, Any]], files: dict[str, File]) -> dict[str, File]:
    """The files after the operations of a commit."""
    files = dict(files)
    for line in lines:
        key, value = line["key"], line["value"]
        path = value["path"].removesuffix("/")
        if key in ("file", "lfsFile"):
            files.pop(path, None)
            check_path(path, files)
        if key == "file":
            if value["encoding"] != "base64":
                raise Refusal(400, f"Unknown encoding of {path!r}: {value['encoding']!r}")
            content = base64.b64decode(value["content"], validate=True)
            if needs_lfs(path, len(content), content[:512]):
                raise Refusal(400, f"{path!r} must be uploaded as an LFS object")
            if path == "README.md" and (problems := card_problems(content.decode())):
                raise Refusal(400, f"Invalid metadata of README.md: {problems}")
            files[path] = small_file(hub, content)
        elif key == "lfsFile":
            oid = value["oid"]
            if oid not in repo.objects or value.get("size", repo.objects[oid]) != repo.objects[oid]:
                raise Refusal(400, f"{path!r} names an LFS object that was not uploaded: {oid}")
            files[path] = lfs_file(oid, repo.objects[oid])
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, f"A file with this name doesn't exist: {path!r}", "EntryNotFound")
        elif key == "deletedFolder":
            inside = [name for name in files if name.startswith(path + "/")]
            if not inside:
                raise Refusal(404, f"A folder with this name doesn't exist: {path!r}", "EntryNotFound")
            for name in inside:
                del files[name]
        else:
            raise Refusal(400, f"Unknown operation {key!r}")
    return files


def card_problems(content: str) -> list[str]:
    """What the Hub refuses in the metadata of a card."""
    block = re.match(r"---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", content, re.DOTALL)
    if block is None:
        return []
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    if not isinstance(data, dict):
        return [] if data is None else ["metadata must be a mapping"]
    problems = []
    licenses = data.get("license", [])
    for name in licenses if isinstance(licenses, list) else [licenses]:
        if not isinstance(name, str) or name not in LICENSES:
            problems.append(f'"license" must be one of {sorted(LICENSES)}. Got {name!r}')
    for key in ("tags", "task_categories", "size_categories", "language"):
        values = data.get(key, [])
        if not all(isinstance(value, str) for value in (values if isinstance(values, list) else [values])):
            problems.append(f'"{key}" must be strings')
    configs = data.get("configs", [])
    if not isinstance(configs, list) or not all(
        isinstance(c, dict) and isinstance(c.get("config_name"), str) for c in configs
    ):
        problems.append('"configs" must be a list of mappings with a "config_name"')
    elif len({config["config_name"] for config in configs}) < len(configs):
        problems.append('"configs" has a "config_name" twice')
    index = data.get("model-index", [])
    if not isinstance(index, list) or not all(isinstance(m, dict) and "name" in m and "results" in m for m in index):
        problems.append('"model-index" must be a list of mappings with "name" and "results"')
    return problems


class Handler(BaseHTTPRequestHandler):
    """Answers one request at a time of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    hub: LocalHub

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        self.fault = self.hub.next_fault(self.command, self.path)
        self.rest = self.body_chunks()
        try:
            if self.fault == "drop" or (self.fault == "stop" and self.has_body()):
                self.cut()
            if self.fault in ("500", "429"):
                raise Refusal(int(self.fault), "A fault of the test.")
            self.route()
        except Refusal as refusal:
            self.refuse(refusal)
        except (Cut, ConnectionError):
            self.close_connection = True
        except Exception:
            self.hub.unexpected.append(f"{self.command} {self.path}: {traceback.format_exc()}")
            self.refuse(Refusal(500, "The test's Hub broke."))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = handle_any

    def route(self) -> None:
        address = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        for methods, pattern, action in ROUTES:
            match = re.fullmatch(pattern, address.path)
            if match and self.command in methods.split():
                action(self, **{name: unquote(value) for name, value in match.groupdict().items() if value is not None})
                return
        self.hub.unexpected.append(f"{self.command} {self.path}")
        raise Refusal(501, f"Not answered by the test's Hub: {self.command} {self.path}")

    # Requests and answers

    def has_body(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "") or int(self.headers.get("Content-Length", 0)) > 0

    def body_chunks(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0] or b"-1", 16):
                if size < 0:
                    raise Cut
                yield self.whole(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            remaining = int(self.headers.get("Content-Length", 0))
            while remaining:
                chunk = self.whole(min(remaining, 1 << 20))
                remaining -= len(chunk)
                yield chunk

    def whole(self, size: int) -> bytes:
        chunk = self.rfile.read(size)
        if len(chunk) < size:
            raise Cut
        return chunk

    def body(self) -> bytes:
        return b"".join(self.rest)

    def cut(self) -> NoReturn:
        """Closes the connection without an answer, after half of the request's body if there is one."""
        if self.fault == "stop":
            self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
        raise Cut

    def refuse(self, refusal: Refusal) -> None:
        headers = {"X-Error-Message": refusal.message.encode("ascii", "replace").decode().replace("\n", " ")}
        if refusal.code is not None:
            headers["X-Error-Code"] = refusal.code
        try:
            self.answer({"error": refusal.message, **refusal.content}, refusal.status, headers)
        except (Cut, ConnectionError):
            self.close_connection = True

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.start_answer(
            status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        )
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if self.fault == "stop" else data)
        self.end_answer()

    def start_answer(self, status: int, headers: dict[str, str]) -> None:
        for _ in self.rest:  # what a refused request still sends
            pass
        if self.fault == "lost":
            raise Cut
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def end_answer(self) -> None:
        self.wfile.flush()
        if self.fault == "stop":
            raise Cut

    # Accounts and rights

    def account(self) -> tuple[str, bool] | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        account = self.hub.accounts.get(header.removeprefix("Bearer "))
        if account is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return account

    def repo(self, kind: str, name: str, write: bool = False) -> Repo:
        account = self.account()
        owner = account is not None and account[0] == name.split("/")[0]
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not owner):
            raise Refusal(401 if account is None else 404, "Repository not found", "RepoNotFound")
        if write and account is None:
            raise Refusal(401, "Invalid username or password.")
        if write and not (owner and account is not None and account[1]):
            raise Refusal(403, f"This token has no rights to write to {name}")
        return repo

    # Endpoints

    def whoami(self) -> None:
        account = self.account()
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        role = "write" if account[1] else "read"
        token = {"displayName": role, "role": role}
        self.answer({"type": "user", "name": account[0], "orgs": [], "auth": {"accessToken": token}})

    def create(self) -> None:
        asked = json.loads(self.body())
        account = self.account()
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        name = f"{asked.get('organization') or account[0]}/{asked['name']}"
        kind = asked.get("type", "model")
        if kind not in ("model", "dataset") or not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
            raise Refusal(400, f"Invalid repository: {kind} {name!r}")
        if not account[1] or name.split("/")[0] != account[0]:
            raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace of {name}")
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        with self.hub.lock:
            if (kind, name) in self.hub.repos:
                raise Refusal(409, f"You already created this {kind} repo", url=url)
            repo = Repo(kind, name, private=asked.get("visibility") == "private")
            repo.add("main", "initial commit", "", {".gitattributes": small_file(self.hub, GIT_ATTRIBUTES)})
            self.hub.repos[kind, name] = repo
        self.answer({"url": url, "name": name})

    def info(self, kind: str, name: str, rev: str = "main") -> None:
        repo = self.repo(kind, name)
        commit = repo.commit(rev)
        siblings = []
        for path, file in sorted(commit.files.items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                sibling |= {"size": file.size, "blobId": file.git_oid}
                if file.lfs:
                    pointer = len(lfs_pointer(file.sha256, file.size))
                    sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": pointer}
            siblings.append(sibling)
        content = {"_id": name, "id": name, "author": name.split("/")[0], "sha": commit.oid, "private": repo.private}
        content |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings}
        self.answer({**content, "createdAt": repo.history(rev)[-1].date, "lastModified": commit.date})

    def auth_check(self, kind: str, name: str, write: str = "") -> None:
        self.repo(kind, name, write=bool(write))
        self.answer({})

    def refs(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        named = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
        lists = {
            key: [{"name": n, "ref": f"refs/{part}/{n}", "targetCommit": oid} for n, oid in items.items()]
            for key, (part, items) in named.items()
        }
        self.answer({**lists, "converts": [], "pullRequests": []})

    def commits(self, kind: str, name: str, rev: str) -> None:
        history = self.repo(kind, name).history(rev)
        described = [{"id": c.oid, "title": c.title, "message": c.description, "date": c.date} for c in history]
        self.answer([{**commit, "authors": [{"user": name.split("/")[0]}]} for commit in described])

    def branch(self, kind: str, name: str, branch: str) -> None:
        repo = self.repo(kind, name, write=True)
        with self.hub.lock:
            if self.command == "DELETE":
                if branch == "main" or branch not in repo.branches:
                    raise Refusal(403 if branch == "main" else 404, f"Cannot delete branch {branch}")
                del repo.branches[branch]
            else:
                start = json.loads(self.body() or b"{}").get("startingPoint", "main")
                if branch in repo.branches:
                    raise Refusal(409, f"Reference already exists: {branch}")
                repo.branches[branch] = repo.commit(start).oid
        self.answer({})

    def tag(self, kind: str, name: str, rev: str) -> None:
        repo = self.repo(kind, name, write=True)
        tag = json.loads(self.body())["tag"]
        with self.hub.lock:
            if tag in repo.tags:
                raise Refusal(409, f"Tag already exists: {tag}")
            repo.tags[tag] = repo.commit(rev).oid
        self.answer({})

    def tree(self, kind: str, name: str, rev: str, folder: str = "") -> None:
        repo = self.repo(kind, name)
        commit = repo.commit(rev)
        start = f"{folder.strip('/')}/" if folder.strip("/") else ""
        recursive, expand = (self.query.get(key, "").lower() == "true" for key in ("recursive", "expand"))
        inside = [path for path in [*commit.files, *folders(commit)] if path.startswith(start)]
        if start and not inside:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        inside = sorted(path for path in inside if recursive or "/" not in path[len(start) :])
        first = int(self.query.get("cursor", 0))
        after, headers = first + self.hub.page_size, {}
        if after < len(inside):
            page = f"{self.hub.url}{urlsplit(self.path).path}?recursive={recursive}&expand={expand}&cursor={after}"
            headers["Link"] = f'<{page}>; rel="next"'
        self.answer([entry(repo, commit, path, expand) for path in inside[first:after]], headers=headers)

    def paths_info(self, kind: str, name: str, rev: str) -> None:
        repo = self.repo(kind, name)
        commit = repo.commit(rev)
        asked = parse_qs(self.body().decode(), keep_blank_values=True)
        expand = asked.get("expand", [""])[0].lower() == "true"
        known = {*commit.files, *folders(commit)}
        paths = [path.strip("/") for path in asked.get("paths", [])]
        self.answer([entry(repo, commit, path, expand) for path in paths if path in known])

    def preupload(self, kind: str, name: str, rev: str) -> None:
        repo = self.repo(kind, name, write=True)
        present = repo.commit(rev).files
        answers = []
        for asked in json.loads(self.body())["files"]:
            path, there = asked["path"], present.get(asked["path"])
            mode = "lfs" if needs_lfs(path, asked["size"], base64.b64decode(asked["sample"])) else "regular"
            oid = None if there is None else there.sha256 if there.lfs else there.git_oid
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": answers})

    def lfs_batch(self, name: str, datasets: str = "") -> None:
        repo = self.repo("dataset" if datasets else "model", name, write=True)
        asked = json.loads(self.body())
        if asked["operation"] != "upload" or "basic" not in asked["transfers"] or asked["hash_algo"] != "sha256":
            raise Refusal(400, "Only basic uploads by sha256 are known.")
        answers = []
        for item in asked["objects"]:
            oid, size = item["oid"], item["size"]
            if not re.fullmatch(r"[0-9a-f]{64}", oid) or size <= 0:
                raise Refusal(422, f"Not an LFS object: {oid!r} of {size} bytes")
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in repo.objects:
                key = secrets.token_hex(16)
                self.hub.uploads[key] = (repo, oid, size)
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs-uploads/{key}"}}
            answers.append(answer)
        self.answer({"transfer": "basic", "objects": answers})

    def upload(self, key: str) -> None:
        if key not in self.hub.uploads:
            raise Refusal(403, "This upload was not declared.")
        repo, oid, size = self.hub.uploads[key]
        partial, digest, received = self.hub.folder / f"{key}-{secrets.token_hex(4)}", hashlib.sha256(), 0
        try:
            with partial.open("wb") as file:
                for chunk in self.rest:
                    digest.update(chunk)
                    received += len(chunk)
                    file.write(chunk)
            if (digest.hexdigest(), received) != (oid, size):
                raise Refusal(400, f"Declared {size} bytes with hash {oid}, received {received}, {digest.hexdigest()}")
            partial.replace(self.hub.folder / oid)
        finally:
            partial.unlink(missing_ok=True)
        repo.objects[oid] = size
        self.answer({})

    def make_commit(self, kind: str, name: str, rev: str) -> None:
        repo = self.repo(kind, name, write=True)
        header, *lines = (json.loads(line) for line in self.body().splitlines() if line.strip())
        if header["key"] != "header" or not header["value"].get("summary"):
            raise Refusal(400, "A commit starts with a header that has a summary.")
        with self.hub.lock:
            if rev not in repo.branches:
                raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
            head = repo.commit(rev)
            if not head.oid.startswith(header["value"].get("parentCommit", "")):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = commit_lines(self.hub, repo, lines, head.files)
            commit = repo.add(rev, header["value"]["summary"], header["value"].get("description", ""), files)
        prefix = "datasets/" if kind == "dataset" else ""
        url = f"{self.hub.url}/{prefix}{name}/commit/{commit.oid}"
        self.answer({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def validate_card(self) -> None:
        content = json.loads(self.body())["content"]
        problems = card_problems(content)
        if problems:
            raise Refusal(400, "Invalid metadata", errors=[{"message": problem} for problem in problems], warnings=[])
        empty = [] if content.startswith("---") else [{"message": "empty or missing yaml metadata in repo card"}]
        self.answer({"errors": [], "warnings": empty})

    def download(self, name: str, rev: str, path: str, datasets: str = "") -> None:
        commit = self.repo("dataset" if datasets else "model", name).commit(rev)
        file = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if file is None:
            raise Refusal(404, f"Entry not found: {path}", "EntryNotFound")
        tag = f'"{file.sha256 if file.lfs else file.git_oid}"'
        headers |= {"ETag": tag, "Content-Type": "application/octet-stream"}
        if file.lfs:
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(file.size)}
        status, start, end = 200, 0, file.size
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            status, start = 206, int(wanted[1])
            end = min(int(wanted[2]) + 1, file.size) if wanted[2] else file.size
            if start >= end:
                self.start_answer(416, {"Content-Range": f"bytes */{file.size}", "Content-Length": "0"})
                return self.end_answer()
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        self.start_answer(status, {**headers, "Content-Length": str(end - start)})
        if self.command == "GET":
            self.send_part(self.hub.folder / file.sha256, start, (end - start) // (2 if self.fault == "stop" else 1))
        self.end_answer()

    def send_part(self, path: Path, start: int, length: int) -> None:
        with path.open("rb") as file:
            file.seek(start)
            while length > 0:
                chunk = file.read(min(length, 1 << 20))
                self.wfile.write(chunk)
                length -= len(chunk)

    def harnesses(self) -> None:
        self.answer({})


def folders(commit: Commit) -> set[str]:
    return {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}


def entry(repo: Repo, commit: Commit, path: str, expand: bool = False) -> dict[str, Any]:
    """A file or folder as listings describe it."""
    file = commit.files.get(path)
    if file is None:
        oid = hashlib.sha1(
            repr(sorted(i for i in commit.files.items() if i[0].startswith(path + "/"))).encode()
        ).hexdigest()
        described: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    else:
        described = {"type": "file", "oid": file.git_oid, "size": file.size, "path": path}
        if file.lfs:
            pointer = len(lfs_pointer(file.sha256, file.size))
            described["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": pointer}
    if expand:
        changed = next(
            c for c in repo.history(commit.oid) if c.parent is None or differs(path, c, repo.commits[c.parent])
        )
        described["lastCommit"] = {"id": changed.oid, "title": changed.title, "date": changed.date}
    return described


def differs(path: str, one: Commit, other: Commit) -> bool:
    def below(commit: Commit) -> dict[str, File]:
        return {name: file for name, file in commit.files.items() if name == path or name.startswith(path + "/")}

    return below(one) != below(other)


API = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
SITE = r"/(?P<datasets>datasets/)?(?P<name>[^/]+/[^/]+?)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("GET", HARNESSES, Handler.harnesses),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_card),
    ("GET", rf"{API}(/revision/(?P<rev>[^/]+))?", Handler.info),
    ("GET", rf"{API}/auth-check(?P<write>/write)?", Handler.auth_check),
    ("GET", rf"{API}/refs", Handler.refs),
    ("GET", rf"{API}/commits/(?P<rev>[^/]+)", Handler.commits),
    ("POST DELETE", rf"{API}/branch/(?P<branch>[^/]+)", Handler.branch),
    ("POST", rf"{API}/tag/(?P<rev>[^/]+)", Handler.tag),
    ("GET", rf"{API}/tree/(?P<rev>[^/]+)(/(?P<folder>.*))?", Handler.tree),
    ("POST", rf"{API}/paths-info/(?P<rev>[^/]+)", Handler.paths_info),
    ("POST", rf"{API}/preupload/(?P<rev>[^/]+)", Handler.preupload),
    ("POST", rf"{API}/commit/(?P<rev>[^/]+)", Handler.make_commit),
    ("POST", rf"{SITE}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs-uploads/(?P<key>[^/]+)", Handler.upload),
    ("GET HEAD", rf"{SITE}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", Handler.download),
]


def main() -> None:
    """Serves `folder` until interrupted: `python server.py folder`."""
    with LocalHub(sys.argv[1]) as hub:
        print(hub.url, hub.token, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
