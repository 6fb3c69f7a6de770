"""The report of a run folder: what it says and shows, against the folder's own files."""

from __future__ import annotations

import io
import zipfile

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import decoct
from decoct.distilled.schema import SLOT_COLUMNS
from decoct.files import read_json
from decoct.pages.contents import soft_label
from decoct.pages.describe import command_of, run_settings
from decoct.pages.report import write_report
from decoct.pages.shown import Storage, storage_of
from decoct.pages.sources import encoded_bytes
from decoct.run.folder import write_json

from .reading import NAMES, SIDE, Page, picture, real_pixels, rows_of


def test_selected_images_with_sources_crops_and_heat_maps(distilled, sample_part):
    folder = distilled("infoutil")
    page, rows, real = Page(folder / "report.html"), rows_of(folder, 3, 2), real_pixels(sample_part)
    tiles = [tile for row in rows for tile in row["tiles"]]
    assert len(tiles) == 4 * 2 * 4
    shown = page.all("img")
    assert [image["alt"] for image in shown[:2]] == [f"Distilled image {n} of class T-shirt/top" for n in (1, 2)]
    for image, row in zip(shown, rows, strict=True):
        assert np.array_equal(picture(image["src"]), np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))))
    for image, tile in zip(page.all("image"), tiles, strict=True):
        assert np.array_equal(picture(image["href"]), real[tile["source_index"]])
    boxes = [tuple(int(box[key]) for key in ("y", "x", "height", "width")) for box in page.all("rect", class_="box")]
    assert boxes[::2] == boxes[1::2] == [tuple(tile["box"]) for tile in tiles], "on the source and on the heat map"
    cells = [attrs for attrs in page.all("rect") if attrs["class"] in ("for", "against")]
    values = np.array([tile["heatmap"] for tile in tiles])
    shares = values / np.abs(values).max(axis=(1, 2), keepdims=True)
    drawn = [float(cell["fill-opacity"]) * (1 if cell["class"] == "for" else -1) / 0.8 for cell in cells]
    assert np.allclose(drawn, shares.ravel(), atol=0.01)
    assert {(float(cell["x"]), float(cell["y"])) for cell in cells} == {
        (round(x * SIDE / 3, 2), round(y * SIDE / 3, 2)) for x in range(3) for y in range(3)
    }
    assert len(page.all("svg", role="img")) == 2 * len(tiles)
    assert all(svg["aria-label"] for svg in page.all("svg", role="img"))


def test_soft_labels_are_the_stored_logits(distilled):
    folder = distilled("infoutil")
    page, rows = Page(folder / "report.html"), rows_of(folder, 3, 2)
    logits = np.array([row["tile_logits"] for row in rows], dtype=np.float64).reshape(-1, 4)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    bars = [float(attrs["style"].removeprefix("--share: ")) for attrs in page.all("li") if "style" in attrs]
    assert np.allclose(np.reshape(bars, (-1, 4)), -np.sort(-expected), atol=1e-4)
    buttons = page.all("button", class_="tile")
    assert len(buttons) == len(logits)
    assert [button["aria-controls"] for button in buttons] == [label["id"] for label in page.all("div", class_="label")]
    assert len({button["aria-label"] for button in buttons}) == len(buttons)
    assert f"Trouser {100 * expected[8, 1]:.1f} %" in page.text


def test_soft_label_of_many_classes():
    logits = np.log([0.5, 0.2, 0.1, 0.08, 0.06, 0.04, 0.02])
    label = soft_label((logits + 300).tolist(), list("abcdefg"))
    assert [name for name, _ in label["top"]] == list("abcde")
    assert np.allclose([share for _, share in label["top"]], [0.5, 0.2, 0.1, 0.08, 0.06])
    assert label["others"] == 2
    assert label["rest"] == pytest.approx(0.06)


