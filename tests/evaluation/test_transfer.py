import json
import math

import pytest
import torch
from worlds import spec_of, without_times

from decoct.config import EvaluateConfig
from decoct.data.loading import load_images
from decoct.data.tensors import PixelDataset
from decoct.distilled.dataset import load_distilled
from decoct.evaluation.evaluate import evaluate, format_evaluation, plan_evaluate
from decoct.models.zoo import build_classifier
from decoct.results.tables import format_students_plan
from decoct.training.finetuning import fine_tune, replace_head
from decoct.training.protocols import load_protocol
from decoct.training.student import train_student


@pytest.fixture
def config(run_folder, sample_part):
    def make(**changes) -> EvaluateConfig:
        values = {"task": "transfer", "distilled": str(run_folder), "target_dataset": str(sample_part), "ipc": [3]}
        training = {"students": ["convnet3_w8"], "epochs": 2, "labels": ["tiles"], "protocols": ["rded_kd"], "seeds": 2}
        tuning = {"finetune_steps": 3, "finetune_batch_size": 16}
        return EvaluateConfig(**{**values, **training, **tuning, "baseline": False, **changes})

    return make


def same_weights(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_only_the_head_is_new(run_folder):
    distilled = load_distilled(run_folder, 3)
    student = build_classifier("convnet3_w8", distilled.spec, 5)
    train_student(student, distilled, load_protocol("rded_kd"), "tiles", seed=5, epochs=2)
    renewed = replace_head(student, "convnet3_w8", ["a", "b", "c", "d"], 5)
    assert renewed.head.out_features == 4
    assert renewed.spec.label_names == ("a", "b", "c", "d")
    assert (renewed.spec.mean, renewed.spec.std) == (student.spec.mean, student.spec.std)
    before, after = student.model.state_dict(), renewed.model.state_dict()
    heads = {"classifier.weight", "classifier.bias"}
    assert same_weights(*({name: each[name] for name in each.keys() - heads} for each in (before, after)))
    assert any("running_mean" in name for name in before.keys() - heads)
    # The control starts with the same head.
    assert torch.equal(renewed.head.weight, build_classifier("convnet3_w8", renewed.spec, 5).head.weight)
    assert not torch.equal(
        before["blocks.0.weight"], build_classifier("convnet3_w8", distilled.spec, 5).model.blocks[0].weight
    )


def test_a_target_with_as_many_classes_gets_a_new_head_too():
    student = build_classifier("convnet3_w8", spec_of(), 0)
    renewed = replace_head(student, "convnet3_w8", ["a", "b", "c"], 1)
    assert not torch.equal(renewed.head.weight, student.head.weight)
    assert torch.equal(renewed.model.blocks[0].weight, student.model.blocks[0].weight)


def test_fine_tuning_is_sgd_with_a_cosine(images, monkeypatch):
    pixels = PixelDataset(load_images(str(images), "train"), 16, 3)
    used = []
    step = torch.optim.SGD.step

    def watch(optimizer, *args, **kwargs):
        (group,) = optimizer.param_groups
        used.append((group["lr"], group["momentum"], group["weight_decay"]))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watch)
    losses = fine_tune(build_classifier("convnet3_w8", spec_of()), pixels, steps=5, batch_size=20, learning_rate=0.01)
    rates = [0.01 * 0.5 * (1 + math.cos(math.pi * done / 5)) for done in range(5)]
    assert used == [(pytest.approx(rate), 0.9, 5e-4) for rate in rates]
    assert len(losses) == 5


def test_fine_tuning_depends_on_its_arguments_alone(images):
    pixels = PixelDataset(load_images(str(images), "train"), 16, 3)

    def tuned(seed: int):
        student = build_classifier("convnet3_w8", spec_of())
        losses = fine_tune(student, pixels, steps=4, batch_size=100, learning_rate=0.01, seed=seed)
        return losses, student.model.state_dict()

    torch.manual_seed(1)
    (losses, weights), state = tuned(0), torch.get_rng_state()
    torch.manual_seed(2)
    again, other = tuned(0), tuned(1)
    assert losses == again[0] and same_weights(weights, again[1])
    assert losses != other[0]
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers must not change"


