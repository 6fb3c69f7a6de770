"""The dataset card: header and body, and hostile names in them."""

from __future__ import annotations

import ast
import re
import shlex

import pytest
from huggingface_hub import DatasetCard

from decoct.distilled.parquet import column_bytes
from decoct.files import read_json
from decoct.pages.dataset_card import dataset_card
from decoct.pages.source import GivenInfo

from .cards import blocks, record


def test_header_declares_a_configuration_per_ipc(manifest):
    header = DatasetCard(dataset_card(manifest)).data.to_dict()
    assert [config["config_name"] for config in header["configs"]] == ["ipc_1", "ipc_10"]
    assert header["configs"][1]["data_files"] == [{"split": "train", "path": "data/ipc_10/*.parquet"}]
    assert header["task_categories"] == ["image-classification"]
    assert header["size_categories"] == ["n<1K"]
    assert {"dataset-distillation", "infoutil"} <= set(header["tags"])
    assert "license" not in header


@pytest.mark.parametrize(("ipc", "category"), [(99, "n<1K"), (100, "1K<n<10K"), (5000, "10K<n<100K")])
def test_size_category(manifest, ipc, category):
    manifest["ipcs"] = [ipc]
    assert DatasetCard(dataset_card(manifest)).data.to_dict()["size_categories"] == [category]


def test_body_names_what_made_it(manifest):
    body = DatasetCard(dataset_card(manifest)).text
    assert "| `ipc_10` | 10 | 100 | 0.950 |\n" in body
    assert "| `crop_fraction` | `1.0` |\n" in body
    assert "`runs/teacher/epoch_10` (weights `ffffffffffff`)" in body
    assert 'load_dataset(".", "ipc_10", split="train")' in body
    assert "/home/someone" not in body


def test_location_goes_into_the_examples(manifest):
    assert 'load_dataset("user/small", ' in dataset_card(manifest, "user/small")


def test_what_was_not_measured_is_not_there(manifest):
    manifest["tile_accuracy"] = {}
    manifest["config"]["views"] = 0
    body = dataset_card(manifest)
    assert "accuracy on the tiles" not in body
    assert "## Results" not in body and "Expect an accuracy" not in body and "For comparison" not in body
    assert "preview.png" not in body
    assert "view_logits" not in body
    assert "--labels tiles" in body


def test_columns_of_mixed_views_are_named_where_they_are_stored(manifest):
    assert "slot_codes" not in dataset_card(manifest)
    manifest["config"] |= {"slots": 100, "label_bits": 4}
    body = dataset_card(manifest)
    assert "--labels mixed --students convnet3 --seeds 3\n" in blocks(body, "bash")[0]
    assert "logits for 100 mixed views of the image (crop, flip and CutMix), 4 bits each" in body
    assert "| `slot_scales` | what a code counts in the logits of each of those views, `(100, 1)` |\n" in body


def test_hostile_names_stay_text(manifest):
    name = "a|b `c` <script>x</script>\n---\nconfigs: []\n# {{ 7 * 191 }} [l](u)"
    manifest["label_names"][0] = manifest["dataset"] = manifest["config"]["dataset"] = name
    manifest["teacher"]["name"] = "x`|y"
    card = DatasetCard(dataset_card(manifest))
    header, body = card.data.to_dict(), card.text
    assert len(header["configs"]) == 2
    assert name in header["pretty_name"]
    assert "1337" not in body
    outside_code = [line for line in body.splitlines() if line.startswith(("# a", "Classes in label order"))]
    assert len(outside_code) == 2
    assert not any("<script>" in line for line in outside_code)
    assert "configs: []" not in body.splitlines()
    assert r"`` x`\|y ``" in body


def test_many_classes_are_counted_not_listed(manifest):
    manifest["label_names"] = [f"n{label}" for label in range(1000)]
    body = dataset_card(manifest)
    assert "and 950 more" in body
    assert "n999" not in body


def test_a_baseline_without_teacher(manifest):
    manifest["config"]["method"] = "random"
    manifest["teacher"] = None
    body = dataset_card(manifest)
    assert "Teacher: none." in body
    assert "## Cite" not in body


@pytest.mark.parametrize(
    ("method", "title", "paper"),
    [
        ("random", "random choice", None),
        ("herding", "herding", "Welling"),
        ("k_center", "k-center", "Gonzalez"),
        ("k_means", "k-means", "Lloyd"),
        ("forgetting", "forgetting events", "Toneva et al."),
    ],
)
def test_a_card_names_its_baseline_and_the_paper(manifest, method, title, paper):
    manifest["config"]["method"] = method
    card = DatasetCard(dataset_card(manifest))
    assert card.data.to_dict()["pretty_name"] == f"uoft-cs/cifar10, distilled by {title}"
    assert method in card.data.to_dict()["tags"]
    assert ("## Cite" in card.text) == (paper is not None)
    assert (paper or "") in card.text.partition("## Cite")[2]


@pytest.fixture
def sampled(manifest):
    """The manifest of a run by IGDS."""
    settings = {"method": "igds", "tiles_per_image": 4, "beta": None, "guidance_scale": 1.0, "sampling_steps": 250}
    settings |= {"prior": "google/ddpm-cifar10-32", "coalitions": 128, "attribution": "kernel_shap"}
    manifest["config"] |= settings
    manifest["prior"] = {"name": "google/ddpm-cifar10-32", "fingerprint": "a" * 64}
    manifest["estimator"] = {"name": "runs/estimator", "fingerprint": "b" * 64}
    manifest["betas"] = {"1": 0.0, "10": 0.1}
    return manifest


