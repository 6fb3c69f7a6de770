"""What is published shows no path of the machine that it was made on, and stays what its manifest says."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline
from huggingface_hub import snapshot_download
from worlds import accuracy_record

from decoct.config import PublishConfig, VerifyConfig
from decoct.distilled.dataset import read_manifest, spec_of
from decoct.evaluation.teachers import Teachers
from decoct.files import read_json
from decoct.hub.publish import publish
from decoct.hub.verify import verify
from decoct.igds.loading import load_estimator
from decoct.models.classifier import Classifier
from decoct.pages.local_paths import without_local_paths
from decoct.pages.report import write_report
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.run.folder import write_json


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/alice/secret/runs/teacher", "path/to/teacher"),
        ("/home/alice/my runs/the teacher/", "path/to/the teacher"),
        ("~/runs/teacher", "path/to/teacher"),
        ("~alice/teacher", "path/to/teacher"),
        ("../../alice/teacher", "path/to/teacher"),
        ("runs/../../alice/teacher", "path/to/teacher"),
        (r"C:\Users\alice\teacher", "path/to/teacher"),
        (r"\\server\alice\teacher", "path/to/teacher"),
        ("file:///home/alice/teacher", "path/to/teacher"),
        ("/", "path/to/folder"),
        ("runs/teacher", "runs/teacher"),
        ("uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("path/to/teacher", "path/to/teacher"),
        ("https://example.org/home/alice", "https://example.org/home/alice"),
        ("about 3/4 and/or ~5 %, 1 / 2 ..", "about 3/4 and/or ~5 %, 1 / 2 .."),
        ("/home/alice/runs/a + /home/alice/my runs/b", "path/to/a + path/to/b"),
        ("runs/a + /home/alice/runs/b", "runs/a + path/to/b"),
        ("Got '/home/alice/my runs/x', no folder.", "Got 'path/to/x', no folder."),
        ("out of reach: /home/alice/x: missing (see /var/log/y).", "out of reach: path/to/x: missing (see path/to/y)."),
        ([{"name": "/a/b"}, 1, None, True], [{"name": "path/to/b"}, 1, None, True]),
        (
            {"name": "/home/a + user/b", "members": [{"name": "/home/a"}, {"name": "user/b"}]},
            {"name": "path/to/a + user/b", "members": [{"name": "path/to/a"}, {"name": "user/b"}]},
        ),
        ({"label_names": ["/m/01g317", "../.."]}, {"label_names": ["/m/01g317", "../.."]}),
        ({"id2label": {"0": "/m/01g317"}}, {"id2label": {"0": "/m/01g317"}}),
    ],
)
def test_local_paths(value, shown):
    assert without_local_paths(value) == shown
    assert without_local_paths(shown) == shown


@pytest.fixture(scope="module")
def made(once, sample_part, trained_teacher):
    """A run folder whose data, teacher and output are absolute paths, evaluated and with a report."""

    def make(folder: Path) -> None:
        from decoct.config import DistillConfig
        from decoct.synthesis.distill import distill

        run = folder / "run"
        settings = {"dataset": str(sample_part), "teacher": str(trained_teacher), "method": "rded"}
        distill(DistillConfig(output_dir=str(run), ipc=[1, 2], views=2, slots=0, candidates_per_class=3, **settings))
        note = f"the teacher is out of reach: Got '{trained_teacher}'."
        known = {"dataset": str(sample_part), "teacher": str(trained_teacher), "baseline_note": note}
        record = accuracy_record(0.5, method="rded", ipc=2, labels="views", **known)
        write_json(run / "results.json", [record])
        write_report(run)

    return once("published-run", make)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def to_hub(folder: Path, repo_id: str = "user/thing", **options: Any) -> str:
    return publish(PublishConfig(folder=str(folder), push_to_hub=repo_id, **options))


def test_no_file_of_a_dataset_shows_where_it_was_made(hub, run, sample_part, trained_teacher):
    place = str(sample_part.parent).encode()
    assert all(place in (run / name).read_bytes() for name in ("manifest.json", "results.json", "report.html"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    to_hub(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    files = hub.files("dataset", "user/thing")
    assert [name for name, content in files.items() if place in content] == []
    manifest = json.loads(files["manifest.json"])
    teacher = f"path/to/{trained_teacher.name}"
    assert manifest["config"]["teacher"] == manifest["label_teachers"]["1"]["name"] == teacher
    assert manifest["teacher"] == {**read_json(run / "manifest.json")["teacher"], "name": teacher}
    assert all(hashlib.sha256(files[name]).hexdigest() == digest for name, digest in manifest["files"].items())
    card, report = files["README.md"].decode(), files["report.html"].decode()
    assert f"--teacher {teacher} \\\n" in card and f"--teacher {teacher}" in report
    assert f"--dataset path/to/{sample_part.name} \\\n" in card
    assert card.startswith("---\n") and f"\n# {sample_part.name}, distilled by RDED\n" in card
    assert "source_datasets" not in card
    # All but the paths is as it was, the real images that the report shows too.
    assert report.count("<img") == before[run / "report.html"].count(b"<img") > 0
    assert report.count("data:image") == before[run / "report.html"].count(b"data:image")
    assert verify(VerifyConfig(source="user/thing")).ok


def test_a_dataset_is_recognised_wherever_it_lies(hub, run, caplog):
    to_hub(run)
    manifest = (run / "manifest.json").read_text("utf-8")
    place = str(Path(read_json(run / "manifest.json")["config"]["dataset"]).parent)
    (run / "manifest.json").write_text(manifest.replace(place, "/elsewhere"), "utf-8")
    to_hub(run)
    assert "nothing to upload" in caplog.text
    assert len(hub.repos["dataset", "user/thing"].commits) == 2  # the repository's own and one


def test_a_report_that_shows_no_path_is_uploaded_as_it_is(hub, run):
    for name in ("manifest.json", "results.json"):
        write_json(run / name, without_local_paths(read_json(run / name)))
    (run / "report.html").write_text("<p>mine</p>")
    to_hub(run)
    assert hub.files("dataset", "user/thing")["report.html"] == b"<p>mine</p>"


def test_a_published_sets_teacher_is_found_where_it_is_named(hub, run, trained_teacher):
    to_hub(run)
    manifest = read_manifest("user/thing")
    far = Teachers("user/thing", manifest, spec_of(manifest))
    with pytest.raises(ValueError, match=r"Got 'path/to/.*Name a folder or Hub id with --teacher"):
        far.online(1)
    near = Teachers("user/thing", manifest, spec_of(manifest), str(trained_teacher))
    assert isinstance(near.labeller(1), Classifier)


def test_no_file_of_a_model_shows_where_it_was_made(
    hub, trained_teacher, tiny_estimator, tiny_prior, tmp_path, sample_part
):
    prior, estimator = DDPMPipeline.from_pretrained(tiny_prior), load_estimator(tiny_estimator)
    IGDSPipeline(prior.scheduler, prior.unet, None, None, estimator).save_pretrained(tmp_path / "pipeline")
    place = str(sample_part.parent).encode()
    assert place in (trained_teacher / "training.json").read_bytes()
    assert place in (tmp_path / "pipeline/unet/config.json").read_bytes()
    for folder in (trained_teacher, tiny_estimator, tiny_prior, tmp_path / "pipeline"):
        name = f"user/{folder.name}"
        to_hub(folder, name)
        files = hub.files("model", name)
        assert [file for file, content in files.items() if place in content] == []
    assert (
        f'"dataset": "path/to/{sample_part.name}"'.encode()
        in hub.files("model", f"user/{trained_teacher.name}")["training.json"]
    )
    DDPMPipeline.from_pretrained(snapshot_download(f"user/{tiny_prior.name}"))
    to_hub(tmp_path / "pipeline", "user/pipeline")
    assert len(hub.repos["model", "user/pipeline"].commits) == 2


def test_json_that_is_none_is_named(hub, run):
    (run / "results.json").write_text("[")
    with pytest.raises(ValueError, match=r"results.json must be JSON"):
        to_hub(run)
