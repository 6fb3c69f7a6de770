"""The benchmark that runs a card's training script beside decoct's own student."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from decoct.config import EvaluateConfig
from decoct.evaluation.evaluate import evaluate

from .loading import load


def test_the_cards_script_runs_without_decoct_beside_what_decoct_reached(runs, sample_part, tmp_path, monkeypatch):
    folder = shutil.copytree(runs / "mixed", tmp_path / "run")
    shared = {"dataset": str(sample_part), "students": ["convnet3"], "baseline": False, "ranking": False}
    (record,) = evaluate(EvaluateConfig(distilled=str(folder), ipc=[5], epochs=2, **shared))
    run = subprocess.run

    def shortened(command, **options):
        file = Path(command[1])
        code = file.read_text()
        assert 'sys.modules["decoct"] = None' in code and "import decoct" not in code
        code = code.replace("range(steps)", "range(3)").replace("1152", "144").replace("128", "16")
        file.write_text(code)
        return run(command, **options)

    monkeypatch.setattr("subprocess.run", shortened)
    words = ["--distilled", str(folder), "--source", str(sample_part), "--output", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", ["card_script.py", *words])
    load("card_script").main()
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["decoct"] == record["accuracy_mean"] and 0 <= found["script"] <= 1
    assert found["ipc"] == 5 and found["script"] * 40 == pytest.approx(round(found["script"] * 40))
