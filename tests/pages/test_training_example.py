"""The training example of a dataset card; `test_round_trips.py` runs it."""

from __future__ import annotations

import re

import pytest

from decoct.pages.dataset_card import dataset_card
from decoct.run.folder import read_json


def example_of(card):
    """The training example of a card, with what measures the network on real images."""
    _, training, measuring = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert 30 <= len([line for line in training.splitlines() if line.strip()]) <= 40
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
