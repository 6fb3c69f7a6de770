"""Shapley values against brute force and the axioms; KernelSHAP against exact values and captum."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from decoct.infoutil.attribution import (
    CaptumKernelShap,
    ExactShapley,
    KernelShap,
    PatchGame,
    coalition_design,
    exact_shapley_values,
    shapley_values,
)
from decoct.infoutil.shapley import neighbouring_triples

MEAN = (0.4, 0.5, 0.6)


class TinyNet(nn.Module):
    """A small non-additive network of random weights."""

    def __init__(self, seed: int, kind: str = "relu", side: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            activation = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "softplus": nn.Softplus()}[kind]
            self.layers = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1), activation, nn.Flatten(), nn.Linear(6 * side * side, 12), activation,
                nn.Linear(12, 4),
            )  # fmt: skip
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2)
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(5, 3, 8, 8, generator=generator), torch.tensor([0, 3, 1, 2, 2])


def masked(pixels: torch.Tensor, members: set[int], grid: int) -> torch.Tensor:
    """One image with the patches that are not members set to the mean, pixel by pixel."""
    result = pixels.clone()
    height, width = pixels.shape[-2:]
    for i in range(height):
        for j in range(width):
            if (i * grid // height) * grid + j * grid // width not in members:
                result[:, i, j] = torch.tensor(MEAN)
    return result


def brute_force(network: nn.Module, pixels: torch.Tensor, target: int, grid: int) -> torch.Tensor:
    """The definition, one coalition and one player at a time."""
    players = grid * grid
    value = {}
    with torch.no_grad():
        for size in range(players + 1):
            for members in itertools.combinations(range(players), size):
                value[members] = network(masked(pixels, set(members), grid)[None])[0, target].item()
    phi = torch.zeros(players, dtype=torch.float64)
    for player in range(players):
        for members, v in value.items():
            if player not in members:
                joined = tuple(sorted((*members, player)))
                phi[player] += (value[joined] - v) / (players * math.comb(players - 1, len(members)))
    return phi


def random_values(players: int, batch: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 2**players, generator=generator, dtype=torch.float64)


def member(players: int) -> torch.Tensor:
    """`(2^players, players)` bool: bit i of j."""
    return torch.tensor([[bool(j >> i & 1) for i in range(players)] for j in range(2**players)])


def kernel_estimate(values: torch.Tensor, players: int, coalitions: int, seed: int = 0) -> torch.Tensor:
    """KernelSHAP on a table of all values."""
    design = coalition_design(players, coalitions, seed)
    index = (design.coalitions * 2 ** torch.arange(players)).sum(1)
    return shapley_values(design, values[:, index], values[:, 0], values[:, -1])


@pytest.mark.parametrize(("kind", "seed"), [("relu", 0), ("tanh", 1), ("softplus", 2)])
def test_exact_equals_brute_force_on_networks(images, kind, seed):
    network = TinyNet(seed, kind)
    pixels, target = images
    heatmap = ExactShapley(network, 2, baseline_value=MEAN, batch_size=7).attribute(pixels[:3], target[:3])
    assert heatmap.shape == (3, 2, 2) and heatmap.dtype == torch.float32
    for row in range(3):
        expected = brute_force(network, pixels[row], int(target[row]), 2)
        torch.testing.assert_close(heatmap[row].flatten().double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [8, 9])
def test_exact_equals_brute_force_on_a_3x3_grid(side):
    """With 8 px, which 3 does not divide, patches are unequal, and none is lost."""
    network = TinyNet(3, side=side)
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side))
    heatmap = ExactShapley(network, 3, baseline_value=MEAN).attribute(pixels, torch.tensor([1]))
    expected = brute_force(network, pixels[0], 1, 3)
    torch.testing.assert_close(heatmap.flatten().double(), expected, atol=1e-5, rtol=1e-4)


def test_exact_equals_mean_over_orderings():
    values = random_values(5, batch=1)[0]
    phi = torch.zeros(5, dtype=torch.float64)
    for order in itertools.permutations(range(5)):
        coalition = 0
        for player in order:
            phi[player] += values[coalition | 1 << player] - values[coalition]
            coalition |= 1 << player
    torch.testing.assert_close(exact_shapley_values(values[None])[0], phi / math.factorial(5))


# The kernel estimator at 6 players: half of the 62 coalitions, and all of them.
ESTIMATORS = {
    "exact": exact_shapley_values,
    "kernel": lambda values: kernel_estimate(values, 6, 32),
    "kernel_all": lambda values: kernel_estimate(values, 6, 62),
}


@pytest.mark.parametrize("estimate", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_linearity(estimate):
    u, w = random_values(6, seed=1), random_values(6, seed=2)
    torch.testing.assert_close(estimate(2 * u - 3 * w), 2 * estimate(u) - 3 * estimate(w))


@pytest.mark.parametrize("estimate", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_efficiency(estimate):
    values = random_values(6)
    torch.testing.assert_close(estimate(values).sum(1), values[:, -1] - values[:, 0])


@pytest.mark.parametrize("name", ["exact", "kernel_all"])
def test_dummy_player_gets_its_own_value(name):
    values = random_values(6)
    index = torch.arange(64)
    values = values[:, index & ~4] + 0.7 * (index & 4 > 0)
    torch.testing.assert_close(ESTIMATORS[name](values)[:, 2], torch.full((3,), 0.7, dtype=torch.float64))


@pytest.mark.parametrize("name", ["exact", "kernel_all"])
def test_symmetric_players_get_equal_values(name):
    values = random_values(6)
    swapped = member(6).long()[:, [0, 4, 2, 3, 1, 5]] @ (2 ** torch.arange(6))
    phi = ESTIMATORS[name](values + values[:, swapped])
    torch.testing.assert_close(phi[:, 1], phi[:, 4])
    assert not torch.allclose(phi[:, 1], phi[:, 2])


def test_kernel_recovers_an_additive_game_from_any_design():
    worth = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = (member(9).double() @ worth)[None] + 5
    torch.testing.assert_close(kernel_estimate(values, 9, 18)[0], worth)


@pytest.mark.parametrize("players", [2, 3, 4, 9])
def test_kernel_with_all_coalitions_is_exact(players):
    values = random_values(players)
    torch.testing.assert_close(kernel_estimate(values, players, 2**players), exact_shapley_values(values))


@pytest.mark.parametrize(("players", "coalitions"), [(9, 16), (9, 128), (9, 500), (16, 128), (49, 200)])
def test_design_has_distinct_complementary_pairs(players, coalitions):
    design = coalition_design(players, coalitions, seed=3)
    assert design.coalitions.shape == (coalitions, players)
    assert torch.equal(design.coalitions[0::2], ~design.coalitions[1::2])
    assert len(torch.unique(design.coalitions, dim=0)) == coalitions
    size = design.coalitions.sum(1)
    assert size.min() >= 1 and size.max() <= players - 1
    torch.testing.assert_close(design.weights.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_design_sizes_follow_the_kernel():
    """At 16 players and 64 pairs, sizes 1 and 15 are exhausted; the others get their share of the other 48 pairs."""
    size = coalition_design(16, 128, seed=0).coalitions.sum(1).tolist()
    pairs = [size.count(k) for k in range(1, 8)] + [size.count(8) / 2]
    mass = [2 / (k * (16 - k)) for k in range(2, 8)] + [1 / 64]
    expected = [48 * m / sum(mass) for m in mass]
    assert pairs[0] == 16
    assert all(abs(count - share) < 1 for count, share in zip(pairs[1:], expected, strict=True))


def test_design_follows_from_its_seed():
    first, again, other = (coalition_design(16, 64, seed) for seed in (5, 5, 6))
    assert torch.equal(first.coalitions, again.coalitions) and torch.equal(first.matrix, again.matrix)
    assert not torch.equal(first.coalitions, other.coalitions)


def test_too_few_coalitions_names_the_least():
    with pytest.raises(ValueError, match="at least 30 to identify 16 players. Got 28"):
        coalition_design(16, 28, seed=0)
    with pytest.raises(ValueError, match="even"):
        coalition_design(16, 65, seed=0)


def test_exact_values_reject_other_counts():
    with pytest.raises(ValueError, match="2\\^players"):
        exact_shapley_values(torch.zeros(1, 12))
    with pytest.raises(ValueError, match="at most 4"):
        ExactShapley(TinyNet(0), 5, baseline_value=MEAN)


@pytest.fixture(scope="module")
def nine_players() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A network, 12 images with their targets, and all values of their 3x3 games."""
    network = TinyNet(7, side=9)
    pixels = torch.rand(12, 3, 9, 9, generator=torch.Generator().manual_seed(4))
    target = torch.arange(12) % 4
    values = PatchGame(network, 3, baseline_value=MEAN, batch_size=256).values(pixels, target, member(9)).double()
    return network, pixels, target, values


