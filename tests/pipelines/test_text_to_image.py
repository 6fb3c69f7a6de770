"""Stock text-to-image pipelines under guidance: each family, tiny and random."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DEISMultistepScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    UniPCMultistepScheduler,
)
from text_to_image import FAMILIES, build, vae

from decoct.pipelines.igds import estimates
from decoct.pipelines.igds import text_to_image as module
from decoct.pipelines.igds.estimates import decoded
from decoct.pipelines.igds.guidance import InformationGuidance
from decoct.pipelines.igds.information import information_gradient
from decoct.pipelines.igds.reverse import decode_latents, unpacked_latents
from decoct.pipelines.igds.text_to_image import FlaggedImages, TextToImagePrior

LABELS, PROMPTS, STEPS = [0, 1, 1], ["a photo of a cat", "a photo of a dog", "a tree"], 3


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": False}


@pytest.fixture(scope="module")
def make_prior(make_estimator, tmp_path_factory) -> Any:
    """A prior of a family, with a scheduler that it can be guided with."""
    built: dict[str, Any] = {}

    def make(family: str, **options: Any) -> TextToImagePrior:
        if family not in built:
            built[family] = build(family, tmp_path_factory.mktemp("tokenizer"))
        pipeline = built[family]
        if isinstance(pipeline.scheduler, PNDMScheduler):
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        return TextToImagePrior(pipeline, make_estimator(), PROMPTS, **options)

    return make


def options_of(family: str, seeded: Any) -> dict[str, Any]:
    """PixArt resizes images of this size otherwise."""
    extra = {"use_resolution_binning": False} if family.startswith("pixart") else {}
    return {"num_inference_steps": STEPS, "generator": seeded(3), **extra}


@pytest.mark.parametrize("family", FAMILIES)
def test_unguided_is_the_stock_pipeline_and_guidance_raises_the_prototype(make_prior, seeded, family):
    prior = make_prior(family)
    stock = prior.pipeline(
        prompt=[PROMPTS[label] for label in LABELS], output_type="pt", **options_of(family, seeded)
    ).images
    plain = prior(LABELS, guidance_scale=0.0, **options_of(family, seeded))
    assert torch.equal(plain.images, stock)
    guided = prior(LABELS, guidance_scale=2.0, beta=0.0, **options_of(family, seeded))
    assert guided.prototype.sum() > plain.prototype.sum()
    assert torch.isfinite(guided.images).all() and guided.images.shape == stock.shape
    assert "step" not in vars(prior.scheduler)
    again = prior(LABELS, guidance_scale=0.0, **options_of(family, seeded))
    assert torch.equal(again.images, stock), "guidance leaves nothing behind"


@pytest.mark.parametrize("family", ["pixart", "pixart_alpha"])
def test_a_pixart_of_another_size_than_the_published_makes_its_own(make_prior, seeded, family):
    """Its own call fails then, unless it is told so; those of the published sizes take any size of images."""
    prior = make_prior(family)
    images = [
        prior(LABELS, num_inference_steps=2, generator=seeded(3), **options).images
        for options in ({}, {"use_resolution_binning": False})
    ]
    assert torch.equal(*images) and images[0].shape == (3, 3, 16, 16)
    transformer = prior.prior
    own = transformer.config.sample_size
    try:
        transformer.register_to_config(sample_size=64)
        assert make_prior(family, image_size=9).image_size == 9
    finally:
        transformer.register_to_config(sample_size=own)


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "flux"])
def test_both_ways_into_the_sampling_agree(make_prior, seeded, family):
    """Euler's steps are of first order: what enters the prediction moves the next sample as far."""
    prior = make_prior(family)
    images = [
        prior(LABELS, guidance_scale=0.5, guide_on=place, **options_of(family, seeded)).images
        for place in ("x0_pred", "prediction")
    ]
    torch.testing.assert_close(images[0], images[1], rtol=1e-3, atol=1e-4)


