"""Training a prior: the folder it leaves, the weights it saves, and runs that are interrupted or refused."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image

from decoct.config import PriorConfig
from decoct.data.held_out import held_out_of
from decoct.data.spec import ImageSpec
from decoct.files import read_json
from decoct.training import prior as stages
from decoct.training.prior import build_unet, draw_noising, noise_loss, plan_prior, train_prior

from .interrupted import PowerCut, cut_power

SPEC = ImageSpec(28, 1, (0.3,), (0.3,), ("a", "b", "c", "d"))


@pytest.fixture
def config(sample_part, tmp_path):
    def make(**options: Any) -> PriorConfig:
        settings: dict[str, Any] = {
            "dataset": str(sample_part),
            "channels": [8, 16],
            "epochs": 2,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "sample_every": 0,
            "output_dir": str(tmp_path / "prior"),
        }
        return PriorConfig(**{**settings, **options})

    return make


def weights(folder) -> dict[str, torch.Tensor]:
    return DDPMPipeline.from_pretrained(folder).unet.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_folder_is_a_stock_pipeline_with_label_names(config, tmp_path):
    record = train_prior(config())
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "prior")
    assert type(pipeline) is DDPMPipeline
    assert pipeline.unet.config.num_class_embeds == 5, "four classes and the null class"
    assert pipeline.unet.config.sample_size == 28
    assert pipeline.unet.config.in_channels == 1
    assert pipeline.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert record["label_names"] == ["T-shirt/top", "Trouser", "Pullover", "Dress"]
    assert read_json(tmp_path / "prior" / "training.json") == record
    assert sorted(path.name for path in (tmp_path / "prior").rglob("*.safetensors"))
    assert not list((tmp_path / "prior").rglob("*.bin")), "weights are safetensors alone"
    assert not (tmp_path / "prior" / "checkpoints").exists()


def test_an_unconditional_prior_is_what_the_stock_pipeline_samples(config, tmp_path):
    train_prior(config(conditional=False, epochs=1))
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "prior")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.config.num_class_embeds is None
    images = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 28, 28, 1)


def test_training_lowers_the_loss_and_the_saved_weights_are_averaged(config, monkeypatch, tmp_path):
    averages, original = [], stages.averaged
    monkeypatch.setattr(stages, "averaged", lambda unet, ema: averages.append((unet, ema)) or original(unet, ema))
    record = train_prior(config(epochs=6))
    assert record["epochs"][-1]["loss"] < 0.8 * record["epochs"][0]["loss"]
    ((unet, ema),) = averages
    saved = weights(tmp_path / "prior")
    raw = dict(unet.named_parameters())
    for (name, parameter), shadow in zip(raw.items(), ema.shadow_params, strict=True):
        assert torch.equal(saved[name], shadow)
        assert parameter.shape == shadow.shape
    assert any(not torch.equal(saved[name], raw[name]) for name in raw)


def test_grids_of_samples_show_a_row_per_class(config, tmp_path):
    train_prior(config(sample_every=1, sample_steps=2))
    grids = sorted((tmp_path / "prior" / "samples").iterdir())
    assert [path.name for path in grids] == ["epoch_0001.png", "epoch_0002.png"]
    pixels = np.asarray(Image.open(grids[0]))
    assert pixels.shape == (4 * 30 + 2, 10 * 30 + 2)


def test_early_priors_are_folders_of_their_own_and_change_nothing_else(config, tmp_path):
    train_prior(config(validation_fraction=0.25, output_dir=str(tmp_path / "plain")))
    train_prior(config(validation_fraction=0.25, save_epochs=[1, 2]))
    early = tmp_path / "prior" / "epoch_1"
    assert [path.name for path in early.parent.glob("epoch_*")] == ["epoch_1"], "the last epoch's is the prior itself"
    assert same(weights(early.parent), weights(tmp_path / "plain")) and not same(weights(early), weights(early.parent))
    assert held_out_of(str(early)) == 0.25
    record = read_json(early / "training.json")
    assert (record["epoch"], record["label_names"]) == (1, ["T-shirt/top", "Trouser", "Pullover", "Dress"])
    assert record["loss"] == read_json(early.parent / "training.json")["epochs"][0]["loss"]


def test_drawn_noise_is_that_of_the_global_batch():
    config = PriorConfig(batch_size=400, label_dropout=0.25)
    noise, times, dropped, flipped = draw_noising(config, SPEC, 3, 7)
    assert noise.shape == (400, 1, 28, 28)
    assert 0.98 < noise.std() < 1.02
    assert times.min() >= 0
    assert times.max() < 1000
    assert 0.15 < dropped.float().mean() < 0.35
    assert 0.4 < flipped.float().mean() < 0.6
    assert all(torch.equal(a, b) for a, b in zip((noise, times), draw_noising(config, SPEC, 3, 7), strict=False))
    assert not torch.equal(noise, draw_noising(config, SPEC, 3, 8)[0])


def test_a_killed_run_ends_bit_for_bit_the_same(config, tmp_path, monkeypatch):
    train_prior(config(output_dir=str(tmp_path / "whole")))
    cut = config(output_dir=str(tmp_path / "cut"), checkpoint_steps=1)
    with monkeypatch.context() as patch:
        cut_power(patch, 4)  # in the middle of the second epoch
        with pytest.raises(PowerCut):
            train_prior(cut)
    assert not (tmp_path / "cut" / "training.json").exists()
    train_prior(cut)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_two_processes_train_the_same_prior(launch, scripts, sample_part, tmp_path):
    words = f"--dataset {sample_part} --channels 8 16 --epochs 1 --batch_size 32 --sample_every 0".split()
    for processes in (1, 2):
        done = launch(
            scripts / "train_prior.py", *words, "--output_dir", f"run{processes}", cwd=tmp_path, processes=processes
        )
        assert done.returncode == 0, done.stderr
    records = [read_json(tmp_path / f"run{processes}" / "training.json") for processes in (1, 2)]
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], rel=1e-5)
    noise, classes = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 4])
    outputs = []
    for processes in (1, 2):
        # Weights themselves cannot be compared: Adam blows up the rounding of gradients that are zero.
        unet = DDPMPipeline.from_pretrained(tmp_path / f"run{processes}").unet
        with torch.no_grad():
            outputs.append(unet(noise, 500, class_labels=classes).sample)
    untrained = build_unet(PriorConfig(channels=[8, 16]), SPEC)(noise, 500, class_labels=classes).sample
    assert (outputs[0] - outputs[1]).abs().max() < 0.01 * (outputs[0] - untrained).abs().max()


def test_a_finished_run_is_returned_and_another_configuration_refused(config, tmp_path):
    record = train_prior(config(epochs=1))
    assert train_prior(config(epochs=1)) == record
    with pytest.raises(ValueError, match="same configuration"):
        train_prior(config(epochs=1, learning_rate=2e-3))


def test_a_dry_run_plans_and_writes_nothing(config, tmp_path):
    plan = plan_prior(config())
    assert plan["steps"] == 2 * 3
    assert plan["parameters"] == build_unet(config(), SPEC).num_parameters()
    assert not (tmp_path / "prior").exists()


def test_too_many_resolutions_are_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(ValueError, match="at most 3 entries, because images of 28 px can be halved 2 times"):
        train_prior(config(channels=[8, 8, 8, 8]))
    assert not (tmp_path / "prior").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [8, 12]}, "channels must be two or more multiples of 8"),
        ({"label_dropout": 1.0}, "label_dropout must be in"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"snr_gamma": 0.0}, "snr_gamma must be positive"),
        ({"save_epochs": [0]}, r"save_epochs must be epochs from 1 on. Got \[0\]"),
        ({"sample_steps": 2000}, "sample_steps must be in"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        PriorConfig(**options)


def test_training_starts_from_another_prior(config, tiny_prior, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(tiny_prior, first)
    options = {"init": str(first), "epochs": 1, "learning_rate": 1e-12, "dropout": 0.1}
    assert train_prior(config(**options))["config"]["init"] == str(first)
    old, new = weights(first), weights(tmp_path / "prior")
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in old)
    pipeline = DDPMPipeline.from_pretrained(first)
    pipeline.unet.conv_in.bias.data += 1
    pipeline.unet.save_pretrained(first / "unet")
    with pytest.raises(ValueError, match="differs in\n  start: "):
        plan_prior(config(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [16, 16]}, r"same network and noise schedule .* block_out_channels"),
        ({"beta_schedule": "linear"}, "beta_schedule 'squaredcos_cap_v2' in place of 'linear'"),
        ({"init": "sample"}, "Trouser"),
    ],
)
def test_a_prior_of_another_kind_is_no_start(config, tiny_prior, options, message):
    with pytest.raises(ValueError, match=message):
        plan_prior(config(**{"init": str(tiny_prior), **options}))


def test_min_snr_weighs_the_steps_as_its_equation_says():
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    times = torch.tensor([0, 250, 500, 999])
    predicted, noise = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = scheduler.alphas_cumprod[times].double()
    ratio = kept / (1 - kept)
    errors = (predicted - noise).double().square().mean((1, 2, 3))
    expected = (torch.minimum(ratio, torch.tensor(5.0)) / ratio * errors).mean()
    assert ratio[0] > 5 > ratio[2], "steps on both sides of the cap"
    torch.testing.assert_close(noise_loss(predicted, noise, scheduler, times, 5.0).double(), expected)
    assert noise_loss(predicted, noise, scheduler, times, None) == torch.nn.functional.mse_loss(predicted, noise)


def test_the_weighting_changes_what_is_trained(config, tmp_path):
    train_prior(config(epochs=1, output_dir=str(tmp_path / "plain")))
    train_prior(config(epochs=1, snr_gamma=1.0, output_dir=str(tmp_path / "weighted")))
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "weighted"))
