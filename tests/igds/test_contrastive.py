"""The losses against their definitions, a step of MoCo by hand, and processes that must agree."""

from __future__ import annotations

import copy
import math
import runpy

import pytest
import torch
import torch.nn.functional as F
from transformers import ViTConfig
from worlds import spec_of

from decoct.igds.contrastive import MomentumContrast, contextual_loss, info_nce, update_class_means
from decoct.igds.estimator import VariationalEstimator, VariationalEstimatorConfig
from decoct.igds.loading import build_estimator

DRIVER = """
import sys
import torch
from accelerate import Accelerator
from transformers import ViTConfig
from decoct.igds.contrastive import MomentumContrast
from decoct.igds.estimator import VariationalEstimator, VariationalEstimatorConfig

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def train(q_mode):
    accelerator = Accelerator()
    torch.manual_seed(0)
    encoder = ViTConfig(**SIZES, image_size=8, patch_size=4, num_channels=1, initializer_range=0.5).to_dict()
    config = VariationalEstimatorConfig(
        encoder=encoder, projection_dim=4, image_size=8, num_channels=1, image_mean=[0.5], image_std=[0.5], num_labels=3
    )
    contrast = MomentumContrast(VariationalEstimator(config), 24, momentum=0.5, kl_weight=1.0, q_mode=q_mode)
    optimizer = torch.optim.SGD([p for p in contrast.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    optimizer.register_step_post_hook(lambda *_: contrast.update_momentum_encoder())
    model, optimizer = accelerator.prepare(contrast, optimizer)
    model.train()
    share = 8 // accelerator.num_processes
    rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        views = torch.randn(2, 8, 1, 8, 8, generator=generator)
        labels = torch.randint(0, 2, (8,), generator=generator)
        accelerator.backward(model(views[0, rows], views[1, rows], labels[rows]).loss)
        optimizer.step()
        optimizer.zero_grad()
    return contrast.state_dict()


if __name__ == "__main__":
    state = Accelerator()
    results = {q_mode: train(q_mode) for q_mode in ("two_view", "class_mean")}
    torch.save((state.num_processes, results), f"{sys.argv[1]}.{state.process_index}")
    state.wait_for_everyone()
    state.end_training()
"""


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def images(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def estimator() -> VariationalEstimator:
    return build_estimator("resnet10_w4", spec_of(), projection_dim=5)


def norm_free_estimator() -> VariationalEstimator:
    """Without batch normalisation, so that a step by hand needs no word on running statistics."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    encoder = ViTConfig(**sizes, image_size=16, patch_size=8, initializer_range=0.5).to_dict()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VariationalEstimator(VariationalEstimatorConfig(encoder=encoder, projection_dim=5, num_labels=3))


def test_info_nce_equals_its_definition():
    query, key, queue = unit(4, 6, 0), unit(4, 6, 1), unit(9, 6, 2)
    losses = []
    for q, k in zip(query, key, strict=True):
        positive = math.exp(float(q @ k) / 0.2)
        losses.append(-math.log(positive / (positive + sum(math.exp(float(q @ other) / 0.2) for other in queue))))
    assert float(info_nce(query, key, queue, 0.2)) == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_the_contextual_loss_equals_its_definition():
    query, reference = unit(4, 6, 0), unit(4, 6, 1).softmax(dim=1)
    losses = []
    for q, other in zip(query, reference, strict=True):
        weights = [math.exp(float(value) / 0.3) for value in q]
        shares = [weight / sum(weights) for weight in weights]
        losses.append(sum(p * math.log(p / float(r)) for p, r in zip(shares, other, strict=True)))
    assert float(contextual_loss(query, reference, 0.3)) == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_gradients_reach_the_query_alone():
    query, key, reference = (part.requires_grad_() for part in (unit(4, 6, 0), unit(4, 6, 1), unit(4, 6, 2).exp()))
    (info_nce(query, key, unit(9, 6, 3), 0.2) + contextual_loss(query, reference, 0.2)).backward()
    assert query.grad is not None
    assert key.grad is None
    assert reference.grad is None


def test_class_means_move_by_hand():
    means, seen = torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool)
    first = torch.tensor([[0.2, 0.8], [0.4, 0.6], [1.0, 0.0]])
    update_class_means(means, seen, first, torch.tensor([0, 0, 2]), momentum=0.9)
    assert torch.allclose(means, torch.tensor([[0.3, 0.7], [0.0, 0.0], [1.0, 0.0]]))
    assert seen.tolist() == [True, False, True]
    second = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    update_class_means(means, seen, second, torch.tensor([2, 1]), momentum=0.9)
    assert torch.allclose(means, torch.tensor([[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]]))
    assert seen.all()


def test_without_the_contextual_term_a_step_is_one_of_moco():
    contrast = MomentumContrast(norm_free_estimator(), 8, momentum=0.9, temperature=0.2, kl_weight=0.0, seed=3).train()
    query, key, queue = copy.deepcopy(contrast.query), copy.deepcopy(contrast.key), contrast.queue.clone()
    labels = torch.zeros(4, dtype=torch.int64)
    trained = [parameter for parameter in contrast.parameters() if parameter.requires_grad]
    by_hand = [parameter for parameter in query.parameters() if parameter.requires_grad]
    optimizers = [torch.optim.SGD(parameters, lr=0.3, momentum=0.9) for parameters in (trained, by_hand)]
    for step in range(3):
        views = images(4, 2 * step), images(4, 2 * step + 1)
        result = contrast(*views, labels)
        result.loss.backward()

        q, k = query(views[0]).embeddings, key(views[1]).embeddings.detach()
        logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], torch.einsum("nc,kc->nk", q, queue)], dim=1)
        loss = F.cross_entropy(logits / 0.2, labels)
        loss.backward()
        queue = torch.cat([queue, k])[4:]  # the oldest keys leave

        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        contrast.update_momentum_encoder()
        with torch.no_grad():
            for slow, fast in zip(key.parameters(), query.parameters(), strict=True):
                slow.copy_(0.9 * slow + 0.1 * fast)

        assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        assert torch.equal(result.loss.detach(), result.contrastive)
        in_order = torch.cat([contrast.queue[int(contrast.pointer) :], contrast.queue[: int(contrast.pointer)]])
        assert torch.allclose(in_order, queue, atol=1e-5)
        for ours, theirs in ((contrast.query, query), (contrast.key, key)):
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert torch.allclose(one, other, atol=1e-5)


def test_two_view_takes_the_mean_of_both_views():
    contrast = MomentumContrast(norm_free_estimator(), 8, kl_weight=0.7, kl_temperature=0.3).train()
    views, labels = (images(4, 0), images(4, 1)), torch.tensor([0, 1, 2, 0])
    result = contrast(*views, labels)
    q, k = contrast.query(views[0]).embeddings / 0.3, contrast.key(views[1]).embeddings / 0.3
    middle = (q.softmax(dim=1) + k.softmax(dim=1)) / 2
    expected = F.kl_div(middle.log(), q.softmax(dim=1), reduction="batchmean")
    assert expected.item() > 1e-3
    assert result.contextual.item() == pytest.approx(expected.item(), rel=1e-4)
    assert result.loss.item() == pytest.approx(result.contrastive.item() - 0.7 * expected.item(), rel=1e-4)


def test_the_literal_gradient_is_half_of_the_detached_one_where_views_are_alike():
    far, near = unit(5, 6, 0), torch.nn.functional.normalize(unit(5, 6, 0) + 0.01 * unit(5, 6, 1), dim=1)
    gradients = {}
    for literal in (False, True):
        query = near.clone().requires_grad_(True)
        shares = [(each / 0.3).softmax(dim=1) for each in (query, far)]
        contextual_loss(query, (shares[0] + shares[1]) / 2, 0.3, literal).backward()
        gradients[literal] = query.grad
    torch.testing.assert_close(gradients[True], gradients[False] / 2, rtol=0.05, atol=1e-5)


def test_the_literal_loss_is_the_same_number_with_another_gradient():
    views, labels = (images(4, 0), images(4, 1)), torch.tensor([0, 1, 2, 0])
    results, gradients = {}, {}
    for kind in ("detached", "literal"):
        contrast = MomentumContrast(norm_free_estimator(), 8, kl_weight=5.0, kl_gradient=kind).train()
        results[kind] = contrast(*views, labels)
        results[kind].loss.backward()
        gradients[kind] = torch.cat(
            [each.grad.flatten() for each in contrast.query.parameters() if each.grad is not None]
        )
    assert results["literal"].loss.item() == results["detached"].loss.item()
    assert not torch.allclose(gradients["literal"], gradients["detached"])


def test_class_mean_takes_the_running_mean_of_the_class():
    contrast = MomentumContrast(norm_free_estimator(), 8, kl_temperature=0.3, q_mode="class_mean").train()
    labels = torch.tensor([0, 1, 1, 0])
    first, second = (contrast.query(images(4, seed)).embeddings.div(0.3).softmax(dim=1) for seed in (0, 2))
    contrast(images(4, 0), images(4, 1), labels)
    means = torch.stack([first[[0, 3]].mean(dim=0), first[[1, 2]].mean(dim=0)])
    assert torch.allclose(contrast.class_means[:2], means, atol=1e-6)
    assert contrast.class_seen.tolist() == [True, True, False]

    result = contrast(images(4, 2), images(4, 3), torch.tensor([1, 1, 1, 1]))
    means[1] = 0.99 * means[1] + 0.01 * second.mean(dim=0)
    assert torch.allclose(contrast.class_means[:2], means, atol=1e-6)
    expected = F.kl_div(means[1].log().expand(4, -1), second, reduction="batchmean")
    assert expected.item() > 1e-3
    assert result.contextual.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_contextual_term_of_two_views_is_at_most_log_2():
    for temperature in (1.0, 0.1, 0.001):
        query, key = unit(64, 6, 0), -unit(64, 6, 0)
        middle = (query.div(temperature).softmax(dim=1) + key.div(temperature).softmax(dim=1)) / 2
        assert 0 <= float(contextual_loss(query, middle, temperature)) <= math.log(2) + 1e-6
    assert float(contextual_loss(query, middle, 0.001)) > 0.6, "distributions far apart come near the bound"


def test_the_momentum_encoder_follows_with_its_running_statistics():
    contrast = MomentumContrast(estimator(), 8, momentum=0.75).train()
    contrast(images(4, 0), images(4, 1), torch.zeros(4, dtype=torch.int64))
    query, key = contrast.query.state_dict(), {name: value.clone() for name, value in contrast.key.state_dict().items()}
    name = "encoder.embedder.embedder.normalization.running_mean"
    assert not torch.equal(query[name], key[name])
    contrast.update_momentum_encoder()
    after = contrast.key.state_dict()
    assert torch.allclose(after[name], 0.75 * key[name] + 0.25 * query[name], atol=1e-6)
    assert not contrast.key.training
    assert not any(parameter.requires_grad for parameter in contrast.key.parameters())


def test_the_first_batch_sets_the_running_statistics():
    contrast = MomentumContrast(estimator(), 16).train()
    views = images(16, 0), images(16, 1)
    expected = copy.deepcopy(contrast.key).train()(views[1]).embeddings
    contrast(*views, torch.zeros(16, dtype=torch.int64))
    assert torch.allclose(contrast.queue, expected, atol=0.05), "as with the batch's own statistics"


def test_a_queue_that_does_not_fit_is_an_error():
    contrast = MomentumContrast(norm_free_estimator(), 8).train()
    with pytest.raises(ValueError, match="queue_size must be a multiple of the 3 keys. Got 8"):
        contrast.enqueue(unit(3, 5, 0))
    with pytest.raises(ValueError, match="must have a projection"):
        config = VariationalEstimatorConfig(encoder=norm_free_estimator().config.encoder, projection_dim=None)
        MomentumContrast(VariationalEstimator(config), 8)


def test_two_processes_equal_one(launch, tmp_path):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    done = launch(driver, tmp_path / "result", cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    train = runpy.run_path(str(driver))["train"]
    for q_mode in ("two_view", "class_mean"):
        alone = train(q_mode)
        for process in (0, 1):
            world, results = torch.load(tmp_path / f"result.{process}")
            assert world == 2
            assert results[q_mode].keys() == alone.keys()
            assert all(torch.allclose(results[q_mode][key], alone[key], atol=1e-5) for key in alone)
        assert int(alone["pointer"]) == 4 * 8 % 24
        assert alone["class_seen"].tolist() == [q_mode == "class_mean"] * 2 + [False]