def test_packed_latents_are_those_that_are_decoded(make_prior, seeded):
    prior = make_prior("flux")
    latents = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    packed = prior.pipeline._pack_latents(latents, 2, 4, 6, 10)
    size = (6 * prior.pipeline.vae_scale_factor, 10 * prior.pipeline.vae_scale_factor)
    assert torch.equal(unpacked_latents(prior.pipeline, packed, size), latents)
    with pytest.raises(ValueError, match="image_size must be"):
        unpacked_latents(prior.pipeline, packed, None)
    expected = prior.vae.decode(latents / 0.3611 + 0.1159).sample
    torch.testing.assert_close(decode_latents(prior.vae, latents), expected)


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_images_of_flux_need_not_be_square(make_prior, make_estimator, seeded, monkeypatch, micro_batch):
    """4 x 16 tokens are as many as 8 x 8."""
    prior, seen = make_prior("flux"), []
    monkeypatch.setattr(
        estimates, "decoded", lambda vae, latents: seen.append(latents.shape[1:]) or decoded(vae, latents)
    )
    size = {"height": 16, "width": 64}
    guided = prior(LABELS, guidance_scale=2.0, beta=0.0, micro_batch=micro_batch, **size, **options_of("flux", seeded))
    plain = prior(LABELS, guidance_scale=0.0, **size, **options_of("flux", seeded))
    assert guided.images.shape == (3, 3, 16, 64) and guided.prototype.sum() > plain.prototype.sum()
    assert set(seen) == {(4, 8, 32)}
    assert not prior.pipeline.transformer._forward_pre_hooks
    guidance = InformationGuidance(estimator=make_estimator(), class_labels=LABELS)
    with pytest.raises(
        ValueError, match=r"image_size must be \(height, width\).*callback of FluxPipeline.*Got None for 64"
    ):
        prior.pipeline(PROMPTS, callback_on_step_end=guidance, **size, **options_of("flux", seeded))


def test_a_small_vae_decodes_for_the_guidance(make_prior, seeded):
    small = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    prior = make_prior("stable_diffusion", guidance_vae=small)
    guided = prior(LABELS, guidance_scale=2.0, beta=0.0, **options_of("", seeded))
    own = make_prior("stable_diffusion")(LABELS, guidance_scale=2.0, beta=0.0, **options_of("", seeded))
    assert torch.isfinite(guided.images).all() and not torch.equal(guided.images, own.images)
    other = AutoencoderTiny(latent_channels=16)
    with pytest.raises(
        ValueError, match="guidance_vae must decode the 4 channels of the prior's latents. Got one of 16"
    ):
        make_prior("stable_diffusion", guidance_vae=other)


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_of_each_network_change_nothing(make_prior, seeded, family, monkeypatch):
    prior = make_prior(family)
    sizes, forward = [], prior.prior.forward

    def counted(*args: Any, **options: Any) -> Any:
        sizes.append(len(args[0] if args else options["hidden_states"]))
        return forward(*args, **options)

    monkeypatch.setattr(prior.prior, "forward", counted)
    names = ("micro_batch", "vae_micro_batch", "estimator_micro_batch")
    passes = [(None, None, None), (2, None, None), (1, 1, 3)] + [(None, 2, 1)] * (family == "stable_diffusion")
    images = []
    for each in passes:
        sizes.clear()
        options = {**options_of(family, seeded), **dict(zip(names, each, strict=True))}
        images.append(prior(LABELS, guidance_scale=0.5, **options).images)
        assert max(sizes) == (each[0] or (3 if family == "flux" else 6)), "twice as many with classifier-free guidance"
        torch.testing.assert_close(images[-1], images[0], rtol=1e-4, atol=1e-5)
    assert prior.prior.forward is counted
    for name in ("num_inference_steps", *names):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1. Got 0"):
            prior(LABELS, **{name: 0})
    with pytest.raises(ValueError, match="class_labels must have at least one entry. Got none"):
        prior([])


