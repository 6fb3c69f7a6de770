"""What the fields of the configurations matter for, and with it which runs are the same run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from decoct import config
from decoct.config import DistillConfig, default_values, fields_that_matter_for, precision, to_dict
from decoct.methods import METHODS
from decoct.run.folder import identity_of

RUN = "seed mixed_precision"
DATA = (
    f"{RUN} dataset dataset_config train_split eval_split validation_fraction image_column label_column image_size "
    "skip_unreadable bit_depth"
).split()
TRAINING = [*DATA, *"epochs batch_size learning_rate weight_decay warmup_fraction compile".split()]
SELECTION = (
    "candidates_per_class attribution grid_size coalitions baseline value crop_fraction crop_center crops_per_image "
    "noise_scale utility utility_order utility_quantile selection pool_factor pool_share "
    "coverage_kernel coverage_noise tune tune_budget gradient_flow_references"
).split()
SAMPLING = (
    "prior prompt prompts prior_variant prior_dtype prior_image_size guidance_vae estimator prior_classes "
    "guidance_scale temperature guide_on guidance_reduction guidance_start guidance_stop "
    "guidance_every softplus classifier_free_guidance_scale scheduler sampling_steps guidance_batch micro_batch "
    "vae_micro_batch estimator_micro_batch"
).split()
EXTENT = "tables full_grid utility_orders label_teachers labels students seeds".split()
# `run.json` of a folder that was written before must be that of the same command today.
IDENTITIES = {
    "TeacherConfig": [*TRAINING, *"model save_epochs crop_padding flip".split()],
    "EstimatorConfig": [
        *TRAINING,
        *"encoder projection_dim queue_size momentum temperature kl_weight kl_temperature q_mode kl_gradient".split(),
        *"crop_scale flip color_jitter".split(),
    ],
    "PriorConfig": [
        *TRAINING,
        *"conditional channels layers_per_block attention dropout train_steps beta_schedule label_dropout".split(),
        *"snr_gamma ema_decay flip save_epochs sample_every sample_steps init".split(),
    ],
    "DistillConfig": [
        *DATA,
        *SAMPLING,
        *SELECTION,
        *"method teacher label_teacher ipc tiles_per_image beta views slots label_bits label_top_k view_scale".split(),
        *"batch_size shard_size".split(),
    ],
    "SampleConfig": [*RUN.split(), *SAMPLING, *"betas classes images_per_class".split()],
    "AblateConfig": [
        *DATA,
        *EXTENT,
        *"teacher ipc tiles_per_image candidates_per_class coalitions crop_fraction protocol epochs rrc_scale".split(),
        "batch_size",
    ],
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_the_identity_of_a_run_has_the_fields_that_it_had(name):
    found = identity_of(to_dict(getattr(config, name)()), data="1234")
    assert set(found) == {*IDENTITIES[name], "data"}


def test_a_field_says_what_it_matters_for():
    assert list(fields_that_matter_for(DistillConfig, "selection")) == SELECTION
    assert list(fields_that_matter_for(DistillConfig, "sampling")) == [*SAMPLING, "beta"]
    assert set(fields_that_matter_for(config.AblateConfig, "extent")) == set(EXTENT)
    assert set(fields_that_matter_for(DistillConfig, "machine")) == {"batch_size", "shard_size"}
    publishing = {"push_to_hub", "private", "revision", "commit_message"}
    assert set(fields_that_matter_for(config.PublishConfig, "publishing")) == publishing
    for name in config.__all__:
        if dataclasses.is_dataclass(each := getattr(config, name)):
            assert all({"help", "matters", "group"} == set(field.metadata) for field in dataclasses.fields(each)), name


@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_default_values_are_those_of_a_configuration(method, tiles):
    assert default_values(method, tiles) == to_dict(DistillConfig(method=method, tiles_per_image=tiles))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("DistillConfig", {"ipc": "a"}, "ipc must be a list, each a whole number. Got 'a'"),
        ("DistillConfig", {"ipc": ["10"]}, r"ipc must be a list, each a whole number. Got \['10'\]"),
        ("DistillConfig", {"ipc": [1.5]}, "ipc must be a list, each a whole number"),
        ("DistillConfig", {"ipc": [True]}, "ipc must be a list, each a whole number"),
        ("DistillConfig", {"ipc": 10}, "ipc must be a list, each a whole number. Got 10"),
        ("DistillConfig", {"seed": 1.0}, "seed must be a whole number. Got 1.0"),
        ("DistillConfig", {"grid_size": None}, "grid_size must be a whole number. Got None"),
        ("DistillConfig", {"tiles_per_image": True}, r"tiles_per_image must be one of \[1, 4\]. Got True"),
        ("DistillConfig", {"noise_scale": "2"}, "noise_scale must be a finite number. Got '2'"),
        ("DistillConfig", {"noise_scale": float("nan")}, "noise_scale must be a finite number. Got nan"),
        ("DistillConfig", {"noise_scale": float("inf")}, "noise_scale must be a finite number. Got inf"),
        ("DistillConfig", {"beta": False}, "beta must be a finite number or None. Got False"),
        ("DistillConfig", {"teacher": None}, "teacher must be text. Got None"),
        ("DistillConfig", {"dry_run": 1}, "dry_run must be True or False. Got 1"),
        ("DistillConfig", {"image_size": -3}, "image_size must be at least 8. Got -3"),
        ("DistillConfig", {"bit_depth": 17}, r"bit_depth must be in \[8, 16\]. Got 17"),
        ("EvaluateConfig", {"labels": "views"}, "labels must be a list, each text. Got 'views'"),
        ("EvaluateConfig", {"students": [3]}, "students must be a list, each text"),
        ("TeacherConfig", {"epochs": "60"}, "epochs must be a whole number. Got '60'"),
        ("PriorConfig", {"channels": "64"}, "channels must be a list, each a whole number"),
        ("CompareConfig", {"runs": "runs/a"}, "runs must be a list, each text"),
        ("PublishConfig", {"private": "yes"}, "private must be True or False. Got 'yes'"),
        ("VerifyConfig", {"source": 3}, "source must be text. Got 3"),
    ],
)
def test_types_are_checked_first(name, fields, message):
    with pytest.raises(ValueError, match=message):
        getattr(config, name)(**fields)


def test_paths_and_tuples_are_taken_and_numbers_stay_as_they_are():
    made = DistillConfig(output_dir=Path("runs/a"), ipc=(3, 1), noise_scale=2, beta=1)
    assert (made.output_dir, made.ipc, made.noise_scale, made.beta) == ("runs/a", [1, 3], 2, 1)


@pytest.mark.parametrize(
    ("made", "images", "sizes"),
    [
        (config.TeacherConfig(), 40, (40, None)),
        (config.TeacherConfig(), 4000, (128, None)),
        (config.TeacherConfig(batch_size=64), 40, (64, None)),
        (config.EstimatorConfig(), 4000, (512, 4096)),
        (config.EstimatorConfig(), 40, (40, 4080)),
        (config.EstimatorConfig(batch_size=256, queue_size=2048), 40, (256, 2048)),
        (config.EstimatorConfig(queue_size=80), 40, (40, 80)),
    ],
)
def test_default_batches_fit_the_data(made, images, sizes):
    fitted = made.with_batch_size(images)
    assert (fitted.batch_size, getattr(fitted, "queue_size", None)) == sizes
    assert made.with_batch_size(41, processes=2).batch_size in (40, made.batch_size or 40)


def test_a_scheduler_says_the_rank_only_where_it_is_asked(monkeypatch):
    def rank(environment: dict[str, str], **options: int) -> tuple[int | None, int | None]:
        with monkeypatch.context() as patch:
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            made = DistillConfig(batch_size=8, **options)
            return made.rank, made.world_size

    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    job = {"RANK": "1", "WORLD_SIZE": "2"}
    assert rank({**array, **job}) == (None, None)
    assert rank({**array, **job}, world_size=0) == (3, 8)
    assert rank({**array, "SLURM_ARRAY_TASK_COUNT": "1"}, world_size=8) == (3, 8), "one task of the array again"
    assert rank(job, world_size=0) == (1, 2)
    assert rank({}, world_size=4, rank=2) == (2, 4)
    for environment in ({**job, "LOCAL_RANK": "1"}, {**array, "SLURM_ARRAY_TASK_ID": "8"}, {}):
        with pytest.raises(ValueError, match=r"rank must be in \[0, "):
            rank(environment, world_size=0)
    for options in ({"rank": 1}, {"world_size": 2, "rank": 0, "overwrite": True}, {"world_size": 2, "rank": 2}):
        with pytest.raises(ValueError, match="must be"):
            rank({}, **options)
    with pytest.raises(ValueError, match="batch_size must be given with --world_size"):
        DistillConfig(world_size=2, rank=0)


def test_precision_is_that_of_the_machine_unless_it_is_said(monkeypatch, tmp_path):
    import torch

    made = config.TeacherConfig(), DistillConfig()
    assert [each.mixed_precision for each in made] == ["no", "no"], "runs on a CPU are what they were"
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(precision, "GPU_FILES", (str(tmp_path / "nvidia*"),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert DistillConfig().mixed_precision == "no", "the GPU is not to be used (ACCELERATE_USE_CPU)"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    assert [each.mixed_precision for each in (config.TeacherConfig(), DistillConfig())] == ["bf16", "bf16"]
    assert DistillConfig(mixed_precision="no").mixed_precision == "no"
    assert config.EvaluateConfig().mixed_precision == "no", "students are measured as they were"
