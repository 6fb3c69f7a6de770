"""Grid files that are wrong are refused in one line with the file and the key."""

from __future__ import annotations

import pytest

from decoct.evaluation.grid_file import read_grid

SETS = "records: a.json\nsets:\n  a: {method: random}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("records: a.json\nsets: [random]", "sets must be a mapping of names to options. Got "),
        ("records: a.json\nsets:", "sets must be one or more sets. Got None"),
        (SETS + "distil:", "distil must be a mapping of names to values. Got None"),
        (SETS + "distil: {crop: 1}", "distil must be options of DistillConfig. Got 'crop'"),
        (SETS + "evaluate: {crop: 1}", "evaluate must be options of EvaluateConfig. Got 'crop'"),
        (SETS + "ipc: 10", "ipc must be a list of whole numbers. Got 10"),
        (SETS + "students: convnet3", "students must be a list of names. Got 'convnet3'"),
        (SETS + "  b: {vary: {seed: [1]}}", "sets, 'b', vary, seed must be among the grid's seeds"),
        (SETS + "  b: {vary: {beta: 1}}", "sets, 'b', vary, beta must be a list of values. Got 1"),
        (SETS + "  b: 3", "sets, 'b' must be a mapping of options. Got 3"),
        (SETS + "  'b {beta}': {}", "the name 'b {beta}' must be filled in by its options"),
        (SETS + "figure: {ovr: beta, curve: x}", "figure must be options among ['curve', 'lines', 'logarithmic',"),
        (SETS + "figure: {over: beta}", "figure must be options with `over` and `curve`. Got {'over': 'beta'}"),
        ("records: [", "must be valid YAML"),
    ],
)
def test_a_malformed_grid_file_names_file_and_key(tmp_path, content, message):
    file = tmp_path / "grid.yaml"
    file.write_text(content)
    with pytest.raises(ValueError) as error:
        read_grid(file)
    assert message in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)
