"""What a dataset card says of its source, licence, features and sizes."""

from __future__ import annotations

import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetInfo, Features, load_dataset, load_dataset_builder
from datasets.exceptions import ExpectedMoreSplitsError
from datasets.utils.info_utils import NonMatchingSplitsSizesError
from huggingface_hub import DatasetCard, DatasetCardData

from decoct.config import PublishConfig
from decoct.data.source import source_record
from decoct.pages.dataset_card import dataset_card
from decoct.pages.source import GivenInfo


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