def test_a_card_of_sampled_images_names_prior_and_estimator(sampled):
    card = DatasetCard(dataset_card(sampled))
    body = " ".join(card.text.split())
    assert {"dataset-distillation", "igds"} <= set(card.data.to_dict()["tags"])
    assert "distilled by IGDS" in body
    assert "`google/ddpm-cifar10-32` (weights `aaaaaaaaaaaa`)" in body
    assert "`runs/estimator` (weights `bbbbbbbbbbbb`)" in body
    assert "beta 0 (IPC 1), 0.1 (IPC 10)" in body
    assert "Information-Guided Diffusion Sampling" in body
    assert "seed, and its estimated prototype and contextual information" in body
    assert "row of the source dataset" not in body


def test_a_card_shows_the_settings_of_its_own_method_alone(sampled, manifest):
    ours = dataset_card(sampled)
    assert "| `sampling_steps` | `250` |\n" in ours
    assert "| `guidance_scale` | `1.0` |\n" in ours
    assert not any(f"| `{name}` |" in ours for name in ("coalitions", "attribution", "crop_fraction"))
    manifest["config"]["method"] = "infoutil"
    theirs = dataset_card(manifest)
    assert "| `coalitions` | `128` |\n" in theirs
    assert not any(f"| `{name}` |" in theirs for name in ("sampling_steps", "guidance_scale", "beta", "prior"))
    assert "Sampled from" not in theirs


def test_hostile_names_of_prior_and_estimator_stay_text(sampled):
    for name in ("prior", "estimator"):
        sampled[name]["name"] = sampled["config"][name] = "x`|y\n---\nlicense: mit\n<script>{{ 7 * 191 }}"
    card = DatasetCard(dataset_card(sampled))
    assert len(card.data.to_dict()["configs"]) == 2
    assert "license" not in card.data.to_dict()
    assert "1337" not in card.text
    assert "license: mit" not in card.text.splitlines()
    assert r"`` x`\|y --- license: mit <script>{{ 7 * 191 }} ``" in card.text


HOSTILE = [
    "{{ 7 * 191 }}{% raw %}",
    "<img src=x onerror=alert(1)>",
    "a: [b, *c] # &d !e %f @g 'h",
    "\x1b[31m\x00\x07\u202e",
    "a\n---\nlicense: mit\n```\n# b",
    "../../etc/passwd",
    '"); import os  # """',
    "$(touch x); `touch y` 'z",
    "😀 \ud800",
    "~~~ | a | b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_data_everywhere(manifest, name):
    harmless = dataset_card(manifest, results=[record()])
    manifest["label_names"][0] = manifest["dataset"] = manifest["config"]["dataset"] = name
    manifest["config"]["teacher"] = manifest["teacher"]["name"] = name
    given = GivenInfo(license=name, attribution=name, pretty_name=name)
    results = [record(dataset=name, student=name, protocol=name)]
    text = dataset_card(manifest, name, results, given)
    card = DatasetCard(text.encode("utf-8").decode("utf-8"))
    header, body = card.data.to_dict(), card.text
    assert set(header) <= {*DatasetCard(harmless).data.to_dict(), "license"}
    assert header["license"] == "other" and header["pretty_name"] == name
    assert "1337" not in body
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", body)
    assert [line for line in body.splitlines() if line.startswith("## ")] == [
        *("## Load it", "## Columns", "## Train on it", "## Results", "## How it was made", "## Source", "## Cite")
    ]
    outside = re.sub(r"```.*?^```$|(`+)(?!`).*?(?<!`)\1(?!`)", "", body, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"(?<!\\)[<>]", outside)
    assert len(blocks(text, "python")) == 3
    for code in map(ast.parse, blocks(text, "python")):
        calls = [
            node for node in ast.walk(code) if isinstance(node, ast.Call) and "load_dataset" in ast.dump(node.func)
        ]
        assert all(call.args[0].value == name for call in calls) and calls
        assert not any(isinstance(node, ast.Import) and node.names[0].name == "os" for node in ast.walk(code))
    words = shlex.split(blocks(text, "bash")[0])
    assert words[2:7:2] == ["--distilled", "--dataset", "--labels"]
    if name.isprintable():
        assert words[3] == words[5] == " ".join(name.split())
        again = shlex.split(blocks(text, "bash")[1].replace("\\\n", " "))
        assert again[again.index("--dataset") + 1] == name


def test_bytes_of_images_and_of_labels_stand_beside_their_number(manifest):
    assert "kB" not in dataset_card(manifest).split("## Columns")[0], "older manifests do not note them"
    columns = {"image": 23_400, "label": 100, "tile_logits": 2_000, "slot_codes": 100_000, "slot_scales": 20_000}
    head = dataset_card({**manifest, "bytes": {"1": columns, "10": {"image": 234_000}}}).split("## Columns")[0]
    assert "| configuration | images per class | images | kB of images | kB of labels | teacher's accuracy" in head
    assert "| `ipc_1` | 1 | 10 | 23.4 | 122.1 | 0.900 |\n" in head
    assert "| `ipc_10` | 10 | 100 | 234.0 | 0.0 | 0.950 |\n" in head


def test_a_manifest_notes_the_bytes_that_its_files_have(runs):
    manifest = read_json(runs / "mixed" / "manifest.json")
    rows, columns = column_bytes(sorted((runs / "mixed").glob("data/ipc_5/*.parquet")))
    assert rows == 20
    noted = {name: size for name, size in manifest["bytes"]["5"].items() if size}
    assert noted == {name: size for name, size in columns.items() if name != "tiles"}
