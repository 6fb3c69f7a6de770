"""A push that is cut off at any request, and run again, ends as one that was not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from worlds import write_run

from decoct.config import PublishConfig
from decoct.hub.publish import publish

REPO_ID = "user/thing"
EMPTY = {".gitattributes"}
DATA = "data/ipc_3/train-00000-of-00001.parquet"


@pytest.fixture(autouse=True)
def short_cards(monkeypatch):
    """A card is written anew by each of the many pushes, and costs more than the rest of it."""
    text = "---\ntags:\n- decoct\n---\n# A card\n"
    monkeypatch.setattr("decoct.hub.publish.dataset_card", lambda manifest, *_, **__: f"{text}{manifest['ipcs']}\n")
    monkeypatch.setattr("decoct.hub.publish.model_card", lambda *_: text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def state(hub, revision: str = "main") -> dict[str, Any]:
    """The tree of the only repository, with sizes and git's hashes, and the bytes of its files."""
    ((kind, _), repo) = next(iter(hub.repos.items()))
    content = hub.files(kind, REPO_ID, revision)
    return {path: (file, content[path]) for path, file in repo.commit(revision).files.items()}


def publish_cut_off(hub, config: PublishConfig, k: int, how: str) -> bool:
    """Publishes with a fault at the k-th request; returns whether the push got that far."""
    before = len(hub.requests)
    hub.fail(k, how)
    try:
        publish(config)
    except ConnectionError as error:
        # One line, which names the repository and not the token.
        assert REPO_ID in str(error) and "\n" not in str(error) and hub.token not in str(error)
    finally:
        hub.heal()
    return len(hub.requests) - before >= k


@pytest.mark.parametrize(
    ("kind", "how"), [("dataset", "500"), ("dataset", "stop"), ("dataset", "lost"), ("model", "stop")]
)
def test_of_a_new_repository(hub, folder, tiny_pipeline, kind, how):
    config = PublishConfig(folder=str(folder if kind == "dataset" else tiny_pipeline), push_to_hub=REPO_ID)
    publish(config)
    whole = state(hub)
    assert len(whole) >= 6 and {"README.md", *EMPTY} < set(whole)
    for k in range(1, 100):
        hub.repos.clear()
        reached = publish_cut_off(hub, config, k, how)
        # All of it or nothing: never a repository that looks complete and is not.
        assert not hub.repos or state(hub) == whole or set(state(hub)) == EMPTY, f"{how} at request {k}"
        publish(config)
        assert state(hub) == whole
        assert len(hub.repos[kind, REPO_ID].commits) == 2, f"{how} at request {k}"
        if not reached:
            break
    assert k > 8  # requests of an undisturbed push


@pytest.mark.parametrize("options", [{"overwrite": True}, {"revision": "second"}])
def test_that_replaces_another_dataset(hub, folder, tmp_path, options):
    publish(PublishConfig(folder=str(write_run(tmp_path / "other", (1, 3), seed=1)), push_to_hub=REPO_ID))
    before, repos = state(hub), copy.deepcopy(hub.repos)
    config = PublishConfig(folder=str(folder), push_to_hub=REPO_ID, **options)
    branch = config.revision or "main"
    publish(config)
    after = state(hub, branch)
    assert DATA in set(before) - set(after)
    for k in range(1, 100):
        hub.repos = copy.deepcopy(repos)
        reached = publish_cut_off(hub, config, k, "stop")
        repo = hub.repos["dataset", REPO_ID]
        assert branch not in repo.branches or state(hub, branch) in (before, after)
        publish(config)
        assert state(hub, branch) == after
        assert len(repo.commits) == 3
        assert branch == "main" or state(hub) == before
        if not reached:
            break
    assert k > 12


def test_uploads_nothing_twice(hub, folder):
    config = PublishConfig(folder=str(folder), push_to_hub=REPO_ID)
    hub.fail(1, "500", on="/commit/main")
    with pytest.raises(ConnectionError, match="500.*continues"):
        publish(config)
    uploads = sum(request.startswith("PUT") for request in hub.requests)
    assert uploads == 3  # two of data, and the preview
    publish(config)
    assert sum(request.startswith("PUT") for request in hub.requests) == uploads
