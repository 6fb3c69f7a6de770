"""The tiles that IGDS samples: chunks, guidance, priors of all kinds."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from datasets import concatenate_datasets, load_dataset
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DPMSolverMultistepScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)

import decoct
from decoct.config import DistillConfig, values_for
from decoct.data.mosaic import unpack
from decoct.data.pixels import to_pixels
from decoct.igds.information import default_beta
from decoct.igds.loading import build_estimator, load_estimator
from decoct.igds.prior import load_pipeline
from decoct.pipelines.igds.pipeline import IGDSPipeline, IGDSPipelineOutput
from decoct.run.folder import write_json
from decoct.synthesis.chunks import Chunk, batches_of, betas_of, chunks_of, sample_chunks
from decoct.synthesis.distill import distill, plan_distill
from decoct.synthesis.guided_prior import PriorSettings, SamplingSettings, open_pipeline

from ..runs import CLASSES, SIDE, columns
from .samples import PARTS, SCALE, difference, drawn, eight_bit, pixels, seeds_of

# Chunks


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("ipcs", [[1], [5], [1, 3], [2, 3, 50]])
@pytest.mark.parametrize("batch", [1, 3, 7, 1000])
def test_chunks_cover_every_tile_once(ipcs, count, batch):
    chunks = chunks_of(3, betas_of(ipcs, None), count, batch)
    for label in range(3):
        mine = [chunk for chunk in chunks if chunk.label == label]
        numbers = [number for chunk in mine for number in range(chunk.first, chunk.end)]
        assert numbers == list(range(max(ipcs) * count))
        assert max(chunk.end - chunk.first for chunk in mine) <= batch
        ends = {chunk.end for chunk in mine}
        assert {ipc * count for ipc in ipcs} <= ends, "no chunk reaches over the end of a smaller set"
        for smaller, ipc in zip([0, *ipcs], ipcs, strict=False):
            inside = [chunk for chunk in mine if smaller * count <= chunk.first < ipc * count]
            sizes = [chunk.end - chunk.first for chunk in inside]
            assert max(sizes) - min(sizes) <= 1
            assert {chunk.beta for chunk in inside} == {default_beta(ipc)}


def test_a_beta_that_is_given_holds_for_every_set():
    for beta in (0.3, 0.0):
        chunks = chunks_of(2, betas_of([1, 10, 50], beta), tiles_per_image=1, most=100)
        assert {chunk.beta for chunk in chunks} == {beta}


@pytest.mark.parametrize("most", [1, 2, 7, 1000])
def test_batches_hold_every_chunk_once_and_what_is_alike_together(most):
    chunks = chunks_of(40, betas_of([1, 3, 50], None), 1, 30)
    batches = batches_of(chunks, most)
    assert Counter(chunk for batch in batches for chunk in batch) == Counter(chunks)
    for batch in batches:
        assert len({(chunk.first, chunk.end, chunk.beta) for chunk in batch}) == 1
        assert len(batch) == 1 or sum(map(len, batch)) <= min(most, 32)
    if most == 1000:
        assert [len(batch) for batch in batches] == [32, 8, 16, 16, 8, *[1] * 80]


def test_classes_that_are_sampled_together_have_their_own_tiles(sampling, pipeline):
    chunks = [Chunk(label, 1, 4, 1.0) for label in (0, 2, 3)]
    options = sampling(prior_classes=[3, 1, 0, 2])
    together = sample_chunks(pipeline, chunks, options, SIDE)
    alone = concatenate_datasets([sample_chunks(pipeline, [chunk], options, SIDE) for chunk in chunks])
    for name in ("label", "number", "seed"):
        assert together[name][:] == alone[name][:]
    assert (pixels(together).int() - pixels(alone).int()).abs().max() <= 1
    for name in ("prototype", "contextual"):
        assert together[name][:] == pytest.approx(alone[name][:], abs=1e-3)


# The tiles


@pytest.mark.parametrize("count", [1, 4])
def test_tiles_are_those_sampled_by_hand(finished, pipeline, count):
    values = columns(finished(count), 3)
    tiles = unpack(values["pixels"], count).unflatten(0, (CLASSES, 3)).flatten(1, 2)
    stored = [
        [tile for members in values["tiles"][3 * label : 3 * label + 3] for tile in members] for label in range(4)
    ]
    for label in (0, 3):
        for first, end, ipc in PARTS[count]:
            seeds = [tile["seed"] for tile in stored[label][first:end]]
            images = drawn(pipeline, label, seeds, beta=default_beta(ipc)).images
            if count == 4:
                images = F.interpolate(images, (14, 14), mode="bilinear", align_corners=False, antialias=True)
            # Sampled in a batch with other classes.
            assert (tiles[label, first:end].int() - eight_bit(images).int()).abs().max() <= 1


def test_stored_estimates_are_the_estimators(finished, pipeline, estimator):
    stored = [tile for members in columns(finished(4), 3)["tiles"][:3] for tile in members]
    mean, std = (
        torch.tensor(value)[:, None, None] for value in (estimator.config.image_mean, estimator.config.image_std)
    )
    for first, end, ipc in PARTS[4]:
        tiles = stored[first:end]
        images = drawn(pipeline, 0, [tile["seed"] for tile in tiles], beta=default_beta(ipc)).images
        with torch.no_grad():
            output = estimator((images - mean) / std)
        prototype = output.logits.double().log_softmax(-1)[:, 0]
        assignments = (output.embeddings.double() / 0.07).softmax(-1)
        contextual = (assignments * (assignments / assignments.mean(0)).log()).sum(-1)
        assert [tile["prototype"] for tile in tiles] == pytest.approx(prototype.tolist(), abs=1e-5)
        assert [tile["contextual"] for tile in tiles] == pytest.approx(contextual.tolist(), abs=1e-5)
        assert contextual.min() > 1e-4, "tiles must differ for the check to mean something"


def test_without_guidance_tiles_are_the_priors_own(sampling, tiny_prior, pipeline):
    unguided = drawn(load_pipeline(tiny_prior, None), 1, seeds_of(1, 0, 4)).images
    tiles = pixels(sample_chunks(pipeline, [Chunk(1, 0, 4, 0.5)], sampling(guidance_scale=0.0), SIDE))
    assert torch.equal(tiles, eight_bit(unguided))
    part = pixels(sample_chunks(pipeline, [Chunk(1, 2, 4, 0.5)], sampling(guidance_scale=0.0), SIDE))
    assert (part.int() - tiles[2:].int()).abs().max() <= 1, "a tile's noise does not depend on its chunk"
    guided = pixels(sample_chunks(pipeline, [Chunk(1, 0, 4, 0.5)], sampling(), SIDE))
    assert difference(guided, tiles) > 0.5


@pytest.mark.parametrize(("count", "matters"), [(1, False), (4, True)])
def test_beta_matters_at_ipc_1_where_an_image_has_several_tiles(sampling, pipeline, count, matters):
    tiles = []
    for beta in (0.0, 2.0):
        (chunk,) = chunks_of(1, betas_of([1], beta), count, most=100)
        tiles.append(sample_chunks(pipeline, [chunk], sampling(), SIDE))
    assert (difference(*map(pixels, tiles)) > 0.5) == matters
    plain, spread = (np.mean(rows["contextual"][:]) for rows in tiles)
    assert (spread > 1.1 * plain) if matters else (abs(spread - plain) < 1e-5)


def test_the_seed_changes_the_tiles(sampling, pipeline):
    rows = [sample_chunks(pipeline, [Chunk(0, 0, 2, 0.1)], sampling(seed=seed), SIDE) for seed in (0, 7, 0)]
    assert torch.equal(pixels(rows[0]), pixels(rows[2]))
    assert difference(pixels(rows[0]), pixels(rows[1])) > 5
    assert rows[1]["seed"][:] == seeds_of(0, 0, 2, seed=7)


def test_the_micro_batch_changes_nothing(sampling, pipeline):
    whole, *others = (
        sample_chunks(pipeline, [Chunk(2, 0, 5, 1.0)], sampling(micro_batch=size), SIDE) for size in (100, 1, 2)
    )
    for rows in others:
        assert (pixels(rows).int() - pixels(whole).int()).abs().max() <= 1
        for name in ("prototype", "contextual"):
            assert rows[name][:] == pytest.approx(whole[name][:], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"guide_on": "x0_pred"}, {"guide_on": "x0_pred"}),
        ({"guidance_reduction": "mean"}, {"reduction": "mean"}),
        ({"guidance_start": 0.5}, {"guidance_interval": (0.5, 1.0, 1)}),
        ({"guidance_stop": 0.5}, {"guidance_interval": (0.0, 0.5, 1)}),
        ({"guidance_every": 2}, {"guidance_interval": (0.0, 1.0, 2)}),
        ({"no_softplus": True}, {"softplus": False}),
        ({"classifier_free_guidance_scale": 3.0}, {"classifier_free_guidance_scale": 3.0}),
        ({"sampling_steps": 2}, {"num_inference_steps": 2}),
    ],
)
def test_every_setting_of_the_guidance_is_used(sampling, pipeline, options, passed):
    options = {"softplus": False} if "no_softplus" in options else options
    tiles = pixels(sample_chunks(pipeline, [Chunk(0, 0, 2, 0.5)], sampling(**options), SIDE))
    assert torch.equal(tiles, eight_bit(drawn(pipeline, 0, seeds_of(0, 0, 2), beta=0.5, **passed).images))
    assert not torch.equal(tiles, pixels(sample_chunks(pipeline, [Chunk(0, 0, 2, 0.5)], sampling(), SIDE)))


# Other priors


@pytest.mark.parametrize(
    ("name", "scheduler", "place"),
    [("ddim", DDIMScheduler, "sample"), ("dpm_solver", DPMSolverMultistepScheduler, "prediction")],
)
def test_other_samplers(quick, finished, tmp_path, tiny_prior, estimator, name, scheduler, place):
    manifest = distill(quick(scheduler=name, guide_on=place))
    assert manifest["config"]["scheduler"] == name
    stock = DDPMPipeline.from_pretrained(tiny_prior)
    parts = {"transformer": None, "vae": None, "estimator": estimator}
    by_hand = IGDSPipeline(scheduler.from_config(stock.scheduler.config), stock.unet.eval(), **parts)
    tiles = columns(tmp_path / "run", 1)["pixels"]
    for label in (0, 3):
        expected = eight_bit(drawn(by_hand, label, seeds_of(label, 0, 1), guide_on=place).images)
        # Some processors round a batch of another size otherwise.
        assert int((tiles[label : label + 1].int() - expected.int()).abs().max()) <= 1
    assert difference(tiles, columns(finished(1), 1)["pixels"]) > 1


def test_a_sampler_that_does_not_carry_the_guidance_is_refused_with_the_option_that_helps(quick, tmp_path):
    with pytest.raises(ValueError, match="guide_on must be 'prediction' for DPM.*As options: --guide_on prediction"):
        distill(quick(scheduler="dpm_solver"))
    with pytest.raises(
        ValueError, match="^sampling_steps must be a number .* DDPMScheduler can take. Got 5000: "
    ) as many:
        distill(quick(sampling_steps=5000))
    assert "As options" not in str(many.value) and "--" not in str(many.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("scheduler", "steps", "place", "named"),
    [
        (LMSDiscreteScheduler(), 20, "prediction", ["--guide_on sample", "--scheduler ddim"]),
        (PNDMScheduler(), 10, "sample", ["--scheduler ddim"]),
        (KDPM2DiscreteScheduler(timestep_spacing="linspace"), 20, "prediction", ["--scheduler ddim"]),
        *(
            (KDPM2DiscreteScheduler(timestep_spacing="linspace"), 20, place, ["--scheduler ddim --guide_on prediction"])
            for place in ("sample", "x0_pred")
        ),
        (DDIMScheduler(set_alpha_to_one=False), 20, "prediction", ["--guide_on sample"]),
        (DPMSolverMultistepScheduler(num_train_timesteps=100), 150, "sample", []),  # more steps than DDIM has
    ],
)
def test_the_options_that_help_were_seen_to_carry_the_guidance(
    settings, pipeline, tmp_path, scheduler, steps, place, named
):
    DDPMPipeline(pipeline.unet, scheduler).save_pretrained(tmp_path)

    def opened(**options):
        asked = {"scheduler": "own", "sampling_steps": steps, "guide_on": place, **options}
        config = DistillConfig(**{**settings, "prior": str(tmp_path), **asked}, output_dir="run")
        return open_pipeline(values_for(PriorSettings, config), values_for(SamplingSettings, config))

    with pytest.raises(ValueError, match="carr") as error:
        opened()
    told = str(error.value).partition(" As options: ")[2].removesuffix(".")
    assert [option for option in told.split(", or ") if option] == named
    for option in named:
        words = option.replace("--", "").split()
        opened(**dict(zip(words[::2], words[1::2], strict=True)))


def test_an_unconditional_prior_is_led_by_the_guidance_alone(quick, tmp_path, untrained_prior):
    prior = untrained_prior(conditional=False)
    runs = []
    for scale in (0.0, SCALE):
        folder = tmp_path / str(scale)
        manifest = distill(quick(prior=str(prior), tiles_per_image=4, guidance_scale=scale, output_dir=str(folder)))
        runs.append(manifest["information"]["1"]["prototype"])
    assert runs[1] > runs[0] + 0.01, "guided samples look more like their classes to the estimator"
    with pytest.raises(ValueError, match="classifier_free_guidance_scale must be 1 for an unconditional prior"):
        distill(quick(prior=str(prior), classifier_free_guidance_scale=2.0, output_dir=str(tmp_path / "other")))


def test_names_are_compared_of_priors_that_know_classes(quick, untrained_prior):
    for conditional in (False, True):
        prior = untrained_prior(conditional)
        write_json(prior / "training.json", {"label_names": ["another", "dataset"]})
        refused = pytest.raises(ValueError, match="Label names of the prior") if conditional else nullcontext()
        with refused:
            assert plan_distill(quick(prior=str(prior)))["tiles"] == CLASSES


def test_prior_classes_say_what_the_prior_is_asked_for(quick, sampling, tmp_path, tiny_prior, pipeline):
    manifest = distill(quick(prior_classes=[3, 2, 1, 0], guidance_scale=0.0))
    tiles, plain = columns(tmp_path / "run", 1)["pixels"], load_pipeline(tiny_prior, None)
    for label in range(CLASSES):
        seeds = seeds_of(label, 0, 1)
        assert torch.equal(tiles[label : label + 1], eight_bit(drawn(plain, 3 - label, seeds).images))
        assert not torch.equal(tiles[label : label + 1], eight_bit(drawn(plain, label, seeds).images))
    assert manifest["config"]["prior_classes"] == [3, 2, 1, 0]
    guided = pixels(sample_chunks(pipeline, [Chunk(0, 0, 2, 0.5)], sampling(prior_classes=[3, 2, 1, 0]), SIDE))
    by_hand = drawn(pipeline, 0, seeds_of(0, 0, 2), beta=0.5, prior_class_labels=[3, 3]).images
    assert torch.equal(guided, eight_bit(by_hand)), "the guidance follows the dataset's class"


def test_a_prior_of_more_classes(quick, tmp_path, untrained_prior):
    prior = untrained_prior(label_names=tuple(f"class {label}" for label in range(9)))
    distill(quick(prior=str(prior), prior_classes=[8, 0, 5, 5]))
    plain = load_pipeline(prior, load_estimator(quick().estimator))
    tiles = columns(tmp_path / "run", 1)["pixels"]
    by_hand = drawn(plain, 0, seeds_of(0, 0, 1), prior_class_labels=[8]).images
    assert torch.equal(tiles[:1], eight_bit(by_hand))


def test_colour_images_and_a_prior_of_another_size(quick, tmp_path, untrained_prior, image_folder):
    spec = decoct.measure_spec(decoct.load_images(str(image_folder)))
    decoct.build_classifier("convnet3_w8", spec).model.save_pretrained(tmp_path / "teacher")
    build_estimator("resnet10_w4", spec, 16).save_pretrained(tmp_path / "estimator")
    changes = {"image_size": 32, "channels": 3, "mean": spec.mean, "std": spec.std, "label_names": spec.label_names}
    prior = untrained_prior(**changes)
    networks = {name: str(tmp_path / name) for name in ("teacher", "estimator")}
    distill(quick(dataset=str(image_folder), prior=str(prior), allow_weak_teacher=True, **networks))
    image = load_dataset(str(tmp_path / "run"), "ipc_1", split="train")[0]["image"]
    assert (image.mode, image.size) == ("RGB", (16, 16))
    pipeline = load_pipeline(prior, load_estimator(networks["estimator"]))
    by_hand = drawn(pipeline, 0, seeds_of(0, 0, 1)).images
    assert by_hand.shape[-1] == 32
    resized = F.interpolate(by_hand, (16, 16), mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(to_pixels([image], 16, 3), eight_bit(resized))


@pytest.mark.parametrize("shape", [(24, SIDE), (SIDE, 24), (24, 24)])
def test_samples_of_any_shape_become_squares_of_the_side(sampling, shape):
    images = torch.rand(2, 1, *shape)
    rows = sample_chunks(
        lambda **_: IGDSPipelineOutput(images, torch.zeros(2), torch.zeros(2)), [Chunk(0, 0, 2, 0.5)], sampling(), SIDE
    )
    resized = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(pixels(rows), eight_bit(resized))


def test_half_precision(quick, tmp_path, finished):
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision
    try:
        distill(quick(mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    tiles, exact = columns(tmp_path / "run", 1), columns(finished(1), 1)
    assert 0 < difference(tiles["pixels"], exact["pixels"]) < 5
    assert np.isfinite([members[0]["prototype"] for members in tiles["tiles"]]).all()
