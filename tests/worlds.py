"""A tiny world of three colour classes: images, a teacher, run folders of distilled sets made of them, and results.

An image is noise whose brightest channel is its class, so that networks learn the classes in a few steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from decoct.config import DistillConfig, to_dict
from decoct.data.spec import ImageSpec
from decoct.distilled.schema import expected_features, spec_fields
from decoct.results.statistics import mean_and_std
from decoct.synthesis.output import write_card
from decoct.synthesis.tiles import png_bytes

COLOURS = ("red", "green", "blue")
SIDE = 16
MEAN, STD = (0.3,) * 3, (0.2,) * 3  # names by which students are found follow from them (`evaluation/test_run.py`)
SELECTED = {"source_index": 5, "box": [0, 0, 4, 4], "score": 0.5, "heatmap": None}
OUT_OF_REACH = {"name": "runs/teacher", "fingerprint": "0" * 64}
SAMPLED = {"seed": 7, "prototype": 0.1, "contextual": 0.2}


def coloured(labels: Sequence[int], seed: int = 0, side: int = SIDE) -> Tensor:
    """Images `(n, 3, side, side)` uint8."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 120, (len(labels), 3, side, side), generator=generator)
    pixels[torch.arange(len(labels)), torch.as_tensor(labels) % 3] += 100
    return pixels.to(torch.uint8)


