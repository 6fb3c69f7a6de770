"""What the tasks of `decoct evaluate` share: names of files, results.json, the plan."""

import json

import pytest

from decoct.config import EvaluateConfig
from decoct.distilled.dataset import DistilledSet
from decoct.evaluation import eval_split, random_baseline, transfer
from decoct.evaluation.evaluate import TASKS, evaluate, format_evaluation, plan_evaluate
from decoct.evaluation.random_baseline import RandomBaseline
from decoct.models.classifier import Classifier
from decoct.results.tables import format_students_plan

PLAIN = {"labels": ["hard"]}
CHANGED = {"labels": ["views", "online"], "epochs": 3, "rrc_scale": 0.5, "mixed_precision": "bf16", "seed": 5}

# Names by which students that were trained before this file was written are found; they must never change.
ACCURACY = {
    "plain": ["740fc523c351", "13d47e6020e2"],
    "changed": ["9583f3fd7669", "6d8bc25f29b8", "919f7369c106", "29e289b8eccf"],
}
CONTINUAL = {
    "plain": [
        *("cfb810cff60e", "aa3814362f6e", "2ee4ca4697ac", "5173b6e37176"),
        *("bc0f035b680a", "143f85043223", "03a6736452ec", "9e39c4a08557"),
    ],
    "changed": [
        *("2d8e16516fd9", "4270453465d9", "7f2b608dc934", "6c0e54a389cd"),
        *("1456971d4ef3", "f9fe4c50d235", "14627ac70cda", "2d9daecf08b4"),
        *("5184e3645b2f", "b88123720ed1", "75e31083645c", "34ca59090a7c"),
        *("1cd05525b27c", "064432855e34", "bf0661bcfec4", "d97241543429"),
    ],
}
TRANSFER = {
    "plain": ["c0757af0a9dd", "4b190151e990", "5b4ed9135934"],
    "changed": ["2cf783e600ba", "e6aacb02c8e7", "f41e80678f7b", "d21369b5f387", "385e26ec2bdb"],
}
PRETRAINED = {
    "plain": ["69af4e31e24c", "73674aaf4277"],
    "changed": ["bd338aeb69f4", "cdd18ee36a35", "7ace9ed36164", "4d9a132d8061"],
}
RECORDS = {
    ("accuracy", "plain"): ["93e531fb18e6"],
    ("accuracy", "changed"): ["b12f2edb2d09", "35cf9e164eae"],
    ("continual", "plain"): ["a7ba716a14fd"],
    ("continual", "changed"): ["c2f7739acfd2", "e15564d6592a"],
    ("transfer", "plain"): ["9164c85e522b"],
    ("transfer", "changed"): ["57e7b935355e", "c1a88ebc51c4"],
}
TEACHER = {"plain": "a294acea4f80", "changed": "5100998dec0e"}
DRAW = {"plain": "ipc_3-draw_0-0f36d6d19460", "changed": "ipc_3-draw_5-0f36d6d19460"}


@pytest.fixture
def known_fingerprints(monkeypatch):
    """Fingerprints that do not depend on how this machine encodes images and draws random weights."""
    monkeypatch.setattr(Classifier, "fingerprint", lambda self: "weights")
    monkeypatch.setattr(DistilledSet, "fingerprint", lambda self: f"set of IPC {self.ipc}")
    monkeypatch.setattr(RandomBaseline, "fingerprint", lambda self, ipc, seed: f"draw {seed} of IPC {ipc}")
    for module in (eval_split, random_baseline, transfer):
        monkeypatch.setattr(module, "dataset_fingerprint", lambda images: f"{len(images)} images")


@pytest.fixture
def values(make_run, teacher, images, image_folder):
    """Options by task."""
    folder = make_run("set", [1, 3], {**teacher, "fingerprint": "weights"})
    shared = {"distilled": str(folder), "dataset": str(images), "ipc": [3], "students": ["convnet3_w8"]}
    shared |= {"labels": ["views"], "protocols": ["rded_kd"]}
    return {
        "accuracy": {**shared, "ranking": False},
        "continual": {**shared, "task": "continual", "steps": 2, "orders": 2},
        "transfer": {**shared, "task": "transfer", "target_dataset": str(image_folder), "finetune_steps": 7},
    }


@pytest.fixture
def make(values):
    """The evaluation of a task, checked."""

    def make_evaluation(task: str, **options):
        evaluation = TASKS[task][0](EvaluateConfig(**{**values[task], **options}))
        evaluation.check()
        return evaluation

    return make_evaluation


