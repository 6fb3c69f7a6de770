import json
import re
import shutil
from importlib.resources import files

import pytest
from worlds import coloured, encoded, labelled, spec_of, without_times, write_images

from decoct.config import EvaluateConfig
from decoct.evaluation.evaluate import evaluate, format_evaluation, plan_evaluate
from decoct.models.zoo import build_classifier
from decoct.results.tables import format_students_plan, format_table

KEYS = """task dataset method ipc tiles student protocol protocol_settings labels teacher teacher_model
teacher_accuracy epoch accuracy_mean accuracy_std accuracies seeds seconds device versions overrides
config_hash baseline baseline_note eval_split dd_ranking""".split()


@pytest.fixture
def config(run_folder, images):
    def make(**changes) -> EvaluateConfig:
        values = {"distilled": str(run_folder), "dataset": str(images), "students": ["convnet3_w8"], "epochs": 3}
        plain = {"baseline": False, "ranking": False}
        return EvaluateConfig(**{**values, "labels": ["views"], "protocols": ["rded_kd"], **plain, **changes})

    return make


def test_one_record_per_setting(config, run_folder, teacher):
    records = evaluate(config(labels=["tiles", "online"], seeds=2, seed=5))
    assert [(record["ipc"], record["labels"]) for record in records] == [
        (1, "tiles"),
        (1, "online"),
        (3, "tiles"),
        (3, "online"),
    ]
    for record in records:
        assert list(record) == KEYS
        assert record["seeds"] == [5, 6] and len(record["accuracies"]) == 2
        assert record["accuracy_mean"] == pytest.approx(sum(record["accuracies"]) / 2)
        assert (record["method"], record["tiles"], record["protocol"]) == ("infoutil", 4, "rded_kd")
        assert record["overrides"] == {"epochs": 3}
        assert record["teacher"] == teacher["name"] and 0 <= record["teacher_accuracy"] <= 1
        assert (record["task"], record["teacher_model"]) == ("accuracy", "convnet3_w8")
        assert (record["eval_split"], record["baseline"], record["dd_ranking"]) == ("test", None, None)
        assert record["baseline_note"] == "turned off by --no_baseline"
    assert json.loads((run_folder / "results.json").read_text()) == records
    assert len({record["config_hash"] for record in records}) == 4
    table = format_table(records)
    assert "online" in table and "epochs=3" in table
    report = format_evaluation(records)
    assert report.startswith(table) and report.count("turned off by --no_baseline") == 4
    assert (run_folder / "report.html").is_file()


def test_protocols_train_the_label_modes_they_are_defined_for(config):
    records = evaluate(config(ipc=[1], labels=["tiles", "hard"], protocols=["rded_kd", "minimax_hard"]))
    assert [(record["protocol"], record["labels"], record["student"]) for record in records] == [
        ("rded_kd", "tiles", "convnet3_w8"),
        ("rded_kd", "hard", "convnet3_w8"),
        ("minimax_hard", "hard", "convnet3_instance_w8"),
    ]
    with pytest.raises(ValueError, match=r"labels must hold one of \['hard'\].*'minimax_hard'.*Got \['tiles'\]"):
        evaluate(config(labels=["tiles"], protocols=["rded_kd", "minimax_hard"]))


def test_epochs_are_the_protocols_unless_given(config, tmp_path):
    text = (files("decoct.presets") / "protocols" / "rded_kd.yaml").read_text()
    changed = text.replace("name: rded_kd", "name: short").replace("epochs: 300", "epochs: {1: 2, 3: 4}")
    (tmp_path / "short.yaml").write_text(changed)
    short = {"protocols": [str(tmp_path / "short.yaml")], "labels": ["hard"]}
    plan = plan_evaluate(config(epochs=None, **short))
    assert [(row["title"][:5], row["images_seen"]) for row in plan] == [("IPC 1", 3 * 2), ("IPC 3", 9 * 4)]
    records = evaluate(config(epochs=4, **short))
    assert [(record["protocol"], record["overrides"]) for record in records] == [
        ("short", {"epochs": 4}),
        ("short", {}),
    ]
    with pytest.raises(ValueError, match="'short' twice"):
        (tmp_path / "other.yaml").write_text(changed)
        evaluate(config(protocols=[*short["protocols"], str(tmp_path / "other.yaml")]))


