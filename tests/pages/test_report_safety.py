"""Hostile names and pictures, the network, and the size of a report."""

from __future__ import annotations

import base64
import hashlib
import io
import json

import datasets
import numpy as np
from PIL import Image

from decoct.files import read_json
from decoct.pages.report import write_report
from decoct.pages.sources import Sources, data_uri
from decoct.run.folder import write_json

from .reading import Page


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
