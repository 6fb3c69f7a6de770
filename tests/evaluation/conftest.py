"""A tiny distilled run folder, real images and a teacher, all of three colour classes."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

NAMES = ["red", "green", "blue"]
SIDE, TILES, VIEWS = 16, 4, 3


def coloured(label: int, generator: np.random.Generator) -> Image.Image:
    """A noisy image whose brightest channel is its class."""
    pixels = generator.integers(0, 120, (SIDE, SIDE, 3))
    pixels[..., label] += 100
    return Image.fromarray(pixels.astype(np.uint8))


def write_ipc(folder: Path, ipc: int, views: int = VIEWS) -> dict[str, np.ndarray]:
    """`data/ipc_N` as distilling writes it; returns its arrays."""
    generator = np.random.default_rng(ipc)
    labels = np.repeat(np.arange(3), ipc)
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=NAMES),
        "tile_logits": datasets.Array2D((TILES, 3), "float16"),
    }
    means = 40 * np.eye(3)[labels][:, None]
    columns = {
        "image": [coloured(label, generator) for label in labels],
        "label": labels.tolist(),
        "tile_logits": (means + generator.normal(size=(len(labels), TILES, 3))).astype(np.float16),
    }
    if views:
        features["view_logits"] = datasets.Array2D((views, 3), "float16")
        features["view_boxes"] = datasets.Array2D((views, 5), "float16")
        columns["view_logits"] = (means + generator.normal(size=(len(labels), views, 3))).astype(np.float16)
        boxes = generator.uniform(0.1, 0.5, (len(labels), views, 5))
        boxes[..., 4] = generator.integers(0, 2, boxes.shape[:2])
        columns["view_boxes"] = boxes.astype(np.float16)
    features["tiles"] = datasets.List({"source_index": datasets.Value("int64"), "score": datasets.Value("float32")})
    columns["tiles"] = [[{"source_index": row, "score": 0.5}] for row in range(len(labels))]
    path = folder / "data" / f"ipc_{ipc}" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    encoded = {key: list(value) if isinstance(value, np.ndarray) else value for key, value in columns.items()}
    datasets.Dataset.from_dict(encoded, features=datasets.Features(features)).to_parquet(path)
    return {key: value for key, value in columns.items() if isinstance(value, np.ndarray)}


def write_run(folder: Path, ipcs: list[int], teacher: dict[str, str] | None, views: int = VIEWS) -> Path:
    """A run folder with the given IPCs."""
    for ipc in ipcs:
        write_ipc(folder, ipc, views)
    configs = "".join(f"- config_name: ipc_{ipc}\n  data_files: data/ipc_{ipc}/*.parquet\n" for ipc in ipcs)
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# Colours\n")
    manifest = {
        "decoct_version": "0",
        "config": {"method": "infoutil", "tiles_per_image": TILES},
        "label_names": NAMES,
        "image_mean": [0.3, 0.3, 0.3],
        "image_std": [0.2, 0.2, 0.2],
        "image_size": SIDE,
        "channels": 3,
        "teacher": teacher,
        "ipcs": ipcs,
        "files": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_images(folder: Path, names: list[str] = NAMES, count: int = 45) -> Path:
    """A local parquet folder with a train and a test split."""
    folder.mkdir()
    generator = np.random.default_rng(99)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    for split in ("train", "test"):
        labels = [row % 3 for row in range(count)]
        columns = {"image": [coloured(label, generator) for label in labels], "label": labels}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> dict[str, str]:
    """A saved teacher (untrained), as a manifest names it."""
    from decoct.data.spec import ImageSpec
    from decoct.models.zoo import build_classifier

    folder = tmp_path_factory.mktemp("teacher")
    spec = ImageSpec(SIDE, 3, (0.3,) * 3, (0.2,) * 3, tuple(NAMES))
    classifier = build_classifier("convnet3_w8", spec, seed=7)
    classifier.model.save_pretrained(folder)
    return {"name": str(folder), "fingerprint": classifier.fingerprint()}


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """The real images."""
    return write_images(tmp_path_factory.mktemp("real") / "images")


@pytest.fixture
def run_folder(tmp_path, teacher) -> Path:
    """A distilled run folder with IPC 1 and 3."""
    return write_run(tmp_path / "run", [1, 3], teacher)


@pytest.fixture
def make_run(tmp_path):
    """Writes another run folder: name, IPCs, teacher, views."""
    return lambda name, ipcs, teacher, views=VIEWS: write_run(tmp_path / name, ipcs, teacher, views)


@pytest.fixture
def make_images(tmp_path):
    """Writes other real images: name, label names."""
    return lambda name, names: write_images(tmp_path / name, names)