def encoded(pixels: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Images `(channels, height, width)` uint8 as PNG, as a column takes them."""
    return [{"bytes": png_bytes(each), "path": None} for each in pixels]


def labelled(images: Sequence[Any], labels: Sequence[int], names: Sequence[str] = COLOURS) -> datasets.Dataset:
    """Real images: of any kind that a column `Image` takes."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict({"image": list(images), "label": list(labels)}, features=features)


def spec_of(
    names: Sequence[str] = COLOURS,
    side: int = SIDE,
    channels: int = 3,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> ImageSpec:
    """What the images of the world are like."""
    return ImageSpec(side, channels, tuple(mean[:channels]), tuple(std[:channels]), tuple(names))


def write_images(folder: Path, names: Sequence[str] = COLOURS, count: int = 45) -> Path:
    """Real images: a parquet folder with `count` images in each of the splits train and test."""
    folder.mkdir(parents=True)
    labels = [row % 3 for row in range(count)]
    for seed, split in enumerate(("train", "test"), start=99):
        labelled(encoded(coloured(labels, seed)), labels, names).to_parquet(folder / f"{split}.parquet")
    return folder


def write_teacher(folder: Path) -> dict[str, str]:
    """An untrained teacher, as a manifest names it."""
    from decoct.models.zoo import build_classifier

    classifier = build_classifier("convnet3_w8", spec_of(), seed=7)
    classifier.model.save_pretrained(folder)
    return {"name": str(folder), "fingerprint": classifier.fingerprint()}


def write_run(
    folder: Path,
    ipcs: Sequence[int] = (1, 2),
    names: Sequence[str] = COLOURS,
    side: int = SIDE,
    teacher: dict[str, str] | None = OUT_OF_REACH,
    **settings: Any,
) -> Path:
    """A distilled set as distilling leaves it, with random logits that favour each image's class.

    Args:
        teacher: As the manifest names it; None: it names none.
        settings: Of the run, other than mosaics of four tiles with two views by InfoUtil.
    """
    defaults = {"method": "infoutil", "dataset": "user/colours", "tiles_per_image": 4, "views": 2, "slots": 0}
    config, spec = DistillConfig(**{**defaults, "ipc": list(ipcs), **settings}), spec_of(names, side)
    manifest = {
        "decoct_version": "0.1.0",
        "config": to_dict(config),
        "dataset": config.dataset,
        **spec_fields(spec),
        "ipcs": list(ipcs),
        "versions": {},
        "teacher": teacher,
        "label_teachers": {} if teacher is None else {str(ipc): teacher for ipc in ipcs},
        "tile_accuracy": {str(ipc): 0.9 for ipc in ipcs},
    }
    for ipc in ipcs:
        (folder / f"data/ipc_{ipc}").mkdir(parents=True)
        rows = datasets.Dataset.from_dict(columns_of(config, ipc, spec), features=expected_features(manifest))
        rows.to_parquet(folder / f"data/ipc_{ipc}/train-00000-of-00001.parquet")
    Image.new("RGB", (4, 4)).save(folder / "preview.png")
    write_card(folder, manifest)
    (folder / "run.json").write_text("{}\n")
    return folder


def columns_of(config: DistillConfig, ipc: int, spec: ImageSpec) -> dict[str, list[Any]]:
    """The columns of one IPC."""
    generator, classes = np.random.default_rng([config.seed, ipc]), spec.num_classes
    labels = np.repeat(np.arange(classes), ipc)

    def logits(rows: int) -> list[np.ndarray]:
        means = 10 * np.eye(classes)[labels][:, None]
        return list((means + generator.normal(size=(len(labels), rows, classes))).astype(np.float16))

    tiles = config.tiles_per_image
    columns = {
        "image": encoded(coloured(labels, config.seed + 10 * ipc, spec.image_size)),
        "label": labels.tolist(),
        "tile_logits": logits(tiles),
        "tiles": [[SAMPLED if config.method == "igds" else SELECTED] * tiles] * len(labels),
    }
    if config.views:
        boxes = generator.uniform(0.1, 0.5, (len(labels), config.views, 5))
        boxes[..., 4] = generator.integers(0, 2, boxes.shape[:2])
        columns["view_logits"], columns["view_boxes"] = logits(config.views), list(boxes.astype(np.float16))
    return columns


def measured(*accuracies: float, first: int = 0, **changes: Any) -> dict[str, Any]:
    """What students were measured to have, as a record states it; their seeds count from `first`."""
    mean, std = mean_and_std(accuracies)
    seeds = list(range(first, first + len(accuracies)))
    values = {"accuracy_mean": mean, "accuracy_std": std, "accuracies": list(accuracies), "seeds": seeds}
    return {**values, **changes}


def accuracy_record(*accuracies: float, **changes: Any) -> dict[str, Any]:
    """A record of results.json: of InfoUtil on CIFAR-10, without random images beside it, but for `changes`."""
    values = {
        "task": "accuracy",
        "dataset": "uoft-cs/cifar10",
        "method": "infoutil",
        "ipc": 10,
        "tiles": 1,
        "student": "convnet3",
        "protocol": "rded_kd",
        "labels": "online",
        "teacher": "runs/teacher",
        "teacher_model": "convnet3",
        "teacher_accuracy": 0.8251,
        "epoch": "last",
        "seconds": 12.5,
        "device": "cpu",
        "versions": {},
        "overrides": {},
        "baseline": None,
        "baseline_note": "turned off by --no_baseline",
        "dd_ranking": None,
        "config_hash": f"{sorted(changes.items(), key=str)} {accuracies}",
    }
    return {**values, **measured(*(accuracies or (0.5, 0.52))), **changes}


def without_times(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records as they are whenever they are measured."""
    return [{key: value for key, value in each.items() if key != "seconds"} for each in records]


def draw_no_pictures(patch: pytest.MonkeyPatch, report: bool = False) -> None:
    """Runs leave previews (and reports) of one word: drawing them takes most of a tiny run's time."""
    for name in ("save_preview", "save_strips"):
        patch.setattr(f"decoct.synthesis.output.{name}", lambda path, *rest: path.write_bytes(b"PNG"))
    if report:
        patch.setattr(
            "decoct.synthesis.run.write_report", lambda folder, *parts: (folder / "report.html").write_bytes(b"HTML")
        )


def contents(folder: Path | str) -> dict[str, bytes]:
    """All files of a folder, by their paths in it."""
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
