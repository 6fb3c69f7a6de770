"""Publishing finished runs on the Hub, by the real clients over HTTP."""

from __future__ import annotations

import hashlib
import json
import logging
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from worlds import contents, write_run

from decoct.config import PublishConfig
from decoct.files import read_json
from decoct.hub.publish import format_push, kind_of, plan_publish, publish, require_publishing
from decoct.run.folder import write_json

DATA = "data/ipc_2/train-00000-of-00001.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A distilled dataset."""
    return write_run(tmp_path / "run")


@pytest.fixture
def model_folder(tiny_estimator: Path, tmp_path: Path) -> Path:
    """An estimator of the test's own."""
    return Path(shutil.copytree(tiny_estimator, tmp_path / "estimator"))


def to_hub(folder: Path, repo_id: str = "user/thing", **options: Any) -> str:
    return publish(PublishConfig(folder=str(folder), push_to_hub=repo_id, **options))


def commits(hub, repo_type: str = "dataset", repo_id: str = "user/thing") -> int:
    return len(hub.repos[repo_type, repo_id].commits)


# What is uploaded


def test_a_dataset_with_its_card_and_manifest(hub, folder):
    (folder / "report.html").write_text("<p>report</p>")
    write_json(folder / "results.json", [])
    for junk in ("evaluation/cell.json", "shards/1.parquet", "checkpoints/state.bin", "data/ipc_2/half.parquet.tmp"):
        (folder / junk).parent.mkdir(exist_ok=True)
        (folder / junk).write_text("junk")
    before = contents(folder)
    assert to_hub(folder) == f"{hub.url}/datasets/user/thing"
    files = hub.files("dataset", "user/thing")
    assert set(files) == {
        *(".gitattributes", "README.md", "manifest.json", "preview.png", "report.html", "results.json"),
        *("data/ipc_1/train-00000-of-00001.parquet", DATA),
    }
    assert contents(folder) == before
    rewritten = {".gitattributes", "README.md", "manifest.json"}
    assert all(files[name] == before[name] for name in files if name not in rewritten)
    assert b'load_dataset("user/thing"' in files["README.md"]
    local, uploaded = (json.loads(text) for text in (before["manifest.json"], files["manifest.json"]))
    assert uploaded["files"].pop("README.md") == hashlib.sha256(files["README.md"]).hexdigest()
    del local["files"]["README.md"]
    assert uploaded == local


def test_publishing_again_makes_a_commit_only_of_what_changed(hub, folder, caplog):
    to_hub(folder, commit_message="First")
    to_hub(folder)
    assert commits(hub) == 2
    assert "nothing to upload" in caplog.text
    before = hub.files("dataset", "user/thing")
    (folder / "report.html").write_text("<p>evaluated</p>")
    to_hub(folder)
    after = hub.files("dataset", "user/thing")
    assert commits(hub) == 3
    assert {name for name in after if after[name] != before.get(name)} == {"report.html"}
    titles = [commit.title for commit in hub.repos["dataset", "user/thing"].commits.values()]
    assert titles[1:] == ["First", "Dataset by decoct"]


def test_the_same_networks_under_other_names_are_no_other_dataset(hub, folder):
    """Distilled again where the teacher lies elsewhere: fingerprints say what it is."""
    to_hub(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["teacher"]["name"] = "moved"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    to_hub(folder)
    assert json.loads(hub.files("dataset", "user/thing")["manifest.json"])["teacher"]["name"] == "moved"
    manifest["teacher"]["fingerprint"] = "another"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="another dataset, which differs in teacher"):
        to_hub(folder)


