"""The dataset card."""

from __future__ import annotations

import copy

import pytest
from huggingface_hub import DatasetCard

from decoct.hub.cards import dataset_card

MANIFEST = {
    "decoct_version": "0.1.0",
    "config": {
        "dataset": "uoft-cs/cifar10",
        "method": "infoutil",
        "tiles_per_image": 1,
        "views": 50,
        "crop_fraction": 1.0,
        "candidates_per_class": None,
        "output_dir": "/home/someone/runs",
        "ipc": [1, 10],
    },
    "dataset": "uoft-cs/cifar10",
    "label_names": [f"class {label}" for label in range(10)],
    "image_mean": [0.4914, 0.4822, 0.4465],
    "image_std": [0.247, 0.2435, 0.2616],
    "image_size": 32,
    "channels": 3,
    "teacher": {"name": "runs/teacher", "fingerprint": "0123456789abcdef" * 4},
    "label_teachers": {
        "1": {"name": "runs/teacher/epoch_10", "fingerprint": "f" * 64},
        "10": {"name": "runs/teacher", "fingerprint": "0123456789abcdef" * 4},
    },
    "ipcs": [1, 10],
    "tile_accuracy": {"1": 0.9, "10": 0.95},
    "files": {},
    "versions": {},
}


@pytest.fixture
def manifest():
    return copy.deepcopy(MANIFEST)


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
    assert "accuracy" not in body
    assert "view_logits" not in body
    assert "--labels tiles" in body


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


# Sampled images


@pytest.fixture
def sampled(manifest):
    """The manifest of a run by IGDS."""
    settings = {"method": "igds", "tiles_per_image": 4, "beta": None, "guidance_scale": 1.0, "sampling_steps": 250}
    manifest["config"] |= settings | {"prior": "google/ddpm-cifar10-32", "coalitions": 128, "attribution": "whole"}
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
