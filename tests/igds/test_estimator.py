"""The variational estimator: its outputs, its copies on disk, and encoders that are taken as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoders import SMALL, save_dinov2, save_siglip
from transformers import (
    AutoModel,
    ConvNextImageProcessor,
    DistilBertConfig,
    IJepaConfig,
    IJepaModel,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    SamVisionConfig,
    SamVisionModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)
from worlds import spec_of

from decoct.data.spec import ImageSpec
from decoct.igds.estimator import VariationalEstimator, VariationalEstimatorConfig
from decoct.igds.loading import build_estimator, load_estimator, resnet_config, wrap_encoder

NAMES = ("cat", "dog", "owl")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


SIZES = {**SMALL, "image_size": 32, "patch_size": 8}
SAM = {**SIZES, "output_channels": 8, "window_size": 2, "global_attn_indexes": []}


def spec(image_size: int = 32, channels: int = 3) -> ImageSpec:
    return spec_of(NAMES, image_size, channels, MEAN, STD)


def batch(image_size: int = 32, channels: int = 3, count: int = 2) -> torch.Tensor:
    return torch.randn(count, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))


def vit_config(**options: object) -> ViTConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTConfig(**{**sizes, "image_size": 32, "patch_size": 8, **options})


@pytest.mark.parametrize(
    ("name", "image_size", "channels", "width"),
    [("resnet10_w4", 28, 1, 32), ("resnet18_w4", 32, 3, 32), ("resnet50_w8", 72, 3, 64)],
)
def test_outputs_have_their_shapes(name, image_size, channels, width):
    estimator = build_estimator(name, spec(image_size, channels), projection_dim=6).eval()
    output = estimator(batch(image_size, channels))
    assert output.features.shape == (2, width)
    assert output.embeddings.shape == (2, 6)
    assert torch.allclose(output.embeddings.norm(dim=1), torch.ones(2))
    assert torch.allclose(output.logits, estimator.classifier(output.features), atol=1e-6)
    assert output.logits.shape == (2, 3)


def test_named_encoders_are_the_published_networks():
    resnet18 = ResNetModel(resnet_config("resnet18", 3))
    assert sum(parameter.numel() for parameter in resnet18.parameters()) == 11_176_512  # He et al.'s, without its head
    assert resnet_config("resnet50", 3).to_dict() == ResNetConfig().to_dict()
    small = resnet_config("resnet10_w16", 1)
    assert (small.depths, small.hidden_sizes, small.num_channels) == ([1, 1, 1, 1], [16, 32, 64, 128], 1)
    with pytest.raises(ValueError, match=r"encoder must be one of .*'resnet10'.*Got 'resnet34'"):
        resnet_config("resnet34", 3)
    with pytest.raises(ValueError, match="positive multiple of 4. Got 6"):
        resnet_config("resnet50_w6", 3)


def test_the_stem_follows_the_image_size():
    small, large = (build_estimator("resnet10_w4", spec(size), 6).eval() for size in (64, 65))
    assert (small.config.small_stem, large.config.small_stem) == (True, False)
    assert small.encoder(batch(64)).last_hidden_state.shape[-1] == 64 // 8
    assert large.encoder(batch(64)).last_hidden_state.shape[-1] == 64 // 32


def test_without_a_projection_the_features_are_the_embedding():
    config = VariationalEstimatorConfig(encoder=vit_config().to_dict(), projection_dim=None, num_labels=3)
    output = VariationalEstimator(config).eval()(batch())
    assert torch.allclose(output.embeddings, torch.nn.functional.normalize(output.features, dim=1))


def test_encoders_without_a_pooled_output_are_averaged_or_give_their_first_token():
    tokens = VariationalEstimatorConfig(encoder=vit_config().to_dict(), use_pooler=False, num_labels=3)
    vit = VariationalEstimator(tokens).eval()
    assert torch.equal(vit(batch()).features, vit.encoder(batch()).last_hidden_state[:, 0])
    maps = VariationalEstimatorConfig(
        encoder=resnet_config("resnet10_w4", 3).to_dict(), small_stem=True, use_pooler=False, num_labels=3
    )
    resnet = VariationalEstimator(maps).eval()
    assert torch.allclose(resnet(batch()).features, resnet.encoder(batch()).pooler_output.flatten(1), atol=1e-6)


def test_double_precision_and_autocast_keep_unit_vectors():
    estimator = build_estimator("resnet10_w4", spec(), 6).eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = estimator(batch()).embeddings
    assert half.dtype == torch.float32
    assert torch.allclose(half.norm(dim=1), torch.ones(2))
    assert estimator.double()(batch().double()).embeddings.dtype == torch.float64


def test_the_seed_determines_the_weights_and_nothing_else_does():
    torch.manual_seed(1)
    first = build_estimator("resnet10_w4", spec(), 6, seed=5).state_dict()
    torch.manual_seed(2)
    again, other = (build_estimator("resnet10_w4", spec(), 6, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    for key in ("encoder.embedder.embedder.convolution.weight", "projection.0.weight", "classifier.weight"):
        assert not torch.equal(first[key], other[key])


def test_saving_and_loading_changes_nothing(tmp_path):
    estimator = build_estimator("resnet10_w4", spec(28, 1), 6, seed=3).eval()
    estimator.save_pretrained(tmp_path)
    assert (tmp_path / "estimator.py").is_file()
    for loaded in (load_estimator(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert isinstance(loaded, VariationalEstimator)
        assert loaded.config.id2label == dict(enumerate(NAMES))
        assert loaded.config.num_labels == 3
        assert loaded.config.encoder == estimator.config.encoder
        outputs = loaded(batch(28, 1)), estimator(batch(28, 1))
        assert all(torch.equal(outputs[0][key], outputs[1][key]) for key in ("features", "embeddings", "logits"))
    loaded = load_estimator(str(tmp_path))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_checkpoint_carries_its_code_and_needs_no_decoct(tmp_path):
    estimator = build_estimator("resnet10_w4", spec(), 6, seed=3).eval()
    estimator.save_pretrained(tmp_path / "first")
    torch.save(batch(), tmp_path / "batch.pt")
    code = """