def test_a_dry_run_contacts_nothing(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (folder / "notes.txt").write_text("mine")
    config = PublishConfig(folder=str(folder), push_to_hub="user/thing", private=True)
    text = format_push(plan_publish(config))
    size = (folder / DATA).stat().st_size
    assert f"{size:,}  {DATA}" in text
    assert "user/thing" in text and "private" in text and "Left out: notes.txt" in text
    assert hub.requests == []


def test_private_repository_and_branch(hub, folder):
    url = to_hub(folder, private=True, revision="v2")
    repo = hub.repos["dataset", "user/thing"]
    assert repo.private and url.endswith("/tree/v2")
    assert set(hub.files("dataset", "user/thing")) == {".gitattributes"}
    assert DATA in hub.files("dataset", "user/thing", "v2")
    hub.repos.clear()
    to_hub(folder)
    with pytest.raises(ValueError, match="user/thing must be private.*Got a public repository.*--private"):
        to_hub(folder, private=True)


# Which folders are published


def test_kinds(folder, trained_teacher, tiny_estimator, tiny_prior, tiny_pipeline):
    folders = [folder, trained_teacher, trained_teacher / "epoch_2", tiny_estimator, tiny_prior, tiny_pipeline]
    assert [kind_of(each) for each in folders] == [*("dataset", "teacher", "teacher", "estimator", "prior", "pipeline")]


def test_other_folders_are_refused(model_folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("")
    for kind in ("dataset", "teacher", "estimator", "prior", "pipeline"):
        with pytest.raises(ValueError, match=rf"{kind}.*Got .*other, which holds \['notes.txt'\]"):
            to_hub(other)
    with pytest.raises(ValueError, match="existing run folder"):
        to_hub(tmp_path / "missing")
    (model_folder / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="finished run"):
        to_hub(model_folder)


def test_data_that_is_not_what_the_manifest_says(hub, folder):
    data = bytearray((folder / DATA).read_bytes())
    data[100] ^= 1
    (folder / DATA).write_bytes(data)
    with pytest.raises(ValueError, match=f"{DATA} must be the file that manifest.json names"):
        to_hub(folder)
    (folder / DATA).rename(folder / "data/ipc_2/other.parquet")
    with pytest.raises(ValueError, match="other.parquet: move it away"):
        to_hub(folder)
    (folder / "data/ipc_2/other.parquet").unlink()
    with pytest.raises(ValueError, match=f"{DATA} must be a file"):
        to_hub(folder)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["../outside.parquet", "/etc/passwd", "data/ipc_2/../../run.json", "run.json"])
def test_manifests_that_name_other_files(hub, folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(ValueError, match="manifest.json"):
        to_hub(folder)
    assert hub.requests == []


def test_links_that_lead_out_of_the_folder(hub, folder, tmp_path):
    (folder / DATA).rename(tmp_path / "elsewhere.parquet")
    (folder / DATA).symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(ValueError, match="link to .*elsewhere.parquet"):
        to_hub(folder)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "unet/Weights.PT", "optimizer.pkl"])
def test_pickles_are_refused(hub, model_folder, name):
    (model_folder / name).parent.mkdir(exist_ok=True)
    (model_folder / name).write_bytes(b"cos\nsystem\n.")
    with pytest.raises(ValueError, match=f"safetensors. Got .*{name}, a pickle"):
        to_hub(model_folder)
    assert hub.requests == []


def test_models_without_the_code_their_configuration_names(hub, model_folder):
    (model_folder / "estimator.py").unlink()
    with pytest.raises(ValueError, match=r"Got no estimator\.py"):
        to_hub(model_folder)


# Repositories that hold something else


def test_another_dataset_is_replaced_only_when_asked(hub, folder, tmp_path):
    to_hub(write_run(tmp_path / "other", ipcs=(2, 5), seed=1))
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id="user/thing", repo_type="dataset")
    before = hub.files("dataset", "user/thing")
    with pytest.raises(ValueError, match=r"user/thing must be empty .* another dataset, .*ipc, .*seed.*--overwrite"):
        to_hub(folder)
    assert hub.files("dataset", "user/thing") == before
    to_hub(folder, overwrite=True)
    after = hub.files("dataset", "user/thing")
    assert after["NOTES.md"] == b"mine"
    assert {name for name in after if name.startswith("data/")} == {"data/ipc_1/train-00000-of-00001.parquet", DATA}
    assert commits(hub) == 4
    to_hub(folder)
    assert commits(hub) == 4