def test_a_loss_that_is_not_finite_ends_fine_tuning(images):
    pixels = PixelDataset(load_images(str(images), "train"), 16, 3)
    student = build_classifier("convnet3_w8", spec_of())
    with pytest.raises(ValueError, match=r"Losses must be finite\. Got (inf|nan) at step [23]\."):
        fine_tune(student, pixels, steps=3, batch_size=32, learning_rate=1e38)


def test_fine_tuning_learns(images):
    pixels = PixelDataset(load_images(str(images), "train"), 16, 3)
    losses = fine_tune(build_classifier("convnet3_w8", spec_of()), pixels, steps=30, batch_size=32, learning_rate=0.05)
    assert sum(losses[-5:]) < sum(losses[:5])


def test_one_record_per_setting_with_its_control(config, run_folder, sample_part):
    records = evaluate(config(labels=["tiles", "hard"], seed=3))
    assert [record["labels"] for record in records] == ["tiles", "hard"]
    assert json.loads((run_folder / "results.json").read_text()) == records
    for record in records:
        assert (record["task"], record["method"], record["epoch"]) == ("transfer", "infoutil", "last")
        assert (record["ipc"], record["tiles"], record["seeds"]) == (3, 4, [3, 4])
        assert record["target_dataset"] == str(sample_part)
        assert record["overrides"] == {"epochs": 2}
        tuning = record["finetune"]
        assert (tuning["steps"], tuning["batch_size"], tuning["images"]) == (3, 16, 96)
        for part in (record, record["scratch"]):
            assert len(part["accuracies"]) == 2 and all(0 <= value <= 1 for value in part["accuracies"])
            assert part["accuracy_mean"] == pytest.approx(sum(part["accuracies"]) / 2)
    assert records[0]["scratch"] == records[1]["scratch"]
    assert len(list((run_folder / "evaluation").glob("pretrained-*.safetensors"))) == 4
    assert len(list((run_folder / "evaluation").glob("transfer-*.json"))) == 6, "the control is shared"


def test_pretraining_makes_a_difference(config, images):
    (record,) = evaluate(config(target_dataset=str(images), epochs=40, labels=["views"], seeds=1))
    assert record["accuracies"] != record["scratch"]["accuracies"]


def test_random_images_stand_beside_the_set(config, run_folder, images):
    (alone,) = evaluate(config(dataset=str(images)))
    plan = plan_evaluate(config(dataset=str(images), baseline=True))
    assert [(row["title"].endswith("random images"), row["students"], row["done"]) for row in plan] == [
        (False, 0, 2),
        (True, 2, 0),
        (False, 0, 2),
    ]
    (record,) = evaluate(config(dataset=str(images), baseline=True))
    for name in ("accuracies", "scratch", "config_hash"):
        assert record[name] == alone[name]
    assert json.loads((run_folder / "results.json").read_text()) == [record]
    (folder,) = run_folder.parent.glob("random-*")
    assert len(list((folder / "evaluation").glob("pretrained-*.safetensors"))) == 2
    assert len(list((run_folder / "evaluation").glob("pretrained-*.safetensors"))) == 2
    assert record["baseline"]["seeds"] == [0, 1] and len(record["baseline"]["accuracies"]) == 2
    lines = format_evaluation([record]).splitlines()
    assert "random %" in lines[1] and "InfoUtil is level with random images" in lines[-1]
    assert "was not compared with random images: turned off" in format_evaluation([alone])


def test_the_manifest_names_the_source_where_the_command_does_not(config, run_folder, images):
    with pytest.raises(ValueError, match=r"(?s)training split of sample.*--dataset.*--no_baseline"):
        evaluate(config(baseline=True))
    manifest = json.loads((run_folder / "manifest.json").read_text())
    manifest["config"] |= {"dataset": str(images), "train_split": "train", "image_size": None}
    (run_folder / "manifest.json").write_text(json.dumps(manifest))
    plan = plan_evaluate(config(baseline=True))
    assert [row["students"] for row in plan] == [2, 2, 2]


