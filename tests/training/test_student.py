import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from decoct.data.crops import crop_and_resize
from decoct.evaluation.distilled import DistilledSet
from decoct.evaluation.metrics import accuracy
from decoct.evaluation.protocols import load_protocol
from decoct.models.zoo import build_classifier
from decoct.training.student import StudentBatches, soft_label_loss, train_student

CLASSES, SIDE, VIEWS = 3, 16, 4
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def protocol():
    return load_protocol("rded_kd")


def coloured(labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Noisy images whose class is their brightest channel."""
    noise = torch.randint(0, 120, (len(labels), 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    noise[torch.arange(len(labels)), labels] += 100
    return noise.to(torch.uint8)


class ColourTeacher(nn.Module):
    """Its logits are the images' mean colours."""

    def __init__(self, spec):
        super().__init__()
        self.spec, self.name = spec, "colours"

    def forward(self, pixels):
        return 60 * pixels.mean(dim=(2, 3))


def make_set(ipc: int = 4, tiles: int = 1, seed: int = 0) -> DistilledSet:
    labels = torch.arange(CLASSES).repeat_interleave(ipc)
    generator = np.random.default_rng(seed)
    boxes = np.concatenate(
        [generator.uniform(0, 0.3, (len(labels), VIEWS, 2)), generator.uniform(0.4, 0.7, (len(labels), VIEWS, 2))], -1
    )
    flips = generator.integers(0, 2, (len(labels), VIEWS, 1))
    boxes = torch.from_numpy(np.concatenate([boxes, flips], -1)).half().float()
    images = coloured(labels, seed)
    logits = 60 * images.float().mean(dim=(2, 3)) / 255
    manifest = {
        "label_names": ["red", "green", "blue"],
        "image_size": SIDE,
        "channels": 3,
        "image_mean": [0.3] * 3,
        "image_std": [0.2] * 3,
        "config": {"method": "random", "tiles_per_image": tiles},
    }
    return DistilledSet(
        images=images,
        labels=labels,
        tile_logits=logits[:, None].repeat(1, tiles, 1),
        view_logits=(logits[:, None] + torch.from_numpy(generator.normal(0, 1, (len(labels), VIEWS, CLASSES)))).half(),
        view_boxes=boxes,
        ipc=ipc,
        tiles_per_image=tiles,
        manifest=manifest,
    )


def student_of(distilled: DistilledSet, seed: int = 0):
    return build_classifier("convnet3_w8", distilled.spec, seed)


def collect(batches: StudentBatches, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, targets = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(pixels), torch.cat(targets)


def test_loss_against_a_loop():
    logits, target = torch.randn(6, 5), torch.randn(6, 5).softmax(dim=1)
    expected = 0.0
    for row in range(6):
        student = np.exp(logits[row].double().numpy() / 20)
        student /= student.sum()
        for p, q in zip(target[row].tolist(), student, strict=True):
            expected += p * (math.log(p) - math.log(q)) / 6
    assert soft_label_loss(logits, target, 20.0).item() == pytest.approx(expected, rel=1e-4)


def test_loss_of_hard_labels_is_the_cross_entropy():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    one_hot = nn.functional.one_hot(labels, 5).float()
    torch.testing.assert_close(soft_label_loss(logits, one_hot, 1.0), nn.functional.cross_entropy(logits, labels))


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
    plain = dataclasses.replace(protocol, cutmix_alpha=0.0)
    pixels, target = collect(StudentBatches(distilled, plain, "tiles", seed=0, device=CPU, rrc_scale=0.2), 0)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(count))
    torch.testing.assert_close(pixels.mean(dim=(1, 2, 3)), target @ greys.float() / 255, atol=0.01, rtol=0)
    corners = {tuple(view[0, ::63, ::63].flatten().tolist()) for view in pixels}
    assert len(corners) > 4


def test_one_tile_is_never_cropped_unless_asked(protocol):
    distilled = make_set()
    plain = dataclasses.replace(protocol, cutmix_alpha=0.0, flip=0.0)
    pixels, _ = collect(StudentBatches(distilled, plain, "tiles", seed=0, device=CPU), 0)
    whole = {image.numpy().tobytes() for image in distilled.images.float() / 255}
    assert {image.contiguous().numpy().tobytes() for image in pixels} == whole
    cropped, _ = collect(StudentBatches(distilled, plain, "tiles", seed=0, device=CPU, rrc_scale=0.1), 0)
    assert not {image.contiguous().numpy().tobytes() for image in cropped} & whole


def test_views_are_replayed_exactly_and_equally_often(protocol):
    distilled = make_set()
    assert protocol.cutmix_alpha > 0  # stored views are not mixed all the same
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


def test_augmentation_does_not_depend_on_the_batch(protocol):
    distilled = make_set(ipc=6, tiles=4)
    plain = dataclasses.replace(protocol, cutmix_alpha=0.0)
    small = dataclasses.replace(plain, batch_sizes={1: 5})
    whole = collect(StudentBatches(distilled, plain, "tiles", seed=0, device=CPU), 2)
    parts = collect(StudentBatches(distilled, small, "tiles", seed=0, device=CPU), 2)
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("labels", ["hard", "tiles", "views", "online"])
def test_a_separable_problem_is_learnt(protocol, labels):
    distilled = make_set(ipc=8, tiles=1)
    student = student_of(distilled)
    teacher = ColourTeacher(distilled.spec)
    losses = train_student(student, distilled, protocol, labels, teacher, epochs=30, rrc_scale=0.3)
    test_labels = torch.arange(CLASSES).repeat(40)
    assert len(losses) == 30 and all(loss >= 0 for loss in losses)
    assert accuracy(student, coloured(test_labels, seed=9), test_labels) > 0.8


def test_the_same_seed_gives_the_same_weights_and_another_does_not(protocol):
    distilled = make_set()

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed() % 1000)  # whatever state the caller left
        student = student_of(distilled, seed=0)
        train_student(student, distilled, protocol, "views", seed=seed, epochs=3)
        return torch.cat([parameter.flatten() for parameter in student.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_training_leaves_the_callers_random_state_alone(protocol):
    distilled = make_set()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_student(student_of(distilled), distilled, protocol, "tiles", epochs=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("labels", ["tiles", "online"])
def test_batch_norm_moves_once_a_step(protocol, labels):
    distilled = make_set(ipc=4)  # 12 images
    five = dataclasses.replace(protocol, batch_sizes={1: 5})
    student, teacher = student_of(distilled), student_of(distilled, seed=1)
    train_student(student, distilled, five, labels, teacher, epochs=2)
    tracked = [buffer.item() for name, buffer in student.named_buffers() if "num_batches_tracked" in name]
    assert tracked and set(tracked) == {2 * 3}
    assert {buffer.item() for name, buffer in teacher.named_buffers() if "num_batches_tracked" in name} == {0}


def test_a_last_batch_of_one_is_left_out_with_batch_norm_only(protocol):
    distilled = make_set(ipc=4)
    eleven = dataclasses.replace(protocol, batch_sizes={1: 11})
    sizes = {}
    for name in ("convnet3_w8", "convnet3_instance_w8"):
        student, seen = build_classifier(name, distilled.spec), []
        student.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(len(inputs[0])))
        train_student(student, distilled, eleven, "tiles", epochs=1)
        sizes[name] = seen
    assert sizes == {"convnet3_w8": [11], "convnet3_instance_w8": [11, 1]}


def test_one_dimensional_parameters_do_not_decay(protocol):
    class Idle(nn.Module):
        """Only decay can move its weights."""

        def __init__(self):
            super().__init__()
            self.matrix, self.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))

        def forward(self, pixels):
            return torch.zeros(len(pixels), CLASSES) + 0 * (self.matrix.sum() + self.vector.sum())

    student = Idle()
    train_student(student, make_set(), dataclasses.replace(protocol, weight_decay=0.5), "tiles", epochs=2)
    assert torch.equal(student.vector, torch.ones(2))
    assert (student.matrix < 1).all()


