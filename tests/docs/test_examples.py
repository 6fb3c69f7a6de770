"""The scripts of `examples/`: their headers, and that they run."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from decoct.config import VerifyConfig
from decoct.hub.verify import verify
from decoct.models.zoo import load_classifier

from .reading import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLES = ROOT / "examples"
# The regular expression of PEP 723.
HEADER = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def run(script: Path, *words: object) -> None:
    sys.argv = [str(script), *map(str, words)]
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_the_header_of_an_example_names_what_it_imports(script):
    text = script.read_text("utf-8")
    (match,) = HEADER.finditer(text)
    lines = match["content"].splitlines()
    header = tomllib.loads("\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
    assert match["type"] == "script"
    assert SpecifierSet(header["requires-python"]).contains("3.12")
    assert "decoct" in {Requirement(text).name for text in header["dependencies"]}


def test_a_dataset_is_distilled_and_a_network_trained_on_the_set(sample_part, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [])
    job = ["--dataset", sample_part, "--model", "convnet3_w8", "--epochs", 6, "--ipc", 1, 2]
    job += ["--batch_size", 16, "--output_dir", tmp_path]
    run(EXAMPLES / "distil_on_a_gpu_job.py", *job)
    assert verify(VerifyConfig(source=str(tmp_path / "distilled"))).ok
    network = ["--student", "convnet3_w8", "--epochs", 2, "--test", sample_part, "--output_dir", tmp_path / "network"]
    run(EXAMPLES / "train_on_a_published_set.py", "--distilled", tmp_path / "distilled", *network)
    assert "trained on 8 images" in capsys.readouterr().out
    assert load_classifier(tmp_path / "network").spec.num_classes == 4
