"""The dataset card."""

from __future__ import annotations

import ast
import copy
import re
import shlex

import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetInfo, Features, load_dataset, load_dataset_builder
from datasets.exceptions import ExpectedMoreSplitsError
from datasets.utils.info_utils import NonMatchingSplitsSizesError
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from worlds import accuracy_record, measured, write_run

from decoct.config import PublishConfig
from decoct.data.source import source_record
from decoct.hub.publish import publish
from decoct.pages.dataset_card import dataset_card
from decoct.pages.source import GivenInfo

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
    assert "accuracy on the tiles" not in body
    assert "## Results" not in body and "Expect an accuracy" not in body and "For comparison" not in body
    assert "preview.png" not in body
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


# Source, licence, features


def record(**changes):
    baseline = measured(0.49, 0.51, accuracy_std=0.01)
    known = {"labels": "views", "teacher_accuracy": 0.9, "accuracy_std": 0.01, "baseline": baseline}
    return accuracy_record(0.59, 0.61, **{**known, **changes})


def blocks(card, language):
    """The fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)


def test_the_sample_carries_its_licence_and_attribution(manifest):
    manifest["dataset"] = manifest["config"]["dataset"] = "sample"
    card = DatasetCard(dataset_card(manifest))
    assert card.data.license == "mit"
    assert "Han Xiao, Kashif Rasul and Roland Vollgraf" in " ".join(card.text.split())
    assert "The above copyright notice and this permission notice shall be included" in card.text
    assert "source_datasets" not in card.data.to_dict()


def test_licence_and_attribution_are_what_was_given_or_what_the_source_says(manifest):
    given = GivenInfo(license="CC-BY-4.0", attribution="Made by *A. Author*.", pretty_name="Ten small things")
    card = DatasetCard(dataset_card(manifest, given=given))
    assert card.data.license == "cc-by-4.0" and card.data.pretty_name == "Ten small things"
    assert "# Ten small things\n" in card.text and r"Made by \*A. Author\*." in card.text
    features = Features({"label": ClassLabel(names=["a"])})
    info = Dataset.from_dict({"label": [0]}, features=features).info
    assert source_record("in memory", info) == {}
    info.license, info.citation = "Ask the author first", "A. Author, 2020"
    manifest["source"] = source_record("in memory", info)
    card = DatasetCard(dataset_card(manifest))
    assert card.data.license == "other"
    assert "`Ask the author first`" in card.text and "A. Author, 2020" in card.text
    manifest["source"] = {}
    assert "## Source" not in dataset_card(manifest)


@pytest.mark.parametrize(
    ("license", "header", "shown"),
    [
        ("cc-by-4.0", "cc-by-4.0", "`cc-by-4.0`"),
        (["mit", "cc0-1.0"], "other", "`mit, cc0-1.0`"),
        ("bespoke", "other", "`bespoke`"),  # looks like an identifier, and is none of the Hub's
        (None, None, None),
    ],
)
def test_the_licence_is_carried_over_from_the_card_of_the_source(manifest, tmp_path, license, header, shown):
    data = {"license": license} if license else {"pretty_name": "Things"}
    (tmp_path / "README.md").write_text(f"---\n{DatasetCardData(**data).to_yaml()}\n---\n", "utf-8")
    manifest["source"] = source_record(str(tmp_path), DatasetInfo())
    assert "hub_id" not in manifest["source"]
    card = DatasetCard(dataset_card(manifest))
    assert card.data.to_dict().get("license") == header
    assert (f"Licence of the source: {shown}." in card.text) == (shown is not None)


def test_a_source_on_the_hub_is_recorded_with_its_licence_and_linked(hub, manifest):
    HfApi().create_repo("user/things", repo_type="dataset")
    card = b"---\nlicense: cc-by-sa-4.0\n---\n# Things\n"
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="user/things", repo_type="dataset")
    manifest["dataset"] = "user/things"
    manifest["source"] = source_record("user/things", DatasetInfo())
    assert manifest["source"] == {"hub_id": "user/things", "license": "cc-by-sa-4.0"}
    card = DatasetCard(dataset_card(manifest))
    assert (card.data.license, card.data.source_datasets) == ("cc-by-sa-4.0", ["user/things"])
    assert "[user/things](https://huggingface.co/datasets/user/things) on the Hub." in card.text
    assert source_record("user/none", DatasetInfo()) == {"hub_id": "user/none"}


@pytest.mark.parametrize("recorded", [[], {"hub_id": "](x) <b>", "license": {"a": 1}, "citation": 3}])
def test_a_record_of_the_source_that_is_none_is_ignored(manifest, recorded):
    manifest |= {"source": recorded, "dataset": "somewhere/far/away"}
    card = DatasetCard(dataset_card(manifest))
    assert not {"license", "source_datasets"} & set(card.data.to_dict())
    assert "## Source" not in card.text


def test_a_source_on_the_hub_is_named_and_a_folder_is_not(manifest, tmp_path):
    assert DatasetCard(dataset_card(manifest)).data.source_datasets == ["uoft-cs/cifar10"]
    manifest["dataset"] = str(tmp_path)
    card = DatasetCard(dataset_card(manifest))
    assert "source_datasets" not in card.data.to_dict()
    assert card.data.pretty_name.startswith(f"{tmp_path.name}, distilled")


@pytest.mark.parametrize("license", ["CC BY 4.0", "bespoke", "", "cc-by"])
def test_a_licence_that_the_hub_would_refuse_is_refused_before_anything_is_done(license):
    with pytest.raises(ValueError, match=r"license must be one of \['apache-2.0', 'mit', .*'other'.* Got"):
        PublishConfig(folder="nowhere", push_to_hub="user/thing", license=license)


@pytest.mark.parametrize("license", [None, "mit", "CC-BY-4.0", "openrail++", "other", "unknown"])
def test_a_licence_that_the_hub_knows(license):
    assert PublishConfig(license=license).license == license


@pytest.fixture
def folder(tmp_path, manifest):
    """A run folder's data and card: 2 IPCs, one of them in two files."""
    names = ["cat", "no", "1e3: [x] {{ 7 * 191 }} #", "\u2028\x1b[31m"]
    manifest |= {"label_names": names, "ipcs": [1, 2]}
    features = Features({"label": ClassLabel(names=names), "tile_logits": Array2D((1, 4), "float16")})
    for ipc, files in ((1, 1), (2, 2)):
        for number in range(files):
            columns = {"label": list(range(4)), "tile_logits": [[[0.0] * 4]] * 4}
            path = tmp_path / f"data/ipc_{ipc}/train-{number:05d}-of-{files:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_dict(columns, features=features).to_parquet(path)
    (tmp_path / "README.md").write_text(dataset_card(manifest, folder=tmp_path), "utf-8")
    return tmp_path