def test_a_rerun_trains_only_what_is_missing(config, run_folder, image_folder):
    first = evaluate(config())
    folder = run_folder / "evaluation"
    weights = {file: file.stat().st_mtime_ns for file in folder.glob("pretrained-*")}
    students = sorted(folder.glob("transfer-*.json"))
    students[0].unlink()
    times = {file: file.stat().st_mtime_ns for file in students[1:]}
    again = evaluate(config())
    assert without_times(again) == without_times(first)
    (other,) = evaluate(config(target_dataset=str(image_folder), finetune_batch_size=100))
    assert other["finetune"]["batch_size"] == 24, "the batch is at most the target's training split"
    assert all(file.stat().st_mtime_ns == time for file, time in [*times.items(), *weights.items()])
    for file in weights:
        file.unlink()
    for file in students:
        file.unlink()
    assert without_times(evaluate(config())) == without_times(first)
    assert len(json.loads((run_folder / "results.json").read_text())) == 2


def test_colour_becomes_grey(sample_part, trained_teacher, image_folder, tmp_path):
    from decoct.config import DistillConfig
    from decoct.synthesis.distill import distill

    run = tmp_path / "grey"
    settings = {"method": "random", "ipc": [1], "slots": 0, "tiles_per_image": 1}
    distill(DistillConfig(dataset=str(sample_part), teacher=str(trained_teacher), output_dir=str(run), **settings))
    (record,) = evaluate(
        EvaluateConfig(
            task="transfer",
            distilled=str(run),
            target_dataset=str(image_folder),
            students=["convnet3_w8"],
            protocols=["igds_transfer"],
            labels=["hard"],
            epochs=1,
            finetune_steps=1,
        )
    )
    assert (record["dataset"], record["target_eval_split"]) == (str(sample_part), "test")
    assert (record["protocol"], record["finetune"]["images"]) == ("igds_transfer", 24)


def test_the_protocol_is_the_papers():
    protocol = load_protocol("igds_transfer")
    assert (protocol.optimizer, protocol.learning_rate, protocol.momentum) == ("sgd", 0.1, 0.9)
    assert (protocol.weight_decay, protocol.batch_sizes, protocol.epochs) == (1e-3, {1: 256}, 1000)


def test_dry_run_counts_and_writes_nothing(config, run_folder):
    before = sorted(run_folder.rglob("*"))
    plan = plan_evaluate(config())
    assert sorted(run_folder.rglob("*")) == before
    # Two seeds: two epochs of nine images, three steps of sixteen.
    assert [(row["students"], row["images_seen"]) for row in plan] == [(2, 2 * (2 * 9 + 3 * 16)), (2, 2 * 3 * 16)]
    assert "no pre-training: 2 students to train" in format_students_plan(plan)


def test_the_table_shows_the_gain():
    record = {
        **{"task": "transfer", "dataset": "colours", "method": "igds", "ipc": 10, "tiles": 1, "student": "convnet3"},
        **{"epoch": "last"},
        **{"protocol": "igds_transfer", "labels": "hard", "overrides": {}, "target_dataset": "birds"},
        **{"finetune": {"steps": 5000, "batch_size": 256, "learning_rate": 0.01}, "seeds": [0, 1]},
        **{"accuracy_mean": 0.252, "accuracy_std": 0.005, "accuracies": [0.249, 0.255]},
        **{"baseline": None, "baseline_note": "turned off by --no_baseline"},
        "scratch": {"accuracy_mean": 0.2, "accuracy_std": 0.001},
    }
    text = format_evaluation([record])
    assert "25.2 ± 0.5" in text and "20.0 ± 0.1" in text and "+5.2" in text and "birds" in text
    longer = {**record, "finetune": {**record["finetune"], "steps": 10_000}}
    assert format_evaluation([record, longer]).count("from scratch %") == 2


def test_clear_errors_before_any_training(config, run_folder):
    with pytest.raises(ValueError, match="target_dataset must be given"):
        config(target_dataset=None)
    with pytest.raises(ValueError, match="dataset must be a Hub id"):
        evaluate(config(target_dataset=str(run_folder / "nowhere")))
    with pytest.raises(ValueError, match="label_column must be one of"):
        evaluate(config(target_label_column="kind"))
    with pytest.raises(ValueError, match="epoch must be 'last'"):
        evaluate(config(epoch="best"))
    with pytest.raises(ValueError, match="'igds_transfer' is defined for"):
        evaluate(config(protocols=["igds_transfer"]))
    assert not (run_folder / "evaluation").exists()
