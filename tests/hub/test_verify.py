"""Checking a distilled dataset: what is right passes, and every fault is named with its file, row or class."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from PIL import Image
from worlds import COLOURS, SIDE, write_run

from decoct.config import PublishConfig, VerifyConfig, default_values, distill_without_effect
from decoct.distilled.dataset import load_distilled
from decoct.hub.publish import publish
from decoct.hub.verify import CHECKS, Report, verify, verify_folder
from decoct.pages.report import write_report
from decoct.run.folder import sha256

FILE = "data/ipc_2/train-00000-of-00001.parquet"


def change_manifest(folder: Path, **values: Any) -> None:
    """Sets fields of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rehash(folder: Path) -> None:
    """Makes the manifest's hashes those of the files, so that other checks than the hashes have to see a fault."""
    named = json.loads((folder / "manifest.json").read_text())["files"]
    change_manifest(folder, files={name: sha256(folder / name) for name in named})


def change_rows(folder: Path, change: Callable[[dict[str, list[Any]]], object], name: str = FILE) -> None:
    """Changes the columns of a parquet file, as Python values, and hashes it anew."""
    table = pq.read_table(folder / name)
    columns = {key: table[key].to_pylist() for key in table.column_names}
    change(columns)
    arrays = [
        pa.ExtensionArray.from_storage(f.type, pa.array(columns[f.name], f.type.storage_type))
        if isinstance(f.type, pa.ExtensionType)
        else pa.array(columns[f.name], f.type)
        for f in table.schema
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=table.schema), folder / name)
    rehash(folder)


def found(report: Report, check: str) -> str:
    """All problems of a check."""
    return "\n".join(str(problem) for problem in report.problems if problem.check == check)


def encoded(side: int, format: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, format)
    return buffer.getvalue()


def test_a_run_folder_without_fault_passes_every_check(run_folder):
    (run_folder / "evaluation").mkdir()
    for name in ("report.html", "run.json", "results.json", "evaluation/a.json"):
        (run_folder / name).write_text("{}")
    report = verify_folder(run_folder)
    assert report.ok and report.problems == [] and report.checked == [check for check in CHECKS if check != "teacher"]
    named = json.loads((run_folder / "manifest.json").read_text())["files"]
    assert (report.files, report.images) == (4, 9)
    assert report.size == sum((run_folder / name).stat().st_size for name in named)
    assert "4 files" in str(report) and "9 images" in str(report) and str(report).count(" OK ") == len(report.checked)


def test_sampled_sets_and_sets_without_views_pass(tmp_path):
    report = verify_folder(write_run(tmp_path / "run", method="igds", views=0))
    assert report.ok, str(report)


def set_row(column: str, row: int, value: Any) -> Callable[[dict[str, list[Any]]], None]:
    return lambda columns: columns[column].__setitem__(row, value)


NAN, INF = [[float("nan"), 0, 0]] * 4, [[0, 0, 0]] * 3 + [[0, float("inf"), 0]]
TILE = {"source_index": 5, "box": [0, 0, 4, 4], "score": 0.5, "heatmap": None}
ROW_FAULTS = [
    ("tile_logits", 3, NAN, "logits", "tile_logits is not finite"),
    ("tile_logits", 3, INF, "logits", "tile_logits is not finite"),
    ("tile_logits", 3, None, "logits", "tile_logits is missing"),
    ("tile_logits", 3, [[0, 0]] * 4, "logits", "not of shape (4, 3)"),
    ("view_logits", 3, [[None, 0, 0]] * 2, "logits", "view_logits is not finite"),
    ("view_boxes", 3, [[0.5, 0, 0.75, 1, 0]] * 2, "views", "not inside the image"),
    ("view_boxes", 3, [[0, 0, 0, 1, 0]] * 2, "views", "a view is empty"),
    ("view_boxes", 3, [[-0.5, 0, 0.5, 1, 0]] * 2, "views", "not inside the image"),
    ("view_boxes", 3, [[0, 0, 1, 1, 2]] * 2, "views", "flip of a view"),
    ("view_boxes", 3, [[float("nan"), 0, 1, 1, 0]] * 2, "views", "view_boxes is not finite"),
    ("image", 3, None, "images", "no image is stored"),
    ("image", 3, {"bytes": None, "path": "/etc/hostname"}, "images", "at most a path"),
    ("image", 3, {"bytes": b"not an image", "path": None}, "images", "not a PNG"),
    ("image", 3, {"bytes": encoded(SIDE)[:50], "path": None}, "images", "not a PNG"),
    ("image", 3, {"bytes": encoded(SIDE, "JPEG"), "path": None}, "images", "not a PNG"),
    ("image", 3, {"bytes": encoded(9), "path": None}, "images", "but 9 x 9"),
    ("image", 3, {"bytes": encoded(SIDE, mode="L"), "path": None}, "images", "16 x 16, L"),
    ("tiles", 3, None, "tiles", "not that of 4 tiles"),
    ("tiles", 3, [TILE] * 3, "tiles", "not that of 4 tiles"),
    ("tiles", 3, [TILE] * 3 + [{**TILE, "score": None}], "tiles", "incomplete"),
    ("tiles", 3, [TILE] * 3 + [{**TILE, "box": [0, 0, 0, 4]}], "tiles", "box of a tile"),
    ("tiles", 3, [TILE] * 3 + [{**TILE, "source_index": -1}], "tiles", "source index"),
]


