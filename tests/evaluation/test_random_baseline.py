"""Random images beside every distilled set: what they are, who shares them, and what follows from them."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch

from decoct.config import EvaluateConfig
from decoct.distilled.dataset import load_distilled
from decoct.evaluation import run as students
from decoct.evaluation.evaluate import evaluate, format_evaluation, plan_evaluate
from decoct.models.zoo import load_classifier
from decoct.results.ranking import label_robust_score
from decoct.results.tables import format_students_plan


@pytest.fixture
def config(run_folder, images):
    def make(**changes) -> EvaluateConfig:
        values = {"distilled": str(run_folder), "dataset": str(images), "students": ["convnet3_w8"], "epochs": 2}
        stored = {"labels": ["views"], "protocols": ["rded_kd"]}
        return EvaluateConfig(**{**values, **stored, "ipc": [1], "ranking": False, **changes})

    return make


@pytest.fixture
def trained(monkeypatch):
    """Number of images of every set that a student is trained on."""
    sizes: list[int] = []
    train_student = students.train_student

    def train(student, distilled, *arguments, **options):
        sizes.append(len(distilled))
        return train_student(student, distilled, *arguments, **options)

    monkeypatch.setattr(students, "train_student", train)
    return sizes


def change_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


def folders(tmp_path, pattern="ipc_*"):
    return sorted(tmp_path.glob(f"random-*/{pattern}"))


def counts(plan):
    return [(row["title"].endswith("random images"), row["students"], row["done"]) for row in plan]


def test_draws_are_random_training_images_packed_and_labelled_like_the_set(
    config, run_folder, images, teacher, tmp_path
):
    (record,) = evaluate(config(ipc=[3], seeds=2, seed=5))
    assert record["baseline"]["seeds"] == record["seeds"] == [5, 6]
    assert len(record["baseline"]["accuracies"]) == 2
    assert record["baseline"]["accuracy_mean"] == pytest.approx(sum(record["baseline"]["accuracies"]) / 2)
    assert record["baseline"]["config_hash"] != record["config_hash"] and record["baseline_note"] == ""
    first, second = folders(tmp_path)
    assert (first.name[:12], second.name[:12]) == ("ipc_3-draw_5", "ipc_3-draw_6")
    drawn, distilled = load_distilled(first, 3), load_distilled(run_folder, 3)
    assert drawn.labels.tolist() == distilled.labels.tolist()
    for name in ("images", "tile_logits", "view_logits", "view_boxes"):
        assert getattr(drawn, name).shape == getattr(distilled, name).shape
    assert drawn.fingerprint() != load_distilled(second, 3).fingerprint()
    source = datasets.load_dataset(str(images), split="train")
    rows = datasets.load_dataset(str(first), "ipc_3", split="train")
    sources = [tile["source_index"] for tiles in rows["tiles"] for tile in tiles]
    assert len(set(sources)) == len(sources) == 9 * 4
    assert [source["label"][row] for row in sources] == np.repeat(rows["label"][:], 4).tolist()
    classifier = load_classifier(teacher["name"])
    quarter = drawn.images[0, :, :8, :8].float()[None] / 255
    tile = torch.nn.functional.interpolate(quarter, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(classifier(tile)[0], drawn.tile_logits[0, 0], atol=2e-2, rtol=1e-2)


def test_a_second_set_of_the_same_setting_trains_no_student_of_random_images_again(config, make_run, teacher, trained):
    (first,) = evaluate(config(seeds=2))
    assert len(trained) == 4
    other = make_run("other", [1], teacher)
    change_manifest(other, config={"method": "rded", "tiles_per_image": 4})
    (second,) = evaluate(config(distilled=str(other), seeds=2))
    # `other` holds the same images, but its students are saved in its own folder.
    assert len(trained) == 6
    assert second["method"] == "rded" and second["baseline"] == first["baseline"]
    again = evaluate(config(distilled=str(other), seeds=2))
    assert len(trained) == 6 and again == [second]


def test_other_ipcs_seeds_labels_and_view_counts_find_their_place(config, make_run, teacher, tmp_path):
    shared = {"baseline_dir": str(tmp_path / "shared")}
    first = evaluate(config(**shared))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.parquet")}
    evaluate(config(ipc=[1, 3], seeds=2, labels=["views", "tiles"], **shared))
    names = sorted(path.name[:12] for path in (tmp_path / "shared").glob("ipc_*"))
    assert names == [f"ipc_{ipc}-draw_{seed}" for ipc in (1, 3) for seed in (0, 1)]
    evaluate(config(distilled=str(make_run("fewer", [1], teacher, views=2)), **shared))
    assert len(list((tmp_path / "shared").glob("ipc_1-draw_0-*"))) == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert evaluate(config(**shared)) == first


def test_draws_made_anew_give_the_same_record(config, tmp_path):
    settings = {"labels": ["views", "hard"], "seeds": 2}
    first = evaluate(config(**settings))
    (root,) = tmp_path.glob("random-*")
    shutil.rmtree(root)
    assert [record["baseline"] for record in evaluate(config(**settings))] == [record["baseline"] for record in first]


def test_no_random_images_and_why(config, run_folder, make_run, teacher, tmp_path):
    (record,) = evaluate(config(baseline=False))
    assert (record["baseline"], record["baseline_note"]) == (None, "turned off by --no_baseline")
    assert "turned off by --no_baseline" in format_evaluation([{**record, "dd_ranking": None}])
    gone = make_run("gone", [1], {"name": str(tmp_path / "moved"), "fingerprint": "0"})
    for labels in ("hard", "tiles", "views"):
        (record,) = evaluate(config(distilled=str(gone), labels=[labels]))
        assert record["baseline"] is None
        assert "the teacher is out of reach" in record["baseline_note"] and "moved" in record["baseline_note"]
        assert not record["baseline_note"].endswith("."), "it becomes part of a sentence"
    many = make_run("many", [4], teacher)
    (record,) = evaluate(config(distilled=str(many), ipc=[4]))
    assert record["baseline"] is None
    assert "class 'red' has 15 training images, and IPC 4 takes 16" in record["baseline_note"]
    change_manifest(run_folder, config={"method": "random", "tiles_per_image": 4})
    (record,) = evaluate(config())
    assert record["baseline"] is None and "itself" in record["baseline_note"]
    assert not folders(tmp_path)


def test_a_teacher_that_moved_labels_the_draws_if_its_weights_are_the_same(config, make_run, teacher, tmp_path):
    moved = make_run("run2", [1], {**teacher, "name": str(tmp_path / "moved")})
    (record,) = evaluate(config(distilled=str(moved), teacher=teacher["name"]))
    assert record["baseline"] is not None
    other = make_run("run3", [1], {"name": str(tmp_path / "moved"), "fingerprint": "0"})
    views, online = evaluate(config(distilled=str(other), teacher=teacher["name"], labels=["views", "online"]))
    assert views["baseline"] is None and "out of reach" in views["baseline_note"]
    assert online["baseline"] is not None, "online labels come from --teacher, whatever labelled the set"


def test_a_source_without_training_images_is_an_error_that_says_what_to_do(config, images, tmp_path):
    shutil.copytree(images, tmp_path / "part")
    (tmp_path / "part" / "train.parquet").unlink()
    with pytest.raises(ValueError, match="(?s)train_split must be readable.*--no_baseline"):
        evaluate(config(dataset=str(tmp_path / "part")))
    (record,) = evaluate(config(dataset=str(tmp_path / "part"), baseline=False))
    assert record["baseline"] is None


def test_dry_run_counts_them_and_draws_none(config, tmp_path):
    plan = plan_evaluate(config(seeds=2))
    assert counts(plan) == [
        (False, 2, 0),
        (True, 2, 0),
    ]
    assert "random images: 2 students to train" in format_students_plan(plan)
    assert not list(tmp_path.glob("random-*"))
    evaluate(config())
    plan = plan_evaluate(config(seeds=2))
    assert counts(plan) == [
        (False, 1, 1),
        (True, 1, 1),
    ]


def test_dd_ranking_of_every_record(config):
    views, hard = evaluate(config(ranking=True, seeds=2))
    assert (views["labels"], hard["labels"]) == ("views", "hard")
    for record in (views, hard):
        metrics = record["dd_ranking"]
        assert metrics["real_accuracy"] == record["teacher_accuracy"], "the teacher has the student's architecture"
        assert metrics["hlr"] == pytest.approx(record["teacher_accuracy"] - hard["accuracy_mean"])
        assert metrics["ior"] == pytest.approx(record["accuracy_mean"] - record["baseline"]["accuracy_mean"])
        assert metrics["lrs"] == pytest.approx(label_robust_score(metrics["hlr"], metrics["ior"]))
        assert metrics["note"] == ""
    assert format_evaluation([views, hard]).count("DD-Ranking: HLR") == 2


def test_real_accuracy_is_asked_for_where_no_one_knows_it(config):
    others = {"students": ["convnet3_w4"], "labels": ["hard"], "ranking": True}
    (unknown,) = evaluate(config(**others))
    assert unknown["dd_ranking"]["hlr"] is None and unknown["dd_ranking"]["ior"] is not None
    assert "--real_accuracy convnet3_w4=" in unknown["dd_ranking"]["note"]
    (known,) = evaluate(config(**others, real_accuracy=["convnet3_w4=0.75"]))
    assert known["dd_ranking"]["hlr"] == pytest.approx(0.75 - known["accuracy_mean"])
    assert known["dd_ranking"]["real_accuracy"] == 0.75
    (normed,) = evaluate(config(**others, real_accuracy=["convnet3_w4=0.75"], protocols=["minimax_hard"]))
    assert normed["student"] == "convnet3_instance_w4" and normed["dd_ranking"]["real_accuracy"] == 0.75
