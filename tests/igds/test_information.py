"""Prototype information and contextual score: closed forms, metrics, batches, composites, and the command."""

from __future__ import annotations

import copy
import json
import math
import shutil

import datasets
import numpy as np
import pytest
import torch
from worlds import COLOURS, MEAN, SIDE, STD, coloured, encoded, labelled, spec_of

from decoct.arguments import parse_config
from decoct.config import InformationConfig
from decoct.data.mosaic import compose
from decoct.igds.information import (
    ContextualScore,
    PrototypeInformation,
    class_references,
    contextual_score,
    contextual_scores,
    label_entropy,
    prototype_information,
)
from decoct.igds.loading import build_estimator, label_names
from decoct.igds.measuring import embed, information, measure, plan_information, report_of
from decoct.results.tables import format_information


def unit(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.fixture(scope="module")
def estimator():
    return build_estimator("resnet10_w8", spec_of(), 16, seed=1).eval().requires_grad_(False)


# Closed forms


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 1, 1, 2]])
def test_uniform_logits_leave_the_label_entropy_less_log_classes(labels):
    labels = torch.tensor(labels)
    estimate = prototype_information(torch.full((len(labels), 4), 1.7), labels)
    assert estimate.overall == pytest.approx(label_entropy(labels) - math.log(4))


def test_label_entropy():
    assert label_entropy(torch.tensor([0, 1, 2, 3])) == pytest.approx(math.log(4))
    assert label_entropy(torch.tensor([0, 0, 3, 3])) == pytest.approx(math.log(2))
    assert label_entropy(torch.tensor([2, 2])) == 0


def test_perfect_logits_give_the_label_entropy():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    logits = 1e3 * torch.nn.functional.one_hot(labels, 4).float()
    estimate = prototype_information(logits, labels)
    assert estimate.overall == pytest.approx(label_entropy(labels))
    expected = [math.log(2), math.log(6), math.log(3)]
    assert estimate.per_class[:3].tolist() == pytest.approx(expected)
    assert estimate.by_class()[3] is None


def test_the_overall_value_is_the_mean_of_the_classes_by_their_share():
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 13)
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([5, 2, 13]).double() / 20
    for estimate in (prototype_information(logits, labels), contextual_score(unit(20, 8), labels, 0.1)):
        assert estimate.overall == pytest.approx(float(shares @ estimate.per_class))


def test_confidently_wrong_logits_are_worse_than_nothing():
    labels = torch.tensor([0, 1])
    assert prototype_information(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), labels).overall < 0


def test_identical_embeddings_have_no_contextual_information():
    labels = torch.tensor([0, 0, 0, 1, 1])
    embeddings = unit(2, 16)[labels]
    estimate = contextual_score(embeddings, labels, 0.07)
    assert estimate.overall == pytest.approx(0, abs=1e-9)
    assert estimate.per_class.tolist() == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("dim", [4, 32])
def test_all_different_one_hot_assignments_reach_the_bound_log_dim(dim):
    estimate = contextual_score(torch.eye(dim), torch.zeros(dim, dtype=torch.int64), 1e-3)
    assert estimate.overall == pytest.approx(math.log(dim))


def test_against_the_mean_of_all_one_hot_classes_each_scores_the_log_of_their_number():
    labels = torch.arange(4)
    reference = torch.full((4, 8), 1e-300)
    reference[:, :4] = 0.25
    estimate = contextual_score(torch.eye(8)[:4], labels, 1e-3, reference.double())
    assert estimate.overall == pytest.approx(math.log(4))
    assert estimate.per_class.tolist() == pytest.approx([math.log(4)] * 4)


