"""The study of contextual information, from scores to the figure, and the figures themselves."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from worlds import without_times

from decoct.arguments import parse_config
from decoct.config import BetaStudyConfig
from decoct.data.loading import load_images, measure_spec
from decoct.evaluation.beta_study import beta_study, plan_beta_study
from decoct.igds.loading import build_estimator
from decoct.igds.measuring import embed
from decoct.igds.probe import fit_linear_classifier
from decoct.igds.subsets import score_images
from decoct.results.figures import save_beta_study
from decoct.results.tables import format_study, format_study_plan


@pytest.fixture(scope="module")
def estimator(tmp_path_factory, sample_part) -> str:
    """A saved estimator of `sample_part`: an encoder that was not trained, and a classifier that was."""
    images = load_images(str(sample_part), "train")
    network = build_estimator("resnet10_w8", measure_spec(images), 16, seed=1).eval()
    features = []
    hook = network.classifier.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
    labels = embed(images, network).labels
    hook.remove()
    weight, bias = fit_linear_classifier(torch.cat(features).numpy(), labels.numpy(), 4)
    network.classifier.weight.data.copy_(weight)
    network.classifier.bias.data.copy_(bias)
    folder = tmp_path_factory.mktemp("estimator")
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(sample_part, estimator, tmp_path):
    def make(**changes) -> BetaStudyConfig:
        values = {
            "dataset": str(sample_part),
            "estimator": estimator,
            "output_dir": str(tmp_path / "study"),
            "students": ["convnet3_w8"],
            "ipc": [1, 3],
            "targets": 2,
            "epochs": 2,
        }
        return BetaStudyConfig(**{**values, **changes})

    return make


def test_the_study_ends_with_records_a_figure_and_the_best(config, tmp_path, estimator, sample_part):
    result = beta_study(config(seeds=2, sharpness=500.0))
    folder = tmp_path / "study"
    assert json.loads((folder / "study.json").read_text()) == result
    assert Image.open(folder / "figure2.png").size[0] > 500
    assert len(list((folder / "units").glob("*.json"))) == 8
    assert [(record["ipc"], record["seeds"]) for record in result["records"]] == [(1, [0, 1])] * 2 + [(3, [0, 1])] * 2
    low, high = result["targets"]
    for ipc in (1, 3):
        first, second = (record for record in result["records"] if record["ipc"] == ipc)
        assert (first["target"], second["target"]) == (low, high)
        assert first["contextual"] < second["contextual"]
        best = max((first, second), key=lambda record: record["accuracy_mean"])
        assert [each for each in result["best"] if each["ipc"] == ipc] == [best]
    assert all(record["contextual_to_itself"] == pytest.approx(0, abs=1e-6) for record in result["records"][:2])
    assert all(0 < record["contextual_to_itself"] < record["contextual"] + 0.2 for record in result["records"][2:])
    assert all(0 <= accuracy <= 1 for record in result["records"] for accuracy in record["accuracies"])
    for record in result["records"]:
        assert (record["task"], record["method"], record["epoch"]) == ("accuracy", "subset", "last")
        assert record["dataset"] == str(sample_part) and record["teacher_accuracy"] is None
    assert result["overrides"] == {"epochs": 2}
    assert 4 * 3 <= result["correct"] <= result["images"] == 96
    table = format_study(result)
    assert table.count("best") == 2 and "sharpness 500" in table and f"{high:.3f}" in table


def test_a_rerun_continues_and_ends_with_the_same_records(config, tmp_path):
    first = beta_study(config())
    files = sorted((tmp_path / "study" / "units").glob("*.json"))
    times = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    again = beta_study(config())
    assert without_times(again["records"]) == without_times(first["records"])
    assert [file.stat().st_mtime_ns == times[file] for file in files] == [False, True, True, True]
    shutil.rmtree(tmp_path / "study")
    assert without_times(beta_study(config(batch_size=7))["records"]) == without_times(first["records"])


def test_more_seeds_keep_what_is_done(config, tmp_path):
    beta_study(config(ipc=[1]))
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "study" / "units").glob("*.json")}
    beta_study(config(ipc=[1, 2]))
    assert all(file.stat().st_mtime_ns == time for file, time in files.items())
    assert len(list((tmp_path / "study" / "units").glob("*.json"))) == 4
    beta_study(config(ipc=[1], epochs=1))
    assert len(list((tmp_path / "study" / "units").glob("*.json"))) == 6


def test_online_labels_come_from_the_teacher(config, trained_teacher):
    result = beta_study(config(ipc=[1], labels="online", teacher=str(trained_teacher)))
    assert {record["labels"] for record in result["records"]} == {"online"}
    assert all(0 < record["teacher_accuracy"] <= 1 for record in result["records"])
    hard = beta_study(config(ipc=[1]))
    assert hard["targets"] == result["targets"]


def test_the_papers_weights_are_said_to_reach_little(config, caplog):
    beta_study(config(ipc=[1], epochs=1))
    assert "hardly differ" in caplog.text and "sharpness of" in caplog.text
    caplog.clear()
    beta_study(config(ipc=[1], epochs=1, sharpness=1e6))
    assert "hardly differ" not in caplog.text


def test_a_dry_run_counts_and_writes_nothing(config, tmp_path):
    plan = plan_beta_study(config(seeds=3))
    assert not list(tmp_path.iterdir())
    assert plan["forward_passes"] == 96 + 2 * 3 * 4 * (1 + 3)
    rows = [(row["title"], row["students"], row["done"], row["images_seen"]) for row in plan["students"]]
    titles = [f"IPC {ipc}, convnet3_w8, rded_kd, hard labels" for ipc in (1, 3)]
    assert rows == [(titles[0], 6, 0, 6 * 8), (titles[1], 6, 0, 6 * 24)]
    assert all(row["seconds"] > 0 for row in plan["students"])
    assert "6 students to train" in format_study_plan(plan)
    beta_study(config(ipc=[1]))
    plan = plan_beta_study(config())
    assert [(row["students"], row["done"]) for row in plan["students"]] == [(0, 2), (2, 0)]
    assert plan["students"][0]["seconds"] == 0 < plan["students"][1]["seconds"]
    assert plan["forward_passes"] == 2 * 3 * 4


def test_clear_errors_before_any_training(config, tmp_path, image_folder, trained_teacher):
    with pytest.raises(ValueError, match="at least 25 images"):
        beta_study(config(ipc=[25]))
    with pytest.raises(ValueError, match="Label names"):
        beta_study(config(dataset=str(image_folder)))
    with pytest.raises(ValueError, match="students must be one of"):
        beta_study(config(students=["lenet"]))
    with pytest.raises(ValueError, match="protocol must be one of"):
        beta_study(config(protocol="mine"))
    with pytest.raises(ValueError, match="'minimax_hard'.*Got 'online'"):
        beta_study(config(protocol="minimax_hard", labels="online", teacher=str(trained_teacher)))
    assert not list(tmp_path.iterdir())


def test_the_protocol_sets_norm_and_epochs(config):
    result = beta_study(config(protocol="igds_adam", ipc=[1], epochs=1))
    assert {record["student"] for record in result["records"]} == {"convnet3_instance_w8"}
    assert (result["overrides"], result["records"][0]["protocol"]) == ({"epochs": 1}, "igds_adam")


def test_too_few_correct_images_name_the_class(config, estimator, tmp_path, sample_part):
    from decoct.igds.loading import load_estimator

    blind = load_estimator(estimator)
    blind.classifier.bias.data[2] -= 1e6
    blind.save_pretrained(tmp_path / "blind")
    images = load_images(str(sample_part), "train")
    names = images.features["label"].names
    assert len(score_images(embed(images, blind), 0.07, names).members(2)) == 0
    with pytest.raises(ValueError, match=rf"{names[2]} \(0\)"):
        beta_study(config(estimator=str(tmp_path / "blind")))
    assert not (tmp_path / "study" / "units").exists()


def test_the_script(launch, scripts, sample_part, estimator, tmp_path):
    data = ["--dataset", sample_part, "--estimator", estimator, "--output_dir", "study"]
    size = ["--ipc", 1, "--targets", 2, "--epochs", 1, "--students", "convnet3_w8"]
    done = launch(scripts / "beta_study.py", *data, *size, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best" in done.stdout and "convnet3_w8" in done.stdout
    assert done.stdout.rstrip().endswith("See   study/figure2.png, study/study.json")
    names = {path.name for path in (tmp_path / "study").iterdir()}
    assert {"study.json", "figure2.png", "units"} < names


def test_online_labels_without_a_teacher_are_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(BetaStudyConfig, ["--labels", "online"])
    assert stop.value.code == 2
    assert "teacher must be given for online labels. Got None." in capsys.readouterr().err


# Figures


def test_figure_2_of_several_students(tmp_path):
    records = [
        {"student": student, "ipc": ipc, "contextual": score, "accuracy_mean": score / ipc, "accuracy_std": 0.01}
        for student in ("convnet3", "resnet18")
        for ipc in (1, 10)
        for score in (0.5, 0.1, 0.3)
    ]
    save_beta_study(tmp_path / "two.png", records)
    save_beta_study(tmp_path / "one.png", records[:6])
    two, one = Image.open(tmp_path / "two.png"), Image.open(tmp_path / "one.png")
    assert two.size[0] == one.size[0] and two.size[1] == 2 * one.size[1]
    with pytest.raises(ValueError, match="Got none"):
        save_beta_study(tmp_path / "none.png", [])
