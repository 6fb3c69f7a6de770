"""The training example of a dataset card; `test_round_trips.py` runs it."""

from __future__ import annotations

import itertools
import re

import pytest
import torch

from decoct.data.mixed_views import mixed_pixels, mixed_views
from decoct.distilled.dataset import load_distilled
from decoct.distilled.logit_codes import decode_logits
from decoct.files import read_json
from decoct.pages.dataset_card import dataset_card


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


def test_mixed_views_are_those_of_decoct(runs):
    """The script's own geometry and pixels, against the library's."""
    code = example_of(dataset_card(read_json(runs / "mixed" / "manifest.json")), longest=72)
    assert "slot_codes" in code and "view_logits" not in code
    code = code[: code.index("class Convolution")].replace('load_dataset("."', f"load_dataset({str(runs / 'mixed')!r}")
    made: dict = {}
    exec(code, made)
    distilled = load_distilled(runs / "mixed", 5)
    mean, std = made["mean"], made["std"]
    for row, slot in itertools.product(range(0, 20, 3), range(8)):
        image = torch.tensor([row])
        views = mixed_views(image, torch.tensor([slot]), seed=0, count=20, side=28, smallest_area=0.08)
        expected = mixed_pixels(distilled.images, image, views)[0]
        assert torch.allclose(made["mixed"](row, slot) * std + mean, expected, atol=1e-5)
    decoded = decode_logits(distilled.slots.codes, distilled.slots.scales, 4, 4)
    assert torch.allclose(made["logits"], decoded)


def test_a_network_learns_from_mixed_views_by_the_script(runs, sample_part):
    code = example_of(dataset_card(read_json(runs / "mixed" / "manifest.json")), longest=72)
    code = code.replace('load_dataset("."', f"load_dataset({str(runs / 'mixed')!r}").replace(
        ", 1000, 20\n", ", 120, 20\n"
    )
    code = re.sub(r'load_dataset\("[^"]*"\)', f"load_dataset({str(sample_part)!r})", code)
    torch.manual_seed(0)
    made: dict = {}
    exec(code, made)
    assert made["right"] / len(made["real"]) > 0.4  # four classes: chance is 0.25