def relative_error(estimate: torch.Tensor, exact: torch.Tensor) -> float:
    return ((estimate - exact).norm(dim=1) / exact.norm(dim=1)).mean().item()


def test_error_falls_as_coalitions_grow(nine_players):
    values = nine_players[3]
    exact = exact_shapley_values(values)
    errors = [
        sum(relative_error(kernel_estimate(values, 9, n, seed), exact) for seed in range(5)) / 5
        for n in (32, 64, 128, 256, 510)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6 < errors[-2] < errors[0] / 3


def test_pairs_beat_captum_at_equal_coalitions(nine_players):
    network, pixels, target, values = nine_players
    exact = exact_shapley_values(values)
    ours = relative_error(kernel_estimate(values, 9, 64), exact)
    captum = CaptumKernelShap(network, 3, 64, baseline_value=MEAN).attribute(pixels, target, seeds=range(12))
    assert ours < 0.7 * relative_error(captum.flatten(1).double(), exact)


def test_agrees_with_captum_where_both_see_all_coalitions(images):
    """Captum draws with replacement: 3,000 draws of 14 coalitions have nearly the kernel's weights."""
    network = TinyNet(5)
    pixels, target = images[0][:2], images[1][:2]
    ours = KernelShap(network, 2, 14, baseline_value=MEAN).attribute(pixels, target)
    captum = CaptumKernelShap(network, 2, 3000, baseline_value=MEAN, batch_size=500).attribute(pixels, target)
    assert relative_error(captum.flatten(1), ours.flatten(1)) < 0.03
    exact = ExactShapley(network, 2, baseline_value=MEAN).attribute(pixels, target)
    torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-4)


