"""Everything decoct publishes, loaded from the Hub by the real clients where decoct is not installed."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Image, load_dataset
from diffusers import DDPMPipeline
from huggingface_hub import snapshot_download
from worlds import contents, write_run

from decoct.config import PublishConfig, VerifyConfig
from decoct.hub.publish import publish
from decoct.hub.verify import verify
from decoct.igds.loading import load_estimator
from decoct.models.zoo import load_classifier
from decoct.pipelines.igds.pipeline import IGDSPipeline

# Runs each file in one process, with decoct out of reach, and what decoct alone depends on.
ELSEWHERE = """
import importlib, runpy, sys

absent = ("decoct", "captum", "evaluate", "kornia", "sklearn")
sys.modules |= dict.fromkeys(absent)  # None: the import fails, as where it is not installed
for name in ("decoct.models.zoo", *absent):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} can be imported here")
for path in sys.argv[1:]:
    print(f"== {path}")
    runpy.run_path(path, run_name="__main__")
"""
COMPARED = """
import numpy as np
import torch
from datasets import load_dataset
from diffusers import DiffusionPipeline
from transformers import AutoModel, AutoModelForImageClassification

for streaming in (False, True):
    rows = load_dataset("user/views", "ipc_5", split="train", streaming=streaming).with_format("numpy")
    for column in ("image", "label", "view_logits", "view_boxes", "tile_logits"):
        np.save(f"{column}-{streaming}.npy", np.stack([row[column] for row in rows]))
pixels = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
teacher = AutoModelForImageClassification.from_pretrained("user/teacher", trust_remote_code=True).eval()
estimator = AutoModel.from_pretrained("user/estimator", trust_remote_code=True).eval()
pipeline = DiffusionPipeline.from_pretrained("user/pipeline", trust_remote_code=True)
prior = DiffusionPipeline.from_pretrained("user/prior")
for model in (teacher, estimator, pipeline, pipeline.estimator):
    assert type(model).__module__.startswith(("transformers_modules.", "diffusers_modules.")), type(model)
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    np.save("teacher.npy", teacher(pixels).logits)
    np.save("estimator.npy", estimator(pixels).logits)
    np.save("prior.npy", prior.unet(pixels, 10, torch.tensor([0, 1])).sample)