def test_a_limit_of_steps_is_the_same_for_few_and_for_many_images(config):
    budget = {"epochs": None, "max_steps": 5, "labels": ["hard"], "protocols": ["strong_kd"]}
    plan = plan_evaluate(config(**budget))
    # Batches of 10: an epoch of 3 images is a step, and so is one of 9.
    assert [(row["title"][:5], row["images_seen"]) for row in plan] == [("IPC 1", 3 * 5), ("IPC 3", 9 * 5)]
    (record,) = evaluate(config(**budget, ipc=[1]))
    assert record["overrides"] == {"max_steps": 5}
    (other,) = evaluate(config(epochs=5, ipc=[1], labels=["hard"], protocols=["strong_kd"]))
    assert other["accuracies"] == record["accuracies"] and other["config_hash"] != record["config_hash"]
    (paper,) = plan_evaluate(config(epochs=None, max_steps=7, ipc=[3], labels=["hard"], protocols=["rded_kd"]))
    assert paper["images_seen"] == 9 * 7  # in place of 300 epochs
    (shorter,) = evaluate(config(epochs=2, max_steps=5, ipc=[1], labels=["hard"], protocols=["strong_kd"]))
    assert shorter["overrides"] == {"epochs": 2}  # a limit that is not reached is none
    with pytest.raises(ValueError, match="max_steps must be at least 1. Got 0"):
        config(epochs=None, max_steps=0)


def test_the_moving_average_is_measured(config, tmp_path):
    text = (
        (files("decoct.presets") / "protocols" / "rded_kd.yaml").read_text().replace("name: rded_kd", "name: averaged")
    )
    accuracies = []
    for decay in ("0", "0.9999"):
        (tmp_path / "ema.yaml").write_text(re.sub("ema_decay: 0(?!\\.)", f"ema_decay: {decay}", text))
        (record,) = evaluate(config(ipc=[3], epochs=40, labels=["views"], protocols=[str(tmp_path / "ema.yaml")]))
        accuracies.append(record["accuracy_mean"])
    # Such an average has hardly left the initial weights.
    assert accuracies[0] > 0.6 > accuracies[1]


def test_students_learn(config):
    (record,) = evaluate(config(ipc=[3], epochs=40, labels=["views"]))
    assert record["accuracy_mean"] > 0.6


def test_a_rerun_continues_and_ends_with_the_same_records(config, run_folder):
    settings = {"ipc": [3], "labels": ["views", "hard"], "seeds": 2}
    first = evaluate(config(**settings))
    files = sorted((run_folder / "evaluation").glob("[!t]*.json"))
    assert len(files) == 4
    times = {file: file.stat().st_mtime_ns for file in files}
    for file in files[:2]:
        file.unlink()
    again = evaluate(config(**settings))
    assert without_times(again) == without_times(first)
    assert [file.stat().st_mtime_ns == times[file] for file in files] == [False, False, True, True]
    shutil.rmtree(run_folder / "evaluation")
    assert without_times(evaluate(config(**settings))) == without_times(first)
    assert len(json.loads((run_folder / "results.json").read_text())) == 2


def test_other_settings_add_records_and_lose_none(config, run_folder, tmp_path):
    evaluate(config(ipc=[1], labels=["tiles"]))
    evaluate(config(ipc=[1], labels=["tiles"], rrc_scale=0.3))
    evaluate(config(ipc=[1], labels=["tiles"], seeds=2))
    records = json.loads((run_folder / "results.json").read_text())
    three = {"epochs": 3}
    assert [record["overrides"] for record in records] == [three, {**three, "rrc_scale": 0.3}, three]
    assert [len(record["seeds"]) for record in records] == [1, 1, 2]
    evaluate(config(ipc=[1], labels=["tiles"], output_dir=str(tmp_path / "elsewhere")))
    assert len(json.loads((tmp_path / "elsewhere" / "results.json").read_text())) == 1


def test_a_protocol_file_that_changed_gets_a_table_of_its_own(config, run_folder, tmp_path):
    shipped = (files("decoct.presets") / "protocols" / "rded_kd.yaml").read_text()
    file = tmp_path / "mine.yaml"
    for temperature in (20, 4):
        mine = shipped.replace("name: rded_kd", "name: mine")
        file.write_text(mine.replace("temperature: 20", f"temperature: {temperature}"))
        evaluate(config(ipc=[1], protocols=[str(file)]))
    evaluate(config(ipc=[1]))
    records = json.loads((run_folder / "results.json").read_text())
    assert [record["protocol"] for record in records] == ["mine", "mine", "rded_kd"]
    settings = [record["protocol_settings"] for record in records]
    assert settings[0] != settings[1] and settings[2] is None
    headings = [table.splitlines()[0] for table in format_table(records).split("\n\n")]
    assert len(headings) == 3 and sum(f"mine (settings {settings[0]}, epochs=3)" in line for line in headings) == 1


def test_views_have_their_own_crops(config):
    (record,) = evaluate(config(ipc=[1], labels=["views"], rrc_scale=0.3))
    assert record["overrides"] == {"epochs": 3}


