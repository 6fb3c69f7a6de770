"""A push that is cut off at any request, and run again, ends as one that was not."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from decoct.config import PublishConfig
from decoct.hub import cards
from decoct.hub.publish import publish

from .folders import write_dataset

SET = ("dataset", "user/colours")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A distilled dataset, with a short card: it is written anew by each of the many pushes."""
    card = "---\ntags:\n- decoct\n---\n# A card\n"
    monkeypatch.setattr(cards, "dataset_card", lambda manifest, location, *_, **__: f"{card}{manifest['ipcs']}\n")
    return write_dataset(tmp_path / "run")


def files(hub, revision: str = "main") -> dict[str, bytes]:
    return hub.files(*SET, revision)


def publish_cut_off(hub, config: PublishConfig, k: int, how: str) -> bool:
    """Publishes with a fault at the k-th request; returns whether the push got that far."""
    before = len(hub.requests)
    hub.fail(k, how)
    try:
        publish(config)
    except ConnectionError as error:
        # One line, which names the repository and not the token.
        assert "user/colours" in str(error) and "\n" not in str(error) and hub.token not in str(error)
    finally:
        hub.heal()
    return len(hub.requests) - before >= k


@pytest.mark.parametrize("how", ["500", "stop", "lost"])
def test_of_a_new_repository(hub, folder, how):
    config = PublishConfig(folder=str(folder), push_to_hub="user/colours")
    publish(config)
    whole = files(hub)
    assert {"README.md", "manifest.json", "data/ipc_2/train-00000-of-00001.parquet"} < set(whole)
    for k in range(1, 100):
        hub.repos.clear()
        reached = publish_cut_off(hub, config, k, how)
        if SET in hub.repos:
            # All of it or nothing: never a repository that looks complete and is not.
            assert files(hub) == whole or set(files(hub)) == {".gitattributes"}
        publish(config)
        assert files(hub) == whole
        assert len(hub.repos[SET].commits) == 2, f"{how} at request {k}"
        if not reached:
            break
    assert k > 12  # requests of an undisturbed push


@pytest.mark.parametrize("options", [{"overwrite": True}, {"revision": "second"}])
def test_that_replaces_another_dataset(hub, folder, tmp_path, options):
    publish(PublishConfig(folder=str(write_dataset(tmp_path / "other", (1, 3), seed=1)), push_to_hub="user/colours"))
    before, repos = files(hub), copy.deepcopy(hub.repos)
    config = PublishConfig(folder=str(folder), push_to_hub="user/colours", **options)
    branch = config.revision or "main"
    publish(config)
    after = files(hub, branch)
    assert "data/ipc_3/train-00000-of-00001.parquet" in set(before) - set(after)
    for k in range(1, 100):
        hub.repos = copy.deepcopy(repos)
        reached = publish_cut_off(hub, config, k, "stop")
        assert branch not in hub.repos[SET].branches or files(hub, branch) in (before, after)
        publish(config)
        assert files(hub, branch) == after
        assert len(hub.repos[SET].commits) == 3
        assert branch == "main" or files(hub) == before
        if not reached:
            break
    assert k > 12


def test_uploads_nothing_twice(hub, folder):
    config = PublishConfig(folder=str(folder), push_to_hub="user/colours")
    hub.fail(1, "500", on="/commit/main")
    with pytest.raises(ConnectionError, match="500.*continues"):
        publish(config)
    uploads = sum(method == "PUT" for method, _ in hub.requests)
    assert uploads == 3  # two of data, and the preview
    publish(config)
    assert sum(method == "PUT" for method, _ in hub.requests) == uploads