def test_repositories_of_others_and_edited_cards(hub, folder, caplog):
    api = HfApi()
    api.create_repo("user/thing", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"1,2", path_in_repo="table.csv", repo_id="user/thing", repo_type="dataset")
    with pytest.raises(ValueError, match=r"no manifest.json, but table.csv"):
        to_hub(folder)
    to_hub(folder, overwrite=True)
    assert hub.files("dataset", "user/thing")["table.csv"] == b"1,2"
    card = hub.files("dataset", "user/thing")["README.md"]
    edited = card + b"\nA word of mine.\n"
    api.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id="user/thing", repo_type="dataset")
    with pytest.raises(ValueError, match=r"README.md that was edited there"):
        to_hub(folder)
    to_hub(folder, overwrite=True)
    assert hub.files("dataset", "user/thing")["README.md"] == card


@pytest.mark.parametrize("manifest", [b"[1]", b"{", b'{"config": 3}', b"[" * 100_000, b"\xff"])
def test_foreign_manifests(hub, folder, manifest):
    api = HfApi()
    api.create_repo("user/thing", repo_type="dataset")
    api.upload_file(path_or_fileobj=manifest, path_in_repo="manifest.json", repo_id="user/thing", repo_type="dataset")
    with pytest.raises(ValueError, match="another dataset"):
        to_hub(folder)


def test_another_model_is_replaced_with_its_weights(hub, model_folder):
    to_hub(model_folder)
    operations = [CommitOperationAdd(name, b"old") for name in ("model-00001-of-00002.safetensors", "training.json")]
    HfApi().create_commit("user/thing", operations, commit_message="Another estimator")
    to_hub(model_folder)
    assert commits(hub, "model") == 3
    weights = model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"earlier upload of this estimator. Got another model.safetensors"):
        to_hub(model_folder)
    to_hub(model_folder, overwrite=True)
    files = hub.files("model", "user/thing")
    assert files["model.safetensors"] == weights.read_bytes()
    assert not {"model-00001-of-00002.safetensors", "training.json"} & set(files)


def test_what_arrives_is_compared(hub, folder):
    class Careless(HfApi):
        def create_commit(self, *args: Any, operations: list[Any], **options: Any) -> Any:
            return super().create_commit(*args, operations=operations[1:], **options)

    api = Careless(token=hub.token)
    with pytest.raises(ValueError, match="user/thing must hold what was uploaded. Got another data/ipc_1"):
        publish(PublishConfig(folder=str(folder), push_to_hub="user/thing"), api)


# Tokens and faults


def test_tokens(hub, folder, monkeypatch, caplog):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="user/thing.*hf auth login.*HF_TOKEN"):
        to_hub(folder)
    assert hub.requests == []
    secret = "hf_secret\x01value"
    monkeypatch.setenv("HF_TOKEN", secret)
    with pytest.raises(PermissionError, match="HF_TOKEN is not one") as malformed:
        require_publishing(PublishConfig(push_to_hub="user/thing"))
    monkeypatch.setenv("HF_TOKEN", "hf_wrongtokenwrongtoken")
    with pytest.raises(PermissionError, match="user/thing.*does not accept the token.*hf auth login") as wrong:
        to_hub(folder)
    monkeypatch.setenv("HF_TOKEN", hub.add_token("hf_readonlyreadonlyreadonly", write=False))
    with pytest.raises(PermissionError, match=r"user/thing.*may not write there \(403\)") as forbidden:
        to_hub(folder)
    for error in (malformed, wrong, forbidden):
        assert "hf_" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(PermissionError, match="someone-else/thing.*write access"):
        to_hub(folder, "someone-else/thing")
    assert hub.repos == {}
    with pytest.raises(ValueError, match="user/a--b"):
        to_hub(folder, "user/a--b")


