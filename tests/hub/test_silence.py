"""A Hub that takes requests and never answers is given up, and said to be silent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import datasets
import pytest
from huggingface_hub import HfApi, constants, get_session

import decoct
from decoct.config import PublishConfig, VerifyConfig
from decoct.data import silence
from decoct.distilled.dataset import load_distilled
from decoct.hub.publish import publish
from decoct.hub.verify import verify
from decoct.igds.loading import wrap_encoder
from decoct.igds.prior import _load_vae


@pytest.fixture
def silent(hub, monkeypatch) -> Iterator[str]:
    """The address of a server that takes connections and says nothing; the clients of this process ask there."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        taken = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        monkeypatch.setattr(silence, "SILENCE", 0.1)
        yield address
        for connection in taken:
            connection.close()
        assert 0 < len(taken) < 30, "what is asked again and again is waited for again and again"


def test_verify_and_publish_give_up(silent, run_folder):
    started = time.monotonic()
    with pytest.raises(OSError, match=r"user/set could not be downloaded: .*timed out"):
        verify(VerifyConfig(source="user/set"))
    with pytest.raises(ConnectionError, match=r"user/set: the Hub cannot be reached \(.*timed out.*\)"):
        publish(PublishConfig(folder=str(run_folder), push_to_hub="user/set"), HfApi(endpoint=silent, token="hf_x"))
    assert time.monotonic() - started < 20


LOADS = {
    "dataset": lambda: decoct.load_images("user/set"),
    "teacher": lambda: decoct.load_classifier("user/net"),
    "estimator": lambda: decoct.load_estimator("user/net"),
    "prior": lambda: decoct.load_pipeline("user/net", None),
    "encoder": lambda: wrap_encoder("user/net", ("a", "b")),
    "guidance_vae": lambda: _load_vae("user/net"),
    "distilled": lambda: load_distilled("user/set", 1),
}


@pytest.mark.parametrize("role", LOADS)
def test_loading_gives_up(silent, role):
    started = time.monotonic()
    with pytest.raises((ValueError, OSError)) as given_up:
        LOADS[role]()
    assert time.monotonic() - started < 20
    assert f"{role} must" in str(given_up.value) and "user/" in str(given_up.value), given_up.value
    assert "\n" not in str(given_up.value)


def test_a_limit_is_set_once_and_those_of_the_client_stay():
    for _ in range(2):
        silence.give_up_on_silence()
    assert get_session().event_hooks["request"].count(silence._limit) == 1
    request = get_session().build_request("GET", "http://localhost", timeout=None)
    silence._limit(request)
    assert request.extensions["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), silence.SILENCE)
    request = get_session().build_request("GET", "http://localhost", timeout=3)
    silence._limit(request)
    assert set(request.extensions["timeout"].values()) == {3}
