"""What the fields of the configurations matter for, and with it which runs are the same run."""

from __future__ import annotations

import dataclasses

import pytest

from decoct import config
from decoct.config import DistillConfig, default_values, fields_that_matter_for, to_dict
from decoct.methods import METHODS
from decoct.run.folder import identity_of

RUN = "seed mixed_precision"
DATA = (
    f"{RUN} dataset dataset_config train_split eval_split validation_fraction image_column label_column image_size "
    "skip_unreadable"
).split()
TRAINING = [*DATA, *"epochs batch_size learning_rate weight_decay warmup_fraction compile".split()]
SELECTION = (
    "candidates_per_class attribution grid_size coalitions baseline value crop_fraction crop_center crops_per_image "
    "noise_scale utility utility_order utility_quantile selection pool_factor pool_share coverage_noise "
    "tune tune_budget gradient_flow_references"
).split()
SAMPLING = (
    "prior estimator prior_classes guidance_scale temperature guide_on guidance_reduction guidance_start guidance_stop "
    "guidance_every softplus classifier_free_guidance_scale scheduler sampling_steps guidance_batch micro_batch"
).split()
EXTENT = "tables full_grid utility_orders label_teachers labels students seeds".split()
# `run.json` of a folder that was written before must be that of the same command today.
IDENTITIES = {
    "TeacherConfig": [*TRAINING, *"model save_epochs crop_padding flip".split()],
    "EstimatorConfig": [
        *TRAINING,
        *"encoder projection_dim queue_size momentum temperature kl_weight kl_temperature q_mode".split(),
        *"crop_scale flip color_jitter".split(),
    ],
    "PriorConfig": [
        *TRAINING,
        *"conditional channels layers_per_block attention dropout train_steps beta_schedule label_dropout".split(),
        *"ema_decay flip sample_every sample_steps".split(),
    ],
    "DistillConfig": [
        *DATA,
        *SAMPLING,
        *SELECTION,
        *"method teacher label_teacher ipc tiles_per_image beta views slots label_bits view_scale".split(),
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
            assert all({"help", "matters"} == set(field.metadata) for field in dataclasses.fields(each)), name


@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_default_values_are_those_of_a_configuration(method, tiles):
    assert default_values(method, tiles) == to_dict(DistillConfig(method=method, tiles_per_image=tiles))