samples = pipeline(class_labels=[0, 1], num_inference_steps=2, output_type="np", generator=generator)
np.save("pipeline.npy", samples.images)
"""
# Sizes that a card states for good results, and a test has no time for.
SHORTER = {
    "views": [("epochs, temperature = 300,", "epochs, temperature = 20,")],
    "tiles": [("epochs, temperature = 300,", "epochs, temperature = 20,")],
    "prior": [("set_timesteps(50)", "set_timesteps(3)")],
    "pipeline": [("num_inference_steps=250", "num_inference_steps=3")],
}


@pytest.fixture
def published(hub, runs, trained_teacher, tiny_estimator, tiny_prior, tiny_pipeline, caplog) -> dict[str, Path]:
    """The folders of what is now on the Hub as `user/...`, by name."""
    models = {"teacher": trained_teacher, "estimator": tiny_estimator, "prior": tiny_prior, "pipeline": tiny_pipeline}
    folders = {"views": runs / "views", "tiles": runs / "tiles", **models}
    with caplog.at_level(logging.DEBUG):
        for name, folder in folders.items():
            publish(PublishConfig(folder=str(folder), push_to_hub=f"user/{name}"))
    return folders


def repo_type(name: str) -> str:
    return "dataset" if name in ("views", "tiles") else "model"


def test_what_is_downloaded_is_what_was_written_and_has_no_token(hub, published, caplog):
    for name, folder in published.items():
        downloaded = contents(Path(snapshot_download(f"user/{name}", repo_type=repo_type(name))))
        assert downloaded == hub.files(repo_type(name), f"user/{name}")
        written = contents(folder)
        changed = {path for path, data in downloaded.items() if data != written.get(path)}
        # Written for the repository, or shown without this machine's paths; weights, code and data are as they were.
        others = {path for path in changed if not path.endswith(".json")}
        assert others <= {".gitattributes", "README.md", "report.html"}
        assert not [path for path in downloaded if path.startswith(("epoch_", "checkpoints", "samples", "run.json"))]
        assert not [path for path, data in {**downloaded, **written}.items() if hub.token.encode() in data]
    for name in ("views", "tiles"):
        report = verify(VerifyConfig(source=f"user/{name}"))
        assert report.ok, str(report)
    logged = [f"{record.getMessage()} {record.args}" for record in caplog.get_records("setup")]
    assert "Left out of the upload: epoch_2, epoch_4" in "\n".join(logged)
    assert any("/api/models/user/teacher/commit/main" in line for line in logged)
    assert not [line for line in logged if hub.token in line]


def run_elsewhere(hub, folder: Path, files: list[Path]) -> str:
    """Runs Python files where decoct is not installed, as a client of `hub` with empty caches; what they print."""
    own = ("HF_", "HUGGING_FACE_", "TRANSFORMERS_", "DIFFUSERS_")
    client = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "DISABLE_SAFETENSORS_CONVERSION": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    words = [sys.executable, "-c", ELSEWHERE, *map(str, files)]
    environment = {**inherited, **client, **quiet, "NO_PROXY": "*"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub.token not in done.stdout + done.stderr
    return done.stdout


def pasted(hub, name: str, source: Path) -> str:
    """The Python of a published card, one piece after the other; real images are in `source`."""
    card = hub.files(repo_type(name), f"user/{name}")["README.md"].decode()
    code = "".join(re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL))
    assert f'"user/{name}"' in code and "decoct" not in code
    for long, short in SHORTER.get(name, []):
        assert long in code
        code = code.replace(long, short)
    return re.sub(r'load_dataset\("path/to/[^"]*"', f"load_dataset({str(source)!r}", code)


def test_every_kind_is_loaded_and_used_as_its_card_says(hub, published, sample_part, tmp_path):
    files = [tmp_path / f"{name}.py" for name in published]
    for file in files:
        file.write_text(pasted(hub, file.stem, sample_part), "utf-8")
    (tmp_path / "compared.py").write_text(COMPARED)
    output = run_elsewhere(hub, tmp_path, [*files, tmp_path / "compared.py"])

    printed = dict(re.findall(r"^== \S*/(\S+)\.py\n(.*?)(?=^==|\Z)", output, re.MULTILINE | re.DOTALL))
    for name in ("views", "tiles"):
        (found,) = re.findall(r"^accuracy on 40 real images: (0\.\d+|1\.000)$", printed[name], re.MULTILINE)
        assert float(found) > 0.4, printed[name]  # four classes: chance is 0.25
    teacher = load_classifier(str(published["teacher"])).model.eval()
    assert printed["teacher"].strip() in teacher.config.label2id
    assert "torch.Size([1, 16])" in printed["estimator"] and printed["prior"] == "torch.Size([4, 1, 28, 28])\n"
    assert "tensor" in printed["pipeline"] and (tmp_path / "image.png").is_file()

    there = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    data = str(published["views"] / "data/ipc_5/*.parquet")
    rows = load_dataset("parquet", data_files=data, split="train").with_format("numpy")
    for column in ("image", "label", "view_logits", "view_boxes", "tile_logits"):
        for streaming in (False, True):
            assert np.array_equal(there[f"{column}-{streaming}"], np.stack(rows[column][:])), column
    pixels = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
    estimator, parts = load_estimator(str(published["estimator"])), DDPMPipeline.from_pretrained(published["prior"])
    pipeline = IGDSPipeline(parts.scheduler, parts.unet, None, None, estimator)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        assert np.allclose(there["teacher"], teacher(pixels).logits, atol=1e-6)
        assert np.allclose(there["estimator"], estimator.eval()(pixels).logits, atol=1e-6)
        assert np.allclose(there["prior"], parts.unet(pixels, 10, torch.tensor([0, 1])).sample, atol=1e-5)
    samples = pipeline(class_labels=[0, 1], num_inference_steps=2, output_type="np", generator=generator)
    assert np.array_equal(there["pipeline"], samples.images)


HOSTILE = ["{{ 7 * 191 }}{% raw %}", "<script>alert(1)</script>", "- a: &b [*b] # | 'c\"", "../../etc/passwd"]


def test_hostile_label_names_arrive_as_they_are(hub, tmp_path):
    publish(PublishConfig(folder=str(write_run(tmp_path / "run", names=HOSTILE)), push_to_hub="user/thing"))
    for streaming in (False, True):
        rows = load_dataset("user/thing", "ipc_2", split="train", streaming=streaming)
        assert rows.features["label"].names == HOSTILE
        assert len(list(rows.cast_column("image", Image(decode=False)))) == 2 * len(HOSTILE)
    card = hub.files("dataset", "user/thing")["README.md"].decode()
    assert "1337" not in card and verify(VerifyConfig(source="user/thing")).ok


@pytest.mark.parametrize("name", ["line\nbreak", "\x1b[2Jgreen", "\x00", "right\u202eleft"])
def test_label_names_with_control_characters_are_refused(hub, tmp_path, name):
    folder = write_run(tmp_path / "run", names=["red", name])
    with pytest.raises(ValueError, match="label_names must have no control characters") as refused:
        publish(PublishConfig(folder=str(folder), push_to_hub="user/thing"))
    assert str(refused.value).isprintable() and hub.requests == []