def test_random_images_have_no_heat_map(distilled, sample_part):
    folder = distilled("random")
    page, rows, real = Page(folder / "report.html"), rows_of(folder, 3, 2), real_pixels(sample_part)
    for image, row in zip(page.all("image"), rows, strict=True):
        assert np.array_equal(picture(image["href"]), real[row["tiles"][0]["source_index"]])
    assert not [attrs for attrs in page.all("rect") if attrs["class"] in ("for", "against")]
    assert "Whole real images, drawn at random" in page.text


def test_generated_images_beside_real_ones(distilled, sample_part):
    folder = distilled("igds")
    page, rows, real = Page(folder / "report.html"), rows_of(folder, 3, 3), real_pixels(sample_part)
    labels = np.asarray(decoct.load_images(str(sample_part))["label"][:])
    for row in rows:
        for tile in row["tiles"]:
            estimates = [f"{round(tile[name], 3) + 0.0:.3f}" for name in ("prototype", "contextual")]
            assert f"seed {tile['seed']} prototype {estimates[0]} · contextual {estimates[1]} nats" in page.text
    shown = {image["alt"]: picture(image["src"]) for image in page.all("img")}
    for label, name in enumerate(NAMES):
        for number, index in enumerate(np.flatnonzero(labels == label)[:3], start=1):
            assert np.array_equal(shown[f"Real image {number} of class {name}"], real[index])
    assert not page.all("image")
    manifest = read_json(folder / "manifest.json")
    assert f"{manifest['information']['3']['contextual']:.3f} nats" in page.text
    for name in ("prior", "estimator"):
        assert manifest[name]["fingerprint"][:12] in page.text
    names = {name for name, *_ in run_settings(manifest["config"])}
    assert "guidance_scale" in names and "attribution" not in names


def test_facts_are_those_of_the_manifest(distilled):
    folder = distilled("infoutil")
    manifest, text = read_json(folder / "manifest.json"), Page(folder / "report.html").text
    assert manifest["dataset"] in text
    assert manifest["teacher"]["name"] in text and manifest["teacher"]["fingerprint"][:12] in text
    shares = [f"{100 * manifest['tile_accuracy'][ipc]:.1f} % at IPC {ipc}" for ipc in ("1", "3")]
    assert ", ".join(shares) in text
    assert f"Time {manifest['seconds']:g} s on cpu" in text
    assert all(f"{name} {version}" in text for name, version in manifest["versions"].items())
    for name, value, meaning in run_settings(manifest["config"]):
        assert f"{name} {value} {meaning}" in text
    assert " ".join(command_of(manifest["config"])) in text
    names = {name for name, *_ in run_settings(manifest["config"])}
    assert "coalitions" in names and not {"guidance_scale", "beta", "batch_size", "output_dir"} & names


def test_without_results_it_says_how_to_get_them(distilled):
    assert "No student has been trained on this set yet." in Page(distilled("infoutil") / "report.html").text


def test_tables_hold_the_records_numbers(copied, make_record):
    folder = copied("infoutil")
    ranking = {"hlr": 0.3234, "ior": 0.0412, "lrs": 0.2126, "real_accuracy": 0.9, "note": "the teacher stands for it"}
    records = [
        make_record(1, [0.40, 0.42], [0.30, 0.32], dd_ranking=ranking),
        make_record(3, [0.5, 0.56]),
        make_record(3, [0.611], labels="online", overrides={"epochs": 7}, epoch="best"),
    ]
    write_json(folder / "results.json", [*records, {"task": "continual", "dataset": "sample"}])
    write_report(folder)
    page = Page(folder / "report.html")
    assert "convnet3 InfoUtil 1 4 88.9 41.0 ± 1.4 31.0 ± 1.4 2 0.323 0.041 0.213" in page.text
    assert "convnet3 InfoUtil 3 4 88.9 53.0 ± 4.2 - 2 - - -" in page.text
    assert "convnet3 InfoUtil 3 4 88.9 61.1 - 1 - - -" in page.text
    assert "sample · protocol rded_kd · labels views · last epoch" in page.text
    assert "protocol rded_kd (epochs=7) · labels online · best epoch (chosen on the test set)" in page.text
    assert "+10.0 points" in page.text and "the teacher stands for it" in page.text
    assert "2 0.323 0.041 0.213 " in page.text and "accuracy % a kB" in page.text
    assert page.text.count("turned off by --no_baseline") == 2
    assert "Also measured, and kept in results.json : continual" in page.text
    assert "No student" not in page.text
    assert len(page.all("figure", class_="chart")) == 1, "of the setting with several IPCs"