@pytest.mark.parametrize(("column", "row", "value", "check", "what"), ROW_FAULTS)
def test_a_fault_in_a_row_names_file_row_and_class(run_folder, column, row, value, check, what):
    change_rows(run_folder, set_row(column, row, value))
    report = verify_folder(run_folder)
    assert {problem.check for problem in report.problems} == {check}, str(report)
    text = found(report, check)
    assert FILE in text and what in text and "row 3 (class 'green')" in text


@pytest.mark.parametrize("label", [3, -1, None])
def test_a_label_that_is_no_class_is_named_and_its_class_lacks_an_image(run_folder, label):
    change_rows(run_folder, set_row("label", 5, label))
    report = verify_folder(run_folder)
    assert "row 5" in found(report, "labels") and "'blue' has 1" in found(report, "counts")


def test_faults_of_many_rows_are_one_problem(run_folder):
    change_rows(run_folder, lambda columns: columns.update(image=[{"bytes": b"", "path": None}] * 6))
    assert found(verify_folder(run_folder), "images").count("row ") == 6


def test_all_problems_are_listed_at_once(run_folder):
    change_rows(run_folder, set_row("tile_logits", 0, NAN))
    change_rows(run_folder, set_row("label", 0, 1), "data/ipc_1/train-00000-of-00001.parquet")
    (run_folder / "preview.png").unlink()
    (run_folder / "extra.txt").write_text("")
    with (run_folder / "README.md").open("a") as file:
        file.write("more")
    report = verify_folder(run_folder)
    assert {problem.check for problem in report.problems} == {"logits", "counts", "files", "hashes"}
    assert "preview.png: is listed" in found(report, "files") and "extra.txt: is not listed" in found(report, "files")
    assert "'red' has 0, 'green' has 2" in found(report, "counts") and "README.md: has sha256" in str(report)


def test_a_data_file_that_would_be_loaded_must_be_listed(run_folder):
    shutil.copy(run_folder / FILE, run_folder / "data/ipc_2/more.parquet")
    assert "data/ipc_2/more.parquet: is not listed" in found(verify_folder(run_folder), "files")


def test_an_ipc_needs_files_and_files_an_ipc(run_folder):
    change_manifest(run_folder, ipcs=[1, 5])
    problems = found(verify_folder(run_folder), "files")
    assert "no file of data/ipc_5" in problems and "lists files of data/ipc_2" in problems


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(folder / FILE)), folder / FILE)
    rehash(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda table: table.drop_columns(["view_boxes"]), "one column 'view_boxes'. Got none"),
        (lambda table: table.append_column("more", pa.array(range(6))), "column 'more', which decoct does not write"),
        (lambda table: table.set_column(1, "label", pa.array(["red"] * 6)), "column 'label' must be int64. Got string"),
        (lambda table: table.replace_schema_metadata(None), "column 'label' must be stored as ClassLabel. Got None"),
    ],
)
def test_columns_other_than_decocts_are_named(run_folder, change, what):
    rewrite(run_folder, change)
    report = verify_folder(run_folder)
    assert what in found(report, "schema") and FILE in found(report, "schema")
    assert not found(report, "counts")  # nothing follows from what cannot be read


def test_arrays_of_another_shape_are_named(run_folder):
    change_manifest(run_folder, config={"method": "infoutil", "tiles_per_image": 4, "views": 5})
    problems = found(verify_folder(run_folder), "schema")
    assert "'view_logits' must be float16 of shape (5, 3). Got float16 of shape (2, 3)" in problems