def test_the_header_has_the_features_and_sizes_that_datasets_finds(folder, manifest, tmp_path_factory):
    declared = {info["config_name"]: info for info in DatasetCard.load(folder / "README.md").data.dataset_info}
    found = load_dataset("parquet", data_files=str(folder / "data/ipc_2/*.parquet"), split="train")
    info = load_dataset_builder(str(folder), "ipc_2").info
    assert info.features == found.features
    assert info.splits["train"].num_examples == len(found) == 8
    assert declared["ipc_2"]["dataset_size"] == found.info.dataset_size
    assert declared["ipc_2"]["download_size"] == sum(path.stat().st_size for path in folder.glob("data/ipc_2/*"))
    assert declared["ipc_1"]["splits"][0]["num_examples"] == 4
    assert "dataset_info" not in DatasetCard(dataset_card(manifest)).data.to_dict()


def test_a_set_that_lost_a_file_is_noticed_when_it_is_loaded(folder):
    next(folder.glob("data/ipc_2/*.parquet")).unlink()
    with pytest.raises((NonMatchingSplitsSizesError, ExpectedMoreSplitsError)):
        load_dataset(str(folder), "ipc_2")


def test_a_dry_run_shows_the_card_as_it_would_be(tmp_path, hub):
    write_run(tmp_path / "run")
    config = {"folder": str(tmp_path / "run"), "push_to_hub": "user/thing", "license": "mit"}
    shown = publish(PublishConfig(dry_run=True, **config))
    publish(PublishConfig(**config))
    assert shown.startswith(hub.files("dataset", "user/thing")["README.md"].decode())