@pytest.mark.parametrize(("kind", "options"), [("plain", PLAIN), ("changed", CHANGED)])
def test_students_trained_by_earlier_versions_are_found(known_fingerprints, make, kind, options):
    best = {"epoch": "best"} if kind == "changed" else {}
    runs = {"accuracy": make("accuracy", **options, **best)}
    runs |= {task: make(task, **options) for task in ("continual", "transfer")}
    names = {task: {each.file(unit).name for unit in each.units} for task, each in runs.items()}
    assert names["accuracy"] == {f"{name}.json" for name in ACCURACY[kind]}
    assert names["continual"] == {f"continual-{name}.json" for name in CONTINUAL[kind]}
    assert names["transfer"] == {f"transfer-{name}.json" for name in TRANSFER[kind]}
    weights = {runs["transfer"].weights_file(unit).name for unit in runs["transfer"].units if unit.pretrained}
    assert weights == {f"pretrained-{name}.safetensors" for name in PRETRAINED[kind]}
    for task, each in runs.items():
        assert [each.record_hash(setting) for setting in each.settings] == RECORDS[task, kind]
        folders = {each.file(unit).parents[1].name for unit in each.units if unit.random}
        assert folders == {"random-b2548da4c2cf"}
        seeds = {unit.seed for unit in each.units if unit.random}
        assert DRAW[kind] in {each.baseline.draw_folder(3, seed).name for seed in seeds}
    measured = runs["accuracy"]
    teacher = measured.teachers.current(3)
    measured.folder.joinpath("evaluation").mkdir()
    file = measured.folder / "evaluation" / f"teacher-{TEACHER[kind]}.json"
    file.write_text(json.dumps({"accuracy": 0.625}))
    assert runs["continual"].teacher_accuracy(teacher, None) == measured.teacher_accuracy(teacher, None) == 0.625


@pytest.mark.parametrize("task", ["accuracy", "continual", "transfer"])
def test_a_student_that_is_too_deep_for_the_images_is_named(make, task):
    deep = r"students must be networks that take images of \d+ px\. Got 'convnet6': depth must be at most .* --students"
    with pytest.raises(ValueError, match=deep):
        make(task, **{**PLAIN, "students": ["convnet3_w8", "convnet6"]})


def test_one_file_holds_the_records_of_all_tasks(values, teacher, make_run):
    folder = make_run("one", [3], teacher)
    records = []
    for task, options in values.items():
        own = {**options, "distilled": str(folder), "labels": ["tiles"], "epochs": 1, "baseline": task == "transfer"}
        records += evaluate(EvaluateConfig(**own))
    assert json.loads((folder / "results.json").read_text()) == records
    assert [record["task"] for record in records] == list(TASKS)
    shared = "task dataset method ipc student protocol labels teacher_accuracy epoch seeds accuracy_mean accuracy_std"
    for record in records:
        assert {*shared.split(), "accuracies", "overrides", "config_hash"} <= record.keys()
        assert len(record["accuracies"]) == len(record["seeds"])
        assert all(isinstance(accuracy, float) for accuracy in record["accuracies"])
    assert records[0]["teacher_accuracy"] == records[1]["teacher_accuracy"] is not None
    assert records[2]["baseline"].keys() == {
        *("accuracy_mean", "accuracy_std", "accuracies", "seeds", "config_hash"),
    }
    text = format_evaluation(records)
    assert all(words in text for words in ("tiles labels, last epoch", "Stage 2", "from scratch %"))
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize("task", TASKS)
def test_all_tasks_have_one_kind_of_plan(values, task, teacher, make_run):
    folder = make_run("planned", [3], teacher)
    before = sorted(folder.parent.rglob("*"))
    plan = plan_evaluate(EvaluateConfig(**{**values[task], "distilled": str(folder)}))
    assert sorted(folder.parent.rglob("*")) == before
    for row in plan:
        assert list(row) == ["title", "students", "done", "images_seen", "seconds"]
        assert row["students"] > 0 and row["done"] == 0 and row["seconds"] > 0
    lines = format_students_plan(plan).splitlines()
    assert len(lines) == len(plan) + 1
    assert lines[1].startswith("IPC 3, convnet3_w8, rded_kd, views labels, random images: ")
    assert "students to train (0 done)" in lines[0] and "images seen" in lines[0]
    assert lines[-1].startswith("In all about ")
