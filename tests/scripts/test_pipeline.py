"""The scripts as a user runs them, one after the other, in an empty folder."""

from __future__ import annotations

import subprocess
import sys

from datasets import load_dataset
from worlds import without_times

from decoct.arguments import parse_config
from decoct.config import EvaluateConfig
from decoct.evaluation.evaluate import evaluate
from decoct.files import read_json
from decoct.models.zoo import load_classifier


def test_teacher_distill_evaluate(launch, scripts, sample_part, monkeypatch, tmp_path):
    data = ["--dataset", sample_part]
    network = ["--model", "convnet3_w8", "--epochs", 2, "--save_epochs", 1, "--batch_size", 16]
    teacher = launch(scripts / "train_teacher.py", *data, *network, "--output_dir", "runs/teacher", cwd=tmp_path)
    assert teacher.returncode == 0, teacher.stderr
    assert "runs/teacher" in teacher.stdout
    network_files = {"config.json", "convnet.py", "model.safetensors", "training.json"}
    for folder, others in (("runs/teacher", {"run.json", "forgetting.safetensors"}), ("runs/teacher/epoch_1", set())):
        names = {path.name for path in (tmp_path / folder).iterdir() if path.is_file()}
        assert names == network_files | others
    assert load_classifier(tmp_path / "runs" / "teacher").spec.num_classes == 4

    sizes = ["--ipc", 1, 2, "--candidates_per_class", 8, "--grid_size", 3, "--coalitions", 16, "--views", 2]
    source = [*data, "--teacher", "runs/teacher", "--label_teacher", "early", "--output_dir", "runs/distilled"]
    sizes.append("--allow_weak_teacher")  # after one epoch
    distilled = launch(scripts / "distill.py", *source, *sizes, cwd=tmp_path)
    assert distilled.returncode == 0, distilled.stderr
    assert "preview.png" in distilled.stdout
    run = tmp_path / "runs" / "distilled"
    files = {"README.md", "data", "manifest.json", "preview.png", "report.html", "run.json"}
    assert {path.name for path in run.iterdir()} == files
    assert [len(load_dataset(str(run), f"ipc_{ipc}", split="train")) for ipc in (1, 2)] == [4, 8]
    assert read_json(run / "manifest.json")["label_teachers"]["1"]["name"] == "runs/teacher/epoch_1"

    students = ["--students", "convnet3_w8", "--labels", "views", "--epochs", 2, "--seeds", 2]
    words = [*data, "--distilled", "runs/distilled", *students, "--ipc", 2]
    evaluated = launch(scripts / "evaluate.py", *words, cwd=tmp_path, processes=2)
    assert evaluated.returncode == 0, evaluated.stderr
    records = read_json(run / "results.json")
    # DD-Ranking compares with hard labels, which have a record of their own.
    assert [(record["ipc"], record["student"], record["labels"]) for record in records] == [
        (2, "convnet3_w8", "views"),
        (2, "convnet3_w8", "hard"),
    ]
    for record in records:
        assert record["method"] == "infoutil"
        assert record["teacher_model"] == "convnet3_w8"
        assert len(record["seeds"]) == len(record["baseline"]["seeds"]) == 2
        assert 0 <= record["accuracy_mean"] <= 1
        assert f"{100 * record['accuracy_mean']:.1f}" in evaluated.stdout
    assert evaluated.stdout.count("random images") >= 2
    assert evaluated.stdout.count("DD-Ranking: HLR") == 2
    assert (run / "report.html").is_file()

    monkeypatch.chdir(tmp_path)
    alone = evaluate(parse_config(EvaluateConfig, [*map(str, words), "--output_dir", "runs/alone/results"]))
    assert len(list((tmp_path / "runs").glob("**/ipc_2-draw_0-*"))) == 2, "nothing may be taken from the first run"
    assert without_times(alone) == without_times(records)


def test_a_dry_run_prints_the_cost_and_writes_nothing(launch, scripts, sample_part, trained_teacher, tmp_path):
    arguments = ["--dataset", sample_part, "--teacher", trained_teacher, "--ipc", 2, "--output_dir", "runs/x"]
    done = launch(scripts / "distill.py", *arguments, "--dry_run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "forward_passes" in done.stdout
    assert "estimated_seconds" in done.stdout
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_line_by_accelerate_launch_too(scripts, tmp_path):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1"]
    words = [*launcher, scripts / "distill.py", "--teacher", "runs/missing"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "distill.py: error: " in line]
    assert len(lines) == 1
    assert "teacher must be an existing folder or a Hub id 'user/name'. Got 'runs/missing'" in lines[0]
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
