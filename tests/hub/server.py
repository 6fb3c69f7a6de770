"""A Hugging Face Hub on this machine, for tests: what the real clients ask of it, and refusals for the rest.

    with LocalHub(folder) as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("user/name")

A request that `ROUTES` does not know is answered 501 and kept in `hub.unexpected`; tests fail when there is one. The
same server runs as a program: `python server.py folder` prints its address and token, and serves until it is stopped.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

if __package__:
    from .repositories import Refusal, Repository, card_problems, needs_lfs
else:
    from repositories import Refusal, Repository, card_problems, needs_lfs

__all__ = ["LocalHub"]

HARNESSES = "/api/agent-harnesses"  # each process of a client asks for it once: not counted
BLOCK = 2**20


class LocalHub:
    """A Hub on 127.0.0.1 that keeps its objects in `folder`; a context manager.

    `url` and `token` (of `user`, with all rights in that namespace) are what a client needs. `repos` has the
    repositories by type and name, `requests` what was asked, `unexpected` what nothing here answers or what broke.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repos: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.unexpected: list[str] = []
        self.accounts: dict[str, tuple[str, bool]] = {}
        self.token = self.add_token("hf_" + secrets.token_hex(17))
        self.lock = threading.Lock()
        self.heal()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_token(self, token: str, *, user: str = "user", write: bool = True) -> str:
        """Makes `token` valid for a user; without `write` it can only read."""
        self.accounts[token] = (user, write)
        return token

    def fail(self, k: int, how: str, on: str = "") -> None:
        """The k-th request from now (of those with `on` in "METHOD path") is answered by a fault.

        "drop": no answer, nothing done; "500", "429": that status, nothing done; "lost": done, but no answer;
        "stop": cut in the middle of its body, else of the answer's, and nothing is answered until `heal`.
        """
        assert how in ("drop", "500", "429", "lost", "stop") and k > 0
        self._faults.append([k, how, on])

    def heal(self) -> None:
        """Ends all faults."""
        self.stopped = False
        self._faults: list[list[Any]] = []

    def next_fault(self, request: str) -> str | None:
        """Counts a request; what is wrong with its answer."""
        with self.lock:
            self.requests.append(request)
            due = "drop" if self.stopped else None
            for fault in self._faults:
                if not self.stopped and fault[2] in request:
                    fault[0] -= 1
                    due = fault[1] if fault[0] == 0 else due
            self.stopped |= due == "stop"
            return due

    def files(self, repo_type: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository, with the `.gitattributes` every repository starts with."""
        files = self.repos[repo_type, repo_id].commit(revision).files
        return {path: (self.folder / file.sha256).read_bytes() for path, file in files.items()}


@dataclass
class Answer:
    """A part of a file, from where it stands."""

    file: BinaryIO
    length: int
    status: int
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one at a time."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: LocalHub

    def log_message(self, *_: object) -> None: ...

    def handle_any(self) -> None:
        """Takes a request in, does what it asks, and answers; or shows the client a fault."""
        self.asked = f"{self.command} {self.path}"
        fault = None if self.path == HARNESSES else self.hub.next_fault(self.asked)
        try:
            with tempfile.NamedTemporaryFile(dir=self.hub.folder) as self.body:
                self.receive(fault)
                answer = self.answer(fault)
            self.send(answer, fault)
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def receive(self, fault: str | None) -> None:
        """Writes the request's body to a file, and hashes it on the way."""
        left = int(self.headers.get("Content-Length", 0))
        if fault == "drop" or (fault == "stop" and left > 0):
            self.rfile.read(left // 2 if fault == "stop" else 0)
            raise ConnectionAbortedError
        self.digest = hashlib.sha256()
        while left > 0:
            block = self.rfile.read(min(left, BLOCK))
            if not block:
                raise ConnectionAbortedError
            self.digest.update(block)
            left -= self.body.write(block)
        self.body.seek(0)

    def answer(self, fault: str | None) -> Answer:
        """What to send, with everything done that was asked."""
        headers = {"Content-Type": "application/json"}
        try:
            if fault in ("500", "429"):
                raise Refusal(int(fault), "A fault of the test.")
            content, status = self.route(), 200
        except Refusal as refusal:
            message = str(refusal).encode("ascii", "backslashreplace").decode()
            content, status = {"error": message, **refusal.content}, refusal.status
            headers |= {"X-Error-Message": message, "X-Error-Code": refusal.code}
        except Exception:
            self.hub.unexpected.append(f"{self.asked}: {traceback.format_exc()}")
            content, status = {"error": "The test's Hub broke."}, 500
        if isinstance(content, Answer):
            return content
        data = json.dumps(content).encode()
        return Answer(io.BytesIO(data), len(data), status, headers)

    def route(self) -> Any:
        """Calls the endpoint, with the repository and the other parts of the address."""
        address = urlsplit(self.path)
        self.query = dict(parse_qsl(address.query))
        for methods, right, pattern, endpoint in ROUTES:
            match = re.fullmatch(pattern, address.path)
            if match and self.command in methods.split():
                parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                with self.hub.lock:
                    if right is not None:
                        kind = "dataset" if parts.pop("kind", "").startswith("dataset") else "model"
                        parts["repo"] = self.repo(kind, parts.pop("name"), right)
                    return endpoint(self, **parts)
        self.hub.unexpected.append(self.asked)
        raise Refusal(501, f"Not answered by the test's Hub: {self.asked}")

    def send(self, answer: Answer, fault: str | None) -> None:
        with answer.file:
            if fault == "lost":
                raise ConnectionAbortedError
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(answer.length)}.items():
                self.send_header(name, value)
            self.end_headers()
            left = 0 if self.command == "HEAD" else answer.length // 2 if fault == "stop" else answer.length
            while left > 0:
                left -= self.wfile.write(answer.file.read(min(left, BLOCK)))
        if fault == "stop":
            raise ConnectionAbortedError

    # Rights

    def account(self) -> tuple[str | None, bool]:
        """Who asks, and whether with the right to write."""
        header = self.headers.get("Authorization")
        token = None if header is None else header.removeprefix("Bearer ")
        if token is not None and token not in self.hub.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return (None, False) if token is None else self.hub.accounts[token]

    def repo(self, kind: str, name: str, right: str) -> Repository:
        """A repository; to those who may not see it, it does not exist."""
        user, may_write = (name.split("/")[0], True) if right == "upload" else self.account()
        repo = self.hub.repos.get((kind, name))
        owner = user == name.split("/")[0]
        if repo is None or (repo.private and not owner):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if right != "read" and not (owner and may_write):
            raise Refusal(403 if user else 401, f"This token has no rights to write to {name}")
        return repo

    # Endpoints

    def create(self) -> Any:
        asked = json.load(self.body)
        user, may_write = self.account()
        kind, owner = asked.get("type", "model"), asked.get("organization") or user
        name = f"{owner}/{asked['name']}"
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if owner != user or not may_write:
            raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace of {name}")
        repo = Repository(self.hub.folder, kind, name, private=asked.get("visibility") == "private")
        known = self.hub.repos.setdefault((kind, name), repo)
        if known is not repo:
            raise Refusal(409, f"You already created this {kind} repo", url=f"{self.hub.url}/{repo.address}")
        return {"url": f"{self.hub.url}/{repo.address}", "name": name}

    def validate_card(self) -> Any:
        if problems := card_problems(json.load(self.body)["content"]):
            errors = [{"message": problem} for problem in problems]
            raise Refusal(400, "Invalid metadata", errors=errors, warnings=[])
        return {"errors": [], "warnings": []}

    def info(self, repo: Repository, rev: str = "main") -> Any:
        commit = repo.commit(rev)
        content = {"siblings": [{"rfilename": path} for path in sorted(commit.files)], "tags": []}
        return {"_id": repo.name, "id": repo.name, "sha": commit.oid, "private": repo.private, **content}

    def branch(self, repo: Repository, branch: str) -> Any:
        repo.add_branch(branch, json.load(self.body).get("startingPoint", "main"))
        return {}

    def tree(self, repo: Repository, rev: str, folder: str = "") -> Any:
        return repo.listing(rev, folder, recursive=self.query["recursive"] == "true")

    def preupload(self, repo: Repository, rev: str) -> Any:
        present, answers = repo.commit(rev).files, []
        for asked in json.load(self.body)["files"]:
            large = needs_lfs(asked["path"], asked["size"], base64.b64decode(asked["sample"]))
            there = present.get(asked["path"])
            answer = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            answers.append({**answer, "oid": there and there.etag})
        return {"files": answers}

    def lfs_batch(self, repo: Repository) -> Any:
        answers = []
        for item in json.load(self.body)["objects"]:
            href = f"{self.hub.url}/lfs/{repo.address}/{item['oid']}/{item['size']}"
            actions = {} if item["oid"] in repo.uploaded else {"actions": {"upload": {"href": href}}}
            answers.append({"oid": item["oid"], "size": item["size"], **actions})
        return {"transfer": "basic", "objects": answers}

    def upload(self, repo: Repository, oid: str, size: str) -> Any:
        """Keeps an object, if it is what its address says; whoever was given the address may upload it."""
        received = int(self.headers["Content-Length"])
        if (self.digest.hexdigest(), received) != (oid, int(size)):
            raise Refusal(400, f"Declared {size} bytes with hash {oid}, received {received} others")
        with contextlib.suppress(FileExistsError):
            os.link(self.body.name, self.hub.folder / oid)
        repo.uploaded[oid] = received
        return {}

    def make_commit(self, repo: Repository, rev: str) -> Any:
        commit = repo.apply(rev, [json.loads(line) for line in self.body])
        url = f"{self.hub.url}/{repo.address}/commit/{commit.oid}"
        return {"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""}

    def download(self, repo: Repository, rev: str, path: str) -> Answer:
        commit = repo.commit(rev)
        file = commit.files.get(path)
        if file is None:
            raise Refusal(404, f"Entry not found: {path}", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        start, end, status = 0, file.size, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end, status = int(wanted[1]), min(int(wanted[2] or file.size) + 1, file.size), 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        content = (self.hub.folder / file.sha256).open("rb")
        content.seek(start)
        return Answer(content, end - start, status, headers)


API = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
SITE = r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+?)"
REV = r"(?P<rev>[^/]+)"
# Method, what it takes to be let into the repository (None: there is none yet), address, endpoint.
ROUTES: list[tuple[str, str | None, str, Callable[..., Any]]] = [
    ("GET", None, HARNESSES, lambda _: {}),
    ("POST", None, r"/api/repos/create", Handler.create),
    ("POST", None, r"/api/validate-yaml", Handler.validate_card),
    ("GET", "read", rf"{API}(/revision/{REV})?", Handler.info),
    ("GET", "read", rf"{API}/tree/{REV}(/(?P<folder>.+))?", Handler.tree),
    ("GET HEAD", "read", rf"{SITE}/resolve/{REV}/(?P<path>.+)", Handler.download),
    ("POST", "write", rf"{API}/branch/(?P<branch>[^/]+)", Handler.branch),
    ("POST", "write", rf"{API}/preupload/{REV}", Handler.preupload),
    ("POST", "write", rf"{SITE}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "upload", rf"/lfs{SITE}/(?P<oid>[0-9a-f]{{64}})/(?P<size>\d+)", Handler.upload),
    ("POST", "write", rf"{API}/commit/{REV}", Handler.make_commit),
]


def main() -> None:
    with LocalHub(sys.argv[1]) as hub:
        print(hub.url, hub.token, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
