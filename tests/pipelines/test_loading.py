"""The three ways to load the pipeline: around a stock prior, from its own folder, and where decoct is not installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline, DiTPipeline
from diffusers.utils import dynamic_modules_utils

import decoct.pipelines.igds.pipeline as source
from decoct.hub import contents
from decoct.igds.loading import load_estimator
from decoct.pipelines.igds.pipeline import IGDSPipeline

CODE = Path(source.__file__).parent
STEPS = 3

ELSEWHERE = """
import importlib.util, sys
import numpy as np, torch
from diffusers import DiffusionPipeline

assert importlib.util.find_spec("decoct") is None
folder, again, images = sys.argv[1:]
for name in (folder, again):
    pipeline = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    output = pipeline([0, 1, 1], num_inference_steps=3, output_type="np", generator=torch.Generator().manual_seed(0))
    np.save(f"{images}-{name == again}.npy", output.images)
    pipeline.save_pretrained(again)
"""


@pytest.fixture(autouse=True)
def modules_cache(tmp_path, monkeypatch) -> Any:
    """A cache of its own: diffusers copies all local code into one folder by file name."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers_modules"]:
        del sys.modules[name]


@pytest.fixture
def pipeline(make_unet, make_estimator) -> IGDSPipeline:
    return IGDSPipeline(DDPMScheduler(), make_unet(), None, None, make_estimator())


def images_of(pipeline: Any, **options: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline([0, 1, 1], num_inference_steps=STEPS, output_type="np", generator=generator, **options).images


def load(folder: Path, **options: Any) -> Any:
    return DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **options)


def test_around_a_stock_ddpm(tmp_path, pipeline):
    DDPMPipeline(pipeline.unet, pipeline.scheduler).save_pretrained(tmp_path / "prior")
    pipeline.estimator.save_pretrained(tmp_path / "estimator")
    estimator = load_estimator(tmp_path / "estimator")
    loaded = load(tmp_path / "prior", custom_pipeline=str(CODE), estimator=estimator)
    assert type(loaded).__name__ == "IGDSPipeline" and loaded.estimator is estimator
    np.testing.assert_array_equal(images_of(loaded), images_of(pipeline))


def test_around_a_stock_dit(tmp_path, make_dit, make_estimator):
    transformer, vae = make_dit()
    scheduler, estimator = DDIMScheduler(), make_estimator()
    DiTPipeline(transformer, vae, scheduler, id2label={0: "one", 1: "two"}).save_pretrained(tmp_path / "prior")
    loaded = load(tmp_path / "prior", custom_pipeline=str(CODE), estimator=estimator)
    options = {"classifier_free_guidance_scale": 2.0}
    expected = images_of(IGDSPipeline(scheduler, None, transformer, vae, estimator), **options)
    np.testing.assert_array_equal(images_of(loaded, **options), expected)
    loaded.save_pretrained(tmp_path / "own")
    np.testing.assert_array_equal(images_of(load(tmp_path / "own"), **options), expected)


def test_a_saved_folder_holds_its_code(tmp_path, pipeline):
    pipeline.save_pretrained(tmp_path / "own")
    index = json.loads((tmp_path / "own" / "model_index.json").read_text("utf-8"))
    assert index["_class_name"] == ["pipeline", "IGDSPipeline"]
    assert index["estimator"] == ["estimator", "VariationalEstimator"]
    assert index["unet"] == ["diffusers", "UNet2DModel"] and index["vae"] == [None, None]
    for name in source.CODE:
        assert (tmp_path / "own" / name).read_bytes() == (CODE / name).read_bytes()
    assert (tmp_path / "own" / "estimator" / "estimator.py").is_file()


def test_the_files_of_the_pipeline_are_those_it_imports_and_those_that_are_published():
    """diffusers copies what the first file imports, and nothing of what that imports in its turn."""
    first = (CODE / "pipeline.py").read_text("utf-8")
    assert {f"{name}.py" for name in re.findall(r"^from \.(\w+) import", first, re.MULTILINE)} == set(source.CODE[1:])
    for file in source.CODE:
        needed = re.findall(r"^ *from \.(\w+) import", (CODE / file).read_text("utf-8"), re.MULTILINE)
        assert {f"{name}.py" for name in needed} <= set(source.CODE)
    assert contents.CODE["pipeline"] == (*source.CODE, "estimator/estimator.py")


def test_a_saved_folder_gives_the_same_images_and_can_be_saved_again(tmp_path, pipeline):
    expected = images_of(pipeline)
    pipeline.save_pretrained(tmp_path / "first")
    first = load(tmp_path / "first")
    np.testing.assert_array_equal(images_of(first), expected)
    first.save_pretrained(tmp_path / "second")
    np.testing.assert_array_equal(images_of(load(tmp_path / "second")), expected)
    first.save_pretrained(tmp_path / "first")
    np.testing.assert_array_equal(images_of(load(tmp_path / "first")), expected)
    files = [
        {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")} for name in ("first", "second")
    ]
    assert files[0] == files[1]


def test_an_estimator_can_be_exchanged_after_loading(tmp_path, pipeline, make_estimator):
    pipeline.save_pretrained(tmp_path / "own")
    loaded = load(tmp_path / "own")
    loaded.estimator = make_estimator(classes=2)
    loaded.save_pretrained(tmp_path / "other")
    assert load(tmp_path / "other").estimator.config.num_labels == 2


def test_a_prior_without_estimator_can_be_saved(tmp_path, make_unet, make_estimator):
    pipeline = IGDSPipeline(DDPMScheduler(), make_unet(), None, None, None)
    pipeline.save_pretrained(tmp_path / "own")
    loaded = load(tmp_path / "own")
    assert loaded.estimator is None and not (tmp_path / "own" / "estimator").exists()
    np.testing.assert_array_equal(images_of(loaded), images_of(pipeline))
    assert load(tmp_path / "own", estimator=make_estimator()).estimator is not None


def test_code_is_run_only_with_trust(tmp_path, pipeline):
    pipeline.save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tmp_path / "own")


def test_where_decoct_is_not_installed(tmp_path, pipeline):
    pipeline.save_pretrained(tmp_path / "own")
    python = second_environment(tmp_path)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "other-modules"), "PYTHONPATH": ""}
    words = [python, "-c", ELSEWHERE, tmp_path / "own", tmp_path / "again", tmp_path / "images"]
    result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    expected = images_of(pipeline)
    for name in ("images-False.npy", "images-True.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name), expected)


def second_environment(folder: Path) -> Path:
    """A virtual environment with this one's libraries, decoct excepted; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (folder / "libraries").mkdir()
    for key in ("purelib", "platlib"):
        for library in Path(sysconfig.get_path(key)).iterdir():
            link = folder / "libraries" / library.name
            if "decoct" not in library.name and library.suffix != ".pth" and not link.exists():
                link.symlink_to(library)
    own = next((folder / "venv").glob("lib*/python*/site-packages"))
    (own / "libraries.pth").write_text(f"{folder / 'libraries'}\n", "utf-8")
    return folder / "venv" / "bin" / "python"