def test_attention_kwargs_are_left_alone(make_prior, seeded, monkeypatch):
    prior = make_prior("stable_diffusion")
    seen, forward = [], prior.prior.forward

    def kept(*args: Any, **options: Any) -> Any:
        seen.append(options["cross_attention_kwargs"])
        return forward(*args, **options)

    monkeypatch.setattr(prior.prior, "forward", kept)
    given = {"ignored": 1}  # by this attention
    prior(LABELS, micro_batch=2, cross_attention_kwargs=given, **options_of("", seeded))
    assert seen and all(each == {"ignored": 1} for each in seen) and given == {"ignored": 1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(make_prior, seeded, dtype):
    """The VAE of SDXL overflows in float16, and says so (`force_upcast`)."""
    prior = make_prior("stable_diffusion_xl")
    try:
        prior.pipeline.to(dtype=dtype)
        guided = prior(LABELS, guidance_scale=2.0, beta=0.0, **options_of("", seeded))
        plain = prior(LABELS, guidance_scale=0.0, **options_of("", seeded))
        assert guided.images.dtype == plain.images.dtype and torch.isfinite(guided.images).all()
        assert guided.prototype.sum() > plain.prototype.sum()
    finally:
        prior.pipeline.to(dtype=torch.float32)


@pytest.mark.parametrize(
    ("upcast", "half", "runs_in"),
    [
        (True, torch.float16, torch.float32),
        (True, torch.bfloat16, torch.bfloat16),
        (False, torch.float16, torch.float16),
        (False, torch.bfloat16, torch.bfloat16),
    ],
)
def test_a_vae_that_overflows_in_float16_guides_in_float32(upcast, half, runs_in):
    decoder, seen = vae(4, force_upcast=upcast), []
    decoder.decoder.conv_in.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", dtype=half):
        image = decoded(decoder, latents)
    assert seen == [runs_in] and torch.isfinite(image).all()


def test_a_callback_knows_the_scale_of_the_samples(make_prior, make_estimator):
    """Euler's samples are as large as their noise: the guidance sees them on the scale that the network sees."""
    prior, estimator = make_prior("stable_diffusion_xl"), make_estimator()
    pipeline = prior.pipeline
    pipeline.scheduler.set_timesteps(4)
    sigma = float(pipeline.scheduler.sigmas[2])
    scale = (1 + sigma**2) ** 0.5
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guidance = InformationGuidance(estimator=estimator, class_labels=LABELS, guidance_scale=1.0, softplus=False)
    pipeline._num_timesteps = 4
    moved = guidance(pipeline, 1, pipeline.scheduler.timesteps[1], {"latents": scale * latents})["latents"]

    def estimate(part: torch.Tensor) -> Any:
        pixels = decode_latents(pipeline.vae, part) / 2 + 0.5
        pixels = torch.nn.functional.interpolate(pixels, (8, 8), mode="bilinear", antialias=True)
        output = estimator(pixel_values=(pixels - 0.4) / 0.3)
        return output.embeddings, output.logits

    gradient, _, _ = information_gradient(latents, torch.tensor(LABELS), estimate, 1.0, 0.07)
    torch.testing.assert_close((moved - scale * latents) / scale, gradient, rtol=1e-2, atol=1e-5)


def test_a_callback_follows_the_pipeline_it_is_used_with(make_prior, make_estimator):
    guidance = InformationGuidance(estimator=make_estimator(), class_labels=LABELS, guidance_scale=1.0)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = {}
    for family in ("stable_diffusion", "stable_diffusion_3", "stable_diffusion"):
        pipeline = make_prior(family).pipeline
        pipeline.scheduler.set_timesteps(4)
        pipeline._num_timesteps = 4
        fresh = InformationGuidance(estimator=make_estimator(), class_labels=LABELS, guidance_scale=1.0)
        moved[family], expected = (
            each(pipeline, 1, pipeline.scheduler.timesteps[1], {"latents": latents})["latents"]
            for each in (guidance, fresh)
        )
        assert torch.equal(moved[family], expected)
    assert not torch.equal(moved["stable_diffusion"], moved["stable_diffusion_3"])


def test_an_attached_guidance_knows_where_a_call_stands(make_prior, make_estimator, seeded):
    """A call that was interrupted leaves nothing behind, and one that starts late is refused."""
    prior, estimator = make_prior("stable_diffusion"), make_estimator()
    pipeline = prior.pipeline
    options = {"prompt": PROMPTS, "num_inference_steps": STEPS, "output_type": "pt"}
    guidance = InformationGuidance(estimator=estimator, class_labels=LABELS, guidance_scale=1.0)

    def stop(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return tensors

    with guidance.attached(pipeline):
        fresh = pipeline(**options, generator=seeded(3)).images
    with guidance.attached(pipeline):
        pipeline(**options, generator=seeded(3), callback_on_step_end=stop)
        again = pipeline(**options, generator=seeded(3)).images
    assert torch.equal(again, fresh)
    own = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    components = {**pipeline.components, "scheduler": own}
    late = StableDiffusionImg2ImgPipeline(**components, requires_safety_checker=False)
    with pytest.raises(ValueError, match="Img2ImgPipeline must take every timestep"), guidance.attached(late):
        late(**options, image=fresh, strength=0.5)
    with pytest.raises(ValueError, match="Img2ImgPipeline must take every timestep.*take the text-to-image pipeline"):
        late(**options, image=fresh, strength=0.5, callback_on_step_end=guidance)
    masked = StableDiffusionInpaintPipeline(**components, requires_safety_checker=False)
    with pytest.raises(ValueError, match="InpaintPipeline must take every timestep"):
        masked(**options, image=fresh, mask_image=fresh[:, :1], strength=0.5, callback_on_step_end=guidance)
    with guidance.attached(pipeline):
        with guidance.attached(pipeline):
            pass
        assert "step" in vars(pipeline.scheduler)
    assert "step" not in vars(pipeline.scheduler)


def test_a_callback_checks_another_scheduler_of_its_pipeline(make_prior, make_estimator):
    guidance = InformationGuidance(estimator=make_estimator(), class_labels=LABELS, guidance_scale=1.0)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipeline = make_prior("stable_diffusion").pipeline
    pipeline._num_timesteps = 4
    pipeline.scheduler.set_timesteps(4)
    guidance(pipeline, 1, pipeline.scheduler.timesteps[1], {"latents": latents})
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="guide_on must be 'prediction' for DPMSolverMultistepScheduler"):
        guidance(pipeline, 1, pipeline.scheduler.timesteps[1], {"latents": latents})


@pytest.mark.parametrize("guide_on", ["sample", "prediction"])
def test_a_callback_refuses_in_the_first_step_also_where_later_ones_are_guided(make_prior, make_estimator, guide_on):
    late = {"interval": (0.5, 1.0, 1), "guide_on": guide_on}
    guidance = InformationGuidance(estimator=make_estimator(), class_labels=LABELS, guidance_scale=1.0, **late)
    pipeline = make_prior("stable_diffusion").pipeline
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline._num_timesteps = 4
    pipeline.scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="guide_on must be "):
        guidance(pipeline, 0, pipeline.scheduler.timesteps[0], {"latents": torch.zeros(3, 4, 8, 8)})