import sys
sys.modules["decoct"] = None
import torch
from transformers import AutoModel
folder = sys.argv[1]
for name in ("first", "second"):
    model = AutoModel.from_pretrained(f"{folder}/{name}", trust_remote_code=True)
    model.save_pretrained(f"{folder}/second")
output = model(torch.load(f"{folder}/batch.pt"))
torch.save((type(model).__module__, model.config.id2label, dict(output)), f"{folder}/result.pt")
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    module, id2label, output = torch.load(tmp_path / "result.pt")
    assert module.startswith("transformers_modules.")
    assert tuple(id2label.values()) == NAMES
    expected = estimator(batch())
    assert all(torch.allclose(output[key], expected[key], atol=1e-6) for key in output)
    assert (tmp_path / "second" / "estimator.py").read_bytes() == (tmp_path / "first" / "estimator.py").read_bytes()


def save_vit(folder: Path) -> None:
    ViTForImageClassification(vit_config()).save_pretrained(folder)  # its encoder has no pooler
    ViTImageProcessor(image_mean=list(MEAN), image_std=list(STD), size={"height": 32, "width": 32}).save_pretrained(
        folder
    )


def save_resnet(folder: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(folder)
    processor = ConvNextImageProcessor(image_mean=list(MEAN), image_std=list(STD), size={"shortest_edge": 40})
    processor.save_pretrained(folder)


def test_any_image_model_can_be_the_encoder(tmp_path):
    save_vit(tmp_path / "vit")
    vit = wrap_encoder(tmp_path / "vit", NAMES).eval()
    tokens = ViTModel.from_pretrained(tmp_path / "vit").eval()(batch()).last_hidden_state[:, 0]
    assert torch.allclose(vit(batch()).features, tokens, atol=1e-6)
    save_resnet(tmp_path / "resnet")
    resnet = wrap_encoder(tmp_path / "resnet", NAMES).eval()
    pooled = ResNetModel.from_pretrained(tmp_path / "resnet").eval()(batch(40)).pooler_output.flatten(1)
    assert torch.allclose(resnet(batch(40)).features, pooled, atol=1e-6)
    for estimator, size in ((vit, 32), (resnet, 40)):
        config = estimator.config
        assert (config.image_size, config.num_channels, config.projection_dim) == (size, 3, None)
        assert (tuple(config.image_mean), tuple(config.image_std)) == (MEAN, STD)
        assert tuple(config.id2label.values()) == NAMES
        estimator.save_pretrained(tmp_path / "saved")
        loaded = load_estimator(tmp_path / "saved")
        assert torch.equal(loaded(batch(size)).logits, estimator(batch(size)).logits)


@pytest.mark.parametrize(
    ("save", "side", "own", "kind"),
    [
        (save_dinov2, 28, 28, "dinov2"),
        (save_dinov2, 28, 56, "dinov2"),
        (save_siglip, 28, 28, "siglip_vision_model"),
        (save_siglip, 56, 28, "siglip_vision_model"),
    ],
)
def test_encoders_of_today_are_taken_as_they_are(tmp_path, save, side, own, kind):
    """DINOv2's configuration says 518 px, its processor 224; SigLIP takes only its configuration's."""
    save(tmp_path / "encoder", image_size=own)
    processor = ViTImageProcessor(image_mean=list(MEAN), image_std=list(STD), size={"height": side, "width": side})
    processor.save_pretrained(tmp_path / "encoder")
    estimator = wrap_encoder(tmp_path / "encoder", NAMES).eval()
    assert estimator.config.image_size == 28
    whole = AutoModel.from_pretrained(tmp_path / "encoder").eval()
    pooled = getattr(whole, "vision_model", whole)(pixel_values=batch(28)).pooler_output
    torch.testing.assert_close(estimator(batch(28)).features, pooled)
    assert estimator.config.encoder["model_type"] == kind
    estimator.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(load_estimator(tmp_path / "saved")(batch(28)).logits, estimator(batch(28)).logits)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: ViTMAEModel(ViTMAEConfig(**SIZES)),
            "a 'vit_mae', whose features of an image change from pass to pass",
        ),
        (lambda: IJepaModel(IJepaConfig(**SIZES)), "a 'ijepa', which neither pools its patches nor has a class token"),
        (
            lambda: VideoMAEModel(VideoMAEConfig(**SIZES, num_frames=2)),
            "a 'videomae', which takes no images of 32 px: ",
        ),
        (
            lambda: SamVisionModel(SamVisionConfig(**SAM)),
            r"a 'sam_vision_model', whose features have the shape \(2, 8\), not \(2, 16\)",
        ),
    ],
)
def test_encoders_without_features_of_whole_images_are_refused(tmp_path, model, message):
    model().save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=f"encoder must give features of whole images. Got .*{message}"):
        wrap_encoder(tmp_path, NAMES)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_features_that_are_not_finite_are_told_as_such(tmp_path):
    """All weights are finite: the root of a negative variance is not."""
    estimator = build_estimator("resnet10_w4", spec(16), 8)
    next(buffer for name, buffer in estimator.named_buffers() if name.endswith("running_var")).fill_(-1.0)
    estimator.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a 'resnet', whose features are NaN or infinite: .*negative variance"):
        load_estimator(tmp_path)


