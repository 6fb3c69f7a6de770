import json
import statistics

import pytest

from decoct.evaluation.results import format_table, mean_and_std, merge_records, read_results


def record(**changes):
    return {
        "dataset": "sample",
        "method": "infoutil",
        "ipc": 10,
        "tiles": 1,
        "student": "convnet3",
        "protocol": "rded_kd",
        "labels": "views",
        "teacher_accuracy": 0.85,
        "epoch": "last",
        "accuracy_mean": 0.5123,
        "accuracy_std": 0.0111,
        "seeds": [0, 1, 2],
        "overrides": {},
        "config_hash": "aaa",
        **changes,
    }


def test_mean_and_std():
    assert mean_and_std([0.5]) == (0.5, 0.0)
    values = [0.1, 0.4, 0.5]
    assert mean_and_std(values) == (pytest.approx(1 / 3), statistics.stdev(values))


def test_merging_replaces_equal_hashes_and_keeps_all_others(tmp_path):
    file = tmp_path / "results.json"
    merge_records(file, [record(), record(config_hash="bbb")])
    by_hand = {"note": "from another tool"}
    file.write_text(json.dumps([by_hand, *read_results(file)]))
    merge_records(file, [record(accuracy_mean=0.6), record(config_hash="ccc")])
    records = read_results(file)
    assert records[0] == by_hand
    assert [entry["config_hash"] for entry in records[1:]] == ["aaa", "bbb", "ccc"]
    assert records[1]["accuracy_mean"] == 0.6


@pytest.mark.parametrize("content", ["{broken", '{"a": 1}', "[1, 2]"])
def test_a_broken_results_file_is_refused_and_left_alone(tmp_path, content):
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="results.json must be"):
        merge_records(file, [record()])
    assert file.read_text() == content


def test_a_table_states_what_each_number_is():
    line = format_table([record()]).splitlines()[-1]
    for cell in ("infoutil", "10", "convnet3", "rded_kd", "views", "last", "85.0", "51.2 ± 1.1", "3"):
        assert cell in line
    alone = format_table([record(seeds=[0], teacher_accuracy=None)])
    assert "±" not in alone and " - " in alone


@pytest.mark.parametrize(
    "other",
    [{"protocol": "minimax_hard"}, {"overrides": {"epochs": 30}}, {"epoch": "best"}, {"dataset": "uoft-cs/cifar10"}],
)
def test_what_cannot_be_compared_never_shares_a_table(other):
    tables = format_table([record(), record(method="random", **other), record(method="rded")]).split("\n\n")
    assert len(tables) == 2
    mixed = [table for table in tables if "infoutil" in table]
    assert len(mixed) == 1 and "rded " in mixed[0] and "random" not in mixed[0]


def test_label_modes_share_a_table_in_their_own_rows():
    table = format_table([record(), record(labels="online")])
    rows = [line.split() for line in table.splitlines()[3:]]
    assert sorted(row[5] for row in rows) == ["online", "views"]


def test_no_records_no_table():
    assert format_table([]) == ""