# Interactions beside the players


def test_neighbouring_triples():
    assert len(neighbouring_triples(4)) == len(set(neighbouring_triples(4))) == 36
    assert neighbouring_triples(2) == [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]
    for triple in neighbouring_triples(5):
        places = [divmod(patch, 5) for patch in triple]
        for (row, column), (other_row, other_column) in itertools.combinations(places, 2):
            assert max(abs(row - other_row), abs(column - other_column)) == 1, "all are neighbours of one another"


def interacting_estimate(values: torch.Tensor, grid: int, coalitions: int, seed: int = 0) -> torch.Tensor:
    """KernelSHAP with the neighbours' triples on a table of all values."""
    design = coalition_design(grid**2, coalitions, seed, neighbouring_triples(grid))
    index = (design.coalitions * 2 ** torch.arange(grid**2)).sum(1)
    return shapley_values(design, values[:, index], values[:, 0], values[:, -1])


def test_without_triples_the_design_is_the_constrained_least_squares():
    """Against the textbook's solution: u = v - Delta / d, and the normal equations where they are orthogonal to 1."""
    design = coalition_design(9, 60, seed=4)
    members, weights = design.coalitions.double(), design.weights
    project = torch.eye(9, dtype=torch.float64) - 1 / 9
    normal = members.T @ (weights[:, None] * members)
    inverse = project @ torch.linalg.pinv(project @ normal @ project, hermitian=True) @ project
    torch.testing.assert_close(design.matrix, inverse @ (members.T * weights))
    torch.testing.assert_close(design.offset, (1 - inverse @ normal.sum(1)) / 9)


@pytest.mark.parametrize("coalitions", [18, 40, 2**9 - 2])
def test_additive_games_stay_exact_with_triples(coalitions):
    worth = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = (member(9).double() @ worth)[None] + 5
    torch.testing.assert_close(interacting_estimate(values, 3, coalitions)[0], worth)


def test_all_coalitions_are_exact_with_triples():
    values = random_values(9)
    torch.testing.assert_close(interacting_estimate(values, 3, 2**9 - 2), exact_shapley_values(values))


def test_efficiency_with_triples():
    values = random_values(9)
    torch.testing.assert_close(interacting_estimate(values, 3, 40).sum(1), values[:, -1] - values[:, 0])


def test_games_of_neighbours_are_estimated_with_a_small_part_of_the_error():
    """A game of players and neighbouring triples, which is what the regressors can say."""
    generator = torch.Generator().manual_seed(1)
    signs = 2 * member(9).double() - 1
    triples = [signs[:, list(each)].prod(1) for each in neighbouring_triples(3)]
    terms = torch.stack([*signs.T, *triples], dim=1)
    values = torch.randn(5, terms.shape[1], generator=generator, dtype=torch.float64) @ terms.T
    exact = exact_shapley_values(values)
    plain, ours = (
        torch.stack([(estimate(seed) - exact).norm() for seed in range(5)]).mean()
        for estimate in (
            lambda seed: kernel_estimate(values, 9, 100, seed),
            lambda seed: interacting_estimate(values, 3, 100, seed),
        )
    )
    assert ours < 0.1 * plain


def test_a_batch_is_its_single_images_with_triples():
    values = random_values(9, batch=4)
    together = interacting_estimate(values, 3, 60)
    for row in range(4):
        torch.testing.assert_close(interacting_estimate(values[row : row + 1], 3, 60)[0], together[row])
