import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from decoct.data.crops import crop_and_resize
from decoct.distilled.dataset import DistilledSet
from decoct.models.accuracy import accuracy
from decoct.models.zoo import build_classifier
from decoct.training.protocols import load_protocol
from decoct.training.student import soft_label_loss, train_student
from decoct.training.student_batches import StudentBatches

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


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_loss_is_pytorchs_divergence_without_the_square_of_the_temperature(temperature):
    logits, target = torch.randn(9, 7), torch.randn(9, 7).softmax(dim=1)
    reference = nn.KLDivLoss(reduction="batchmean")(nn.functional.log_softmax(logits / temperature, dim=1), target)
    torch.testing.assert_close(soft_label_loss(logits, target, temperature), reference)


class FixedLogits(nn.Module):
    """Its logits do not depend on the image, so that a step's loss is known."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, pixels):
        return self.logits.expand(len(pixels), -1)


@pytest.mark.parametrize("name", ["rded_kd", "minimax_hard", "igds_adam"])
def test_hard_labels_are_trained_with_the_mixed_cross_entropies(name):
    """The loss of a mixed step is kept * CE(label) + (1 - kept) * CE(label of the partner), as in IDC."""
    protocol = dataclasses.replace(load_protocol(name), learning_rate=1e-9, temperature=7.0)
    distilled, logits = make_set(ipc=6), torch.tensor([0.3, -1.0, 2.0])
    losses = train_student(FixedLogits(logits), distilled, protocol, "hard", seed=5, epochs=1)
    batches = StudentBatches(distilled, protocol, "hard", seed=5, device=CPU)
    one_by_one, mixed = [], 0
    for _, target in batches.epoch(0):
        for row in target:
            members = row.nonzero().flatten()
            mixed += len(members) == 2
            entropy = [nn.functional.cross_entropy(logits, member) * row[member] for member in members]
            one_by_one.append(float(sum(entropy)))
    assert mixed > 3
    assert losses == pytest.approx([sum(one_by_one) / len(one_by_one)], rel=1e-5)


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


def test_cutmix_comes_as_often_as_its_probability():
    distilled = make_set(ipc=6)
    half = dataclasses.replace(load_protocol("igds_adam"), cutmix_probability=0.5, batch_sizes={1: 18})
    batches = StudentBatches(distilled, half, "hard", seed=0, device=CPU)
    mixed = sum(bool(((target > 0) & (target < 1)).any()) for e in range(200) for _, target in batches.epoch(e))
    assert 60 < mixed < 130  # a box can be empty, so a little less than half


def test_tiles_are_shuffled_only_where_the_protocol_says(protocol):
    distilled = make_set(tiles=4)
    for shuffled in (True, False):
        plain = dataclasses.replace(protocol, cutmix_probability=0.0, flip=0.0, rrc_scale=1.0, shuffle_tiles=shuffled)
        pixels, _ = collect(StudentBatches(distilled, plain, "hard", seed=0, device=CPU), 0)
        whole = {image.numpy().tobytes() for image in distilled.images.float() / 255}
        assert ({image.contiguous().numpy().tobytes() for image in pixels} == whole) != shuffled


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


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("labels", ["hard", "tiles", "views", "online"])
def test_batch_norm_moves_once_a_step(protocol, labels, ema_decay):
    distilled = make_set(ipc=4)  # 12 images
    five = dataclasses.replace(protocol, batch_sizes={1: 5}, ema_decay=ema_decay)
    student, teacher = student_of(distilled), student_of(distilled, seed=1)
    measured = []

    def look(epoch, loss, network):
        measured.append({buffer.item() for name, buffer in network.named_buffers() if "num_batches" in name})

    train_student(student, distilled, five, labels, teacher, epochs=2, on_epoch_end=look)
    tracked = [buffer.item() for name, buffer in student.named_buffers() if "num_batches_tracked" in name]
    assert tracked and set(tracked) == {2 * 3}
    assert measured == [{3}, {6}]
    assert {buffer.item() for name, buffer in teacher.named_buffers() if "num_batches_tracked" in name} == {0}


@pytest.mark.parametrize("name", ["rded_kd", "minimax_hard", "igds_adam"])
def test_the_evaluated_weights_are_the_moving_average_of_every_step(name):
    distilled, decay = make_set(ipc=6), 0.7
    base = dataclasses.replace(load_protocol(name), batch_sizes={1: 18})  # one step an epoch
    trajectory, averages = [], []

    def weights_of(network) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in network.parameters()]

    plain = student_of(distilled)
    options = {"seed": 4, "epochs": 5}
    train_student(
        plain, distilled, base, "hard", **options, on_epoch_end=lambda e, loss, net: trajectory.append(weights_of(net))
    )
    averaged = student_of(distilled)
    train_student(
        averaged,
        distilled,
        dataclasses.replace(base, ema_decay=decay),
        "hard",
        **options,
        on_epoch_end=lambda e, loss, net: averages.append(weights_of(net)),
    )
    expected = trajectory[0]
    for step, weights in enumerate(trajectory):
        if step:
            expected = [decay * old + (1 - decay) * new for old, new in zip(expected, weights, strict=True)]
        torch.testing.assert_close(averages[step], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights_of(averaged), averages[-1], rtol=0, atol=0)
    for (key, ours), (_, theirs) in zip(averaged.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), key  # batch norm's statistics are the trained network's
    assert not torch.equal(weights_of(plain)[0], weights_of(averaged)[0])


def one_parameter_loss(name: str, **changes) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Weights of `FixedLogits` after each epoch, one step each, and the gradients' starting point."""
    protocol = dataclasses.replace(load_protocol(name), cutmix_probability=0.0, batch_sizes={1: 12}, **changes)
    start, seen = torch.tensor([0.3, -1.0, 2.0]), []
    student = FixedLogits(start.clone())
    train_student(
        student,
        make_set(ipc=4),
        protocol,
        "hard",
        epochs=6,
        on_epoch_end=lambda epoch, loss, network: seen.append(network.logits.detach().clone()),
    )
    return start, seen


