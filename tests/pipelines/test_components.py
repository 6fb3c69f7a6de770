"""IGDSPipeline among the pipelines of diffusers: components, class names, offloading, interruption, variants."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    ScoreSdeVeScheduler,
)
from torch import nn

from decoct.igds.prior import load_pipeline
from decoct.pipelines.igds.estimates import frozen_copy
from decoct.pipelines.igds.guidance import InformationGuidance
from decoct.pipelines.igds.pipeline import IGDSPipeline
from decoct.pipelines.igds.reverse import clean_prediction
from decoct.pipelines.igds.schedulers import with_timesteps

LABELS = [0, 1, 1]
NAMES = {0: "tench, Tinca tinca", 1: "goldfish", 2: "class 1"}


def sample(pipeline: Any, labels: Any = LABELS, **options: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(labels, **{"num_inference_steps": 3, "output_type": "pt", "generator": generator, **options})


def test_components_of_another_kind_are_refused(make_unet, make_dit, make_estimator):
    (transformer, vae), unet, scheduler = make_dit(), make_unet(), DDPMScheduler()
    for components, message in (
        ((None, unet, None, None, None), "scheduler must be a SchedulerMixin. Got a NoneType"),
        ((scheduler, transformer, None, None, None), "unet must be a UNet2DModel. Got a DiTTransformer2DModel"),
        ((scheduler, None, unet, vae, None), "transformer must be a DiTTransformer2DModel. Got a UNet2DModel"),
        (
            (scheduler, None, transformer, unet, None),
            "vae must be a AutoencoderKL or AutoencoderTiny. Got a UNet2DModel",
        ),
        ((scheduler, unet, None, None, nn.Linear(1, 1)), "estimator must be a PreTrainedModel. Got a Linear"),
        ((scheduler, make_unet(out_channels=5), None, None, None), "Got 3 in and 5 out"),
        (
            (scheduler, make_unet(class_embed_type="timestep"), None, None, None),
            "class_embed_type of the unet must be None",
        ),
        ((scheduler, make_unet(sample_size=None), None, None, None), "unet must have its sample_size"),
        (
            (scheduler, None, transformer, AutoencoderKL(latent_channels=3), None),
            "latents of the prior's 4 channels. Got 3",
        ),
        ((ScoreSdeVeScheduler(), unet, None, None, None), "Got ScoreSdeVeScheduler: "),
    ):
        with pytest.raises(ValueError, match=message):
            IGDSPipeline(*components)


def test_a_learned_variance_is_converted_for_other_samplers(make_dit, make_estimator, tmp_path):
    transformer, vae = make_dit()
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    DiTPipeline(transformer, vae, scheduler).save_pretrained(tmp_path)
    for name in ("ddpm", "ddim", "dpm_solver"):
        place = "prediction" if name == "dpm_solver" else "sample"
        pipeline = load_pipeline(tmp_path, make_estimator(), name)
        assert torch.isfinite(sample(pipeline, guide_on=place).images).all()
    own = DPMSolverMultistepScheduler.from_config(scheduler.config)
    with pytest.raises(
        ValueError, match="variance_type must be None for DPMSolverMultistepScheduler.*variance_type=None"
    ):
        IGDSPipeline(own, None, transformer, vae, None)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_dynamic_thresholding_is_that_of_the_scheduler(make_unet, make_estimator, kind):
    pipeline = IGDSPipeline(kind(thresholding=True), make_unet(), None, None, make_estimator())
    for place in ("sample", "x0_pred", "prediction"):
        assert torch.isfinite(sample(pipeline, guide_on=place).images).all()
    scheduler = with_timesteps(kind(thresholding=True, sample_max_value=40.0), 4)
    noise, noisy = 3 * torch.randn(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    stepped = scheduler.step(noise, scheduler.timesteps[2], noisy, generator=torch.Generator().manual_seed(0))
    clean = clean_prediction(scheduler, noise, 2, noisy)
    torch.testing.assert_close(clean, stepped.pred_original_sample)
    # Each image is bounded by a quantile of its own values, of 1 to 40, and scaled to [-1, 1].
    scheduler.register_to_config(thresholding=False, clip_sample=False)
    free = clean_prediction(scheduler, noise, 2, noisy)
    bound = free.flatten(1).abs().quantile(0.995, dim=1).clamp(1, 40)[:, None, None, None]
    torch.testing.assert_close(clean, free.clamp(-bound, bound) / bound)
    assert clean.abs().max() <= 1 < free.abs().max() and len(bound.unique()) > 1


def test_guidance_a_scheduler_does_not_carry_is_refused_before_a_step(make_unet, make_estimator):
    unet = make_unet()
    pipeline = IGDSPipeline(PNDMScheduler(), unet, None, None, make_estimator())
    unet.forward = None  # a step would fail
    for place, message in (("sample", "of every sample. Got PNDM"), ("prediction", "of every prediction. Got PNDM")):
        with pytest.raises(ValueError, match=message):
            sample(pipeline, guide_on=place, num_inference_steps=10)
        with pytest.raises(ValueError, match=message):
            pipeline.check_guidance(place, 10)
    del unet.forward
    assert torch.isfinite(sample(pipeline, guidance_scale=0.0, num_inference_steps=10).images).all()


def test_classes_by_name(make_dit, make_unet, make_estimator):
    pipeline = IGDSPipeline(DDIMScheduler(), None, *make_dit(), make_estimator(), id2label=NAMES)
    assert pipeline.get_label_ids(["goldfish", "Tinca tinca"]) == [1, 0] and pipeline.get_label_ids("tench") == [0]
    # "class 1" is 1 for the estimator, and 2 for the prior.
    by_name, by_id = sample(pipeline, ["class 1"] * 2), sample(pipeline, [1, 1], prior_class_labels=[2, 2])
    assert torch.equal(by_name.images, by_id.images)
    named = sample(pipeline, [1, 1], prior_class_labels=["goldfish", "tench"])
    assert torch.equal(named.images, sample(pipeline, [1, 1], prior_class_labels=[1, 0]).images)
    unet = IGDSPipeline(DDIMScheduler(), make_unet(entries=4), None, None, make_estimator())
    assert torch.equal(sample(unet, ["class 0", "class 1", "class 1"]).images, sample(unet).images)
    with pytest.raises(ValueError, match="class_labels must be a list, one entry per image. Got '12'"):
        sample(unet, "12")
    with pytest.raises(ValueError, match=r"names of classes of the estimator, as \['class 0', .*Got \['cat'\]"):
        sample(unet, ["cat", "class 1"])
    with pytest.raises(ValueError, match="class_labels must be a list, one entry per image. Got 3."):
        sample(unet, 3)
    for wrong in ([1.7, 0], [None, 0], torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="class_labels must be whole numbers, or names of classes. Got "):
            sample(unet, wrong)
    with pytest.raises(ValueError, match=r"all names or all ids .*Got both: \[1, 'class 1'\]"):
        sample(pipeline, [1, "class 1"])


def test_a_name_of_several_classes_is_refused_with_their_ids(make_dit, make_estimator, tmp_path):
    """ImageNet has `crane` and `maillot` twice."""
    names = {0: "crane", 1: "crane, heron", 2: "class 1, class 1"}
    pipeline = IGDSPipeline(DDIMScheduler(), None, *make_dit(), make_estimator(), id2label=names)
    pipeline.save_pretrained(tmp_path)
    stock = DiTPipeline(*make_dit(), DDIMScheduler(), id2label=names)
    told = IGDSPipeline.from_pipe(stock, id2label=names)  # it keeps the last id of a name
    for each in (pipeline, load_pipeline(tmp_path, None), IGDSPipeline.from_pipe(pipeline), told):
        assert each.get_label_ids(["heron", "class 1"]) == [1, 2] and each.labels == {"heron": 1, "class 1": 2}
        with pytest.raises(
            ValueError, match=r"must be ids where several classes of the prior.*Got 'crane', .* \[0, 1\]"
        ):
            each.get_label_ids("crane")
    message = r"^prior_class_labels must be ids .* of the prior .*'crane', which is \[0, 1\]: give prior_class_labels="
    with pytest.raises(ValueError, match=message):
        sample(pipeline, [1, 1], prior_class_labels=["crane", "heron"])
    pipeline.estimator.config.id2label = {0: "heron", 1: "owl", 2: "crane"}
    with pytest.raises(ValueError, match=message):
        sample(pipeline, ["heron", "crane"])
    with pytest.raises(
        ValueError, match=r"^prior_class_labels must be ids, or names of classes of the prior.*\['owl'\]"
    ):
        sample(pipeline, ["heron", "owl"])
    chosen = sample(pipeline, ["heron", "crane"], prior_class_labels=[1, 0])
    assert torch.equal(chosen.images, sample(pipeline, [0, 2], prior_class_labels=["heron", 0]).images)
    estimator = make_estimator()
    estimator.config.id2label = {0: "cat", 1: "dog", 2: "cat"}
    pipeline.estimator = estimator
    with pytest.raises(ValueError, match=r"several classes of the estimator .*Got 'cat', which is \[0, 2\]."):
        sample(pipeline, ["dog", "cat"], prior_class_labels=[0, 1])
    with pytest.raises(ValueError, match=r"several classes of the estimator .*Got 'cat', which is \[0, 2\]."):
        InformationGuidance(estimator=estimator, class_labels=["cat"])


def test_class_names_are_saved_with_the_pipeline(make_dit, make_estimator, tmp_path):
    IGDSPipeline(DDIMScheduler(), None, *make_dit(), make_estimator(), id2label=NAMES).save_pretrained(tmp_path)
    assert load_pipeline(tmp_path, None).get_label_ids(["goldfish"]) == [1]


def test_from_pipe_takes_what_there_is(make_unet, make_dit, make_estimator):
    stock, estimator = DDPMPipeline(make_unet(), DDPMScheduler()), make_estimator()
    pipeline = IGDSPipeline.from_pipe(stock, estimator=estimator)
    assert pipeline.unet is stock.unet and pipeline.transformer is None and pipeline.estimator is estimator
    dit = IGDSPipeline.from_pipe(DiTPipeline(*make_dit(), DDIMScheduler()))
    assert dit.unet is None and dit.vae is not None and dit.estimator is None
    named = IGDSPipeline.from_pipe(DiTPipeline(*make_dit(), DDIMScheduler(), id2label=NAMES))
    assert (
        named.labels
        == IGDSPipeline.from_pipe(named).labels
        == IGDSPipeline(DDIMScheduler(), None, *make_dit(), None, id2label=NAMES).labels
    )


def test_a_tiny_autoencoder_is_saved_and_loaded(make_dit, make_estimator, tmp_path):
    tiny = AutoencoderTiny(decoder_block_out_channels=(4, 4), num_decoder_blocks=(1, 1))
    transformer, _ = make_dit()
    IGDSPipeline(DDIMScheduler(), None, transformer, tiny, make_estimator()).save_pretrained(tmp_path)
    assert isinstance(load_pipeline(tmp_path, None).vae, AutoencoderTiny)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"),
            "'v_prediction' or 'sample'.*'epsilon'",
        ),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "use_dynamic_shifting of FlowMatch"),
    ],
)
def test_noise_schedules_that_leave_nothing_to_predict_from_are_refused(make_unet, scheduler, message):
    with pytest.raises(ValueError, match=message):
        IGDSPipeline(scheduler, make_unet(), None, None, None)


def test_a_callback_interrupts_the_sampling(make_unet, make_estimator):
    pipeline = IGDSPipeline(DDPMScheduler(), make_unet(), None, None, make_estimator())
    steps = []

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        pipe._interrupt = step == 1
        return {}

    output = sample(pipeline, num_inference_steps=5, callback_on_step_end=callback)
    assert steps == [0, 1] and output.prototype.shape == (3,)
    assert sample(pipeline, num_inference_steps=5).images.shape == (3, 3, 8, 8) and not pipeline.interrupt


def test_offloading_changes_nothing(make_dit, make_estimator):
    transformer, vae = make_dit()
    pipeline = IGDSPipeline(DDIMScheduler(), None, transformer, vae, make_estimator())
    expected = sample(pipeline)
    try:
        pipeline.enable_model_cpu_offload(device="cpu")
        offloaded = sample(pipeline)
        torch.testing.assert_close(offloaded.images, expected.images)
        again = sample(pipeline)
        torch.testing.assert_close(again.prototype, expected.prototype)
    finally:
        pipeline.remove_all_hooks()


def test_frozen_copies_have_no_hooks(make_dit):
    """Sequential offloading keeps the weights in its hooks; the module itself has none."""
    from accelerate import cpu_offload

    _, vae = make_dit()
    plain, offloaded = copy.deepcopy(vae), copy.deepcopy(vae)
    cpu_offload(offloaded, torch.device("cpu"))
    assert next(offloaded.parameters()).is_meta
    frozen = frozen_copy(offloaded)
    assert not any(hasattr(part, "_hf_hook") for part in frozen.modules())
    assert all(hasattr(part, "_hf_hook") for part in offloaded.modules() if list(part.parameters(recurse=False)))
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frozen.decode(latents).sample, plain.decode(latents).sample)


def test_variants_and_safetensors(make_unet, tmp_path):
    DDPMPipeline(make_unet(), DDPMScheduler()).save_pretrained(tmp_path, variant="fp16")
    assert load_pipeline(tmp_path, None, variant="fp16").unet is not None
    with pytest.raises(ValueError, match="prior must be .*cannot be loaded"):
        load_pipeline(tmp_path, None)
    with pytest.raises(ValueError, match="use_safetensors must be True or left out"):
        IGDSPipeline.from_pretrained(tmp_path, estimator=None, variant="fp16", use_safetensors=False)


def test_passes_of_each_network_change_nothing(make_dit, make_estimator):
    pipeline = IGDSPipeline(DDIMScheduler(), None, *make_dit(), make_estimator())
    expected = sample(pipeline)
    for sizes in ({"vae_micro_batch": 2}, {"estimator_micro_batch": 1}, {"micro_batch": 2, "vae_micro_batch": 1}):
        output = sample(pipeline, **sizes)
        torch.testing.assert_close(output.images, expected.images, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="vae_micro_batch must be at least 1. Got 0"):
        sample(pipeline, vae_micro_batch=0)