def test_the_score_is_the_definition_and_never_above_the_bound():
    labels = torch.tensor([0, 1, 1, 0, 0, 2, 2, 1])
    embeddings = unit(8, 6)
    expected = []
    for row, label in enumerate(labels.tolist()):
        assignments = (embeddings.double() / 0.2).softmax(dim=1)
        mean = assignments[labels == label].mean(dim=0)
        expected.append(float((assignments[row] * (assignments[row] / mean).log()).sum()))
    reference = class_references(embeddings, labels, 0.2, 3)
    terms = contextual_scores(embeddings, labels, 0.2, reference)
    assert terms.tolist() == pytest.approx(expected)
    assert 0 < contextual_score(embeddings, labels, 0.2).overall == pytest.approx(np.mean(expected))
    assert terms.max() <= math.log(6)


def test_a_class_of_one_scores_nothing_by_itself_but_against_its_source():
    source, labels = unit(40, 8), torch.arange(40) % 2
    reference = class_references(source, labels, 0.1, 2)
    assert contextual_score(source[:2], labels[:2], 0.1).overall == pytest.approx(0, abs=1e-9)
    against = contextual_score(source[:2], labels[:2], 0.1, reference)
    assert against.per_class.tolist() == pytest.approx(contextual_scores(source, labels, 0.1, reference)[:2].tolist())
    assert against.overall > 0


def test_clear_errors():
    with pytest.raises(ValueError, match="at least one row"):
        prototype_information(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\]. Got 3"):
        prototype_information(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="dimension 8. Got 4"):
        contextual_score(unit(2, 8), torch.tensor([0, 1]), 0.1, torch.full((2, 4), 0.25))
    missing = class_references(unit(3, 8), torch.tensor([0, 0, 2]), 0.1, 3)
    with pytest.raises(ValueError, match=r"Got none for the classes \[1\]"):
        contextual_score(unit(2, 8), torch.tensor([0, 1]), 0.1, missing)


# Metrics


def test_the_metrics_are_the_functions():
    labels = torch.tensor([0, 1, 2, 1, 0, 2])
    logits, embeddings = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)), unit(6, 8)
    prototype = PrototypeInformation(keep_in_memory=True)
    for rows in torch.arange(6).split(4):
        prototype.add_batch(predictions=logits[rows].numpy(), references=labels[rows].numpy())
    result, expected = prototype.compute(), prototype_information(logits, labels)
    assert result["prototype_information"] == pytest.approx(expected.overall)
    assert result["per_class"] == pytest.approx(expected.per_class.tolist())

    contextual = ContextualScore(keep_in_memory=True)
    options = {"predictions": embeddings.numpy(), "references": labels.numpy(), "temperature": 0.2}
    expected = contextual_score(embeddings, labels, 0.2)
    result = contextual.compute(**options)
    assert result["contextual_score"] == pytest.approx(expected.overall, rel=1e-5)
    assert result["per_class"] == pytest.approx(expected.per_class.tolist(), rel=1e-5)
    means = class_references(unit(30, 8, seed=3), torch.arange(30) % 3, 0.2, 3)
    against = contextual.compute(**options, reference=means.numpy())
    assert against["contextual_score"] == pytest.approx(contextual_score(embeddings, labels, 0.2, means).overall)


# Measuring datasets


def test_measuring_does_not_depend_on_the_batch_size_and_equals_the_functions(estimator):
    pixels, labels = coloured(range(14)), [row % 3 for row in range(14)]
    images = labelled(encoded(pixels), labels)
    reports = [measure(images, estimator, 0.07, batch_size=size) for size in (1, 5, 14, 100)]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        output = estimator((pixels.float() / 255 - mean) / std)
    prototype = prototype_information(output.logits, torch.tensor(labels))
    contextual = contextual_score(output.embeddings, torch.tensor(labels), 0.07)
    for report in reports:
        assert report.images == 14
        assert report.prototype == pytest.approx(prototype.overall, rel=1e-4)
        assert report.prototype_per_class == pytest.approx(prototype.per_class.tolist(), rel=1e-4)
        assert report.contextual == pytest.approx(contextual.overall, rel=1e-3)
        assert report.contextual_per_class == pytest.approx(contextual.per_class.tolist(), rel=1e-3)
        assert report.accuracy == pytest.approx(float((output.logits.argmax(1) == torch.tensor(labels)).float().mean()))
        assert report.contextual_to_reference is None