def gradient_of(weights: torch.Tensor) -> torch.Tensor:
    """Of the mean cross-entropy of equally frequent classes."""
    return weights.softmax(dim=0) - 1 / 3


def test_sgd_follows_its_recursion_with_momentum_decay_and_steps():
    weights, seen = one_parameter_loss("minimax_hard")
    velocity = torch.zeros(3)
    for epoch, rate in enumerate([0.01] * 4 + [0.01 * 0.2, 0.01 * 0.2**2]):  # 6 epochs: milestones 4 and 5
        velocity = 0.9 * velocity + gradient_of(weights) + 5e-4 * weights  # one-dimensional, and it decays
        weights = weights - rate * velocity
        torch.testing.assert_close(seen[epoch], weights, rtol=1e-5, atol=1e-7)


def test_adam_follows_its_recursion_at_a_fixed_rate():
    weights, seen = one_parameter_loss("igds_adam")
    mean, square = torch.zeros(3), torch.zeros(3)
    for epoch in range(6):
        gradient = gradient_of(weights)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9 ** (epoch + 1)), square / (1 - 0.999 ** (epoch + 1))
        weights = weights - 0.01 * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        torch.testing.assert_close(seen[epoch], weights, rtol=1e-4, atol=1e-6)


def test_epochs_follow_the_sets_ipc():
    protocol = dataclasses.replace(load_protocol("igds_adam"), epochs={2: 5, 4: 3, 8: 2})
    for ipc, expected in ((1, 5), (3, 3), (4, 3), (9, 2)):
        assert len(train_student(FixedLogits(torch.zeros(3)), make_set(ipc=ipc), protocol, "hard")) == expected


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
        on_epoch_end=lambda epoch, loss, network: seen.append((epoch, loss)),
    )
    assert seen == list(enumerate(losses)) and all(math.isfinite(loss) for loss in losses)


def test_clear_errors(protocol):
    distilled = make_set()
    student = student_of(distilled)
    for name in ("minimax_hard", "igds_adam"):
        with pytest.raises(ValueError, match=rf"\['hard'\] under protocol '{name}'.*Got 'views'.*rded_kd"):
            train_student(student, distilled, load_protocol(name), "views")
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
