"""Mixed views of a set: their stored labels are the teacher's logits of these views, however they are made."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import TensorDataset

from decoct.config import AblateConfig, DistillConfig, EvaluateConfig, VerifyConfig
from decoct.data.mixed_views import mixed_pixels, mixed_views
from decoct.distilled.dataset import load_distilled
from decoct.distilled.logit_codes import decode_logits, encode_logits
from decoct.evaluation.evaluate import evaluate
from decoct.hub.verify import verify
from decoct.models.accuracy import accuracy
from decoct.models.ensemble import Ensemble
from decoct.models.zoo import load_classifier
from decoct.synthesis.distill import distill
from decoct.synthesis.relabel import mixed_logits
from decoct.training.protocols import load_protocol
from decoct.training.student_batches import StudentBatches

SLOTS = 5


@pytest.fixture(scope="module")
def options(sample_part, trained_teacher) -> dict:
    settings = {"method": "infoutil", "attribution": "whole", "ipc": [1, 2], "slots": SLOTS, "label_bits": 8}
    return {**settings, "dataset": str(sample_part), "teacher": str(trained_teacher), "batch_size": 16}


@pytest.fixture(scope="module")
def run(options, once) -> Path:
    return (
        once("mixed-labels", lambda folder: distill(DistillConfig(**options, output_dir=str(folder / "run")))) / "run"
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_labels_are_the_teachers_logits_of_the_mixed_images(bits, run, options, teacher, tmp_path):
    folder = run if bits == 8 else tmp_path / "run"
    if bits == 4:
        distill(DistillConfig(**{**options, "label_bits": 4, "output_dir": str(folder)}))
    distilled = load_distilled(folder, 2)
    slots = distilled.slots
    assert slots is not None and slots.bits == bits and slots.scales.shape == (8, SLOTS)
    assert slots.codes.shape == (8, SLOTS, 4 if bits == 8 else 2)
    for row in range(8):
        for slot in range(SLOTS):
            image, number = torch.tensor([row]), torch.tensor([slot])
            views = mixed_views(image, number, seed=0, count=8, side=28, smallest_area=0.08)
            with torch.no_grad():
                logits = teacher(mixed_pixels(distilled.images, image, views))[0]
            expected, step = logits - logits.min(), float(logits.max() - logits.min()) / (2**bits - 1)
            stored = decode_logits(slots.codes[row, slot], slots.scales[row, slot], 4, bits)
            assert torch.allclose(stored, expected, atol=0.51 * step + 1e-3)


@pytest.fixture(scope="module")
def top_k_run(options, once) -> Path:
    """The largest two of four logits."""
    made = {**options, "label_top_k": 2}
    return once("top-k-labels", lambda folder: distill(DistillConfig(**made, output_dir=str(folder / "run")))) / "run"


def test_the_largest_logits_and_the_mass_of_the_others(top_k_run, teacher):
    distilled = load_distilled(top_k_run, 2)
    slots = distilled.slots
    assert slots is not None and slots.top_k == 2 and slots.kept.shape == (8, SLOTS, 2) and slots.codes.shape[-1] == 2
    images, numbers = torch.cartesian_prod(torch.arange(8), torch.arange(SLOTS)).unbind(1)
    views = mixed_views(images, numbers, seed=0, count=8, side=28, smallest_area=0.08)
    with torch.no_grad():
        expected = teacher(mixed_pixels(distilled.images, images, views))
    stored = slots.logits(images, numbers, 4)
    assert torch.equal(stored.topk(2).indices.sort().values, expected.topk(2).indices.sort().values)
    kept = expected.topk(2).indices
    ours, theirs = stored.softmax(1).gather(1, kept), expected.softmax(1).gather(1, kept)
    assert torch.allclose(ours, theirs, atol=5e-3)


def test_students_learn_from_the_largest_logits_beside_random_images_with_theirs(top_k_run, sample_part, tmp_path):
    folder, protocol = Path(shutil.copytree(top_k_run, tmp_path / "run")), load_protocol("strong_kd")
    distilled = load_distilled(folder, 2)
    batches = StudentBatches(distilled, protocol, "mixed", seed=0, device=torch.device("cpu"))
    slots, (_, target, _) = batches.view_indices(0), next(batches.epoch(0))
    soft = (distilled.slots.logits(torch.arange(8), slots, 4) / protocol.temperature).softmax(1)
    assert torch.allclose(target.sort(0).values, soft.sort(0).values)
    common = {"distilled": str(folder), "dataset": str(sample_part), "students": ["convnet3_w8"], "ranking": False}
    (record,) = evaluate(EvaluateConfig(**common, ipc=[2], epochs=2))
    assert (record["labels"], record["protocol"]) == ("mixed", "strong_kd")
    (draw,) = tmp_path.glob("random-*/ipc_2-*")
    assert load_distilled(draw, 2).slots.top_k == 2
    assert verify(VerifyConfig(source=str(draw))).ok


def test_top_k_of_all_classes_is_all_of_them(options, run, tmp_path):
    distill(DistillConfig(**{**options, "ipc": [2], "label_top_k": 4}, output_dir=str(tmp_path / "run")))
    tables = [pq.read_table(next(folder.glob("data/ipc_2/*.parquet"))) for folder in (run, tmp_path / "run")]
    assert tables[0].equals(tables[1])


def test_no_more_than_a_batch_of_logits_is_held(options, run, tmp_path, monkeypatch):
    """So that memory grows with codes, not with logits, whatever the number of images and classes."""
    shapes, decoded = [], []

    def encode(logits, bits):
        shapes.append(logits.shape)
        return encode_logits(logits, bits)

    def decode(codes, *rest):
        decoded.append(codes.shape)
        return decode_logits(codes, *rest)

    monkeypatch.setattr("decoct.synthesis.run.encode_logits", encode)
    settings = {**options, "ipc": [2], "batch_size": 7, "shard_size": 3, "output_dir": str(tmp_path / "run")}
    distill(DistillConfig(**settings))
    assert shapes == [(7, 4), (7, 4), (1, 4), (7, 4), (7, 4), (1, 4), (7, 4), (3, 4)], "shards of 3, 3 and 2 images"
    tables = [pq.read_table(next(folder.glob("data/ipc_2/*.parquet"))) for folder in (run, tmp_path / "run")]
    assert_same(*tables)
    monkeypatch.setattr("decoct.distilled.dataset.decode_logits", decode)
    distilled = load_distilled(run, 2)
    assert decoded == [] and distilled.slots.codes.dtype == torch.uint8
    protocol = dataclasses.replace(load_protocol("strong_kd"), batch_sizes={1: 3})
    list(StudentBatches(distilled, protocol, "mixed", seed=0, device=torch.device("cpu")).epoch(0))
    assert decoded == [(3, 4), (3, 4), (2, 4)]


def test_several_teachers_label_with_the_mean_of_their_logits(options, trained_teacher, teacher, sample_part, tmp_path):
    early = load_classifier(str(trained_teacher / "epoch_4"))
    settings = {**options, "ipc": [1], "label_teacher": ["converged", early.name], "output_dir": str(tmp_path / "run")}
    manifest = distill(DistillConfig(**settings))
    known = manifest["label_teachers"]["1"]
    assert known["name"] == f"{trained_teacher} + {early.name}"
    assert [each["fingerprint"] for each in known["members"]] == [teacher.fingerprint(), early.fingerprint()]
    distilled = load_distilled(tmp_path / "run", 1)
    with torch.no_grad():
        pixels = distilled.images.float() / 255
        expected = (teacher(pixels) + early(pixels)) / 2
    assert torch.allclose(distilled.tile_logits[:, 0], expected, atol=0.02)
    rows, slots = torch.cartesian_prod(torch.arange(4), torch.arange(SLOTS)).unbind(1)
    views = mixed_views(rows, slots, seed=0, count=4, side=28, smallest_area=0.08)
    with torch.no_grad():
        pixels = mixed_pixels(distilled.images, rows, views)
        expected = ((teacher(pixels) + early(pixels)) / 2).softmax(1)
    assert torch.allclose(distilled.slots.logits(rows, slots, 4).softmax(1), expected, atol=0.02)
    assert f"{early.name}`" in (tmp_path / "run" / "README.md").read_text()
    # Random images beside it have the same labels.
    common = {"dataset": str(sample_part), "students": ["convnet3_w8"], "ranking": False, "epochs": 2}
    (record,) = evaluate(EvaluateConfig(distilled=str(tmp_path / "run"), **common))
    assert record["baseline"] is not None and record["teacher_model"] is None and record["teacher"] == known["name"]
    both = Ensemble([load_classifier(str(trained_teacher)), early])
    accuracy(both, TensorDataset(distilled.images, distilled.labels))
    assert not any(each.training for each in both.modules()), "measuring restores the mode that it found"
    with pytest.raises(ValueError, match="label_teacher must be one or more different teachers"):
        DistillConfig(label_teacher=["early", "early"])


def test_the_rest_of_the_set_is_what_it_is_without_mixed_views(run, options, tmp_path):
    distill(DistillConfig(**{**options, "slots": 0}, output_dir=str(tmp_path / "run")))
    tables = [pq.read_table(next(folder.glob("data/ipc_2/*.parquet"))) for folder in (run, tmp_path / "run")]
    assert set(tables[0].column_names) - set(tables[1].column_names) == {"slot_codes", "slot_scales"}
    assert tables[0].select(tables[1].column_names).equals(tables[1])


def assert_same(first: pa.Table, second: pa.Table) -> None:
    """Bit for bit; but for a step of a code, and rounding, where a processor rounds other batch sizes otherwise."""
    if first.equals(second):
        return
    logits = [name for name in first.column_names if "logits" in name or name == "slot_scales"]
    rounded = [*logits, "slot_codes", "tiles"]
    assert first.schema.equals(second.schema) and first.drop_columns(rounded).equals(second.drop_columns(rounded))
    for name in logits:
        np.testing.assert_allclose(*(np.array(table[name].to_pylist(), float) for table in (first, second)), 1e-3, 1e-4)
    high, low = zip(*(np.divmod(table["slot_codes"].to_pylist(), 16) for table in (first, second)), strict=True)
    assert abs(high[0] - high[1]).max() <= 1 and abs(low[0] - low[1]).max() <= 1
    for one, other in zip(*(table["tiles"].to_pylist() for table in (first, second)), strict=True):
        scores = [[tile.pop("score") for tile in tiles] for tiles in (one, other)]
        assert one == other and scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_shards_do_not_matter(run, options, tmp_path):
    distill(DistillConfig(**options, shard_size=3, output_dir=str(tmp_path / "run")))
    tables = [pq.read_table(next(folder.glob("data/ipc_2/*.parquet"))) for folder in (run, tmp_path / "run")]
    assert_same(*tables)
    assert not list((tmp_path / "run").glob("shards*")), "nor is the file of pixels left"


def test_a_killed_run_goes_on_where_it_was(run, options, tmp_path, monkeypatch):
    labelled, most = [], 2

    def mixed_logits_of(forward, images, views_of, rows, *rest):
        if len(labelled) == most:
            raise KeyboardInterrupt
        labelled.append(rows)
        return mixed_logits(forward, images, views_of, rows, *rest)

    config = DistillConfig(**options, shard_size=3, output_dir=str(tmp_path / "run"))
    monkeypatch.setattr("decoct.synthesis.run.mixed_logits", mixed_logits_of)
    with pytest.raises(KeyboardInterrupt):
        distill(config)
    most = 5
    distill(config)
    # 4 images of IPC 1, then 8 of IPC 2, each of them once.
    assert labelled == [range(0, 3), range(3, 4), range(0, 3), range(3, 6), range(6, 8)]
    tables = [pq.read_table(next(folder.glob("data/ipc_2/*.parquet"))) for folder in (run, tmp_path / "run")]
    assert_same(*tables)
    known = ["seconds" in json.loads((folder / "manifest.json").read_text()) for folder in (run, tmp_path / "run")]
    assert known == [True, False], "how long a run took in parts is not known"


def test_verify_reads_them(run, tmp_path):
    report = verify(VerifyConfig(source=str(run)))
    assert report.ok, str(report)
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    file = next(broken.glob("data/ipc_2/*.parquet"))
    table = pq.read_table(file)
    for column, wrong, words in (
        ("slot_scales", None, "must have one column 'slot_scales'"),
        ("slot_scales", [[0.0]] * SLOTS, "the scale of a mixed view is not positive: row 3"),
        ("slot_scales", [[float("inf")]] * SLOTS, "slot_scales is not finite, so that it has no softmax: row 3"),
        ("slot_codes", [[1] * 4] * (SLOTS - 1), "slot_codes is missing or not of shape (5, 4): row 3"),
    ):
        changed = table.drop_columns([column])
        if wrong is not None:
            field = table.schema.field(column)
            values = [wrong if row == 3 else each for row, each in enumerate(table[column].to_pylist())]
            storage = pa.array(values, field.type.storage_type)
            changed = table.set_column(
                table.schema.get_field_index(column), field, pa.ExtensionArray.from_storage(field.type, storage)
            )
        pq.write_table(changed, file)
        assert words in str(verify(VerifyConfig(source=str(broken))))


def test_students_replay_each_view_once_in_as_many_epochs(run):
    distilled = load_distilled(run, 2)
    batches = StudentBatches(distilled, load_protocol("strong_kd"), "mixed", seed=0, device=torch.device("cpu"))
    seen = torch.stack([batches.view_indices(epoch) for epoch in range(SLOTS)])
    assert (seen.sort(dim=0).values == torch.arange(SLOTS)[:, None]).all()
    pairs = {tuple(pixels.flatten().tolist()[:50]) for pixels, *_ in batches.epoch(0)}
    assert pairs == {tuple(pixels.flatten().tolist()[:50]) for pixels, *_ in batches.epoch(0)}, "an epoch is repeatable"


@pytest.mark.parametrize("epoch", [0, 1, SLOTS])
def test_students_see_the_views_that_their_labels_are_of(run, teacher, epoch):
    """The teacher, shown what the student is shown, says what the student is told."""
    distilled, protocol = load_distilled(run, 2), load_protocol("strong_kd")
    batches = StudentBatches(distilled, protocol, "mixed", seed=7, device=torch.device("cpu"))
    seen = 0
    for pixels, target, _ in batches.epoch(epoch):
        with torch.no_grad():
            logits = teacher(pixels)
        assert pixels.shape[1:] == (1, 28, 28)
        torch.testing.assert_close((logits / protocol.temperature).softmax(1), target, atol=1e-3, rtol=0)
        assert (logits - logits.mean(0)).abs().max() > 1, "views that differ in their labels"
        seen += len(pixels)
    assert seen == len(distilled)


def test_labels_that_are_not_the_manifests_are_refused(run, tmp_path):
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    manifest = json.loads((broken / "manifest.json").read_text())
    for changes, words in (
        ({"label_bits": 4}, r"slot_codes must be of shape \(5, 2\)"),
        ({"slots": 6}, r"slot_codes must be of shape \(6, 4\)"),
        ({"label_bits": 5}, r"config.label_bits must be one of \[4, 8\]. Got 5"),
        ({"view_scale": 0}, r"config.view_scale must be in \(0, 1\]. Got 0"),
        ({"seed": None}, "config.seed must be a whole number. Got None"),
    ):
        config = {**manifest["config"], **changes}
        (broken / "manifest.json").write_text(json.dumps({**manifest, "config": config}))
        with pytest.raises(ValueError, match=words):
            load_distilled(broken, 2)
        assert not verify(VerifyConfig(source=str(broken))).ok


def test_a_student_is_trained_by_them_beside_random_images(run, sample_part, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    common = {"distilled": str(folder), "dataset": str(sample_part), "students": ["convnet3_w8"], "ranking": False}
    (record,) = evaluate(EvaluateConfig(**common, ipc=[2], labels=["mixed"], protocols=["strong_kd"], epochs=4))
    assert record["labels"] == "mixed" and record["protocol"] == "strong_kd" and record["baseline"] is not None
    (draw,) = tmp_path.glob("random-*/ipc_2-*")
    drawn = load_distilled(draw, 2)
    assert drawn.slots is not None and drawn.slots.scales.shape == (8, SLOTS) and drawn.slots.bits == 8


def test_what_has_no_mixed_views_says_so(run, options, sample_part, tmp_path):
    distill(DistillConfig(**{**options, "slots": 0}, output_dir=str(tmp_path / "run")))
    common = {"dataset": str(sample_part), "labels": ["mixed"], "students": ["convnet3_w8"]}
    with pytest.raises(ValueError, match="stores no mixed views: distil again with --slots 300"):
        evaluate(EvaluateConfig(distilled=str(tmp_path / "run"), protocols=["strong_kd"], **common))
    with pytest.raises(ValueError, match=r"labels must hold one of .* protocol 'rded_kd' .*Got \['mixed'\]"):
        evaluate(EvaluateConfig(distilled=str(run), protocols=["rded_kd"], **common))
    with pytest.raises(ValueError, match=r"'continual'.*Got \['mixed'\]"):
        evaluate(EvaluateConfig(distilled=str(run), protocols=["strong_kd"], task="continual", steps=2, **common))
    with pytest.raises(ValueError, match=r"labels must be one of \['hard', 'tiles', 'views', 'online'\]. Got 'mixed'"):
        AblateConfig(labels=["mixed"])