# Results


def test_results_have_a_table_for_each_setting_with_random_images_and_a_verdict(manifest):
    results = [record(), record(ipc=1, accuracy_mean=0.3, baseline=None, baseline_note="turned off")]
    results += [record(overrides={"epochs": 30}), record(epoch="best"), record(task="continual")]
    text = " ".join(dataset_card(manifest, results=results).split())
    assert text.count("| IPC | tiles | network |") == 3
    assert "| 10 | 1 | convnet3 | 90.0 | 60.0 ± 1.0 | 2 | 50.0 ± 1.0 |" in text
    points = "+10.0 points, 95 % interval +10.0 to +10.0"
    assert f"InfoUtil beats random images (60.0 against 50.0; 2 and 2 seeds; {points})." in text.replace("\\", "")
    assert "InfoUtil was not compared with random images: turned off." in text
    assert "protocol `rded_kd (epochs=30)`" in text
    assert "best epoch, which was chosen on the test images" in text
    assert "`results.json` has 1 more record, of other tasks." in text


def test_the_accuracy_to_expect_is_that_of_the_examples_own_setting(manifest):
    other = record(protocol="strong_kd", accuracy_mean=0.7)
    assert "Expect an accuracy of about 60.0 % ± 1.0" in dataset_card(manifest, results=[other, record()])
    alone = dataset_card(manifest, results=[other])
    assert "Expect an accuracy" not in alone
    assert "For comparison, decoct measured 70.0 % ± 1.0 with the same labels (`convnet3` under the protocol" in alone
    for unlike in (record(labels="tiles"), record(ipc=1)):
        text = dataset_card(manifest, results=[unlike])
        assert "Expect an accuracy" not in text and "For comparison" not in text


# How to repeat it


def test_the_command_makes_the_set_again_and_sends_it_nowhere(manifest):
    manifest["config"] |= {"views": 20, "push_to_hub": "someone/else", "commit_message": "x", "teacher": "runs/teacher"}
    command = blocks(dataset_card(manifest), "bash")[1]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["decoct", "distill"]
    assert words[words.index("--ipc") :][:3] == ["--ipc", "1", "10"]
    assert words[words.index("--views") + 1] == "20"
    assert not {"--push_to_hub", "--commit_message", "--output_dir"} & set(words)
    assert "someone/else" not in dataset_card(manifest)
    manifest["config"]["teacher"] = "in memory"
    assert len(blocks(dataset_card(manifest), "bash")) == 1


def test_evaluation_names_the_columns_that_the_run_was_given(manifest):
    manifest["config"] |= {"dataset_config": "plain_text", "label_column": "fine_label", "eval_split": "valid"}
    card = dataset_card(manifest)
    assert "--dataset_config plain_text --eval_split valid --label_column fine_label" in blocks(card, "bash")[0]
    code = blocks(card, "python")[2]
    assert 'load_dataset("uoft-cs/cifar10", "plain_text")' in code
    assert 'source["valid"]' in code and 'label = "fine_label"' in code and "ClassLabel" not in code
    manifest["config"]["image_column"] = "img"
    ast.parse(blocks(dataset_card(manifest), "python")[2])


def test_the_commands_work_from_elsewhere(manifest):
    assert blocks(dataset_card(manifest, "user/small"), "bash")[0].endswith("--seeds 3 --output_dir runs/evaluation\n")
    assert "--output_dir" not in blocks(dataset_card(manifest, "small"), "bash")[0]  # beside the run folder
    assert "--students convnet3 " in dataset_card(manifest)
    manifest["image_size"] = 224
    assert "--students convnet6 " in dataset_card(manifest)


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
