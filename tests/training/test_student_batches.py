"""The batches that students are trained on: mixing, tiles, stored views, augmentation."""

import dataclasses

import pytest
import torch
from worlds import SIDE

from decoct.data.crops import crop_and_resize
from decoct.training.protocols import load_protocol
from decoct.training.student_batches import StudentBatches

from .students import CPU, VIEWS, collect, make_set


@pytest.fixture(scope="module")
def protocol():
    return load_protocol("rded_kd")


def test_cutmix_mixes_labels_by_the_pixels_that_were_mixed(protocol):
    distilled = make_set(ipc=6)
    flat = torch.zeros_like(distilled.images)
    flat[torch.arange(len(flat)), distilled.labels] = 255
    batches = StudentBatches(dataclasses.replace(distilled, images=flat), protocol, "hard", seed=0, device=CPU)
    mixed = 0
    for epoch in range(5):
        pixels, target = collect(batches, epoch)
        torch.testing.assert_close(pixels.mean(dim=(2, 3)), target)
        mixed += int(((target > 0) & (target < 1)).any(dim=1).sum())
    assert mixed > 10


def test_tiles_and_their_labels_are_shuffled_and_cropped_together(protocol):
    """Each tile has a grey value and a class of its own, so a view's mean grey follows from its label."""
    side, count = 64, 40
    greys = torch.tensor([0, 60, 140, 255], dtype=torch.uint8)
    image = greys.view(2, 2).repeat_interleave(side // 2, 0).repeat_interleave(side // 2, 1)
    distilled = make_set()
    distilled = dataclasses.replace(
        distilled,
        images=image.expand(count, 3, side, side).clone(),
        labels=torch.zeros(count, dtype=torch.int64),
        tile_logits=(1000 * torch.eye(4)).expand(count, 4, 4).clone(),
        tiles_per_image=4,
        manifest={**distilled.manifest, "label_names": list("abcd"), "image_size": side},
    )
    plain = dataclasses.replace(protocol, cutmix_probability=0.0)
    pixels, target = collect(StudentBatches(distilled, plain, "tiles", seed=0, device=CPU, rrc_scale=0.2), 0)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(count))
    torch.testing.assert_close(pixels.mean(dim=(1, 2, 3)), target @ greys.float() / 255, atol=0.01, rtol=0)
    corners = {tuple(view[0, ::63, ::63].flatten().tolist()) for view in pixels}
    assert len(corners) > 4


def test_one_tile_is_never_cropped_unless_asked(protocol):
    distilled = make_set()
    plain = dataclasses.replace(protocol, cutmix_probability=0.0, flip=0.0)
    pixels, _ = collect(StudentBatches(distilled, plain, "tiles", seed=0, device=CPU), 0)
    whole = {image.numpy().tobytes() for image in distilled.images.float() / 255}
    assert {image.contiguous().numpy().tobytes() for image in pixels} == whole
    cropped, _ = collect(StudentBatches(distilled, plain, "tiles", seed=0, device=CPU, rrc_scale=0.1), 0)
    assert not {image.contiguous().numpy().tobytes() for image in cropped} & whole


def test_views_are_replayed_exactly_and_equally_often(protocol):
    distilled = make_set()
    assert protocol.cutmix_probability == 1  # stored views are not mixed all the same
    batches = StudentBatches(distilled, protocol, "views", seed=3, device=CPU)
    labels = (distilled.view_logits.float() / protocol.temperature).softmax(dim=-1)
    images = distilled.images.float() / 255
    seen = []
    for epoch in range(2 * VIEWS):
        pixels, target = collect(batches, epoch)
        for view_pixels, view_target in zip(pixels, target, strict=True):
            image, view = divmod(int((labels - view_target).abs().sum(dim=-1).argmin()), VIEWS)
            seen.append((image, view))
            box = distilled.view_boxes[image, view]
            expected = crop_and_resize(images, torch.tensor([image]), box[None, :4] * SIDE, SIDE)[0]
            expected = expected.flip(-1) if box[4] else expected
            assert torch.equal(view_pixels, expected)
            assert torch.equal(view_target, labels[image, view])
    assert sorted(seen) == sorted(2 * [(image, view) for image in range(len(images)) for view in range(VIEWS)])
    assert seen[: len(images) * VIEWS] != seen[len(images) * VIEWS :]


