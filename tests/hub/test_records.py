"""What a network's training says of itself is read on the Hub as it is in a folder."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import HfApi

from decoct.data.held_out import check_share, held_out_of
from decoct.data.source import record_beside
from decoct.igds.prior import prior_label_names

NETWORK = "user/network"


@pytest.fixture
def put(hub):
    """Makes the repository `NETWORK` with this training.json, or without one."""
    api = HfApi(endpoint=hub.url, token=hub.token)

    def make(record: object) -> None:
        api.create_repo(NETWORK)
        if record is not None:
            content = json.dumps(record).encode()
            api.upload_file(path_or_fileobj=content, path_in_repo="training.json", repo_id=NETWORK)

    return make


def test_what_was_held_out_of_a_published_network(put):
    put({"config": {"validation_fraction": 0.5}, "label_names": ["a", "b"]})
    assert held_out_of(NETWORK) == 0.5 and prior_label_names(NETWORK) == ["a", "b"]
    with pytest.raises(ValueError, match=r"prior must be trained with --validation_fraction 0\.1.*trained with 0\.5"):
        check_share(NETWORK, "prior", 0.1)


def test_a_network_without_a_record_is_taken_at_its_word(put, caplog):
    put(None)
    assert held_out_of(NETWORK) is None and prior_label_names(NETWORK) is None
    assert held_out_of("user/nowhere") is None and not caplog.text


@pytest.mark.parametrize("share", [1, -0.5, "half", [0.5]])
def test_a_share_that_is_none_is_refused(put, share):
    put({"validation_fraction": share})
    with pytest.raises(ValueError, match=r"validation_fraction in training.json of user/network must be in \[0, 1\)"):
        held_out_of(NETWORK)


def test_a_hub_that_cannot_be_asked_is_said(put, hub, monkeypatch, caplog):
    put({})
    hub.stopped = True
    assert record_beside(NETWORK, "training.json") is None
    assert "What training.json of user/network says is not known, since the Hub cannot be asked" in caplog.text
