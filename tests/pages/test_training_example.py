"""The training example of a dataset card: what it says, and that it trains as well as the card states."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import shlex
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from worlds import coloured, encoded, write_run

from decoct.arguments import parse_config
from decoct.config import DistillConfig, EvaluateConfig
from decoct.data.mixed_views import mixed_pixels, mixed_views
from decoct.distilled.dataset import load_distilled
from decoct.evaluation.evaluate import evaluate
from decoct.files import read_json
from decoct.pages.dataset_card import dataset_card
from decoct.run.folder import write_json
from decoct.synthesis.distill import distill
from decoct.training.protocols import batch_size, entry_of, load_protocol


def example_of(card, longest=40):
    """The training example of a card, with what measures the network on real images."""
    _, training, measuring = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert 30 <= len([line for line in training.splitlines() if line.strip()]) <= longest
    return training + measuring


def test_it_takes_what_the_set_stores(runs):
    views, tiles = (example_of(dataset_card(read_json(runs / name / "manifest.json"))) for name in ("views", "tiles"))
    assert '"ipc_5"' in views and "view_logits" in views and "tile_logits" not in views
    assert "tile_logits" in tiles and "view_logits" not in tiles and "n = 2" in tiles


def test_the_card_says_what_to_put_for_a_source_that_is_not_on_the_hub(runs):
    manifest = read_json(runs / "views" / "manifest.json")
    assert "put the folder or Hub id of your copy there" in dataset_card(manifest)
    sample = manifest | {"dataset": "sample"}
    assert (
        "put a folder with nothing but train.parquet and test.parquet of decoct's src/decoct/data/sample"
        in dataset_card(sample)
    )
    assert 'load_dataset("path/to/the/source")' in example_of(dataset_card(sample))
    hub = manifest | {"dataset": "uoft-cs/cifar10", "source": {"hub_id": "uoft-cs/cifar10"}}
    assert "is not on the Hub" not in dataset_card(hub)


@pytest.mark.parametrize(("side", "blocks", "width"), [(8, 3, 128), (32, 3, 2048), (64, 4, 2048), (224, 6, 1152)])
def test_the_network_grows_with_the_images(runs, side, blocks, width):
    manifest = read_json(runs / "views" / "manifest.json") | {"image_size": side}
    code = example_of(dataset_card(manifest))
    assert code.count("nn.Conv2d(") == blocks
    assert f"nn.Linear({width}, 4)" in code


# Tells a class by its channel of the images.
BY_CHANNEL = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()


def measured(folder, layers=BY_CHANNEL, places=None, **known):
    """The accuracy of a network that the card's second example prints.

    Args:
        folder: Of a run of `write_run`, whose manifest has the entries `known` besides.
        places: What is put in the place of a name that is loaded.
    """
    manifest = read_json(folder / "manifest.json") | known
    measuring = re.findall(r"^```python\n(.*?)^```$", dataset_card(manifest), re.MULTILINE | re.DOTALL)[2]
    made = {
        **{"torch": torch, "mean": 0, "std": 1},
        "load_dataset": lambda name: datasets.load_dataset((places or {}).get(name, name)),
        "network": torch.nn.Sequential(*layers),
        "distilled": datasets.load_dataset(str(folder), "ipc_2", split="train"),
    }
    exec(measuring, made)
    return made["right"] / len(made["real"])


def write_rows(folder, split="test", labels=("3", "7", "11"), images=None):
    """Four rows of each label, whose column has no class names."""
    folder.mkdir(exist_ok=True)
    images = encoded(coloured([0, 1, 2] * 4)) if images is None else images
    rows = datasets.Dataset.from_dict({"image": images, "label": [*labels] * (len(images) // len(labels))})
    rows.cast_column("image", datasets.Image()).to_parquet(folder / f"{split}.parquet")
    return str(folder)


@pytest.mark.parametrize("labels", [(3, 7, 11), ("3", "7", "11")])
def test_labels_without_class_names_are_measured_by_what_they_are(labels, tmp_path):
    dataset = write_rows(tmp_path / "real", labels=labels)
    assert measured(write_run(tmp_path / "run", names=("3", "7", "11"), dataset=dataset)) == 1


def test_images_of_sixteen_bits_are_measured_as_decoct_reads_them(tmp_path):
    shades = [np.full((16, 16), value, dtype=np.uint16) for value in (1000, 3000) * 6]
    images = [Image.fromarray(each) for each in shades]
    dataset = write_rows(tmp_path / "real", labels=("dark", "bright"), images=images)
    network = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(1, 2)]
    network[2].weight.data, network[2].bias.data = torch.tensor([[0.0], [1]]), torch.tensor([0.5, 0])
    run = write_run(tmp_path / "run", names=("dark", "bright"), dataset=dataset)
    assert measured(run, network, bit_depth=12, channels=1, image_mean=[0], image_std=[1]) == 1
    assert "eight_bits" not in dataset_card(read_json(run / "manifest.json"))


@pytest.fixture(scope="module")
def held_out_set(once, sample_part, trained_teacher):
    """A folder whose `run` is of the dataset `real`, which has no test split; a quarter of it was held out."""

    def make(folder):
        (folder / "real").mkdir(parents=True)
        shutil.copy(sample_part / "train.parquet", folder / "real")
        shutil.copytree(trained_teacher, folder / "teacher", ignore=shutil.ignore_patterns("run.json"))
        write_json(folder / "teacher/training.json", {"config": {"validation_fraction": 0.25}})
        shared = {"dataset": str(folder / "real"), "teacher": str(folder / "teacher"), "method": "random"}
        distill(DistillConfig(output_dir=str(folder / "run"), ipc=[2], slots=2, **shared))

    return once("held-out-script", make)


def test_the_command_of_a_set_without_a_test_split_measures_on_what_was_held_out(held_out_set, tmp_path, monkeypatch):
    folder = shutil.copytree(held_out_set / "run", tmp_path / "run")
    (command,) = re.findall(r"^decoct evaluate (.*)$", (folder / "README.md").read_text(), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    config = parse_config(EvaluateConfig, shlex.split(command))
    config = dataclasses.replace(config, students=["convnet3_w8"], seeds=1, max_steps=1, baseline=False, ranking=False)
    (record,) = evaluate(config)
    assert (record["dataset"], record["eval_split"]) == (str(held_out_set / "real"), "held_out")


def test_the_script_of_a_set_without_a_test_split_takes_other_images(held_out_set, tmp_path):
    card = dataset_card(read_json(held_out_set / "run" / "manifest.json"))
    assert "The source has no test split" in card and "is not on the Hub" not in card
    assert 'load_dataset("path/to/other/images")' in card, "training images would flatter"
    other = write_rows(tmp_path / "other", split="train")
    run = write_run(tmp_path / "run", names=("3", "7", "11"), dataset=other)
    with pytest.raises(AssertionError, match=r"^source must have a test split; .* Got \['train'\]\.$"):
        measured(run)
    assert measured(run, places={"path/to/other/images": other}, eval_split="held_out") == 1


def test_a_set_is_measured_on_the_test_split_of_its_source_where_there_is_one(held_out_set, sample_part, tmp_path):
    shared = {"dataset": str(sample_part), "teacher": str(held_out_set / "teacher"), "method": "random"}
    manifest = distill(DistillConfig(output_dir=str(tmp_path), ipc=[1], slots=2, **shared))
    assert manifest["config"]["validation_fraction"] == 0.25 and "eval_split" not in manifest
    assert "held_out" not in dataset_card(manifest)


def training_script(folder, manifest):
    """The training example of a set with mixed views, loading the set in a folder."""
    training = re.findall(r"^```python\n(.*?)^```$", dataset_card(manifest), re.MULTILINE | re.DOTALL)[1]
    assert len([line for line in training.splitlines() if line.strip()]) <= 45
    return training.replace('load_dataset("."', f"load_dataset({str(folder)!r}")


@pytest.fixture(scope="module")
def top_k_set(once, sample_part, trained_teacher):
    """A set whose largest three of four logits are stored, in 8 bits."""

    def make(folder):
        shared = {"dataset": str(sample_part), "teacher": str(trained_teacher), "method": "random"}
        distill(DistillConfig(output_dir=str(folder / "run"), ipc=[5], slots=8, label_bits=8, label_top_k=3, **shared))

    return once("top-k-script", make) / "run"


@pytest.mark.parametrize("kind", ["four bits", "largest logits"])
def test_mixed_views_are_those_of_decoct(kind, runs, top_k_set):
    """The script's own geometry, pixels and logits, against the library's."""
    folder = runs / "mixed" if kind == "four bits" else top_k_set
    code = training_script(folder, read_json(folder / "manifest.json")).replace("range(steps)", "range(1)")
    assert "slot_codes" in code and "view_logits" not in code and ("slot_rest" in code) == (kind == "largest logits")
    made: dict = {}
    exec(code.replace("1152", "144").replace("128", "16"), made)  # a narrow network
    distilled = load_distilled(folder, 5)
    mean, std = made["mean"], made["std"]
    for row, slot in itertools.product(range(0, 20, 3), range(8)):
        image = torch.tensor([row])
        views = mixed_views(image, torch.tensor([slot]), seed=0, count=20, side=28, smallest_area=0.08)
        expected = mixed_pixels(distilled.images, image, views)[0]
        assert torch.allclose(made["mixed"](row, slot) * std + mean, expected, atol=1e-5)
    assert made["codes"].dtype == torch.uint8 and made["scales"].dtype == torch.float16, "as they are stored"
    assert made.get("kept", torch.empty(0, dtype=torch.uint16)).dtype == torch.uint16
    images, slots = made["views"]
    assert len(images) > 10 and torch.allclose(made["logits"], distilled.slots.logits(images, slots, 4))


def test_the_script_trains_under_the_protocols_settings(runs):
    protocol, manifest = load_protocol("strong_kd"), read_json(runs / "mixed" / "manifest.json")
    code = training_script(runs / "mixed", manifest).replace("range(steps)", "range(3)")
    code = code.replace("network = average.module\n", "")
    assert protocol.ema_warmup and not protocol.hard_weight and protocol.schedule == "half_cosine", "as the script has"
    made: dict = {}
    exec(code, made)
    steps = entry_of(protocol.steps, 5)
    assert (made["steps"], made["temperature"]) == (steps, protocol.temperature)
    assert made["batch"] == batch_size(protocol, 5, 4, 20)
    muon, adam = made["optimizers"]
    share = 0.5 * (1 + math.cos(math.pi * 3 / (2 * steps)))
    (group,) = muon.param_groups
    assert group["lr"] == pytest.approx(protocol.matrix_learning_rate * share)
    assert (group["momentum"], group["weight_decay"]) == (protocol.momentum, protocol.weight_decay)
    assert [tuple(matrix.shape[1:]) for matrix in group["params"]] == [(9,), (1152,), (1152,)]
    assert [each["lr"] for each in adam.param_groups] == pytest.approx([protocol.learning_rate * share] * 2)
    decays = {tuple(weight.ndim for weight in each["params"])[0]: each["weight_decay"] for each in adam.param_groups}
    assert decays == {2: protocol.weight_decay, 1: 0}
    groups = [group for each in made["optimizers"] for group in each.param_groups]
    trained = sum(weight.numel() for group in groups for weight in group["params"])
    assert trained == sum(weight.numel() for weight in made["network"].parameters())
    kernel = made["network"][0].weight
    assert torch.equal(made["weights"][0].view_as(kernel), kernel), "what Muon trains is what the network has"
    assert made["order"].sort(1).values.equal(torch.arange(8).expand(20, 8)), "every view once"


@pytest.mark.parametrize("kind", ["four bits", "largest logits"])
def test_the_script_reaches_the_accuracy_that_the_card_states(kind, runs, top_k_set, sample_part, tmp_path):
    """At a small width and few steps, which decoct's own student has too."""
    folder = shutil.copytree(runs / "mixed" if kind == "four bits" else top_k_set, tmp_path / "run")
    shared = {"dataset": str(sample_part), "students": ["convnet3_w16"], "baseline": False, "ranking": False}
    (record,) = evaluate(EvaluateConfig(distilled=str(folder), ipc=[5], seeds=2, epochs=150, **shared))
    manifest = read_json(folder / "manifest.json")
    card = dataset_card(manifest, results=read_json(folder / "results.json"))
    stated = float(re.search(r"decoct measured ([\d.]+)( %| ±)", card)[1])
    assert stated == pytest.approx(100 * record["accuracy_mean"], abs=0.06)
    code = training_script(folder, manifest)
    code = re.sub(r"= (\d+, 28, 4, \d+), \d+, 17", r"= \1, 150, 17", code)
    assert ", 150, 17, 20\n" in code, "150 steps of 17 of the 20 images, two an epoch in decoct"
    code = code.replace("1152", "144").replace("128", "16")
    measuring = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)[2]
    measuring = re.sub(r'load_dataset\("[^"]*"\)', f"load_dataset({str(sample_part)!r})", measuring)
    torch.manual_seed(0)
    made: dict = {}
    exec(code + measuring, made)
    assert 100 * made["right"] / len(made["real"]) == pytest.approx(stated, abs=8)