def test_mixed_precision_and_callback(protocol):
    distilled = make_set()
    seen = []
    losses = train_student(
        student_of(distilled),
        distilled,
        protocol,
        "tiles",
        epochs=2,
        mixed_precision="bf16",
        on_epoch_end=lambda epoch, loss: seen.append((epoch, loss)),
    )
    assert seen == list(enumerate(losses)) and all(math.isfinite(loss) for loss in losses)


def test_clear_errors(protocol):
    distilled = make_set()
    student = student_of(distilled)
    with pytest.raises(ValueError, match=r"labels must be one of \['hard', 'tiles', 'views', 'online'\]. Got 'soft'"):
        train_student(student, distilled, protocol, "soft")
    with pytest.raises(ValueError, match="--teacher"):
        train_student(student, distilled, protocol, "online")
    with pytest.raises(ValueError, match="--views"):
        train_student(student, dataclasses.replace(distilled, view_logits=None, view_boxes=None), protocol, "views")
    with pytest.raises(ValueError, match="tile_logits"):
        train_student(student, dataclasses.replace(distilled, tile_logits=None), protocol, "tiles")
    spec = dataclasses.replace(distilled.spec, label_names=("green", "red", "blue"))
    with pytest.raises(ValueError, match="label names"):
        train_student(student, distilled, protocol, "online", ColourTeacher(spec))
    with pytest.raises(ValueError, match="mixed_precision must be one of"):
        train_student(student, distilled, protocol, "tiles", mixed_precision="int8", epochs=1)
