"""Distilling is reproducible over versions: every method makes the images that it made when they were recorded.

`same_as_before.json` holds, for each run below, short hashes of what the seed decides (images, labels, where each tile
comes from, view boxes) and, since floating point differs a little from one CPU to another, a few plain numbers of what
networks computed. A change that is meant to change what is made records anew, and says so in the changelog.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from worlds import draw_no_pictures

import decoct
from decoct.config import DistillConfig
from decoct.synthesis.distill import distill
from decoct.training.forgetting import ForgettingEvents, write_forgetting_events

RECORDED = Path(__file__).with_name("same_as_before.json")
SAMPLED = {"method": "igds", "guidance_scale": 20.0, "guidance_batch": 3, "sampling_steps": 3, "scheduler": "ddim"}
RUNS: dict[str, dict[str, Any]] = {
    **{method: {"method": method} for method in ("rded", "random", "herding", "k_center", "k_means", "forgetting")},
    "infoutil": {},
    "infoutil_four_windows": {"tiles_per_image": 4},
    "infoutil_gradient_flow": {"crop_fraction": 0.5, "utility": "gradient_flow", "selection": "herding"},
    "infoutil_captum": {"crop_fraction": 0.5, "attribution": "captum_kernel_shap", "selection": "top"},
    "igds": {**SAMPLED},
    "igds_four_tiles": {**SAMPLED, "tiles_per_image": 4},
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory, sample_part) -> dict[str, str]:
    """Folders of an untrained teacher, with made-up forgetting events, an estimator and a prior."""
    from diffusers import DDPMPipeline, DDPMScheduler

    from decoct.config import PriorConfig
    from decoct.igds.loading import build_estimator
    from decoct.training.prior import build_unet

    root = tmp_path_factory.mktemp("networks")
    images = decoct.load_images(str(sample_part))
    spec = decoct.measure_spec(images)
    decoct.build_classifier("convnet3_w16", spec, seed=1).model.save_pretrained(root / "teacher")
    events = ForgettingEvents(len(images), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        events.update(torch.arange(len(images)), torch.rand(len(images), generator=generator) < 0.5)
    write_forgetting_events(root / "teacher", events, images, epochs=12)
    build_estimator("resnet10_w4", spec, 16, seed=1).save_pretrained(root / "estimator")
    unet = build_unet(PriorConfig(channels=[8, 16], attention=False), spec)
    DDPMPipeline(unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(root / "prior")
    return {name: str(root / name) for name in ("teacher", "estimator", "prior")}


def short_hash(*values: Any) -> str:
    """Twelve hex digits of arrays and JSON-ready values."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value).encode())
    return digest.hexdigest()[:12]


def made(options: dict[str, Any], dataset: Path, networks: dict[str, str], folder: Path) -> dict[str, Any]:
    """What a run makes, as it is recorded."""
    shared = {"ipc": [1, 2], "candidates_per_class": 12, "views": 2, "slots": 0, "batch_size": 16, "seed": 3}
    shared["allow_weak_teacher"] = True  # it is not trained
    teacher = {name: networks[name] for name in (networks if options.get("method") == "igds" else ["teacher"])}
    distill(DistillConfig(dataset=str(dataset), output_dir=str(folder), **shared, **teacher, **options))
    found: dict[str, Any] = {}
    for ipc in (1, 2):
        rows = Dataset.from_parquet([str(path) for path in folder.glob(f"data/ipc_{ipc}/*.parquet")])
        tiles = [tile for members in rows["tiles"] for tile in members]
        pixels = np.stack([np.asarray(image) for image in rows["image"]])
        boxes = np.asarray(rows["view_boxes"][:], dtype=np.float16)
        numbers = {"logits": rows["tile_logits"][0][0], "view_logits": rows["view_logits"][-1][-1]}
        if options.get("method") == "igds":
            # The pixels are a network's output.
            hashes = {"tiles": short_hash([tile["seed"] for tile in tiles])}
            numbers |= {"means": pixels.reshape(len(pixels), -1).mean(1).tolist()}
            numbers |= {name: [tile[name] for tile in tiles] for name in ("prototype", "contextual")}
        else:
            places = [[tile["source_index"], *tile["box"]] for tile in tiles]
            hashes = {"images": short_hash(pixels), "tiles": short_hash(places)}
            numbers |= {"scores": [tile["score"] for tile in tiles]}
        found[f"ipc_{ipc}"] = {
            "hashes": {**hashes, "labels": short_hash(rows["label"][:]), "view_boxes": short_hash(boxes)},
            "numbers": {name: [round(float(value), 4) for value in values] for name, values in numbers.items()},
        }
    return found


@pytest.mark.parametrize("name", RUNS)
def test_what_is_made_is_what_was_made_before(name, sample_part, networks, tmp_path, monkeypatch):
    draw_no_pictures(monkeypatch, report=True)
    recorded = json.loads(RECORDED.read_text())[name]
    found = made(RUNS[name], sample_part, networks, tmp_path / "run")
    for ipc, expected in recorded.items():
        assert found[ipc]["hashes"] == expected["hashes"]
        assert found[ipc]["numbers"].keys() == expected["numbers"].keys()
        for kind, values in expected["numbers"].items():
            # Logits are stored in half precision, and means of pixels are out of 255.
            assert found[ipc]["numbers"][kind] == pytest.approx(values, rel=1e-2, abs=0.1 if kind == "means" else 2e-3)
