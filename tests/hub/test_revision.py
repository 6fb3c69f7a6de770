"""A distilled set on the Hub is read at one commit, whatever is committed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from worlds import write_run

from decoct.config import EvaluateConfig, PublishConfig
from decoct.distilled import dataset as distilled
from decoct.distilled.dataset import commit_of, load_distilled, read_manifest
from decoct.evaluation import run as runner
from decoct.evaluation.accuracy import AccuracyEvaluation
from decoct.hub.publish import publish

NAME = "user/thing"


@pytest.fixture
def first(hub, tmp_path: Path) -> Path:
    """A set that is published."""
    folder = write_run(tmp_path / "first", seed=1)
    publish(PublishConfig(folder=str(folder), push_to_hub=NAME))
    return folder


@pytest.fixture
def publish_another(tmp_path: Path):
    """Puts another set in its place."""
    folder = write_run(tmp_path / "second", seed=2)
    return lambda: publish(PublishConfig(folder=str(folder), push_to_hub=NAME, overwrite=True))


def is_of(read: distilled.DistilledSet, folder: Path) -> bool:
    """Whether images and manifest are those of a folder."""
    local = load_distilled(folder, read.ipc)
    data = [
        {name: digest for name, digest in each.manifest["files"].items() if name != "README.md"}
        for each in (read, local)
    ]
    return torch.equal(read.images, local.images) and data[0] == data[1]


def test_a_commit_between_manifest_and_images_is_not_seen(first, publish_another, monkeypatch, tmp_path):
    original = distilled.load_dataset

    def late(*args, **options):
        monkeypatch.setattr(distilled, "load_dataset", original)
        publish_another()
        return original(*args, **options)

    monkeypatch.setattr(distilled, "load_dataset", late)
    assert is_of(load_distilled(NAME, 2), first)
    assert is_of(load_distilled(NAME, 2), tmp_path / "second")


def test_an_evaluation_reads_all_ipcs_at_one_commit(first, publish_another, monkeypatch, tmp_path):
    def then_another(source, revision=None):
        manifest = read_manifest(source, revision)
        publish_another()
        return manifest

    monkeypatch.setattr(runner, "read_manifest", then_another)
    config = EvaluateConfig(distilled=NAME, output_dir=str(tmp_path / "out"), labels=["views"], baseline=False)
    sets = AccuracyEvaluation(config).sets
    assert sorted(sets) == [1, 2] and all(is_of(each, first) for each in sets.values())


def test_revisions(first, publish_another, tmp_path):
    before = commit_of(NAME)
    publish_another()
    assert before != commit_of(NAME) == commit_of(NAME, "main")
    assert commit_of(NAME, before) == before and commit_of(first) is None
    assert is_of(load_distilled(NAME, 1, before), first)
    assert is_of(load_distilled(NAME, 1), tmp_path / "second")
