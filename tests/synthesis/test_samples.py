"""Pictures of samples over beta, and IGDS as a Python object."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

import decoct
from decoct.config import SampleConfig
from decoct.files import read_json
from decoct.run.folder import write_json
from decoct.synthesis import samples
from decoct.synthesis.samples import draw_samples, plan_samples


@pytest.fixture
def config(tiny_prior, tiny_estimator, tmp_path):
    def make(**options: Any) -> SampleConfig:
        settings: dict[str, Any] = {
            "prior": str(tiny_prior),
            "estimator": str(tiny_estimator),
            "scheduler": "ddim",
            "sampling_steps": 2,
            "images_per_class": 3,
            "guidance_scale": 20.0,
            "betas": [0.0, 2.0],
            "output_dir": str(tmp_path / "samples"),
        }
        return SampleConfig(**{**settings, **options})

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The strips that were drawn."""
    seen: dict[str, np.ndarray] = {}
    monkeypatch.setattr(samples, "save_strips", lambda path, strips, names: seen.update(strips, names=names))
    return seen


def test_a_picture_and_a_record_of_each_beta(config, tmp_path):
    record = draw_samples(config())
    assert read_json(tmp_path / "samples" / "samples.json") == record
    assert list(record["betas"]) == ["0", "2"]
    assert all(set(terms) == {"prototype", "contextual"} for terms in record["betas"].values())
    picture = Image.open(tmp_path / "samples" / "samples.png")
    assert picture.width > 2 * 3 * 50
    assert picture.height > 4 * 50


def test_betas_start_from_the_same_noise_and_differ(config, drawn):
    draw_samples(config(guidance_scale=0.0))
    assert np.array_equal(drawn["β = 0"], drawn["β = 2"])
    assert drawn["β = 0"].shape == (4, 3, 1, 28, 28)
    assert drawn["names"] == ["T-shirt/top", "Trouser", "Pullover", "Dress"]
    draw_samples(config(overwrite=True))
    assert not np.array_equal(drawn["β = 0"], drawn["β = 2"])


def test_chosen_classes_alone(config, drawn):
    draw_samples(config(classes=[3, 1]))
    assert drawn["names"] == ["Dress", "Trouser"]
    with pytest.raises(ValueError, match=r"classes must be in \[0, 3\].*Got \[4\]"):
        draw_samples(config(classes=[0, 4], overwrite=True))


def test_a_prior_of_other_classes_needs_prior_classes(config, tiny_prior, tmp_path):
    shutil.copytree(tiny_prior, tmp_path / "prior")
    record = read_json(tmp_path / "prior" / "training.json")
    write_json(tmp_path / "prior" / "training.json", {**record, "label_names": ["no", "yes"]})
    other = {"prior": str(tmp_path / "prior")}
    for run in (plan_samples, draw_samples):
        with pytest.raises(ValueError, match="Label names of the prior .* must be those of the estimator"):
            run(config(**other))
        with pytest.raises(ValueError, match="prior_classes must have 4 entries.*Got 1"):
            run(config(**other, prior_classes=[0]))
    assert not (tmp_path / "samples").exists()
    assert plan_samples(config(**other, prior_classes=[3, 2, 1, 0]))["classes"] == 4


def test_a_dry_run_writes_nothing_and_another_configuration_is_refused(config, tmp_path):
    assert plan_samples(config())["prior_passes"] == 2 * 4 * 3 * 2
    assert not (tmp_path / "samples").exists()
    record = draw_samples(config())
    assert draw_samples(config()) == record
    with pytest.raises(ValueError, match="same configuration"):
        draw_samples(config(seed=1))


def test_networks_are_known_by_their_weights_wherever_they_lie(config, tiny_prior, tiny_estimator, tmp_path):
    record = draw_samples(config())
    assert (record["prior"]["name"], record["estimator"]["name"]) == (str(tiny_prior), str(tiny_estimator))
    assert record["prior"]["scheduler"].startswith("DDIMScheduler ")
    for source, name in ((tiny_prior, "prior"), (tiny_estimator, "estimator")):
        shutil.copytree(source, tmp_path / name)
    elsewhere = config(prior=str(tmp_path / "prior"), estimator=str(tmp_path / "estimator"))
    plan_samples(elsewhere)
    assert draw_samples(elsewhere) == record
    (other := decoct.load_estimator(tiny_estimator)).classifier.bias.data += 1
    other.save_pretrained(tmp_path / "estimator")
    with pytest.raises(ValueError, match="(?s)same configuration.*estimator"):
        plan_samples(elsewhere)


def test_a_prior_that_is_not_guided_takes_any_scheduler(config, drawn):
    with pytest.raises(ValueError, match="guide_on must be 'prediction' for DPMSolverMultistepScheduler"):
        draw_samples(config(scheduler="dpm_solver", sampling_steps=6))
    draw_samples(config(scheduler="dpm_solver", sampling_steps=6, guidance_scale=0.0, classes=[0]))
    assert drawn["β = 0"].shape == (1, 3, 1, 28, 28)


def test_the_script_prints_where_the_picture_is(launch, scripts, tiny_prior, tiny_estimator, tmp_path):
    words = f"--prior {tiny_prior} --estimator {tiny_estimator} --sampling_steps 2 --betas 0 --images_per_class 2"
    done = launch(scripts / "sample.py", *words.split(), "--output_dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out" / "samples.png") in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": [-1.0]}, "betas"),
        ({"betas": [0.0, 1.0, 1.0]}, r"betas must be one or more different numbers from 0 on. Got \[0.0, 1.0, 1.0\]"),
        ({"images_per_class": 0}, "images_per"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        SampleConfig(**options)


def test_igds_as_an_object_equals_the_command(tiny_prior, tiny_estimator, trained_teacher, sample_part, tmp_path):
    from decoct.config import DistillConfig
    from decoct.synthesis.distill import distill

    teacher = decoct.load_classifier(trained_teacher)
    images = decoct.load_images(str(sample_part))
    pipeline = decoct.load_pipeline(tiny_prior, decoct.load_estimator(tiny_estimator), "ddim")
    options = {"sampling_steps": 2, "views": 2, "slots": 0, "batch_size": 8}
    distilled = decoct.IGDS(pipeline, teacher, **options).distill(images, ipc=2)
    assert distilled.column_names == ["image", "label", "tile_logits", "view_logits", "view_boxes", "tiles"]
    assert distilled["label"][:] == [0, 0, 1, 1, 2, 2, 3, 3]
    distill(
        DistillConfig(
            method="igds",
            dataset=str(sample_part),
            teacher=str(trained_teacher),
            prior=str(tiny_prior),
            estimator=str(tiny_estimator),
            scheduler="ddim",
            ipc=[2],
            output_dir=str(tmp_path / "run"),
            **options,
        )
    )
    from datasets import Dataset

    by_command = Dataset.from_parquet(str(next((tmp_path / "run" / "data" / "ipc_2").iterdir())), keep_in_memory=True)
    assert [np.asarray(image).tolist() for image in by_command["image"]] == [
        np.asarray(image).tolist() for image in distilled["image"]
    ]
    assert by_command["tiles"][:] == distilled["tiles"][:]


def test_igds_needs_an_estimator(tiny_prior, trained_teacher, sample_part):
    pipeline = decoct.load_pipeline(tiny_prior, None)
    igds = decoct.IGDS(pipeline, decoct.load_classifier(trained_teacher))
    with pytest.raises(ValueError, match="pipeline must have an estimator"):
        igds.distill(decoct.load_images(str(sample_part)), ipc=1)
