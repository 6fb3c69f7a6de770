import json
import statistics

import pytest
from worlds import accuracy_record, measured

from decoct.results.records import (
    group_by_setting,
    is_accuracy_record,
    merge_records,
    read_results,
    require_one_setting,
    setting_of,
)
from decoct.results.statistics import mean_and_std
from decoct.results.tables import format_table


def record(**changes):
    known = {"dataset": "sample", "labels": "views", "teacher_accuracy": 0.85, "seeds": [0, 1, 2], "config_hash": "aaa"}
    return accuracy_record(**{**known, "accuracy_mean": 0.5123, "accuracy_std": 0.0111, **changes})


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
    heading, columns, _, line = format_table([record(baseline=measured(0.4, 0.5))]).splitlines()
    assert heading == "sample, protocol rded_kd, views labels, last epoch"
    assert columns.split() == "method k IPC student teacher % accuracy % seeds random % difference".split()
    assert line.split() == "InfoUtil 1 10 convnet3 85.0 51.2 ± 1.1 3 45.0 ± 7.1 +6.2".split()
    assert format_table([record(epoch="best")]).splitlines()[0].endswith("best epoch (chosen on the test set)")
    alone = format_table([record(seeds=[0], teacher_accuracy=None)]).splitlines()[-1]
    assert alone.split() == "InfoUtil 1 10 convnet3 - 51.2 1 - -".split()


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"protocol": "minimax_hard"}, "protocol: minimax_hard, rded_kd"),
        ({"overrides": {"epochs": 30}}, r"protocol: rded_kd, rded_kd \(epochs=30\)"),
        ({"protocol_settings": "12ab34"}, r"protocol: rded_kd, rded_kd \(settings 12ab34\)"),
        ({"epoch": "best"}, "epoch rule: best, last"),
        ({"dataset": "uoft-cs/cifar10"}, "dataset: sample, uoft-cs/cifar10"),
        ({"labels": "hard"}, "labels: hard, views"),
    ],
)
def test_what_cannot_be_compared_never_shares_a_table(other, name):
    records = [record(), record(method="random", **other), record(method="rded")]
    tables = format_table(records).split("\n\n")
    assert len(tables) == 2
    mixed = [table for table in tables if "InfoUtil" in table]
    assert len(mixed) == 1 and "RDED " in mixed[0] and "random images " not in mixed[0].split("\n", 2)[2]
    with pytest.raises(ValueError, match=name):
        require_one_setting(records)
    require_one_setting(records[::2])
    require_one_setting([])


def test_settings_group_records_and_overrides_are_part_of_a_protocol():
    longer = record(overrides={"rrc_scale": 0.08, "epochs": 30})
    assert setting_of(longer) == ("sample", "rded_kd (epochs=30, rrc_scale=0.08)", "views", "last")
    groups = group_by_setting([record(ipc=1), longer, record(ipc=10)])
    assert [[each["ipc"] for each in members] for members in groups.values()] == [[1, 10], [10]]


def test_records_of_other_tasks_and_of_other_tools_are_not_in_the_table():
    others = [{"note": "from another tool"}, record(task="continual")]
    assert not any(map(is_accuracy_record, others))
    assert format_table([*others, record()]) == format_table([record()])


def test_a_name_with_line_breaks_stays_on_its_line():
    table = format_table([record(method="a\nb\r\nc", student="x\ty")])
    assert len(table.splitlines()) == 4 and table.splitlines()[-1].startswith("a b c")


def test_no_records_no_table():
    assert format_table([]) == ""


def test_records_of_other_tasks_that_earlier_versions_wrote_apart_are_read_too(tmp_path):
    (tmp_path / "results.json").write_text(
        json.dumps([record(task="accuracy"), record(task="transfer", config_hash="t")])
    )
    old = [record(config_hash="c"), record(config_hash="t", accuracy_mean=0.1)]
    for each, task in zip(old, ("continual", "transfer"), strict=True):
        del each["task"]  # the file's name said it
        (tmp_path / f"{task}.json").write_text(json.dumps([each]))
    records = read_results(tmp_path)
    assert [(entry["task"], entry["config_hash"]) for entry in records] == [
        ("accuracy", "aaa"),
        ("transfer", "t"),
        ("continual", "c"),
    ]
    assert records[1]["accuracy_mean"] == 0.5123, "the newer record counts"
    assert read_results(tmp_path / "continual.json") == old[:1]
    assert read_results(tmp_path / "nothing") == []