def test_options_reach_the_stock_pipeline(make_prior, seeded):
    prior = make_prior("stable_diffusion", image_size=24)
    options = options_of("", seeded)
    large = prior(LABELS, guidance_scale=0.0, classifier_free_guidance_scale=1.0, **options)
    assert large.images.shape == (3, 3, 24, 24)
    options = options_of("", seeded)
    expected = prior.pipeline(
        prompt=[PROMPTS[label] for label in LABELS],
        guidance_scale=1.0,
        height=24,
        width=24,
        output_type="pt",
        **options,
    )
    assert torch.equal(large.images, expected.images)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_negative_prompt_is_that_of_all_images(make_prior, seeded, family):
    prior = make_prior(family)
    scale = {"true_cfg_scale": 3.0} if family == "flux" else {}
    options = {"num_inference_steps": 2, "guidance_scale": 0.0, **scale}
    images = [
        prior(LABELS, negative_prompt=negative, generator=seeded(3), **options).images
        for negative in ("a tree", ["a tree"] * len(LABELS), ["a cat"] * len(LABELS))
    ]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


@pytest.mark.parametrize(
    ("name", "value"),
    [("prompt", "a cat"), ("num_images_per_prompt", 2), ("output_type", "pil"), ("return_dict", False)],
)
def test_options_that_the_prior_sets_are_refused(make_prior, name, value):
    with pytest.raises(ValueError, match=rf"must leave out \['prompt', .*one image each.*Got \['{name}'\]\."):
        make_prior("stable_diffusion")(LABELS, **{name: value})