@pytest.mark.parametrize(("name", "labels"), [("rded_kd", "tiles"), ("minimax_hard", "hard"), ("igds_adam", "hard")])
def test_augmentation_does_not_depend_on_the_batch(name, labels):
    distilled = make_set(ipc=6, tiles=4)
    plain = dataclasses.replace(load_protocol(name), cutmix_probability=0.0)
    small = dataclasses.replace(plain, batch_sizes={1: 5})
    whole = collect(StudentBatches(distilled, plain, labels, seed=0, device=CPU), 2)
    parts = collect(StudentBatches(distilled, small, labels, seed=0, device=CPU), 2)
    torch.testing.assert_close(whole, parts)
    again = collect(StudentBatches(distilled, plain, labels, seed=0, device=CPU), 3)
    assert not torch.equal(whole[0], again[0])


def test_colours_change_only_where_the_protocol_says():
    """A grey image stays grey under jitter, and gets a colour of its own from lighting alone."""
    distilled = make_set(ipc=6)
    grey = torch.full_like(distilled.images, 100)
    distilled = dataclasses.replace(distilled, images=grey)
    base = dataclasses.replace(load_protocol("minimax_hard"), cutmix_probability=0.0)

    def pixels(**changes):
        return collect(StudentBatches(distilled, dataclasses.replace(base, **changes), "hard", seed=0, device=CPU), 0)[
            0
        ]

    torch.testing.assert_close(pixels(color_jitter=0.0, lighting=0.0), grey.float() / 255)
    jittered = pixels(lighting=0.0)
    torch.testing.assert_close(jittered[:, 0], jittered[:, 1])
    levels = jittered[:, 0, 0, 0] / (100 / 255)
    assert levels.min() > 0.6 and levels.max() < 1.4 and levels.std() > 0.1
    lit = pixels(color_jitter=0.0) - grey.float() / 255
    assert (lit.flatten(2).std(dim=2) < 1e-6).all() and len(lit[:, 0, 0, 0].unique()) == len(grey)


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_changes_what_the_teacher_is_shown_and_stored_views_never(channels):
    distilled = make_set(ipc=6)
    distilled = dataclasses.replace(distilled, images=distilled.images[:, :channels])
    plain = dataclasses.replace(load_protocol("rded_kd"), cutmix_probability=0.0)
    changed = dataclasses.replace(plain, rand_augment=(2, 10))

    def pixels(protocol, labels, epoch=0):
        return collect(StudentBatches(distilled, protocol, labels, seed=0, device=CPU), epoch)[0]

    before, after = pixels(plain, "online"), pixels(changed, "online")
    assert after.shape == before.shape and not torch.allclose(after, before, atol=0.05)
    assert 0 <= after.min() and after.max() <= 1
    torch.manual_seed(1)
    assert torch.equal(pixels(changed, "online"), after) and torch.initial_seed() == 1
    assert not torch.equal(pixels(changed, "online", 1) - pixels(plain, "online", 1), after - before)
    assert torch.equal(pixels(changed, "views"), pixels(plain, "views"))


def test_cutmix_comes_as_often_as_its_probability():
    distilled = make_set(ipc=6)
    half = dataclasses.replace(load_protocol("igds_adam"), cutmix_probability=0.5, batch_sizes={1: 18})
    batches = StudentBatches(distilled, half, "hard", seed=0, device=CPU)
    mixed = sum(bool(((target > 0) & (target < 1)).any()) for e in range(200) for _, target, _ in batches.epoch(e))
    assert 60 < mixed < 130  # a box can be empty, so a little less than half


def test_tiles_are_shuffled_only_where_the_protocol_says(protocol):
    distilled = make_set(tiles=4)
    for shuffled in (True, False):
        plain = dataclasses.replace(protocol, cutmix_probability=0.0, flip=0.0, rrc_scale=1.0, shuffle_tiles=shuffled)
        pixels, _ = collect(StudentBatches(distilled, plain, "hard", seed=0, device=CPU), 0)
        whole = {image.numpy().tobytes() for image in distilled.images.float() / 255}
        assert ({image.contiguous().numpy().tobytes() for image in pixels} == whole) != shuffled
