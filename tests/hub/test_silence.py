"""A Hub that takes requests and never answers is given up, and said to be silent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi, constants, get_session

from decoct.config import PublishConfig, VerifyConfig
from decoct.hub import errors
from decoct.hub.publish import publish
from decoct.hub.verify import verify


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
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(errors, "SILENCE", 0.2)
        yield address
        for connection in taken:
            connection.close()


def test_verify_and_publish_give_up(silent, run_folder):
    started = time.monotonic()
    with pytest.raises(OSError, match=r"user/set could not be downloaded: .*timed out"):
        verify(VerifyConfig(source="user/set"))
    with pytest.raises(ConnectionError, match=r"user/set: the Hub cannot be reached \(.*timed out.*\)"):
        publish(PublishConfig(folder=str(run_folder), push_to_hub="user/set"), HfApi(endpoint=silent, token="hf_x"))
    assert time.monotonic() - started < 20


def test_a_limit_is_set_once_and_those_of_the_client_stay():
    for _ in range(2):
        errors.give_up_on_silence()
    assert get_session().event_hooks["request"].count(errors._limit) == 1
    request = get_session().build_request("GET", "http://localhost", timeout=None)
    errors._limit(request)
    assert request.extensions["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), errors.SILENCE)
    request = get_session().build_request("GET", "http://localhost", timeout=3)
    errors._limit(request)
    assert set(request.extensions["timeout"].values()) == {3}
