import dataclasses
import json
import math
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from decoct.config import LABEL_MODES, config_hash
from decoct.training.protocols import (
    Protocol,
    batch_size,
    crop_scale,
    entry_of,
    epoch_count,
    learning_rate,
    load_protocol,
    protocol_names,
    student_name,
)

NAMES = protocol_names()


def text_of(name: str) -> str:
    return (files("decoct.presets") / "protocols" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rded() -> Protocol:
    return load_protocol("rded_kd")


@pytest.fixture(scope="module")
def minimax() -> Protocol:
    return load_protocol("minimax_hard")


@pytest.fixture(scope="module")
def igds() -> Protocol:
    return load_protocol("igds_adam")


@pytest.fixture(scope="module")
def strong() -> Protocol:
    return load_protocol("strong_kd")


def test_all_protocols_are_named_as_their_files_and_written_as_json():
    assert {"igds_adam", "minimax_hard", "rded_kd", "strong_kd"} <= set(NAMES)
    for name in NAMES:
        protocol = load_protocol(name)
        assert protocol.name == name
        assert json.loads(json.dumps(dataclasses.asdict(protocol), sort_keys=True))["name"] == name


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_its_source(name):
    lines = [line for line in text_of(name).splitlines() if not line.startswith("#") and ":" in line]
    numbers = [
        line
        for line in lines
        if any(c.isdigit() for c in line.split(":", 1)[1].split("#")[0]) or line.lstrip()[0].isdigit()
    ]
    assert len(numbers) > 15
    assert not [line for line in numbers if "source: " not in line]


# Numbers of each protocol


def test_rded_kd_has_the_papers_numbers(rded):
    assert (rded.optimizer, rded.betas, rded.weight_decay) == ("adamw", (0.9, 0.999), 0.01)
    assert (rded.epochs, rded.temperature, rded.decay_one_dimensional) == (300, 20, False)
    assert (rded.cutmix_probability, rded.cutmix_alpha, rded.flip, rded.shuffle_tiles) == (1, 1, 0.5, True)
    assert (rded.norm, rded.ema_decay, rded.color_jitter, rded.lighting) == ("batch", 0, 0, 0)
    assert rded.rrc_ratio == pytest.approx((3 / 4, 4 / 3))


def test_minimax_hard_has_the_papers_numbers(minimax):
    assert (minimax.optimizer, minimax.learning_rate, minimax.momentum) == ("sgd", 0.01, 0.9)
    assert (minimax.weight_decay, minimax.decay_one_dimensional) == (5e-4, True)
    assert (minimax.rrc_scale, minimax.flip, minimax.color_jitter, minimax.lighting) == (0.5, 0.5, 0.4, 0.1)
    assert (minimax.cutmix_probability, minimax.cutmix_alpha, minimax.shuffle_tiles) == (1, 1, False)
    assert (minimax.norm, minimax.labels, minimax.ema_decay) == ("instance", ("hard",), 0)


def test_igds_adam_has_the_papers_numbers(igds):
    assert (igds.optimizer, igds.learning_rate, igds.betas, igds.weight_decay) == ("adam", 0.01, (0.9, 0.999), 0)
    assert (igds.rrc_scale, igds.flip, igds.color_jitter, igds.lighting) == (0.5, 0.5, 0, 0)
    assert (igds.cutmix_probability, igds.norm, igds.labels) == (1, "instance", ("hard",))


@pytest.mark.parametrize(("classes", "ipc"), [(11, 1), (101, 1), (10, 1), (10, 10), (1, 1)])
def test_a_last_batch_of_one_image_is_no_step(strong, classes, ipc):
    images = classes * ipc
    size = batch_size(strong, ipc, classes, images)
    steps = max(1, sum(min(size, images - first) > 1 for first in range(0, images, size)))
    assert epoch_count(strong, ipc, classes, images) == math.ceil(entry_of(strong.steps, ipc) / steps)


def test_strong_kd_trains_as_many_steps_by_stored_labels_as_by_others(strong):
    assert (strong.optimizer, strong.matrix_learning_rate, strong.rrc_scale) == ("muon", 0.02, 0.08)
    assert set(strong.labels) == set(LABEL_MODES) and strong.ema_warmup and 0 < strong.ema_decay < 1
    for ipc, steps, batch in ((1, 3000, 10), (10, 6000, 25), (50, 6000, 50)):
        assert batch_size(strong, ipc, 10, 10 * ipc) == batch
        assert epoch_count(strong, ipc, 10, 10 * ipc) * 10 * ipc == steps * batch


@pytest.mark.parametrize(("images", "epochs"), [(3, 10), (4, 10), (5, 10), (8, 5), (9, 5), (40, 1), (4000, 1)])
def test_steps_are_as_many_whole_epochs_as_have_them(rded, images, epochs):
    """Batches of 4; the last one of an epoch may be smaller, unless it is a single image, which is left out."""
    protocol = dataclasses.replace(rded, epochs=None, steps=10, batch_sizes={1: 4})
    assert epoch_count(protocol, 1, images, images) == epochs
    steps = max(1, (images + 2) // 4)
    assert epochs * steps >= 10 > (epochs - 1) * steps


def test_settings_that_a_protocol_leaves_out_are_no_part_of_what_names_its_students():
    """By hashes of the settings, as they were when the protocols had no such fields."""
    hashes = {
        "rded_kd": "a0a1879bb6ed",
        "minimax_hard": "8b5c3ecd295e",
        "igds_adam": "afc11dfd9fb4",
        "igds_transfer": "d4bb5b23a0c3",
    }
    assert {name: config_hash(load_protocol(name).to_dict()) for name in hashes} == hashes


# Schedules, at every epoch


@pytest.mark.parametrize("name", ["rded_kd", "strong_kd"])
@pytest.mark.parametrize(
    ("architecture", "initial"),
    [("convnet3", 1e-3), ("resnet18", 1e-3), (None, 1e-3), ("vgg11", 5e-4), ("mobilenet_v2", 2.5e-3)]
    + [("efficientnet_b0", 2e-3), ("swin_v2_t", 1e-4)],
)
def test_learning_rate_is_the_half_cosine_at_every_epoch(name, architecture, initial):
    protocol = load_protocol(name)
    for epochs in (1, 7, 300, 1000):
        for epoch in range(epochs):
            expected = initial * (1 + math.cos(math.pi * epoch / (2 * epochs))) / 2
            assert learning_rate(protocol, epoch, epochs, architecture) == pytest.approx(expected, rel=1e-12)


def test_learning_rate_starts_at_the_full_value_and_ends_at_half(rded):
    assert learning_rate(rded, 0, 300) == 1e-3
    assert learning_rate(rded, 300, 300) == pytest.approx(0.5e-3)


@pytest.mark.parametrize("epochs", [1, 2, 5, 7, 100, 1000, 1500, 2000, 3000])
def test_learning_rate_falls_at_two_and_five_sixths_as_pytorch_steps_it(minimax, epochs):
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    milestones = [2 * epochs // 3, 5 * epochs // 6]
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
    for epoch in range(epochs):
        expected = 0.01
        for milestone in milestones:
            expected *= 0.2 if epoch >= milestone else 1
        assert learning_rate(minimax, epoch, epochs, "resnet_ap10") == pytest.approx(expected, rel=1e-12)
        if milestones[0] > 0:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        reference.step()


def test_learning_rate_of_igds_adam_never_changes(igds):
    assert {learning_rate(igds, epoch, 2000, "convnet6") for epoch in range(2000)} == {0.01}


# Tables by IPC


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rded_kd", {1: 300, 10: 300, 50: 300, 1000: 300}),
        ("minimax_hard", {1: 3000, 2: 2000, 10: 2000, 11: 1500, 50: 1500, 51: 1000, 100: 1000, 200: 1000, 500: 1000}),
        ("igds_adam", {1: 2000, 5: 2000, 10: 2000, 11: 1500, 20: 1500, 50: 1500, 51: 1000, 100: 1000, 200: 1000}),
    ],
)
def test_epochs_at_listed_and_other_ipcs(name, expected):
    protocol = load_protocol(name)
    assert {ipc: epoch_count(protocol, ipc, 10, 10 * ipc) for ipc in expected} == expected


@pytest.mark.parametrize(
    ("ipc", "classes", "expected"),
    [
        (1, 10, 10),
        (10, 10, 50),
        (50, 10, 100),
        (4, 10, 23),  # linear between (1, 10) and (10, 50): 23.3
        (30, 10, 75),
        (200, 10, 100),
        (1, 100, 20),
        (10, 200, 100),
        (50, 1000, 200),
        (1, 3, 3),  # the whole set
    ],
)
def test_batch_size(rded, ipc, classes, expected):
    assert batch_size(rded, ipc, classes, ipc * classes) == expected


def test_batch_size_of_the_hard_label_protocols(minimax, igds):
    for protocol in (minimax, igds):
        assert [batch_size(protocol, ipc, 10, 10 * ipc) for ipc in (1, 5, 10, 200)] == [10, 50, 64, 64]
        assert batch_size(protocol, 10, 1000, 10_000) == 64


def test_crop_scale_follows_the_tiles_unless_the_protocol_sets_it(rded, minimax):
    assert crop_scale(rded, 1) == 1
    assert crop_scale(rded, 4) == 0.5
    assert crop_scale(dataclasses.replace(rded, rrc_scale=0.08), 4) == 0.08
    assert crop_scale(minimax, 1) == crop_scale(minimax, 4) == 0.5


# Labels and normalisation


def test_hard_label_protocols_refuse_soft_labels_and_say_what_to_take(minimax, igds, rded):
    for protocol in (minimax, igds):
        protocol.check_labels("hard")
        with pytest.raises(
            ValueError, match=rf"\['hard'\] under protocol '{protocol.name}'.*'views'.*rded_kd, strong_kd"
        ):
            protocol.check_labels("views")
    for labels in ("hard", "tiles", "views", "online"):
        rded.check_labels(labels)
    known = r"labels must be one of \['hard', 'tiles', 'views', 'mixed', 'online'\]. Got 'soft'"
    with pytest.raises(ValueError, match=known):
        minimax.check_labels("soft")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("convnet3", "convnet3_instance"),
        ("convnet3_w8", "convnet3_instance_w8"),
        ("convnet6_instance", "convnet6_instance"),
        ("convnet3_instance_w8", "convnet3_instance_w8"),
        ("lenet", "lenet"),
    ],
)
def test_students_take_the_protocols_norm(rded, minimax, name, expected):
    assert student_name(minimax, name) == expected
    assert student_name(rded, name) == name


