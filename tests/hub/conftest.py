"""A Hub of each test's own for the clients of this process, and finished runs to publish on it."""

from __future__ import annotations

import shutil
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds import write_run

from .server import LocalHub


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A running Hub without repositories, used by all clients of this process with all rights to `user/...`.

    huggingface_hub and datasets read where the Hub is when they are imported, so that it is set here in their modules;
    caches are the test's own. Fails if a request was made that the Hub does not know.
    """
    import datasets
    from huggingface_hub import HfFileSystem, constants, file_download
    from huggingface_hub.utils import _http

    caches = tmp_path_factory.mktemp("hf")
    with LocalHub(tmp_path_factory.mktemp("hub")) as server:
        client = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(caches / "hub"),
        }
        loader = {
            "HF_ENDPOINT": server.url,
            "HUB_DATASETS_URL": server.url + "/datasets/{repo_id}/resolve/{revision}/{path}",
            "HF_HUB_OFFLINE": False,
            "HF_UPDATE_DOWNLOAD_COUNTS": False,
            "USE_PARQUET_EXPORT": False,
            "HF_DATASETS_CACHE": caches / "datasets",
        }
        for module, settings in ((constants, client), (datasets.config, loader)):
            for name, value in settings.items():
                monkeypatch.setattr(module, name, value)
        monkeypatch.setenv("HF_TOKEN", server.token)
        # The clients wait seconds before they ask again; that they do is tested, their pace is not.
        impatient = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.01))})
        for module in (_http, file_download):
            monkeypatch.setattr(module, "time", impatient)
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()
    assert server.unexpected == []


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run_folder(written, tmp_path) -> Path:
    """A run folder without a fault, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "run"))
