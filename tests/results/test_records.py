import json
import statistics

import pytest

from decoct.results.records import (
    group_by_setting,
    is_accuracy_record,
    merge_records,
    read_results,
    require_one_setting,
    setting_of,
)
from decoct.results.statistics import difference_interval, mean_and_std, verdict
from decoct.results.tables import format_table


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


def baseline(*accuracies):
    mean, std = mean_and_std(accuracies)
    seeds = list(range(len(accuracies)))
    return {"accuracy_mean": mean, "accuracy_std": std, "accuracies": list(accuracies), "seeds": seeds}


def measured(*accuracies, random=None, **changes):
    return record(**baseline(*accuracies), baseline=random, **changes)


def test_a_table_states_what_each_number_is():
    heading, columns, _, line = format_table([record(baseline=baseline(0.4, 0.5))]).splitlines()
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


def test_the_interval_of_a_difference():
    # Equal variances of 1e-4 and 3 values each: Welch's t has 4 degrees of freedom, whose 97.5 % quantile is 2.776.
    half = 2.776 * (2 * 0.01**2 / 3) ** 0.5
    interval = difference_interval([0.58, 0.59, 0.60], [0.53, 0.54, 0.55])
    assert interval == pytest.approx((0.05 - half, 0.05 + half), abs=1e-5)
    assert difference_interval([0.4], [0.1, 0.2]) is None
    assert difference_interval([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25)


def test_the_verdict_says_by_how_much_and_against_which_spread():
    wins = verdict(measured(0.58, 0.59, 0.60, random=baseline(0.53, 0.54, 0.55)))
    assert wins == (
        "InfoUtil beats random images by 5.0 points (59.0 against 54.0; 3 and 3 seeds; 95 % interval of the "
        "difference +2.7 to +7.3)."
    )
    loses = verdict(measured(0.40, 0.41, random=baseline(0.50, 0.51), method="k_center"))
    assert loses.startswith("K-center is beaten by random images by 10.0 points (40.5 against 50.5; 2 and 2 seeds; ")


def test_a_difference_whose_interval_holds_zero_is_level():
    above = verdict(measured(0.50, 0.52, random=baseline(0.49, 0.51)))
    assert above.startswith("InfoUtil is level with random images, as far as the seeds tell (+1.0 points, ")
    # More than two standard errors, but two seeds a side know their spread too badly.
    assert "is level with" in verdict(measured(0.50, 0.52, random=baseline(0.46, 0.48)))
    assert "is level with" in verdict(measured(0.5, 0.5, random=baseline(0.5, 0.5)))


@pytest.mark.parametrize(("own", "random"), [([0.6], [0.5, 0.51]), ([0.6, 0.61], [0.5]), ([0.4], [0.5])])
def test_with_one_seed_the_spread_is_unknown_and_nobody_wins(own, random):
    sentence = verdict(measured(*own, random=baseline(*random)))
    assert "the spread is unknown" in sentence and "beat" not in sentence
    assert ("above" if own[0] > 0.5 else "below") in sentence


def test_without_a_baseline_the_verdict_says_why():
    note = "the teacher is out of reach: no such folder"
    assert verdict(record(baseline=None, baseline_note=note)).endswith(f"not compared with random images: {note}.")
    assert "none is recorded" in verdict(record())
    assert "themselves" in verdict(record(method="random"))
