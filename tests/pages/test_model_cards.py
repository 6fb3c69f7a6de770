"""The cards of teachers, estimators, priors and pipelines; `tests/hub/test_round_trips.py` runs their examples."""

from __future__ import annotations

import ast
import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from worlds import accuracy_record

from decoct.config import PublishConfig
from decoct.files import read_json
from decoct.hub.publish import plan_publish
from decoct.pages.model_cards import EVAL_RESULTS, eval_results, model_card
from decoct.pages.source import GivenInfo
from decoct.run.folder import write_json


@pytest.fixture(scope="module")
def folders(trained_teacher, tiny_estimator, tiny_prior, tiny_pipeline):
    """A folder of each kind."""
    return {"teacher": trained_teacher, "estimator": tiny_estimator, "prior": tiny_prior, "pipeline": tiny_pipeline}


def example_of(text):
    """The only Python of a card."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return code


@pytest.mark.parametrize(
    ("kind", "library", "task"),
    [
        ("teacher", "transformers", "image-classification"),
        ("estimator", "transformers", "image-feature-extraction"),
        ("prior", "diffusers", "unconditional-image-generation"),
        ("pipeline", "diffusers", "unconditional-image-generation"),
    ],
)
def test_headers_say_what_loads_them_and_for_what(folders, kind, library, task):
    card = ModelCard(model_card(kind, folders[kind], "someone/small"))
    header = card.data.to_dict()
    assert (header["library_name"], header["pipeline_tag"]) == (library, task)
    assert {"dataset-distillation", "decoct"} <= set(header["tags"])
    assert not {"license", "datasets"} & set(header)  # trained on a folder, and no licence was given
    assert '"someone/small"' in card.text
    assert "T-shirt/top, Trouser, Pullover, Dress." in card.text


def test_a_teacher_states_its_accuracy_images_and_settings(trained_teacher, sample_part):
    card = ModelCard(model_card("teacher", trained_teacher, "someone/small"))
    training = read_json(trained_teacher / "training.json")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", training["accuracy"])
    assert result.dataset_name == sample_part.name and card.data.model_name == "small"
    assert f"{100 * training['accuracy']:.2f} % on the evaluation split, after epoch 6." in card.text
    assert f"mean `[{training['spec']['mean'][0]:.4f}]`" in card.text
    assert "| `learning_rate` | `0.005` |\n" in card.text
    assert not any(f"| `{name}` |" in card.text for name in ("output_dir", "push_to_hub", "num_workers", "overwrite"))


def test_a_teachers_accuracy_is_an_evaluation_result_of_the_hub_where_its_dataset_is_there(trained_teacher, tmp_path):
    assert eval_results(trained_teacher) is None  # of a folder
    training = read_json(trained_teacher / "training.json")
    training["config"] |= {"dataset": "a/b", "dataset_config": "plain", "eval_split": "test"}
    folder = shutil.copytree(trained_teacher, tmp_path / "teacher", ignore=shutil.ignore_patterns("epoch_*"))
    write_json(folder / "training.json", {**training, "source": {"hub_id": "a/b"}})
    wanted = plan_publish(PublishConfig(folder=str(folder), push_to_hub="user/small"))
    (entry,) = parse_eval_result_entries(yaml.safe_load(wanted.content(EVAL_RESULTS)))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("a/b", "plain", training["accuracy"])
    assert entry.notes.startswith("accuracy as a fraction, split test; measured by decoct")


def test_what_was_not_measured_is_not_there(folders, tmp_path):
    for kind in ("estimator", "prior", "pipeline"):
        card = ModelCard(model_card(kind, folders[kind], "someone/small"))
        assert "model-index" not in card.data.to_dict()
        assert "## Accuracy" not in card.text and "## Information" not in card.text and "## Results" not in card.text
    for kind in ("estimator", "pipeline"):
        assert "## Training" not in model_card(kind, folders[kind], "someone/small")
    early = model_card("teacher", folders["teacher"] / "epoch_2", "someone/small")
    assert "% on the evaluation split, after epoch 2." in early
    assert "model-index" not in early and "## Training" not in early  # on what it was measured is not recorded there


def test_an_estimator_states_both_accuracies_and_what_it_measured(tiny_estimator, tmp_path, sample_part):
    folder = tmp_path / "estimator"
    shutil.copytree(tiny_estimator, folder)
    training = {"linear_accuracy": 0.75, "knn_accuracy": 0.7, "rank": 3, "full_rank": 3, "config": {"dataset": "a/b"}}
    (folder / "training.json").write_text(json.dumps(training), "utf-8")
    measured = {
        "contextual_bound": 2.77,
        "source": {"images": 96, "prototype": 1.1, "label_entropy": 1.386, "contextual": 0.5},
        "config": {"dataset": "a/b", "estimator": str(folder), "temperature": 0.07},
    }
    (folder / "information.json").write_text(json.dumps(measured), "utf-8")
    card = ModelCard(model_card("estimator", folder, "someone/small"))
    assert [(result.metric_name, result.metric_value) for result in card.data.eval_results] == [
        ("linear probe accuracy", 0.75),
        ("20-NN accuracy", 0.7),
    ]
    assert card.data.datasets == ["a/b"] and card.data.eval_results[0].dataset_type == "a/b"
    assert "| linear classifier | 75.00 % |" in card.text and "rank 3 of 3" in card.text
    assert "prototype information 1.100" in card.text and "contextual score 0.500" in card.text
    measured["config"]["estimator"] = str(tiny_estimator)  # another estimator's numbers
    (folder / "information.json").write_text(json.dumps(measured), "utf-8")
    assert "## Information" not in model_card("estimator", folder, "someone/small")


def test_a_pipeline_shows_what_its_sets_are_worth(tiny_pipeline, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    record = accuracy_record(0.59, 0.61, dataset="a/b", method="igds", labels="views", accuracy_std=0.01)
    (folder / "results.json").write_text(json.dumps([record, record | {"task": "continual"}]), "utf-8")
    card = ModelCard(model_card("pipeline", folder, "someone/small"))
    (result,) = card.data.eval_results
    assert result.metric_value == 0.6 and "convnet3 trained on 10 images per class" in result.metric_name
    assert "| `convnet3` | 10 | `views` | `rded_kd` | 60.0 | 1.0 | 2 |" in card.text
    assert "| `unet` | `UNet2DModel` |" in card.text


def test_an_unconditional_prior_is_called_without_classes(tiny_prior, tmp_path):
    folder = tmp_path / "prior"
    shutil.copytree(tiny_prior, folder)
    unet = read_json(folder / "unet/config.json") | {"num_class_embeds": None}
    (folder / "unet/config.json").write_text(json.dumps(unet), "utf-8")
    text = model_card("prior", folder, "someone/small")
    assert "# Unconditional diffusion prior, trained on" in text
    assert "class_labels" not in text and "null class" not in text and "T-shirt" not in text
    assert "Class 4 is the null class" in model_card("prior", tiny_prior, "someone/small")


def test_what_the_user_gives_stands_apart(trained_teacher, tiny_estimator):
    given = GivenInfo(license="mit", attribution="A. Author", pretty_name="Small *teacher*")
    card = ModelCard(model_card("teacher", trained_teacher, "someone/small", given))
    assert card.data.license == "mit"
    assert card.text.lstrip().startswith("# Small \\*teacher\\*\n")
    assert "A. Author" in card.text
    assert "Licence of the data" not in card.text  # the licence that was given is the network's own
    assert "A. Author" in model_card("estimator", tiny_estimator, "someone/small", given)


def test_another_kind_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"kind must be one of \['teacher', .*\]\. Got 'optimizer'\."):
        model_card("optimizer", tmp_path, ".")


def named(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else ""


@pytest.mark.parametrize(
    "name",
    [
        "{{ 7 * 191 }}{% raw %}",
        "<script>x</script>",
        "a: [b, *c] # &d",
        "\x1b[31m\x00\u202e",
        "a\n---\nlicense: mit\n```\n# b",
        '"); import os  # """',
        "../../x",
    ],
)
def test_hostile_names_are_data_everywhere(folders, tmp_path, name):
    for kind, folder in folders.items():
        copied = tmp_path / kind
        shutil.copytree(folder, copied)
        for file in ("config.json", "estimator/config.json"):
            if (copied / file).is_file():
                config = read_json(copied / file)
                config["id2label"]["0"] = name
                (copied / file).write_text(json.dumps(config), "utf-8")
        if (copied / "training.json").is_file():
            training = read_json(copied / "training.json")
            training["config"] |= {"dataset": name, "model": name}
            training |= {"label_names": [name, *training["spec"]["label_names"][1:]]}
            (copied / "training.json").write_text(json.dumps(training), "utf-8")
        text = model_card(kind, copied, name, GivenInfo(attribution=name, pretty_name=name))
        card = ModelCard(text)
        assert "license" not in card.data.to_dict()
        assert "1337" not in card.text and "license: mit" not in card.text.splitlines()
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", card.text)
        assert not re.search(r"(?<!\\)<", re.sub(r"```.*?^```$|`[^`\n]*`|<!-- .*", "", card.text, flags=re.M | re.S))
        nodes = list(ast.walk(ast.parse(example_of(text))))
        calls = [node for node in nodes if isinstance(node, ast.Call) and named(node.func) == "from_pretrained"]
        assert [call.args[0].value for call in calls] == [name]
