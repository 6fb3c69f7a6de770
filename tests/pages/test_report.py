"""The report of a run folder: what it says and shows, against the folder's own files."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shlex
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import decoct
from decoct.arguments import parse_config
from decoct.config import DistillConfig, to_dict
from decoct.data.pixels import to_pixels
from decoct.pages.accuracy import accuracy_chart
from decoct.pages.contents import soft_label
from decoct.pages.describe import command_of, method_sentence, settings_of
from decoct.pages.report import write_report
from decoct.pages.shown import storage_of
from decoct.pages.sources import Sources, data_uri, encoded_bytes
from decoct.run.folder import read_json, write_json
from decoct.synthesis.distill import distill

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress"]
SIDE = 28


class Page(HTMLParser):
    """A page as its elements (name, attributes) and its text, without scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.parts: list[str] = []
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": []}.get(self._open, self.parts).append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        found = [attrs for name, attrs in self.elements if name == tag]
        return [
            attrs for attrs in found if all(attrs.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]


def picture(uri: str) -> np.ndarray:
    """The pixels of a data URI."""
    head, encoded = uri.split(",", 1)
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def rows_of(folder: Path, ipc: int, per_class: int) -> list[dict[str, Any]]:
    """The first stored rows of each class."""
    rows = pq.read_table(next(folder.glob(f"data/ipc_{ipc}/*.parquet"))).to_pylist()
    return [row for place, row in enumerate(rows) if place % ipc < per_class]


def real_pixels(sample_part: Path) -> np.ndarray:
    return to_pixels(decoct.load_images(str(sample_part))["image"][:], SIDE, 1).numpy()[:, 0]


# What the page shows


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
    names = {name for name, *_ in settings_of(manifest["config"])}
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
    for name, value, meaning in settings_of(manifest["config"]):
        assert f"{name} {value} {meaning}" in text
    assert " ".join(command_of(manifest["config"])) in text
    names = {name for name, *_ in settings_of(manifest["config"])}
    assert "coalitions" in names and not {"guidance_scale", "beta", "batch_size", "output_dir"} & names


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "rded", "tiles_per_image": 4, "ipc": [1, 10, 50]},
        {"method": "infoutil", "candidates_per_class": 0, "crop_fraction": 0.7, "dataset": "a b/it's $HOME"},
        {"method": "igds", "softplus": False, "prior_classes": [3, 1, 2], "beta": 0.0},
        {"method": "k_means", "skip_unreadable": True, "pool_factor": 2.0, "label_teacher": "by_ipc"},
    ],
)
def test_command_repeats_the_run(options):
    config = DistillConfig(**options)
    words = shlex.split(" ".join(command_of(to_dict(config))))
    assert words[:2] == ["decoct", "distill"]
    assert parse_config(DistillConfig, words[2:]) == config


def test_no_command_for_data_in_memory():
    assert command_of(to_dict(DistillConfig(dataset="in memory"))) is None


def test_method_in_words():
    def words(**options: Any) -> str:
        return method_sentence(to_dict(DistillConfig(**options)))

    assert "Shapley" in words(tiles_per_image=4) and "gradient norm" in words() and "k-center" in words()
    assert words().startswith("Whole real images")
    assert words(method="rded").startswith("Random crops of real images, ranked by the teacher's loss, lowest first;")
    assert "herding" in words(method="herding") and "random" not in words(method="herding")
    assert "forgot" in words(method="forgetting")
    assert "diffusion prior" in words(method="igds")


# Accuracy


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
    assert "by 10.0 points" in page.text and "the teacher stands for it" in page.text
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


