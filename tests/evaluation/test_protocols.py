import math

import pytest

from decoct.evaluation.protocols import Protocol, batch_size, crop_scale, learning_rate, load_protocol


@pytest.fixture(scope="module")
def rded() -> Protocol:
    return load_protocol("rded_kd")


def test_rded_kd_has_the_papers_numbers(rded):
    assert (rded.epochs, rded.temperature, rded.weight_decay, rded.betas) == (300, 20, 0.01, (0.9, 0.999))
    assert (rded.cutmix_alpha, rded.flip) == (1, 0.5)
    assert rded.rrc_ratio == pytest.approx((3 / 4, 4 / 3))


@pytest.mark.parametrize(
    ("architecture", "initial"),
    [("convnet3", 1e-3), ("resnet18", 1e-3), (None, 1e-3), ("vgg11", 5e-4), ("mobilenet_v2", 2.5e-3)]
    + [("efficientnet_b0", 2e-3), ("swin_v2_t", 1e-4)],
)
def test_learning_rate_is_the_half_cosine_at_every_epoch(rded, architecture, initial):
    for epochs in (1, 7, 300):
        for epoch in range(epochs):
            expected = initial * (1 + math.cos(math.pi * epoch / (2 * epochs))) / 2
            assert learning_rate(rded, epoch, epochs, architecture) == pytest.approx(expected, rel=1e-12)


def test_learning_rate_starts_at_the_full_value_and_ends_at_half(rded):
    assert learning_rate(rded, 0, 300) == 1e-3
    assert learning_rate(rded, 300, 300) == pytest.approx(0.5e-3)


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


def test_crop_scale_follows_the_tiles_unless_the_protocol_sets_it(rded):
    import dataclasses

    assert crop_scale(rded, 1) == 1
    assert crop_scale(rded, 4) == 0.5
    assert crop_scale(dataclasses.replace(rded, rrc_scale=0.08), 4) == 0.08


def test_a_protocol_can_be_a_file(tmp_path, rded):
    from importlib.resources import files

    text = (files("decoct.presets") / "protocols" / "rded_kd.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("name: rded_kd", "name: mine").replace("epochs: 300", "epochs: 7"))
    protocol = load_protocol(file)
    assert (protocol.name, protocol.epochs, protocol.batch_sizes) == ("mine", 7, rded.batch_sizes)


def test_unknown_protocols_and_fields_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"protocol must be one of \[.*'rded_kd'.*\].*Got 'nope'"):
        load_protocol("nope")
    file = tmp_path / "half.yaml"
    file.write_text("name: half\nepochz: 3\n")
    with pytest.raises(ValueError, match="epochz"):
        load_protocol(file)
