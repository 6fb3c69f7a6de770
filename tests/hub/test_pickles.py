"""Pickles in the place of weights: refused by every loader, and never executed."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from worlds import spec_of

from decoct.igds.loading import build_estimator, load_estimator
from decoct.igds.prior import load_pipeline
from decoct.models.zoo import build_classifier, load_classifier

LOADERS: dict[str, Callable[[str], Any]] = {
    "teacher": load_classifier,
    "estimator": load_estimator,
    "prior": lambda name: load_pipeline(name, None),
    "pipeline": lambda name: load_pipeline(name, None),
}
NETWORKS = {"prior": "unet/diffusion_pytorch_model", "pipeline": "unet/diffusion_pytorch_model"}


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_prior, tiny_pipeline) -> dict[str, Path]:
    """A folder of each kind of model."""
    folder = tmp_path_factory.mktemp("models")
    build_classifier("convnet3_w8", spec_of()).model.save_pretrained(folder / "teacher")
    build_estimator("resnet10_w4", spec_of(), 8).save_pretrained(folder / "estimator")
    return {name: folder / name for name in ("teacher", "estimator")} | {"prior": tiny_prior, "pipeline": tiny_pipeline}


@pytest.mark.parametrize(("ending", "harmless"), [(".bin", False), (".safetensors", False), (".bin", True)])
@pytest.mark.parametrize("kind", LOADERS)
def test_a_pickle_offered_as_weights_is_refused_and_not_executed(models, tmp_path, kind, ending, harmless):
    folder, marker = Path(shutil.copytree(models[kind], tmp_path / "model")), tmp_path / "executed"
    weights = folder / f"{NETWORKS.get(kind, 'model')}.safetensors"
    # transformers' name for pickles differs from that for safetensors.
    name = "pytorch_model.bin" if (ending, weights.stem) == (".bin", "model") else weights.stem + ending
    tensors = load_file(weights)
    weights.unlink()
    if harmless:
        torch.save(tensors, weights.parent / name)
    else:
        (weights.parent / name).write_bytes(pickle.dumps(Payload(marker), protocol=2))
    with pytest.raises((ValueError, OSError), match="safetensors|deserializing header"):
        LOADERS[kind](str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["teacher", "estimator"])
def test_a_pickle_on_the_hub_is_refused_and_not_executed(models, tmp_path, kind, hub):
    folder, marker = Path(shutil.copytree(models[kind], tmp_path / "model")), tmp_path / "executed"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker), protocol=2))
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("user/model")
    api.upload_folder(repo_id="user/model", folder_path=folder)
    with pytest.raises((ValueError, OSError), match="safetensors"):
        LOADERS[kind]("user/model")
    assert not marker.exists()