def test_the_best_epoch_is_at_least_as_good_as_the_last(config):
    settings = {"ipc": [3], "epochs": 12, "labels": ["tiles"]}
    (last,), (best,) = evaluate(config(**settings)), evaluate(config(**settings, epoch="best"))
    assert best["accuracy_mean"] >= last["accuracy_mean"]
    assert (last["epoch"], best["epoch"]) == ("last", "best")


def test_dry_run_counts_and_writes_nothing(config, run_folder):
    before = sorted(run_folder.rglob("*"))
    plan = plan_evaluate(config(seeds=2))
    assert sorted(run_folder.rglob("*")) == before
    titles = [f"IPC {ipc}, convnet3_w8, rded_kd, views labels" for ipc in (1, 3)]
    rows = [(row["title"], row["students"], row["images_seen"]) for row in plan]
    assert rows == [(titles[0], 2, 2 * 9), (titles[1], 2, 2 * 27)]
    assert all(row["seconds"] > 0 for row in plan)
    assert "2 students to train" in format_students_plan(plan)


def test_online_needs_the_teacher_that_labelled(config, make_run, teacher, tmp_path):
    gone = make_run("gone", [1], {"name": str(tmp_path / "moved"), "fingerprint": "0"})
    changed = make_run("changed", [1], {**teacher, "fingerprint": "0"})
    unnamed = make_run("unnamed", [1], None)
    for folder, reason in ((gone, "moved"), (changed, "not those that labelled"), (unnamed, "names no teacher")):
        with pytest.raises(ValueError, match=rf"(?s)'online'.*{reason}.*--teacher"):
            evaluate(config(distilled=str(folder), labels=["online"]))
        (record,) = evaluate(config(distilled=str(folder), labels=["tiles"]))
        assert record["teacher_accuracy"] is None
    (record,) = evaluate(config(distilled=str(changed), labels=["online"], teacher=teacher["name"]))
    assert record["teacher"] == teacher["name"] and record["teacher_accuracy"] is not None


def test_stored_labels_are_stated_as_the_labellers_whoever_is_asked_beside(config, make_run, teacher, tmp_path):
    other = build_classifier("convnet3_w16", spec_of(), seed=8)
    other.model.save_pretrained(tmp_path / "other")
    records = evaluate(config(ipc=[1], labels=["tiles", "online"], teacher=str(tmp_path / "other")))
    named = {record["labels"]: (record["teacher"], record["teacher_model"]) for record in records}
    assert named == {
        "tiles": (teacher["name"], "convnet3_w8"),
        "online": (str(tmp_path / "other"), "convnet3_w16"),
    }
    (alone,) = evaluate(config(ipc=[1], labels=["tiles"]))
    assert alone["teacher_accuracy"] == records[0]["teacher_accuracy"]
    unnamed = str(make_run("unnamed", [1], None))
    (record,) = evaluate(config(distilled=unnamed, labels=["tiles"], teacher=teacher["name"]))
    assert record["teacher"] is record["teacher_accuracy"] is None


def test_clear_errors_before_any_training(config, run_folder, make_run, make_images, teacher):
    with pytest.raises(ValueError, match=r"ipc must be one of \[1, 3\]"):
        evaluate(config(ipc=[10]))
    with pytest.raises(ValueError, match="^students must be one of"):
        evaluate(config(students=["lenet"]))
    with pytest.raises(ValueError, match="protocol must be one of"):
        evaluate(config(protocols=["mine"]))
    with pytest.raises(ValueError, match="--views"):
        evaluate(config(distilled=str(make_run("bare", [1], teacher, views=0)), labels=["views"]))
    with pytest.raises(ValueError, match="another order"):
        evaluate(config(dataset=str(make_images("swapped", ["green", "red", "blue"]))))
    assert not (run_folder / "evaluation").exists()


def test_classes_that_nothing_is_measured_on_are_said(config, tmp_path, caplog):
    folder = write_images(tmp_path / "fewer", count=9)
    labelled(encoded(coloured([0, 1])), [0, 1]).to_parquet(folder / "test.parquet")
    plan_evaluate(config(dataset=str(folder)))
    assert (
        "1 of 3 classes have no image in the split 'test'" in caplog.text and "measured on them: blue." in caplog.text
    )


def test_accuracies_on_another_split_share_no_table_with_those_on_the_test_split(config):
    settings = {"ipc": [3], "labels": ["hard"], "epochs": 1}
    records = [record for split in ("test", "train") for record in evaluate(config(eval_split=split, **settings))]
    assert [record["eval_split"] for record in records] == ["test", "train"]
    titles = [line for line in format_table(records).splitlines() if "protocol rded_kd" in line]
    assert len(titles) == 2 and ["(train split)" in title for title in titles] == [False, True]