# Files


def test_a_protocol_can_be_a_file(tmp_path, rded):
    file = tmp_path / "mine.yaml"
    file.write_text(text_of("rded_kd").replace("name: rded_kd", "name: mine").replace("epochs: 300", "epochs: {5: 7}"))
    protocol = load_protocol(file)
    assert (protocol.name, protocol.epochs, protocol.batch_sizes) == ("mine", {5: 7}, rded.batch_sizes)
    assert [epoch_count(protocol, ipc, 10, 10 * ipc) for ipc in (1, 50)] == [7, 7]


def test_a_file_cannot_pass_for_a_shipped_protocol(tmp_path):
    text = (Path(__file__).parents[2] / "presets" / "protocols" / "rded_kd.yaml").read_text()
    file = tmp_path / "copy.yaml"
    file.write_text(text)
    assert load_protocol(file) == load_protocol("rded_kd")
    file.write_text(text.replace("epochs: 300", "epochs: 30"))
    with pytest.raises(ValueError, match=r"name must be none of \[.*'rded_kd'.*Got 'rded_kd'"):
        load_protocol(file)


def test_unknown_protocols_and_fields_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"protocol must be one of \[.*'rded_kd'.*\].*Got 'nope'"):
        load_protocol("nope")
    file = tmp_path / "half.yaml"
    file.write_text("name: half\nepochz: 3\n")
    with pytest.raises(ValueError, match=r"Got one without .*'epochs'.* unknown \['epochz'\]"):
        load_protocol(file)
    file.write_text("only words")
    with pytest.raises(ValueError, match="must have every field once"):
        load_protocol(file)
    file.write_text("name: [half")
    with pytest.raises(ValueError, match=r"(?s)half.yaml must be valid YAML.*Line 1"):
        load_protocol(file)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimizer", "lamb", r"one of \['adamw', 'adam', 'sgd', 'muon'\]. Got 'lamb'"),
        ("schedule", "linear", "one of .*'half_cosine'"),
        ("norm", "layer", "one of"),
        ("labels", ["soft"], "one or more of"),
        ("labels", [], "one or more of"),
        ("epochs", 0, "a positive number"),
        ("epochs", {}, "a positive number"),
        ("epochs", 2.5, "a positive number"),
        ("epochs", None, "null if it has steps, and given if not"),
        ("steps", 100, "null if it has steps, and given if not"),
        ("steps", {1: -3}, "a positive number"),
        ("loss", "hinge", r"one of \['kl', 'squared'\]"),
        ("hard_weight", -1, "at least 0"),
        ("ema_warmup", 3, "true or false"),
        ("batch_sizes", {}, "positive numbers by IPC"),
        ("learning_rate", "1e-3", r"a number, such as 0.001 or 1.0e-3. Got '1e-3'"),
        ("learning_rate", 0, "positive"),
        ("betas", None, "given for adamw"),
        ("milestones", [0.5], "fractions"),
        ("milestones", ["7/6"], "fractions"),
        ("schedule", "steps", "given for the schedule"),
        ("rrc_scale", 0, r"in \(0, 1\]"),
        ("cutmix_alpha", 0, "positive"),
        ("ema_decay", 1, r"in \[0, 1\)"),
        ("color_jitter", -0.1, "at least 0"),
        ("temperature", 0, "positive"),
        ("name", 3, "a word"),
        ("flip", 1.5, r"in \[0, 1\]"),
        ("cutmix_probability", -1, r"in \[0, 1\]"),
        ("weight_decay", -0.1, "at least 0"),
        ("betas", [0.9], "two numbers"),
        ("rrc_ratio", [2, 1], "two positive numbers, rising"),
        ("rrc_scale", "half", r"in \(0, 1\], or null"),
        ("learning_rates", {"vgg11": "1e-3"}, "positive numbers by architecture"),
        ("learning_rates", 0.1, "positive numbers by architecture"),
        ("many_classes", "lots", "a positive whole number, or null"),
        ("shuffle_tiles", "never", "true or false"),
        ("rand_augment", [2], "two whole numbers"),
        ("rand_augment", [16, 10], "up to 15 and 29"),
        ("rand_augment", [2, 30], "up to 15 and 29"),
        ("rand_augment", [0, 10], "two whole numbers"),
        ("rand_augment", [2, 10.5], "two whole numbers"),
    ],
)
def test_values_that_no_protocol_can_have_name_the_field(tmp_path, field, value, words):
    values = {**yaml.safe_load(text_of("rded_kd")), field: value}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=f"of protocol .* must be .*{words}"):
        load_protocol(file)


@pytest.mark.parametrize("field", ["labels", "milestones", "rrc_ratio", "betas"])
def test_what_is_a_list_must_be_written_as_one(tmp_path, field):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(text_of("rded_kd")), field: "views"}))
    with pytest.raises(ValueError, match=rf"{field} of protocol .*mine.yaml must be a list.*Got 'views'"):
        load_protocol(file)
