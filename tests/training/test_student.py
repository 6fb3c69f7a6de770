"""Training students: losses, optimisers, moving averages, batch norm, errors."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from worlds import coloured

from decoct.models.accuracy import accuracy
from decoct.models.zoo import build_classifier
from decoct.training.protocols import load_protocol
from decoct.training.student import soft_label_loss, train_student
from decoct.training.student_batches import StudentBatches

from .students import CLASSES, CPU, ColourTeacher, FixedLogits, make_set, student_of, with_mixed_views


@pytest.fixture(scope="module")
def protocol():
    return load_protocol("rded_kd")


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


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_squared_error_is_that_of_centred_logits(temperature):
    logits, teacher = torch.randn(9, 7), 5 * torch.randn(9, 7)
    target = (teacher / temperature).softmax(dim=1)
    expected = ((logits - logits.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))).square().mean()
    torch.testing.assert_close(soft_label_loss(logits, target, temperature, "squared"), expected, rtol=1e-4, atol=1e-4)
    assert soft_label_loss(logits, torch.eye(7)[:3].repeat(3, 1), temperature, "squared").isfinite()


@pytest.mark.parametrize("loss", ["kl", "squared"])
@pytest.mark.parametrize("labels", ["mixed", "tiles", "online"])
def test_the_cross_entropy_with_hard_labels_is_added(labels, loss):
    distilled, logits = with_mixed_views(make_set(ipc=6)), torch.tensor([0.3, -1.0, 2.0])
    still = dataclasses.replace(load_protocol("strong_kd"), learning_rate=1e-9, ema_decay=0.0, loss=loss)
    teacher = ColourTeacher(distilled.spec)
    without, added = (
        train_student(FixedLogits(logits), distilled, dataclasses.replace(still, hard_weight=weight), labels, teacher,
                      seed=5, epochs=1)
        for weight in (0.0, 0.5)
    )  # fmt: skip
    hard = torch.cat([each for *_, each in StudentBatches(distilled, still, labels, seed=5, device=CPU).epoch(0)])
    assert (hard.sum(1) - 1).abs().max() < 1e-6 and ((hard > 0).sum(1) == 2).any()
    entropy = nn.functional.cross_entropy(logits.expand(len(hard), -1), hard)
    assert added[0] - without[0] == pytest.approx(0.5 * entropy.item(), rel=1e-4)


def test_hard_targets_of_mixed_views_are_the_shares_of_both_images():
    distilled = with_mixed_views(make_set(ipc=6))
    batches = StudentBatches(distilled, load_protocol("strong_kd"), "mixed", seed=5, device=CPU)
    choices = batches._draw(0)
    for row in range(len(distilled)):
        partner, (first, end, left, right) = int(choices.mixed.partners[row]), choices.mixed.cuts[row].tolist()
        expected, share = torch.zeros(CLASSES), (end - first) * (right - left) / 16**2
        expected[distilled.labels[row]] += 1 - share
        expected[distilled.labels[partner]] += share
        torch.testing.assert_close(batches._hard_target(torch.tensor([row]), choices)[0], expected)


def test_the_average_is_warmed_up_so_that_short_trainings_do_not_end_where_they_began():
    distilled = make_set(ipc=6)
    base = dataclasses.replace(load_protocol("rded_kd"), batch_sizes={1: 18})  # one step an epoch
    trajectory, student = [], student_of(distilled)
    options = {"seed": 4, "epochs": 5}
    train_student(
        student_of(distilled), distilled, base, "hard", **options,
        on_epoch_end=lambda e, loss, net: trajectory.append([each.detach().clone() for each in net.parameters()]),
    )  # fmt: skip
    warmed = dataclasses.replace(base, ema_decay=0.3, ema_warmup=True)
    train_student(student, distilled, warmed, "hard", **options)
    expected = trajectory[0]
    for step, weights in enumerate(trajectory[1:], start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, weights, strict=True)]
    torch.testing.assert_close(list(student.parameters()), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["rded_kd", "minimax_hard", "igds_adam"])
def test_hard_labels_are_trained_with_the_mixed_cross_entropies(name):
    """The loss of a mixed step is kept * CE(label) + (1 - kept) * CE(label of the partner), as in IDC."""
    protocol = dataclasses.replace(load_protocol(name), learning_rate=1e-9, temperature=7.0)
    distilled, logits = make_set(ipc=6), torch.tensor([0.3, -1.0, 2.0])
    losses = train_student(FixedLogits(logits), distilled, protocol, "hard", seed=5, epochs=1)
    batches = StudentBatches(distilled, protocol, "hard", seed=5, device=CPU)
    one_by_one, mixed = [], 0
    for _, target, _ in batches.epoch(0):
        for row in target:
            members = row.nonzero().flatten()
            mixed += len(members) == 2
            entropy = [nn.functional.cross_entropy(logits, member) * row[member] for member in members]
            one_by_one.append(float(sum(entropy)))
    assert mixed > 3
    assert losses == pytest.approx([sum(one_by_one) / len(one_by_one)], rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "name", "epochs"),
    [
        *((labels, "rded_kd", 30) for labels in ("hard", "tiles", "views", "online")),
        ("mixed", "strong_kd", 30),
    ],
)
def test_a_separable_problem_is_learnt(labels, name, epochs):
    distilled, protocol = with_mixed_views(make_set(ipc=8, tiles=1)), load_protocol(name)
    student = student_of(distilled)
    teacher = ColourTeacher(distilled.spec)
    losses = train_student(student, distilled, protocol, labels, teacher, epochs=epochs, rrc_scale=0.3)
    test_labels = torch.arange(CLASSES).repeat(40)
    assert len(losses) == epochs and all(loss >= 0 for loss in losses)
    assert accuracy(student, TensorDataset(coloured(test_labels, seed=9), test_labels)) > 0.8


@pytest.mark.parametrize(("labels", "name"), [("hard", "rded_kd"), ("tiles", "rded_kd"), ("mixed", "strong_kd")])
def test_a_loss_that_is_not_finite_ends_the_training(labels, name):
    distilled = with_mixed_views(make_set(ipc=8, tiles=1))
    student = student_of(distilled)

    def spoil(epoch: int, loss: float, measured: torch.nn.Module) -> None:
        for parameter in student.parameters():
            parameter.data.fill_(torch.inf)

    with pytest.raises(ValueError, match=r"Losses must be finite\. Got nan at epoch 2, step 1\."):
        train_student(student, distilled, load_protocol(name), labels, epochs=3, on_epoch_end=spoil)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_both_optimisers_of_muon_step_under_mixed_precision(precision):
    distilled, protocol = with_mixed_views(make_set()), dataclasses.replace(load_protocol("strong_kd"), ema_decay=0.0)
    expected, student = student_of(distilled), student_of(distilled)
    for network, mixed_precision in ((expected, "no"), (student, precision)):
        losses = train_student(network, distilled, protocol, "mixed", epochs=3, mixed_precision=mixed_precision)
        assert all(math.isfinite(loss) for loss in losses)
    initial = student_of(distilled)
    for weight, close, before in zip(student.parameters(), expected.parameters(), initial.parameters(), strict=True):
        assert not torch.equal(weight, before)
        if weight.ndim > 1:  # biases before batch norm have no gradient but rounding
            assert (weight - close).norm() < 0.5 * (close - before).norm()


@pytest.mark.parametrize(("labels", "name"), [("views", "rded_kd"), ("mixed", "strong_kd")])
def test_the_same_seed_gives_the_same_weights_and_another_does_not(labels, name):
    distilled, protocol = with_mixed_views(make_set()), load_protocol(name)

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed() % 1000)  # whatever state the caller left
        student = student_of(distilled, seed=0)
        train_student(student, distilled, protocol, labels, seed=seed, epochs=3)
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
    known = r"labels must be one of \['hard', 'tiles', 'views', 'mixed', 'online'\]. Got 'soft'"
    with pytest.raises(ValueError, match=known):
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
