"""Cards on the Hub: what a dry run shows of them, their licence, headers, and edits made there."""

from __future__ import annotations

import re

import pytest
from datasets import DatasetInfo
from huggingface_hub import DatasetCard, HfApi, ModelCard
from worlds import write_run

from decoct.config import PublishConfig
from decoct.data.source import source_record
from decoct.files import read_json
from decoct.hub.publish import format_push, plan_publish, publish
from decoct.pages.dataset_card import dataset_card
from decoct.pages.model_cards import model_card
from decoct.pages.source import GivenInfo


def test_a_source_on_the_hub_is_recorded_with_its_licence_and_linked(hub, run_folder):
    HfApi().create_repo("user/things", repo_type="dataset")
    card = b"---\nlicense: cc-by-sa-4.0\n---\n# Things\n"
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="user/things", repo_type="dataset")
    source = source_record("user/things", DatasetInfo())
    assert source == {"hub_id": "user/things", "license": "cc-by-sa-4.0"}
    card = DatasetCard(
        dataset_card(read_json(run_folder / "manifest.json") | {"dataset": "user/things", "source": source})
    )
    assert (card.data.license, card.data.source_datasets) == ("cc-by-sa-4.0", ["user/things"])
    assert "[user/things](https://huggingface.co/datasets/user/things) on the Hub." in card.text
    assert source_record("user/none", DatasetInfo()) == {"hub_id": "user/none"}


def test_a_dry_run_shows_the_card_as_it_would_be(tmp_path, hub):
    write_run(tmp_path / "run")
    config = PublishConfig(folder=str(tmp_path / "run"), push_to_hub="user/thing", license="mit")
    shown = format_push(plan_publish(config))
    publish(config)
    assert shown.startswith(hub.files("dataset", "user/thing")["README.md"].decode())


def test_a_card_of_a_branch_loads_that_branch(hub, tmp_path, trained_teacher, tiny_pipeline):
    def card_of(folder, kind, revision, repo_id):
        publish(PublishConfig(folder=str(folder), push_to_hub=repo_id, revision=revision))
        return hub.files(kind, repo_id, revision)["README.md"].decode()

    folders = {"set": write_run(tmp_path / "run"), "teacher": trained_teacher, "pipeline": tiny_pipeline}
    for name, folder in folders.items():
        wanted = {"kind": "dataset" if name == "set" else "model", "repo_id": f"user/{name}"}
        assert "revision" not in card_of(folder, revision="main", **wanted)
        text = card_of(folder, revision="v2", **wanted)
        calls = re.findall(rf"(?:load_dataset|from_pretrained)\(\"user/{name}\"[^\n]*", text)
        assert calls and all(', revision="v2"' in call for call in calls)
    fetch, evaluate = card_of(folders["set"], "dataset", "v2", "user/set").split("```bash\n")[1].splitlines()[:2]
    assert fetch == "hf download user/set --repo-type dataset --revision v2 --local-dir set"
    assert evaluate.startswith("decoct evaluate --distilled set --dataset ") and "--output_dir" not in evaluate


def test_a_card_that_was_edited_on_the_hub_is_not_replaced_without_asking(hub, trained_teacher):
    def to_hub(**options):
        publish(PublishConfig(folder=str(trained_teacher), push_to_hub="user/small", **options))
        return hub.files("model", "user/small")["README.md"]

    first = to_hub()
    given = to_hub(attribution="A. Author")  # an untouched card follows what is given
    assert first != given and b"A. Author" in given
    for edited in (given + b"A word of mine.\n", given.replace(b"epoch", b"Epoch"), b"# Mine\n"):
        HfApi().upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id="user/small")
        with pytest.raises(ValueError, match=r"Got a README.md that was edited there\..*--overwrite"):
            to_hub(attribution="A. Author")
        assert hub.files("model", "user/small")["README.md"] == edited
        assert to_hub(attribution="A. Author", overwrite=True) == given


def test_headers_are_what_the_hub_accepts(trained_teacher, tiny_estimator, tiny_prior, tiny_pipeline, hub):
    folders = {"teacher": trained_teacher, "estimator": tiny_estimator, "prior": tiny_prior, "pipeline": tiny_pipeline}
    for kind, folder in folders.items():
        card = ModelCard(model_card(kind, folder, "user/small", GivenInfo(license="cc-by-4.0")))
        card.validate()
        assert card.data.license == "cc-by-4.0"
        for result in card.data.eval_results or []:
            assert result.dataset_name and 0 <= result.metric_value <= 1
