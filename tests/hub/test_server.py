"""The Hub for tests, by its real clients."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, httpx
from worlds import contents

REPO = {"repo_id": "user/name", "repo_type": "dataset"}
CARD = b"---\nlicense: mit\n---\n# A repository\n"
TABLE = bytes(range(256)) * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_bytes(CARD)
    (folder / "data" / "table.bin").write_bytes(TABLE)
    return folder


@pytest.fixture
def api(hub, folder) -> HfApi:
    """A client of a Hub with one dataset."""
    api = HfApi()
    api.create_repo(**REPO)
    api.upload_folder(**REPO, folder_path=folder)
    return api


def add(path: str, content: bytes) -> CommitOperationAdd:
    """An operation whose path the client has not checked."""
    operation = CommitOperationAdd("file", content)
    operation.path_in_repo = path
    return operation


def commit(api: HfApi, *operations, **settings):
    return api.create_commit(**REPO, operations=operations, commit_message="a commit", **settings)


def head(hub) -> str:
    return hub.repos["dataset", "user/name"].branches["main"]


def test_a_folder_comes_back_as_it_went(hub, api, folder):
    files = hub.files("dataset", "user/name")
    assert contents(folder).items() <= files.items()
    assert files.keys() - contents(folder).keys() == {".gitattributes"}
    assert contents(snapshot_download(**REPO)) == files
    entries = {entry.path: entry for entry in api.list_repo_tree(**REPO, recursive=True, revision=head(hub))}
    assert entries.keys() == {*files, "data"}
    assert entries["README.md"].lfs is None and entries["README.md"].size == len(CARD)
    assert entries["data/table.bin"].lfs.sha256 == hashlib.sha256(TABLE).hexdigest()
    assert {sibling.rfilename for sibling in api.dataset_info("user/name").siblings} == files.keys()


def test_uploading_again_sends_nothing_and_commits_nothing(hub, api, folder):
    before = head(hub)
    hub.requests.clear()
    api.upload_folder(**REPO, folder_path=folder)
    assert head(hub) == before
    assert hub.requests
    assert not [request for request in hub.requests if request.startswith("PUT") or "/commit/" in request]


def test_parts_of_files_can_be_read(hub, api):
    with HfFileSystem().open("datasets/user/name/data/table.bin", block_size=100) as opened:
        opened.seek(300)
        assert opened.read(10) == TABLE[300:310]
        opened.seek(len(TABLE) - 5)
        assert opened.read(10) == TABLE[-5:]
    names = [item.path for item in api.list_repo_tree(**REPO, path_in_repo="data")]
    assert names == ["data/table.bin"]
    assert {item.path for item in api.list_repo_tree(**REPO)} == {".gitattributes", "README.md", "data"}
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(**REPO, path_in_repo="nothing"))


def test_branches_and_commits_keep_their_files(hub, api):
    first = head(hub)
    api.create_branch(**REPO, branch="try/out")
    api.create_branch(**REPO, branch="try/out", exist_ok=True)
    commit(api, add("new.txt", b"new"), CommitOperationDelete("README.md"), revision="try/out")
    commit(api, CommitOperationDelete("data/table.bin"))
    assert hub.files("dataset", "user/name", "try/out").keys() == {".gitattributes", "data/table.bin", "new.txt"}
    assert hub.files("dataset", "user/name").keys() == {".gitattributes", "README.md"}
    assert Path(hf_hub_download(**REPO, filename="data/table.bin", revision=first)).read_bytes() == TABLE
    assert Path(hf_hub_download(**REPO, filename="new.txt", revision="try/out")).read_bytes() == b"new"
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(**REPO, filename="README.md", revision="try/out")
    for refused in (
        lambda: hf_hub_download(**REPO, filename="README.md", revision="nothing"),
        lambda: commit(api, add("new.txt", b"new"), revision="nothing"),
    ):
        with pytest.raises(RevisionNotFoundError):
            refused()


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (add("../outside.txt", b"text"), "Invalid path"),
        (add("README.md/inside.txt", b"text"), "Both a file and a folder"),
        (add("control\x07.txt", b"text"), "Invalid path"),
        (add("README.md", b"---\nlicense: nobody's\n---\n"), "license"),
        (add("README.md", b"---\nconfigs: [{config_name: a}, {config_name: a}]\n---\n"), "config_name"),
        (add("README.md", b"---\ntags: [1]\n---\n"), "tags"),
        (CommitOperationDelete("nothing.txt"), "doesn't exist"),
    ],
)
def test_a_refused_commit_changes_nothing(hub, api, operation, words):
    before = head(hub)
    with pytest.raises((HfHubHTTPError, ValueError), match=words):
        commit(api, add("good.txt", b"text"), operation)
    assert head(hub) == before


def test_commits_in_between_are_noticed(hub, api):
    first = head(hub)
    commit(api, add("one.txt", b"1"), parent_commit=first)
    with pytest.raises(HfHubHTTPError) as refused:
        commit(api, add("two.txt", b"2"), parent_commit=first)
    assert refused.value.response.status_code == 412
    assert "two.txt" not in hub.files("dataset", "user/name")


def test_objects_must_be_what_was_declared(hub, api):
    bad, oid = b"\0other", hashlib.sha256(b"\0declared").hexdigest()
    batch = {"operation": "upload", "transfers": ["basic"], "hash_algo": "sha256", "objects": [{"oid": oid, "size": 9}]}
    headers = {"Authorization": f"Bearer {hub.token}"}
    url = f"{hub.url}/datasets/user/name.git/info/lfs/objects/batch"
    href = get_session().post(url, json=batch, headers=headers).json()["objects"][0]["actions"]["upload"]["href"]
    assert get_session().put(href, content=bad).status_code == 400
    lines = (
        '{"key": "header", "value": {"summary": "a commit"}}\n'
        f'{{"key": "lfsFile", "value": {{"path": "a.bin", "algo": "sha256", "oid": "{oid}", "size": 9}}}}\n'
    )
    answer = get_session().post(f"{hub.url}/api/datasets/user/name/commit/main", content=lines, headers=headers)
    assert answer.status_code == 400 and "not uploaded" in answer.json()["error"]
    assert "a.bin" not in hub.files("dataset", "user/name")
    assert get_session().put(href, content=b"\0declared").status_code == 200


def test_tokens_and_rights(hub, api):
    reader = hub.add_token("hf_reader", write=False)
    stranger = hub.add_token("hf_stranger", user="stranger")
    api.create_repo("user/secret", private=True)
    for token, name in ((reader, "user/secret"), (stranger, "user/name"), (reader, "user/new")):
        with pytest.raises(HfHubHTTPError) as refused:
            HfApi(token=token).create_repo(name, repo_type="dataset")
        assert refused.value.response.status_code == 403
    for token in (reader, stranger):
        with pytest.raises(HfHubHTTPError) as refused:
            commit(HfApi(token=token), add("a.txt", b"a"))
        assert refused.value.response.status_code == 403
        assert contents(snapshot_download(**REPO, token=token))
    assert HfApi(token=reader).model_info("user/secret").private
    for token in (stranger, False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).model_info("user/secret")
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("user/secret", ".gitattributes", token=token)
    for call in (HfApi(token="hf_wrong").create_repo, HfApi(token="hf_wrong").dataset_info):
        with pytest.raises(HfHubHTTPError) as refused:
            call("user/name")
        assert refused.value.response.status_code == 401
    assert hub.files("dataset", "user/name").keys() == {".gitattributes", "README.md", "data/table.bin"}


@pytest.mark.parametrize("how", ["drop", "500", "429", "lost"])
def test_clients_ask_again_after_a_fault(hub, api, how):
    hub.requests.clear()
    hub.fail(2, how)
    assert api.list_repo_files(**REPO) == api.list_repo_files(**REPO)
    assert len(hub.requests) == 3


@pytest.mark.parametrize(("how", "done"), [("drop", False), ("500", False), ("stop", False), ("lost", True)])
def test_a_commit_is_made_as_a_whole_or_not(hub, api, how, done):
    hub.fail(1, how, on="/commit/")
    with pytest.raises((HfHubHTTPError, httpx.TransportError)):
        commit(api, add("one.txt", b"1" * 100_000), add("two.txt", b"2"))
    there = {"one.txt", "two.txt"} & hub.files("dataset", "user/name").keys()
    assert there == ({"one.txt", "two.txt"} if done else set())
    hub.heal()
    commit(api, add("one.txt", b"1" * 100_000), add("two.txt", b"2"))
    assert {"one.txt", "two.txt"} <= hub.files("dataset", "user/name").keys()


def test_a_stopped_hub_answers_nothing_until_it_is_healed(hub, api, folder):
    (folder / "data" / "new.bin").write_bytes(TABLE * 50)
    hub.fail(1, "stop", on="PUT")
    with pytest.raises(RuntimeError, match="new.bin"):
        api.upload_folder(**REPO, folder_path=folder)
    with pytest.raises(httpx.TransportError):
        api.dataset_info("user/name")
    assert "data/new.bin" not in hub.files("dataset", "user/name")
    hub.heal()
    api.upload_folder(**REPO, folder_path=folder)
    assert contents(folder).items() <= hub.files("dataset", "user/name").items()


def test_a_download_that_was_cut_off_goes_on(hub, api, tmp_path):
    hub.fail(1, "stop", on="GET /datasets")
    with pytest.raises(httpx.TransportError):
        hf_hub_download(**REPO, filename="data/table.bin", local_dir=tmp_path / "there")
    assert not (tmp_path / "there" / "data" / "table.bin").exists()
    hub.heal()
    downloaded = hf_hub_download(**REPO, filename="data/table.bin", local_dir=tmp_path / "there")
    assert Path(downloaded).read_bytes() == TABLE


def test_unknown_requests_are_kept(hub):
    with pytest.raises(HfHubHTTPError, match="501"):
        list(HfApi().list_repo_likers("user/name"))
    assert hub.unexpected[0].startswith("GET /api/models/user/name/likers") and len(hub.unexpected) == 1
    hub.unexpected.clear()