def test_composites_are_measured_tile_by_tile(estimator):
    tiles, labels = coloured(range(12)), torch.tensor([0, 1, 2])
    of_class = torch.stack([tiles[label::3] for label in range(3)])  # (classes, 4 tiles, ...)
    composites = labelled(encoded(compose(of_class)), labels.tolist())
    singles = labelled(encoded(of_class.flatten(0, 1)), labels.repeat_interleave(4).tolist())
    assert composites[0]["image"].size == (2 * SIDE, 2 * SIDE)
    ours, theirs = embed(composites, estimator, tiles_per_image=4, batch_size=5), embed(singles, estimator)
    assert torch.equal(ours.labels, theirs.labels)
    assert torch.allclose(ours.embeddings, theirs.embeddings, atol=1e-5)
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-5)
    whole = measure(composites, estimator, image_size=SIDE)
    assert (whole.images, whole.contextual) == (3, pytest.approx(0, abs=1e-6))
    assert measure(composites, estimator, tiles_per_image=4).contextual > 0


def test_a_class_without_images_is_left_out(estimator):
    report = measure(labelled(encoded(coloured(range(4))), [0, 2, 0, 2]), estimator)
    assert report.prototype_per_class[1] is None and report.contextual_per_class[1] is None
    assert report.label_entropy == pytest.approx(math.log(2))
    json.dumps(report.prototype_per_class, allow_nan=False)


def test_no_images_is_an_error(estimator):
    with pytest.raises(ValueError, match="at least one row"):
        embed(labelled(encoded(coloured(range(3))), [0, 1, 2]).select([]), estimator)


# The command