def test_records_of_older_versions(copied, make_record):
    folder = copied("random")
    old = make_record(1, [0.4])
    for name in ("task", "baseline", "baseline_note", "dd_ranking"):
        del old[name]
    write_json(folder / "results.json", [old])
    write_report(folder)
    assert "convnet3 InfoUtil 1 4 88.9 40.0 - 1 - - -" in Page(folder / "report.html").text


def test_storage_is_what_the_files_hold(distilled, sample_part):
    folder = distilled("infoutil")
    page = Page(folder / "report.html")
    for row in storage_of(folder, read_json(folder / "manifest.json")):
        path = next(folder.glob(f"data/ipc_{row.ipc}/*.parquet"))
        assert row.rows == 4 * row.ipc
        assert row.total == path.stat().st_size
        stored = sum(len(each["image"]["bytes"]) for each in pq.read_table(path).to_pylist())
        assert stored < row.images < 2 * stored, "PNG does not compress; a parquet file adds its own"
        assert {name for name, size in row.labels.items() if size == 0} == set(SLOT_COLUMNS), "not stored here"
        assert row.images + sum(row.labels.values()) + row.provenance < row.total
        assert row.all_labels == sum(row.labels.values())
        assert f"{row.ipc} {row.rows} {row.images / 1000:.3g} kB" in page.text
    source = sum(len(row["bytes"]) for row in pq.read_table(sample_part / "train.parquet")["image"].to_pylist())
    assert f"The source: 96 images, {source / 1000:.3g} kB" in page.text
    largest = storage_of(folder, read_json(folder / "manifest.json"))[-1]
    assert f"{100 * largest.total / source:.1f} %" in page.text


def test_the_bytes_of_mixed_views_are_those_of_all_their_columns(copied, monkeypatch):
    folder = copied("random")
    manifest = read_json(folder / "manifest.json")
    manifest["config"]["slots"] = 3
    write_json(folder / "manifest.json", manifest)
    sizes = {"label": 1, "tile_logits": 2, "view_logits": 3, "view_boxes": 4}
    labels = {**sizes, **{name: 1000 * 10**place for place, name in enumerate(SLOT_COLUMNS)}}
    stored = Storage(1, 4, 5000, labels, 0, 2_000_000)
    assert stored.mixed_views == 1_111_000 and stored.all_labels == 1_111_010
    monkeypatch.setattr("decoct.pages.report.storage_of", lambda folder, manifest: [stored])
    write_report(folder)
    assert "1 4 5 kB 2 B 3 B 4 B 1.11 MB 1.11 MB" in Page(folder / "report.html").text


def test_bytes_of_files_and_of_archives(image_folder, tmp_path):
    images = decoct.load_images(str(image_folder))
    files = sorted((image_folder / "train").rglob("*.png"))
    assert encoded_bytes(images) == sum(path.stat().st_size for path in files)
    assert encoded_bytes(images.select([0, 1])) == sum(path.stat().st_size for path in files[:2])
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(files[0], "a.png")
    inside = [{"path": f"zip://a.png::{tmp_path / 'images.zip'}", "bytes": None}]
    features = datasets.Features({"image": datasets.Image()})
    assert encoded_bytes(datasets.Dataset.from_dict({"image": inside}, features=features)) is None
