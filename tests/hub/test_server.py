"""The Hub for tests, by its real clients."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A repository\n")
    (folder / "data" / "table.bin").write_bytes(bytes(range(256)) * 20)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_round_trip(hub, folder, tmp_path):
    api = HfApi()
    assert api.whoami()["name"] == "user"
    url = api.create_repo("user/name", repo_type="dataset")
    assert url.repo_id == "user/name"
    api.upload_folder(repo_id="user/name", repo_type="dataset", folder_path=folder)
    files = hub.files("dataset", "user/name")
    assert files.keys() - {".gitattributes"} == {"README.md", "data/table.bin"}
    assert contents(folder).items() <= files.items()
    downloaded = snapshot_download("user/name", repo_type="dataset")
    assert contents(Path(downloaded)) == files
