"""Tiny random image models of transformers, as encoders of an estimator."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save_vit(folder: Path, image_size: int = 28) -> None:
    ViTModel(ViTConfig(**SMALL, image_size=image_size, patch_size=14)).save_pretrained(folder)


def save_dinov2(folder: Path, image_size: int = 28) -> None:
    Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2, image_size=image_size, patch_size=14)).save_pretrained(folder)


def save_siglip(folder: Path, image_size: int = 28) -> None:
    text = {**SMALL, "vocab_size": 16, "max_position_embeddings": 4, "projection_size": 16}
    vision = {**SMALL, "image_size": image_size, "patch_size": 14}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)


def save_moco(folder: Path, image_size: int = 28) -> None:
    """The encoder of MoCo is a ResNet, whose configuration names no size of images."""
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).save_pretrained(folder)


ENCODERS = {"vit": save_vit, "dinov2": save_dinov2, "siglip": save_siglip, "moco": save_moco}