def test_chart_places(make_record):
    ipcs = [1, 10, 100]
    chart = accuracy_chart([make_record(ipc, [0.2 + 0.1 * n, 0.4 + 0.1 * n], [0.1]) for n, ipc in enumerate(ipcs)])
    made, random = chart.series
    assert (made["baseline"], random["baseline"]) == (False, True)
    x = [point["x"] for point in made["points"]]
    assert [place for place, _ in chart.ipcs] == x
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2), "the axis is logarithmic"
    (low_y, low), (high_y, high) = ((place, float(text)) for place, text in (chart.accuracies[0], chart.accuracies[-1]))
    assert low <= 10 and high >= 50 + 14.1
    value = lambda y: low + (low_y - y) / (low_y - high_y) * (high - low)  # noqa: E731
    assert [value(point["y"]) for point in made["points"]] == pytest.approx([30, 40, 50], abs=0.3)
    assert value(made["points"][0]["high"]) == pytest.approx(30 + 14.14, abs=0.3)
    assert value(made["points"][0]["low"]) == pytest.approx(30 - 14.14, abs=0.3)
    assert made["points"][0]["text"] == "IPC 1: 30.0 % ± 14.1"
    assert [point["low"] == point["high"] for point in random["points"]] == [True] * 3, "one seed has no spread"


# Storage


def test_storage_is_what_the_files_hold(distilled, sample_part):
    folder = distilled("infoutil")
    page = Page(folder / "report.html")
    for row in storage_of(folder, read_json(folder / "manifest.json")):
        path = next(folder.glob(f"data/ipc_{row.ipc}/*.parquet"))
        assert row.rows == 4 * row.ipc
        assert row.total == path.stat().st_size
        stored = sum(len(each["image"]["bytes"]) for each in pq.read_table(path).to_pylist())
        assert stored < row.images < 2 * stored, "PNG does not compress; a parquet file adds its own"
        assert all(size > 0 for size in row.labels.values())
        assert row.images + sum(row.labels.values()) + row.provenance < row.total
        assert row.all_labels == sum(row.labels.values())
        assert f"{row.ipc} {row.rows} {row.images / 1000:.3g} kB" in page.text
    source = sum(len(row["bytes"]) for row in pq.read_table(sample_part / "train.parquet")["image"].to_pylist())
    assert f"The source: 96 images, {source / 1000:.3g} kB" in page.text
    largest = storage_of(folder, read_json(folder / "manifest.json"))[-1]
    assert f"{100 * largest.total / source:.1f} %" in page.text


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


# Writing it again


def test_writing_again_keeps_the_pictures(copied, make_record):
    folder = copied("infoutil")
    before = Page(folder / "report.html")
    write_json(folder / "results.json", [make_record(1, [0.4])])
    for _ in range(2):
        assert write_report(folder) == folder / "report.html"
    after = Page(folder / "report.html")
    assert before.all("image") == after.all("image") and after.all("image")
    assert "40.0" in after.text
    assert {path.name for path in folder.iterdir()} == {path.name for path in copied("random").iterdir()} | {
        "results.json"
    }, "no temporary file stays"


@pytest.mark.parametrize("content", [None, "<p>mine</p>", '<script type="application/json" id="report">[1</script>'])
def test_without_kept_pictures_it_says_so(copied, content):
    folder = copied("infoutil")
    (folder / "report.html").unlink()
    if content is not None:
        (folder / "report.html").write_text(content)
    write_report(folder)
    page = Page(folder / "report.html")
    assert "Source images are not shown" in page.text and "The size of the source is not known" in page.text
    assert not page.all("image") and page.all("rect", class_="box") and len(page.all("img")) == 8
    assert "Source images" in Page(write_report(folder)).text, "such a report can be written again"


def test_report_is_outside_the_manifests_hashes(distilled):
    for method in ("infoutil", "igds"):
        assert (distilled(method) / "report.html").is_file()
        assert "report.html" not in read_json(distilled(method) / "manifest.json")["files"]


