"""Tiny priors and estimators with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from decoct.data.spec import ImageSpec


@pytest.fixture(scope="session")
def make_estimator() -> Callable[..., Any]:
    """`make_estimator(classes, channels, size)`: an estimator whose answers differ visibly from image to image."""
    from decoct.igds.loading import build_estimator

    def make(classes: int = 3, channels: int = 3, size: int = 8) -> Any:
        names = tuple(f"class {label}" for label in range(classes))
        spec = ImageSpec(size, channels, (0.4,) * channels, (0.3,) * channels, names)
        estimator = build_estimator("resnet10_w4", spec, projection_dim=6)
        images = torch.randn((32, channels, size, size), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for _ in range(20):
                estimator.train()(images)
            features = estimator.eval().features(images)
            # Answers vary about zero, as those of a trained estimator do.
            for head in (estimator.projection, estimator.classifier):
                last = head[-1] if head is estimator.projection else head
                answers = head(features)
                last.weight.mul_(1 / answers.std())
                last.bias.sub_(answers.mean(dim=0)).mul_(1 / answers.std())
        return estimator

    return make


@pytest.fixture(scope="session")
def make_unet() -> Callable[..., Any]:
    """`make_unet(channels, entries)`: a U-Net of 8-pixel images, with a table of class entries if any."""
    from diffusers import UNet2DModel

    def make(channels: int = 3, entries: int | None = None, **options: Any) -> Any:
        torch.manual_seed(1)
        settings: dict[str, Any] = {
            "sample_size": 8,
            "in_channels": channels,
            "out_channels": channels,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": 8,
            "num_class_embeds": entries,
        }
        return UNet2DModel(**{**settings, **options}).eval()

    return make


@pytest.fixture(scope="session")
def make_dit() -> Callable[..., Any]:
    """`make_dit(classes)`: a DiT of 4x4 latents with a learned variance, and its VAE of 8-pixel images."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    def make(classes: int = 3) -> Any:
        torch.manual_seed(2)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=classes,
        )
        # DiT starts with outputs of zero.
        torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.3)
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=8,
        )
        return transformer.eval(), vae.eval()

    return make


@pytest.fixture(scope="session")
def seeded() -> Callable[..., list[torch.Generator]]:
    """`seeded(n)`: one generator per image."""
    return lambda count, first=0: [torch.Generator().manual_seed(first + item) for item in range(count)]