@pytest.fixture(scope="module")
def setting(tmp_path_factory, estimator) -> dict[str, str]:
    """An estimator, a dataset and a distilled set of composites on disk."""
    folder = tmp_path_factory.mktemp("information")
    estimator.save_pretrained(folder / "estimator")
    (folder / "data").mkdir()
    pixels = coloured(range(24), seed=5)
    labelled(encoded(pixels), [row % 3 for row in range(24)]).to_parquet(folder / "data" / "train.parquet")
    run = folder / "distilled"
    for ipc in (1, 2):
        of_class = torch.stack([pixels[label::3][: 4 * ipc] for label in range(3)])
        composites = compose(of_class.view(3 * ipc, 4, 3, SIDE, SIDE))
        labels = [label for label in range(3) for _ in range(ipc)]
        (run / "data" / f"ipc_{ipc}").mkdir(parents=True)
        labelled(encoded(composites), labels).to_parquet(run / "data" / f"ipc_{ipc}" / "train-00000-of-00001.parquet")
    configs = "".join(f"- config_name: ipc_{ipc}\n  data_files: data/ipc_{ipc}/*.parquet\n" for ipc in (1, 2))
    (run / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    manifest = {
        "config": {"method": "igds", "tiles_per_image": 4},
        "label_names": list(COLOURS),
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "image_size": 2 * SIDE,
        "channels": 3,
        "ipcs": [1, 2],
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    return {"dataset": str(folder / "data"), "estimator": str(folder / "estimator"), "distilled": str(run)}


def test_a_distilled_set_beside_its_source(setting, estimator, tmp_path):
    result = information(InformationConfig(**setting, output_dir=str(tmp_path / "out"), batch_size=7))
    assert json.loads((tmp_path / "out" / "information.json").read_text()) == result
    assert result["contextual_bound"] == pytest.approx(math.log(16))
    source = embed(datasets.Dataset.from_parquet(f"{setting['dataset']}/train.parquet"), estimator)
    assert result["source"]["contextual"] == pytest.approx(report_of(source, 0.07).contextual, rel=1e-3)
    assert result["source"]["contextual_to_reference"] is None
    means = class_references(source.embeddings, source.labels, 0.07, 3)
    # IPC 1 with four tiles: the first four images of each class.
    first = torch.cat([torch.nonzero(source.labels == label).flatten()[:4] for label in range(3)])
    expected = contextual_scores(source.embeddings[first], source.labels[first], 0.07, means).mean()
    one = result["distilled"]["1"]
    assert one["images"] == 12
    assert one["contextual_to_reference"] == pytest.approx(float(expected), rel=1e-3)
    assert 0 < one["contextual"] < one["contextual_to_reference"]
    table = format_information(result)
    assert all(name in table for name in [*COLOURS, "overall", "IPC 1", "IPC 2", "to source", "12 tiles"])
    assert f"{one['prototype']:.3f}" in table


def test_a_set_is_read_by_its_manifest_not_by_its_card(setting, tmp_path):
    """As `decoct evaluate` reads it: a card may name any file."""
    run = tmp_path / "distilled"
    shutil.copytree(setting["distilled"], run)
    card = (run / "README.md").read_text()
    (run / "README.md").write_text(card.replace("data/ipc_1/", "data/ipc_2/"))
    expected = information(InformationConfig(**setting))
    found = information(InformationConfig(**{**setting, "distilled": str(run)}))
    assert found["distilled"] == expected["distilled"] and found["distilled"]["1"]["images"] == 12
    (run / "data/ipc_1/train-00000-of-00001.parquet").unlink()
    shutil.copy(run / "data/ipc_2/train-00000-of-00001.parquet", run / "data/ipc_1/")
    with pytest.raises(ValueError, match="must have at most 3 rows. Got 6"):
        information(InformationConfig(**{**setting, "distilled": str(run)}))


def test_embeddings_that_are_not_finite_name_the_image_and_class(estimator):
    broken = copy.deepcopy(estimator)
    with torch.no_grad():
        broken.classifier.weight.fill_(torch.nan)
    images = labelled(encoded(coloured([0, 1, 2])), [2, 1, 0])
    with pytest.raises(ValueError, match="Logits of the estimator must be finite. Got nan for tile 0 of class 'blue'"):
        embed(images, broken, batch_size=2)


def test_a_dry_run_counts_forward_passes_and_writes_nothing(setting, tmp_path):
    plan = plan_information(InformationConfig(**setting, output_dir=str(tmp_path / "out")))
    assert plan["forward_passes"] == 24 + 12 + 24
    assert not list(tmp_path.iterdir())


def test_labels_must_agree(setting, tmp_path):
    swapped = build_estimator("resnet10_w8", spec_of(["green", "red", "blue"]), 16)
    assert label_names(swapped) == ["green", "red", "blue"]
    swapped.save_pretrained(tmp_path / "swapped")
    with pytest.raises(ValueError, match="another order"):
        information(InformationConfig(**{**setting, "estimator": str(tmp_path / "swapped")}))
    labelled(encoded(coloured(range(6))), [0, 1, 2, 0, 1, 2], ["a", "b", "c"]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="Label names"):
        information(InformationConfig(**{**setting, "dataset": str(tmp_path / "train.parquet")}))
    with pytest.raises(ValueError, match="manifest.json"):
        information(InformationConfig(**{**setting, "distilled": setting["dataset"]}))


def test_the_script(setting, launch, scripts, tmp_path):
    arguments = [word for name, value in setting.items() for word in (f"--{name}", value)]
    done = launch(scripts / "information.py", *arguments, "--output_dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "overall" in done.stdout and "IPC 2" in done.stdout
    assert (tmp_path / "out" / "information.json").is_file()


def test_bad_input_says_what_was_expected(setting, capsys):
    with pytest.raises(ValueError, match="estimator must be.* an existing folder or a Hub id"):
        information(InformationConfig(**{**setting, "estimator": "runs/missing"}))
    with pytest.raises(SystemExit):
        parse_config(InformationConfig, ["--temperature", "0"])
    assert "temperature must be positive. Got 0.0." in capsys.readouterr().err
