"""A Hub of each test's own, for clients in this process and in subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .server import LocalHub

# The clients wait seconds before they ask again; a fault's repetitions are tested, their pace is not.
IMPATIENT = """
import time, types
from huggingface_hub import file_download
from huggingface_hub.utils import _http
quick = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.01))})
file_download.time = _http.time = quick
"""


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
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(caches / "hub"),
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(
            datasets.config, "HUB_DATASETS_URL", server.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
        )
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches / "datasets")
        monkeypatch.setenv("HF_TOKEN", server.token)
        quick = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.01))})
        monkeypatch.setattr(_http, "time", quick)
        monkeypatch.setattr(file_download, "time", quick)
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()
    assert server.unexpected == []


@pytest.fixture
def hub_environment(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of subprocesses whose clients use `hub`, with caches of their own."""
    home, site = tmp_path_factory.mktemp("hf"), tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(IMPATIENT)
    own = ("HF_", "HUGGING_FACE_", "TRANSFORMERS_", "DIFFUSERS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {
        **inherited,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "NO_PROXY": "*",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])),
    }


@pytest.fixture
def hub_python(hub_environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`hub_python(code_or_script, *arguments)` runs Python in `tmp_path` with clients of `hub`; asserts success.

    `success=False` leaves the exit status to the test; other keywords change the environment.
    """

    def run(
        code: str | Path, *arguments: object, success: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        words = [str(code)] if isinstance(code, Path) else ["-c", code]
        finished = subprocess.run(
            [sys.executable, *words, *map(str, arguments)],
            cwd=tmp_path,
            env={**hub_environment, **environment},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert not success or finished.returncode == 0, finished.stdout + finished.stderr
        return finished

    return run