@pytest.mark.parametrize(
    ("family", "side", "message"),
    [
        ("stable_diffusion", 9, "a multiple of 8 for StableDiffusionPipeline. Got 9: the nearest is 8 or 16."),
        ("stable_diffusion_xl", 3, "a multiple of 8 for StableDiffusionXLPipeline. Got 3: the nearest is 8."),
        ("stable_diffusion_3", 17, "a multiple of 2 up to 192 for .* Got 17: the nearest is 16 or 18."),
        ("stable_diffusion_3", 400, "a multiple of 2 up to 192 for .* Got 400: the nearest is 192."),
        ("pixart", 9, "a multiple of 8 for PixArtSigmaPipeline. Got 9: the nearest is 8 or 16."),
        ("flux", 18, "a multiple of 4 for FluxPipeline. Got 18: the nearest is 16 or 20."),
    ],
)
def test_a_size_that_the_pipeline_does_not_make_is_refused_when_it_is_loaded(make_prior, family, side, message):
    with pytest.raises(ValueError, match=f"image_size of the prior .--prior_image_size. must be {message}"):
        make_prior(family, image_size=side)


def test_a_pixart_of_another_size_is_sampled_in_whole_patches(make_estimator, seeded, tmp_path):
    """Latents of half the images' side, in patches of 8."""
    pipeline = build("pixart", tmp_path)
    config = {**pipeline.transformer.config, "patch_size": 8}
    pipeline.transformer = type(pipeline.transformer).from_config(config).eval()
    with pytest.raises(ValueError, match="a multiple of 16 for PixArtSigmaPipeline. Got 24: the nearest is 16 or 32."):
        TextToImagePrior(pipeline, make_estimator(), PROMPTS, image_size=24)
    prior = TextToImagePrior(pipeline, make_estimator(), PROMPTS, image_size=32)
    assert prior(LABELS, **options_of("pixart", seeded)).images.shape == (3, 3, 32, 32)


def test_images_that_a_safety_checker_blacks_out_are_refused(make_prior, seeded, monkeypatch):
    prior = make_prior("stable_diffusion")
    check = lambda image, device, dtype: (image, [False, True, False])  # noqa: E731
    monkeypatch.setattr(prior.pipeline, "run_safety_checker", check)
    with pytest.raises(FlaggedImages, match=r"must pass all images.*Got image 1 \('a photo of a dog'\): ") as flagged:
        prior(LABELS, **options_of("", seeded))
    for error in (flagged.value, pickle.loads(pickle.dumps(flagged.value))):
        assert (error.rows, error.prompts) == ([1], ["a photo of a dog"])
        assert str(error) == str(flagged.value)


def test_what_cannot_be_guided_is_refused(make_prior, make_estimator, make_dit, seeded):
    dit = DiTPipeline(*make_dit(), DDIMScheduler())
    with pytest.raises(ValueError, match=r"must be one of \['StableDiffusionPipeline', .*Got a DiTPipeline"):
        TextToImagePrior(dit, make_estimator(), PROMPTS)
    prior = make_prior("stable_diffusion")
    for prompts, got in ((PROMPTS[:2], "2"), ("a {label}", "'a {label}'")):
        with pytest.raises(ValueError, match=f"prompts must have 3 entries, one per class of the estimator. Got {got}"):
            TextToImagePrior(prior.pipeline, make_estimator(), prompts)
    with pytest.raises(
        ValueError, match="estimator must take images of 3 channels, as the prior makes them. Got one for 1"
    ):
        TextToImagePrior(prior.pipeline, make_estimator(channels=1), PROMPTS)
    with pytest.raises(ValueError, match=r"class_labels must be in \[0, 2\]"):
        prior([3], **options_of("", seeded))
    with pytest.raises(ValueError, match=r"class_labels must be a list.*Got '012'"):
        prior("012", **options_of("", seeded))
    guidance = InformationGuidance(estimator=make_estimator(), class_labels=LABELS, guide_on="prediction")
    with pytest.raises(ValueError, match="guide_on must be 'sample' for a callback"):
        guidance(prior.pipeline, 0, 0, {"latents": torch.zeros(3, 4, 8, 8)})
    wrong = torch.zeros(3, 16, 64)
    with pytest.raises(ValueError, match=r"Got StableDiffusionPipeline, whose latents are \(3, 16, 64\)"):
        unpacked_latents(prior.pipeline, wrong, None)


