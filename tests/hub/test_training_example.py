"""The training example of a dataset card, run as it is pasted, where decoct is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from decoct.hub.cards import dataset_card
from decoct.run_folder import read_json

# Runs each file of code with decoct out of reach, and prints what it says.
ELSEWHERE = """
import sys

sys.modules["decoct"] = None
for path in sys.argv[1:]:
    exec(compile(open(path, encoding="utf-8").read(), path, "exec"), {"__name__": "__main__"})
"""
EPOCHS = 40


@pytest.fixture(scope="module")
def runs(once, sample_part, trained_teacher):
    """Two run folders: `views` with stored views, `tiles` with mosaics of four and no views."""

    def make(folder):
        from decoct.config import DistillConfig
        from decoct.synthesis.distill import distill

        shared = {"dataset": str(sample_part), "teacher": str(trained_teacher), "method": "random"}
        distill(DistillConfig(output_dir=str(folder / "views"), ipc=[1, 5], views=10, **shared))
        distill(DistillConfig(output_dir=str(folder / "tiles"), ipc=[5], views=0, tiles_per_image=4, **shared))

    return once("training-example", make)


def example_of(card):
    """The training example of a card."""
    (code,) = [
        code for code in re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL) if "epochs" in code
    ]
    return code


def test_it_runs_as_pasted_without_decoct_and_beats_chance(runs, sample_part, tmp_path):
    files = []
    for name in ("views", "tiles"):
        manifest = read_json(runs / name / "manifest.json")
        code = example_of(dataset_card(manifest, str(runs / name), folder=runs / name))
        assert "decoct" not in code and str(sample_part) in code
        assert "epochs = 300\n" in code
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text(code.replace("epochs = 300\n", f"epochs = {EPOCHS}\n"), "utf-8")
    words = [sys.executable, "-c", ELSEWHERE, *map(str, files)]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^accuracy on (\d+) real images: (0\.\d+|1\.000)$", done.stdout, re.MULTILINE)
    assert [int(images) for images, _ in found] == [40, 40]
    assert all(float(accuracy) > 0.4 for _, accuracy in found), found  # four classes: chance is 0.25


def test_it_takes_what_the_set_stores(runs):
    views, tiles = (example_of(dataset_card(read_json(runs / name / "manifest.json"))) for name in ("views", "tiles"))
    assert '"ipc_5"' in views and "view_logits" in views and "tile_logits" not in views
    assert "tile_logits" in tiles and "view_logits" not in tiles and "n = 2" in tiles


def test_the_card_says_what_to_put_for_a_source_that_is_not_on_the_hub(runs):
    manifest = read_json(runs / "views" / "manifest.json")
    assert "put the folder or Hub id of your copy there" in dataset_card(manifest)
    sample = manifest | {"dataset": "sample"}
    assert "put a folder with train.parquet and test.parquet of decoct's src/decoct/data/sample there" in " ".join(
        dataset_card(sample).split()
    )
    assert 'load_dataset("path/to/the/source")' in example_of(dataset_card(sample))
    hub = manifest | {"dataset": "uoft-cs/cifar10"}
    assert "is not on the Hub" not in dataset_card(hub)


@pytest.mark.parametrize(("side", "blocks", "width"), [(8, 3, 128), (32, 3, 2048), (64, 4, 2048), (224, 6, 1152)])
def test_the_network_grows_with_the_images(runs, side, blocks, width):
    manifest = read_json(runs / "views" / "manifest.json") | {"image_size": side}
    code = example_of(dataset_card(manifest))
    assert code.count("nn.Conv2d(") == blocks
    assert f"nn.Linear({width}, 4)" in code