def test_an_estimator_around_such_an_encoder_is_refused(tmp_path):
    config = VariationalEstimatorConfig(encoder=ViTMAEConfig(**SIZES).to_dict(), projection_dim=None, num_labels=3)
    VariationalEstimator(config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="estimator must have features of whole images. Got .*change from pass to pass"
    ):
        load_estimator(tmp_path)


def test_encoders_that_cannot_be_used_are_errors(tmp_path):
    for name in ("resnet34", "runs/missing/folder", "/no/such/folder"):
        with pytest.raises(ValueError, match=f"encoder must be one of .*'resnet10'.*Hub id. Got '{name}'"):
            wrap_encoder(name, NAMES)
    save_vit(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"encoder must be .*preprocessor_config\.json"):
        wrap_encoder(tmp_path, NAMES)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"encoder must be a folder with config\.json"):
        wrap_encoder(tmp_path, NAMES)


def test_configurations_that_cannot_be_built_are_errors():
    with pytest.raises(ValueError, match=r"encoder must be the to_dict\(\).*Got None"):
        VariationalEstimator(VariationalEstimatorConfig())
    with pytest.raises(ValueError, match="hidden_sizes or hidden_size.*Got 'efficientnet'"):
        VariationalEstimator(VariationalEstimatorConfig(encoder={"model_type": "efficientnet"}))
    with pytest.raises(ValueError, match="small_stem must be False.*Got 'vit'"):
        VariationalEstimator(VariationalEstimatorConfig(encoder=vit_config().to_dict(), small_stem=True))
    with pytest.raises(ValueError, match="must have 1 values, one per channel. Got 3 and 3"):
        VariationalEstimatorConfig(num_channels=1)


def test_folders_that_hold_no_estimator_are_errors(tmp_path):
    for name in ("missing/a/b", "missing", "/no/such/folder"):
        with pytest.raises(ValueError, match=f"estimator must be.* an existing folder or a Hub id.*Got '{name}'"):
            load_estimator(name)
    with pytest.raises(ValueError, match=r"estimator must be a folder with config\.json"):
        load_estimator(tmp_path)
    DistilBertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="estimator must be a variational estimator. Got .*a 'distilbert' model"):
        load_estimator(tmp_path)