@pytest.mark.parametrize(
    ("family", "kind", "options", "message"),
    [
        ("stable_diffusion", FlowMatchEulerDiscreteScheduler, {}, "does not say how noisy samples start: take DDIM"),
        ("pixart", UniPCMultistepScheduler, {"use_dynamic_shifting": True}, "with use_dynamic_shifting, whose shift"),
        ("stable_diffusion_3", EulerDiscreteScheduler, {}, "which is not of flows: take FlowMatchEulerDiscrete"),
        ("flux", DDIMScheduler, {}, "which is not of flows: take FlowMatchEulerDiscreteScheduler"),
        ("flux", FlowMatchHeunDiscreteScheduler, {}, "whose set_timesteps takes no mu and no sigmas: take FlowMatch"),
        ("flux", DEISMultistepScheduler, FLOW, "which takes a shift .mu. with use_dynamic_shifting and an exp"),
    ],
)
def test_a_scheduler_that_the_stock_pipeline_cannot_use_is_refused_when_it_is_loaded(
    make_prior, make_estimator, family, kind, options, message
):
    pipeline = make_prior(family).pipeline
    own = pipeline.scheduler
    try:
        pipeline.scheduler = kind.from_config(own.config, **options)
        name = type(pipeline).__name__
        with pytest.raises(ValueError, match=f"one that {name} can use. Got {kind.__name__}, .*{message}") as refused:
            TextToImagePrior(pipeline, make_estimator(), PROMPTS)
        assert "\n" not in str(refused.value)
    finally:
        pipeline.scheduler = own


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scheduler_is_measured_with_the_timesteps_of_the_call(make_prior, seeded, monkeypatch, family):
    """But for the shift of flows, which follows from the size of the images."""
    prior, measured = make_prior(family), []
    monkeypatch.setattr(module, "check_guidance", lambda scheduler, *_: measured.append(scheduler))
    prior(LABELS, **options_of(family, seeded))
    assert len(measured) == 1 and len(measured[0].timesteps) == len(prior.scheduler.timesteps)
    shift = 0.4 if family == "flux" else 0.0
    torch.testing.assert_close(measured[0].timesteps, prior.scheduler.timesteps, rtol=shift, atol=0)


def test_guidance_that_is_not_carried_is_refused_before_anything_runs(make_prior, seeded, monkeypatch):
    prior = make_prior("stable_diffusion")
    own = prior.pipeline.scheduler
    monkeypatch.setattr(prior.pipeline, "encode_prompt", None)
    try:
        prior.pipeline.scheduler = PNDMScheduler.from_config(own.config)
        with pytest.raises(ValueError, match="Got PNDMScheduler, whose step .* carries.*DDIMScheduler.from_config"):
            prior(LABELS, **{**options_of("", seeded), "num_inference_steps": 10})
    finally:
        prior.pipeline.scheduler = own


def test_the_scheduler_may_be_exchanged(make_prior, seeded):
    prior = make_prior("stable_diffusion")
    own = prior.pipeline.scheduler
    try:
        prior.pipeline.scheduler = EulerDiscreteScheduler.from_config(own.config)
        assert torch.isfinite(prior(LABELS, **options_of("", seeded)).images).all()
        prior.pipeline.scheduler = PNDMScheduler.from_config(own.config)
        with pytest.raises(ValueError, match="Got PNDMScheduler, whose step .* carries"):
            prior(LABELS, **{**options_of("", seeded), "num_inference_steps": 10})
        with pytest.raises(ValueError, match="guide_on must be 'prediction' for PNDMScheduler"):
            prior(LABELS, guide_on="sample", **options_of("", seeded))
    finally:
        prior.pipeline.scheduler = own