def test_no_token_is_shown_or_stored(hub, folder, tmp_path, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        for how in ("500", "stop", "lost"):
            hub.fail(1, how, on="/commit/")
            with pytest.raises(ConnectionError) as broken:
                to_hub(folder)
            assert hub.token not in str(broken.value)
            hub.heal()
        to_hub(folder)
    assert "nothing to upload" in caplog.text
    output = capfd.readouterr()
    assert hub.token not in caplog.text + output.out + output.err
    for place in (tmp_path, hub.folder):
        assert not any(hub.token.encode() in content for content in contents(place).values())


@pytest.mark.parametrize("how", ["500", "429", "drop"])
def test_a_hub_that_stays_broken(hub, folder, how):
    for k in range(1, 12):
        hub.fail(k, how)  # more than the client's own repetitions
    with pytest.raises(ConnectionError, match=r"user/thing: .*the same command continues\.$"):
        to_hub(folder)
    hub.heal()
    to_hub(folder)
    assert DATA in hub.files("dataset", "user/thing")


def test_no_network(hub, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ConnectionError, match="user/thing: the Hub cannot be reached"):
            to_hub(folder)
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ConnectionError, match="user/thing.*HF_HUB_OFFLINE"):
            to_hub(folder)


# Scripts


def run_script(script: Path) -> None:
    """Runs a script in this process."""
    runpy.run_path(str(script), run_name="__main__")


def test_script_takes_the_folder_first_and_says_an_error_in_one_line(hub, folder, scripts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(scripts / "publish.py"), str(folder), "--push_to_hub", "user/thing"])
    with monkeypatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(SystemExit) as stopped:
            run_script(scripts / "publish.py")
    written = capsys.readouterr()
    assert stopped.value.code == 1 and not written.out
    last = written.err.strip().splitlines()[-1]
    assert last.startswith("publish.py: error: user/thing: the Hub does not accept the token")
    assert "hf_wrong" not in written.err
    run_script(scripts / "publish.py")
    assert capsys.readouterr().out.endswith(f"{hub.url}/datasets/user/thing\n")


STAGES = {
    "train_teacher": "decoct.training.teacher.train_teacher",
    "train_estimator": "decoct.training.estimator.train_estimator",
    "train_prior": "decoct.training.prior.train_prior",
    "distill": "decoct.synthesis.distill.distill",
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_publishes_its_result_once_from_the_main_process(
    hub, name, runs, trained_teacher, tiny_estimator, tiny_prior, scripts, monkeypatch, capsys
):
    folders = {"train_teacher": trained_teacher, "train_estimator": tiny_estimator, "train_prior": tiny_prior}
    folder, begun = folders.get(name, runs / "views"), []

    def stage(config: Any) -> dict[str, Any]:
        begun.append(config.output_dir)
        record = folder / ("manifest.json" if name == "distill" else "training.json")
        measured = {"linear_accuracy": 0.5, "knn_accuracy": 0.5, "rank": 3, "full_rank": 3}
        return read_json(record) if record.exists() else measured

    monkeypatch.setattr(STAGES[name], stage)
    words = [name, "--output_dir", str(folder), "--push_to_hub", "user/thing", "--private"]
    monkeypatch.setattr(sys, "argv", words)
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        with pytest.raises(SystemExit):
            run_script(scripts / f"{name}.py")
    error = capsys.readouterr().err
    assert "user/thing" in error and "hf auth login" in error
    assert begun == []  # the stage may take days: what would keep it from being published is said before
    for process in (1, 0):
        assert hub.requests == []
        monkeypatch.setenv("RANK", str(process))
        run_script(scripts / f"{name}.py")
    assert len(begun) == 2
    printed = capsys.readouterr()
    (((kind, _), repo),) = hub.repos.items()
    assert repo.private and len(repo.commits) == 2
    assert printed.out.count(f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}user/thing\n") == 1
    assert hub.token not in printed.out + printed.err