def test_run_killed_before_its_manifest(distilled, sample_part, trained_teacher, tmp_path, monkeypatch):
    config = DistillConfig(
        method="random", dataset=str(sample_part), teacher=str(trained_teacher), ipc=[1], views=0, batch_size=16,
        output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    monkeypatch.setattr("decoct.synthesis.output.save_preview", lambda path, rows: path.write_bytes(b"PNG"))
    with monkeypatch.context() as patch:
        patch.setattr("decoct.synthesis.run.write_card", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            distill(config)
    assert not (tmp_path / "run" / "manifest.json").exists()
    distill(config)
    assert len(Page(tmp_path / "run" / "report.html").all("image")) == 4


def test_folder_without_manifest(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json"):
        write_report(tmp_path)


def test_broken_results_leave_the_report_as_it_was(copied):
    folder = copied("random")
    before = (folder / "report.html").read_bytes()
    (folder / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json must be JSON"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_old_manifest_with_little_in_it(copied):
    folder = copied("infoutil")
    manifest = read_json(folder / "manifest.json")
    keys = ("label_names", "image_mean", "image_std", "image_size", "channels", "ipcs")
    few = {**{key: manifest[key] for key in keys}, "teacher": None, "config": {"method": "infoutil"}}
    write_json(folder / "manifest.json", few)
    assert "Teacher none" in Page(write_report(folder)).text


# Safety and size


def test_hostile_names_are_text(hostile):
    names = read_json(hostile / "manifest.json")["label_names"]
    page = Page(hostile / "report.html")
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert not page.all("img", src="x")
    assert len(page.all("script")) == 2 and len(page.scripts) == 2
    for name in names:
        assert " ".join(name.split()) in page.text
    assert "{{ 7*7 }}" in page.text
    Sources.from_json(json.loads(page.scripts[0]))


def test_hostile_pictures_cannot_end_their_block(copied):
    folder = copied("random")
    bad = "</script><script>alert(1)</script><!--"
    write_report(folder, Sources(1, 2, {0: bad}, {0: [bad]}))
    for _ in range(2):
        page = Page(write_report(folder))
        assert len(page.all("script")) == 2
        assert Sources.from_json(json.loads(page.scripts[0])) == Sources(1, 2, {0: bad}, {0: [bad]})


def test_nothing_is_asked_of_a_network(distilled):
    for method in ("infoutil", "random", "igds"):
        page = Page(distilled(method) / "report.html")
        links = [value for _, attrs in page.elements for name, value in attrs.items() if name in ("src", "href")]
        assert links and all(link.startswith(("data:", "#")) for link in links)
        (policy,) = [attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs]
        digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
        assert "default-src 'none'" in policy and "img-src data:" in policy
        assert f"script-src 'sha256-{digest}'" in policy and "unsafe-eval" not in policy
        ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
        assert len(set(ids)) == len(ids)
        assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_a_thousand_classes_stay_small(tmp_path):
    names = [f"class {label}" for label in range(1000)]
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((28, 28)).resize((224, 224), Image.Resampling.BICUBIC).save(buffer, "PNG")
    columns = {"image": [{"bytes": buffer.getvalue(), "path": None}] * 100, "label": list(range(100))}
    tiles = {"source_index": 7, "box": [0, 0, 112, 112], "score": 0.5, "heatmap": [[0.1, -0.2], [0.3, 0.4]]}
    columns["tiles"] = [[tiles] * 4] * 100
    path = tmp_path / "data" / "ipc_1" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(columns, features=features_of(names)).to_parquet(path)
    manifest = {"label_names": names, "image_size": 224, "channels": 3, "ipcs": [1], "config": {"method": "infoutil"}}
    manifest |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    write_json(tmp_path / "manifest.json", manifest)
    page = Page(write_report(tmp_path, Sources(10**6, None, {7: data_uri(Image.open(buffer))})))
    assert "The first 20 of 1000 classes" in page.text and "class 19" in page.text and "class 20 " not in page.text
    assert "No soft label is stored." in page.text
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    assert Image.open(io.BytesIO(base64.b64decode(page.all("img")[0]["src"].split(",")[1]))).size == (160, 160)


def features_of(names: list[str]) -> datasets.Features:
    tile = {
        "source_index": datasets.Value("int64"),
        "box": datasets.List(datasets.Value("int32"), length=4),
        "score": datasets.Value("float32"),
        "heatmap": datasets.List(datasets.List(datasets.Value("float32"))),
    }
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names), "tiles": datasets.List(tile)}
    return datasets.Features(columns)
