"""What the benchmarks of time and memory share, and small runs of those of a network on images."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from types import ModuleType

import pytest

from .loading import BENCHMARKS, load


@pytest.fixture(scope="module")
def timing() -> ModuleType:
    return load("timing")


def test_runs_alternate_and_every_other_repeat_is_reversed(timing):
    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = timing.alternate(works, 3, "cpu")
    assert order == list("abbaab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert timing.ratios([3.0, 1.0], [1.0, 2.0]) == [3.0, 0.5]
    assert timing.spread([3.0, 1.0, 2.00004]) == {"min": 1.0, "median": 2.0, "max": 3.0}


def test_a_part_is_one_that_there_is(timing):
    assert timing.part_of("1/2") == (1, 2)
    for text in ("2/2", "1", "0/0", "a/b", "-1/2"):
        with pytest.raises(argparse.ArgumentTypeError, match="^must be i/n with i from 0 to n - 1. Got "):
            timing.part_of(text)


def test_a_fresh_process_answers_in_its_last_line_and_has_its_environment(timing, tmp_path):
    script = tmp_path / "child.py"
    script.write_text("import json, os, sys\nprint('progress')\nprint(json.dumps([os.getpid(), sys.argv[1:]]))")
    process, words = timing.in_fresh_process(str(script), ["--child", "step"])
    assert process != os.getpid() and words == ["--child", "step"]
    script.write_text("import os\nprint(len(os.environ['ONLY']))")
    assert timing.in_fresh_process(str(script), [], {"ONLY": "abc"}) == 3
    script.write_text("raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError):
        timing.in_fresh_process(str(script), [])


def test_processes_that_measure_memory_have_a_parent_without_torch():
    code = "import sys, timing, memory, hub, guidance\nprint('torch' in sys.modules or 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_the_largest_value_inside_the_block_is_kept(timing, monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.001)
    values, sampled = iter([1.0, 5.0, 2.0]), threading.Event()

    def measure() -> float:
        value = next(values, None)
        if value is None:
            sampled.set()
        return value or 0.0

    with timing.largest(measure, timing.peak_mb) as found:
        assert sampled.wait(10)
    assert found[0] == 5.0 and 10 < found[1] <= timing.peak_mb()


def test_results_stand_beside_those_of_other_keys_without_local_paths(timing, tmp_path, capsys):
    path = tmp_path / "results" / "file.json"
    timing.write_result(path, "one", {"ratio": 1.0})
    timing.write_result(path, "two", {"ratio": 2.0})
    assert json.loads(path.read_text()) == {"one": {"ratio": 1.0}, "two": {"ratio": 2.0}}
    assert json.loads(capsys.readouterr().out.split("}\n}\n")[0] + "}\n}") == {"one": {"ratio": 1.0}}
    words = ["--folder", str(tmp_path), "--name", "user/set", "--output", str(tmp_path / "not" / "there.json")]
    expected = f"python benchmarks/hub.py --folder {tmp_path.name} --name user/set --output there.json"
    assert timing.command_of("/somewhere/hub.py", words) == expected


def test_attribution_and_utility_are_compared_with_what_they_replace(sample_part, tmp_path, monkeypatch, capsys):
    shared = ["--dataset", str(sample_part), "--model", "convnet3_w8", "--repeats", "2", "--device", "cpu"]
    shared += ["--images", "2", "--batch_size", "64", "--output_dir", str(tmp_path)]
    attribution = load("attribution")
    monkeypatch.setattr(attribution, "ERROR_COALITIONS", (32, 510))
    attribution.main([*shared, "--exact_3x3", "1", "--exact_4x4", "0", "--seeds", "1"])
    load("utility").main(shared)
    results = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("attribution", "utility")}
    assert all(list(content) == ["convnet3-28px-cpu"] for content in results.values())
    attributed, utility = (content["convnet3-28px-cpu"] for content in results.values())
    assert 0 < attributed["throughput"]["share_of_bare_forward"]["min"]
    errors = [each["relative_error"] for each in attributed["errors_3x3"]["decoct"].values()]
    assert errors[-1] < 1e-3 < errors[0]
    for name in ("layers", "torch.func", "last"):
        assert utility[name]["max_relative_difference"] < 1e-3 and utility[name]["speedup_over_loop"]["min"] > 0


def test_interactions_are_measured_on_exact_tables(sample_part, tmp_path, monkeypatch):
    interactions = load("interactions")
    for name, value in (("GRID", 3), ("COALITIONS", (32, 510)), ("DESIGNS", 2)):
        monkeypatch.setattr(interactions, name, value)
    words = ["--dataset", str(sample_part), "--model", "convnet3_w8", "--images", "2", "--output_dir", str(tmp_path)]
    interactions.main(words)
    (result,) = json.loads((tmp_path / "interactions.json").read_text()).values()
    for name in ("patches", "patches_and_interactions"):
        assert result[name]["510"]["relative_error"] < 1e-5 and result[name]["510"]["same_window"] == 1
        assert 0 < result[name]["32"]["relative_error"] < 5


def test_seconds_of_sets_that_are_made_anew(sample_part, trained_teacher, tmp_path, monkeypatch, capsys):
    seconds = load("seconds")
    shared = ["--dataset", str(sample_part), "--teacher", str(trained_teacher), "--ipc", "1", "2", "--repeats", "2"]
    shared += ["--mixed_precision", "no"]
    made = []

    def here(script: str, words: list[str]) -> dict:
        monkeypatch.setattr(sys, "argv", [script, *words])
        seconds.main()
        made.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
        return made[-1]

    monkeypatch.setattr(seconds, "in_fresh_process", here)
    monkeypatch.setattr(sys, "argv", ["seconds.py", *shared, "--output", str(tmp_path / "seconds.json")])
    seconds.main()
    record = json.loads((tmp_path / "seconds.json").read_text())
    assert len(made) == 4 and all(run["seconds"] > 0 for run in made)
    assert record["seconds"]["2"]["max"] == max(run["seconds"] for run in made[2:])
    assert record["candidates"] == 96 and record["dataset"] == sample_part.name and record["repeats"] == 2


def test_the_projection_of_many_images_counts_passes_and_shards():
    many = load("many_images")
    at = [{"seconds": 40.0, "cpu_seconds": 12.0}, {"seconds": 80.0, "cpu_seconds": 32.0}]
    share = {
        "stages": {"scores": {"shards": 5, "first": at[0], "last": at[1]}},
        "forward_passes_of_all": {"attribution": 29_000_000, "utility": 1_000_000, "labels": 6_000_000},
    }
    found = many.project(share, argparse.Namespace(assumed_rate=10_000))
    assert found["scoring_cpu_hours_of_all_candidates"] == round(5 * 3000 / 3600, 2)
    assert found["forward_passes_per_cpu_second"] == 30_000_000 / 3000 / 5
    assert (found["at_224_px"]["hours_on_one_h100"], found["at_224_px"]["hours_on_eight_h100"]) == (1.0, 0.12)
