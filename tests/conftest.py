"""Settings and fixtures of all tests: offline, own caches, one thread, and a teacher trained once per session."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Libraries read these when they are imported, so they are set before any is; subprocesses inherit them.
TEMPORARY = Path(tempfile.mkdtemp(prefix="decoct-tests-"))
os.environ.update(
    {
        "HF_HOME": str(TEMPORARY / "hf"),
        "HF_HUB_CACHE": str(TEMPORARY / "hf" / "hub"),
        "HF_DATASETS_CACHE": str(TEMPORARY / "hf" / "datasets"),
        "HF_MODULES_CACHE": str(TEMPORARY / "hf" / "modules"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLCONFIGDIR": str(TEMPORARY / "matplotlib"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
)
# Runs that must agree bit for bit are compared on the CPU; `ACCELERATE_USE_CPU=false` tests an accelerator.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
os.environ.pop("DECOCT_TRACEBACK", None)

ROOT = Path(__file__).parents[1]
CLASSES, TRAIN, TEST = 4, 24, 10


def pytest_collection_finish() -> None:
    # Runs collect garbage when they close; what was imported until here need not be looked at each time.
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    shutil.rmtree(TEMPORARY, ignore_errors=True)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, make)`: a folder that `make` fills once per session, whatever the number of xdist workers."""
    from filelock import FileLock

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        path, finished = root / f"shared-{name}", root / f"shared-{name}.finished"
        with FileLock(root / f"shared-{name}.lock"):
            if not finished.exists():
                make(path)
                finished.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def sample_part(once) -> Path:
    """A parquet folder with a part of the embedded sample: the first 4 classes, 24 train and 10 test images of each."""
    return once("data", write_sample_part)


def write_sample_part(folder: Path) -> None:
    import datasets
    import numpy as np
    from worlds import labelled

    folder.mkdir()
    for split, count in (("train", TRAIN), ("test", TEST)):
        path = ROOT / "src" / "decoct" / "data" / "sample" / f"{split}.parquet"
        images = datasets.Dataset.from_parquet(str(path), keep_in_memory=True)
        labels = np.asarray(images["label"][:])
        rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(CLASSES)]))
        names = images.features["label"].names[:CLASSES]
        encoded = images.cast_column("image", datasets.Image(decode=False)).select(rows)
        labelled(encoded["image"][:], labels[rows].tolist(), names).to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="session")
def trained_teacher(once, sample_part) -> Path:
    """A small teacher of `sample_part`, with early ones in `epoch_2/` and `epoch_4/`; tests must not change it."""

    def train(folder: Path) -> None:
        from decoct.config import TeacherConfig
        from decoct.training.teacher import train_teacher

        config = TeacherConfig(
            dataset=str(sample_part),
            model="convnet3_w16",
            epochs=6,
            save_epochs=[2, 4],
            batch_size=16,
            learning_rate=5e-3,
            output_dir=str(folder),
        )
        train_teacher(config)

    return once("teacher", train)


@pytest.fixture(scope="session")
def tiny_prior(once, sample_part) -> Path:
    """A class-conditional prior of `sample_part` after one epoch; tests must not change it."""

    def train(folder: Path) -> None:
        from decoct.config import PriorConfig
        from decoct.training.prior import train_prior

        settings = {"epochs": 1, "channels": [8, 16], "batch_size": 16, "sample_every": 0, "learning_rate": 1e-3}
        train_prior(PriorConfig(dataset=str(sample_part), output_dir=str(folder), **settings))

    return once("prior", train)


@pytest.fixture(scope="session")
def tiny_estimator(once, sample_part) -> Path:
    """An estimator for `sample_part` with random weights; tests must not change it."""

    def build(folder: Path) -> None:
        from decoct.data.loading import load_images, measure_spec
        from decoct.igds.loading import build_estimator

        build_estimator("resnet10_w4", measure_spec(load_images(str(sample_part))), 16).save_pretrained(folder)

    return once("estimator", build)


@pytest.fixture(scope="session")
def tiny_pipeline(once, tiny_prior, tiny_estimator) -> Path:
    """A self-contained pipeline of `tiny_prior` and `tiny_estimator`."""

    def save(folder: Path) -> None:
        from diffusers import DDPMPipeline

        from decoct.igds.loading import load_estimator
        from decoct.pipelines.igds.pipeline import IGDSPipeline

        parts = DDPMPipeline.from_pretrained(tiny_prior)
        estimator = load_estimator(str(tiny_estimator))
        IGDSPipeline(parts.scheduler, parts.unet, None, None, estimator).save_pretrained(folder)

    return once("pipeline", save)


@pytest.fixture(scope="session")
def runs(once, sample_part, trained_teacher) -> Path:
    """Distilled run folders: `views` with stored views, `tiles` with mosaics of four, `mixed` with mixed views."""

    def distil(folder: Path) -> None:
        from decoct.config import DistillConfig
        from decoct.synthesis.distill import distill

        shared = {"dataset": str(sample_part), "teacher": str(trained_teacher), "method": "random"}
        distill(DistillConfig(output_dir=str(folder / "views"), ipc=[1, 5], views=10, slots=0, **shared))
        distill(DistillConfig(output_dir=str(folder / "tiles"), ipc=[5], slots=0, tiles_per_image=4, **shared))
        distill(DistillConfig(output_dir=str(folder / "mixed"), ipc=[5], slots=8, label_bits=4, **shared))

    return once("distilled-runs", distil)


@pytest.fixture(scope="session")
def image_folder(once) -> Path:
    """A folder of PNG files, 16 px, RGB: `train/` and `test/` with 8 and 3 images of each of three colour classes."""
    return once("image-folder", write_image_folder)


def write_image_folder(folder: Path) -> None:
    from worlds import COLOURS, coloured, encoded

    for split, count in (("train", 8), ("test", 3)):
        for label, name in enumerate(COLOURS):
            members = folder / split / name
            members.mkdir(parents=True)
            for number, image in enumerate(encoded(coloured([label] * count, seed=10 * count + label))):
                (members / f"{number}.png").write_bytes(image["bytes"])


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`launch(script, *arguments, cwd, processes=1)` runs a script in processes of its own (`forked.py`)."""
    import forked

    def run(script: Path | str, *arguments: object, cwd: Path, processes: int = 1) -> subprocess.CompletedProcess[str]:
        logs = tmp_path_factory.mktemp("logs")
        return forked.launch(script, *arguments, cwd=cwd, logs=logs, processes=processes)

    return run


@pytest.fixture(scope="session")
def scripts() -> Path:
    """The folder of the scripts."""
    return ROOT / "scripts"