def test_label_names_in_another_order_are_named(run_folder):
    change_manifest(run_folder, label_names=["green", "red", "blue"])
    problems = found(verify_folder(run_folder), "labels")
    assert "['green', 'red', 'blue']" in problems and "Got ['red', 'green', 'blue']" in problems


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("data/ipc_1/*.parquet", "data/ipc_2/*.parquet", "ipc_1 must load data/ipc_1/*.parquet"),
        ("split: train", "split: test", "as split train"),
        ("config_name: ipc_1", "config_name: ipc_7", "must have the configurations ['ipc_1', 'ipc_2']"),
        ("configs:", "others:", "must have the configurations"),
        ("---\n", "", "must have the configurations"),
        ("configs:", "configs: [", "no YAML header"),
    ],
)
def test_a_card_that_loads_something_else_is_named(run_folder, old, new, what):
    card = (run_folder / "README.md").read_text()
    assert old in card
    (run_folder / "README.md").write_text(card.replace(old, new))
    rehash(run_folder)
    report = verify_folder(run_folder)
    assert what in found(report, "card") and {problem.check for problem in report.problems} == {"card"}


def test_dataset_info_with_other_columns_is_named(run_folder):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS[::-1]))})
    info = [{"config_name": "ipc_1", "features": features._to_yaml_list()}]
    card = (run_folder / "README.md").read_text().replace("---\n", f"---\ndataset_info: {json.dumps(info)}\n", 1)
    (run_folder / "README.md").write_text(card)
    rehash(run_folder)
    assert "dataset_info of ipc_1" in found(verify_folder(run_folder), "card")


def test_the_script_exits_with_1_for_a_problem(run_folder, monkeypatch, capsys):
    script = str(Path(__file__).parents[2] / "scripts" / "verify.py")
    monkeypatch.setattr(sys, "argv", [script, str(run_folder)])
    runpy.run_path(script, run_name="__main__")
    assert "Everything is as it should be." in capsys.readouterr().out
    (run_folder / "preview.png").unlink()
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(script, run_name="__main__")
    assert stopped.value.code == 1 and "preview.png: is listed" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["nowhere", "/nowhere/at/all", "user/name/more"])
def test_a_source_is_a_folder_or_a_hub_id(source):
    with pytest.raises(ValueError, match="source must be an existing folder or a Hub id"):
        verify(VerifyConfig(source=source))


def test_a_revision_is_for_the_hub(run_folder):
    with pytest.raises(ValueError, match="revision must be left out for a folder"):
        verify(VerifyConfig(source=str(run_folder), revision="v1"))


def test_a_published_set_is_verified_at_one_commit(run_folder, hub):
    api = HfApi(endpoint=hub.url, token=hub.token)
    publish(PublishConfig(folder=str(run_folder), push_to_hub="user/set"))
    commit = api.dataset_info("user/set").sha
    report = verify(VerifyConfig(source="user/set"))
    assert report.ok and report.commit == commit and f"user/set at commit {commit}" in str(report), str(report)
    api.upload_file(repo_id="user/set", path_in_repo=FILE, path_or_fileobj=b"other", repo_type="dataset")
    later = verify(VerifyConfig(source="user/set"))
    assert FILE in found(later, "hashes") and FILE in found(later, "parquet") and later.commit != commit
    assert verify(VerifyConfig(source="user/set", revision=commit)).ok
    with pytest.raises(ValueError, match="revision must be a branch, tag or commit of user/set"):
        verify(VerifyConfig(source="user/set", revision="v9"))
    with pytest.raises(ValueError, match="Got 'user/other'"):
        verify(VerifyConfig(source="user/other"))


def test_a_connection_that_breaks_is_said_and_the_next_call_completes_it(run_folder, hub):
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("user/set", repo_type="dataset")
    api.upload_folder(repo_id="user/set", folder_path=run_folder, repo_type="dataset")
    hub.fail(1, "stop", on="GET /datasets/user/set/resolve")
    with pytest.raises(OSError, match="user/set could not be downloaded: .*Check the connection"):
        verify(VerifyConfig(source="user/set"))
    hub.heal()
    assert verify(VerifyConfig(source="user/set")).ok


def test_settings_without_effect_may_be_in_a_manifest_or_not(run_folder):
    config = json.loads((run_folder / "manifest.json").read_text())["config"]
    every = {**default_values(config["method"], config["tiles_per_image"]), **config}
    unused = distill_without_effect(every)
    decisive = {name: value for name, value in every.items() if name not in unused}
    assert len(decisive) < len(every)
    for settings in (every, decisive):
        change_manifest(run_folder, config=settings)
        assert not verify_folder(run_folder).problems
        assert load_distilled(run_folder, 2).ipc == 2
        write_report(run_folder)
