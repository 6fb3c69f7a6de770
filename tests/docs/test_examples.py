"""The scripts of `examples/`: their headers, and that they run."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
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


@pytest.mark.parametrize("script", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
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


@pytest.mark.parametrize("script", sorted((EXAMPLES / "many_machines").glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_of_clusters_start_each_rank_and_one_that_finishes(script, tmp_path):
    calls = tmp_path / "calls"
    for name in ("sbatch", "hf"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\necho 7\n')
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "RANKS": "3"}
    words = ["--dataset", "two words", "--batch_size", "8"]
    bucket = ["user/bucket"] if script.name == "hf_jobs.sh" else []
    for more in [[], ["--merge"]] if bucket else [[]]:
        subprocess.run(["bash", script, *bucket, *words, *more], env=environment, check=True)
    lines = calls.read_text().splitlines()
    if script.name == "slurm.sh":
        assert len(lines) == 2 and "--array=0-2" in lines[0] and "--dependency=afterany:7" in lines[1]
        assert r"--dataset two\ words --batch_size 8  --world_size 3 --wait" in lines[0] and "--merge" in lines[1]
    else:
        assert [f"--env RANK={rank} --env WORLD_SIZE=3" in line for rank, line in enumerate(lines)] == [True] * 3 + [
            False
        ]
        assert all("--world_size 0" in line for line in lines[:3]) and "--merge" in lines[3]


def test_ranks_of_an_executor_of_datatrove(sample_part, trained_teacher, tmp_path, monkeypatch):
    pytest.importorskip("datatrove", exc_type=ImportError)
    monkeypatch.setattr("sys.argv", [])
    words = ["--dataset", sample_part, "--teacher", trained_teacher, "--ipc", 1, "--slots", 0]
    words += ["--method", "random", "--batch_size", 16, "--output_dir", tmp_path / "run"]
    ours = ["--tasks", 2, "--workers", 1, "--logging_dir", tmp_path / "logs"]
    run(EXAMPLES / "many_machines" / "datatrove_ranks.py", *ours, "--", *words)
    assert len(list(tmp_path.glob("logs/ranks/completions/*"))) == 2
    assert verify(VerifyConfig(source=str(tmp_path / "run"))).ok


def test_the_setting_of_several_machines_is_one_that_accelerate_takes():
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    config = ROOT / "scripts" / "accelerate_configs" / "multi_node.yaml"
    words = ["--config_file", str(config), "--machine_rank", "1", "--main_process_ip", "10.0.0.1"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*words, "train_teacher.py"]))
    assert arguments.multi_gpu and arguments.num_machines == 2
    prepare_multi_gpu_env(arguments)
    assert (arguments.nproc_per_node, arguments.nnodes, int(arguments.node_rank)) == ("8", "2", 1)
    assert arguments.main_process_ip == "10.0.0.1"
