"""Claim: interactions of neighbouring patches, estimated beside the patches, lower KernelSHAP's error at no further
forward pass, and the window that the heat map chooses is at least as often the one that exact values choose.

    python benchmarks/interactions.py --teacher runs/teacher --dataset uoft-cs/cifar10 --images 4

Exact values, and the values of all coalitions that an estimate takes, come from one table of 2^16 forward passes an
image on a 4x4 grid. Errors are relative, ||estimate - exact|| / ||exact||, averaged over images and designs;
`same_window` is the share in which the best 2x2 block of patches is the exact one. Results go to
benchmarks/results/interactions.json.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timing import describe, key_of, load_network, network_parser, write_result
from torch import Tensor
from tqdm.auto import tqdm

from decoct.infoutil.attribution import PatchGame
from decoct.infoutil.shapley import (
    coalition_design,
    every_coalition,
    exact_shapley_values,
    neighbouring_triples,
    shapley_values,
)
from decoct.models.classifier import Classifier

GRID, COALITIONS, DESIGNS = 4, (32, 48, 64, 96, 128, 256, 510), 6
CHUNK = 4096


@torch.inference_mode()
def table_of(classifier: Classifier, pixels: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """The values of all coalitions, `(images, 2^16)` float64."""
    game = PatchGame(classifier, GRID, "mean", classifier.spec.mean, batch_size)
    rows = []
    for row in tqdm(range(len(pixels)), desc="exact tables", unit="image"):
        image, label = pixels[row : row + 1], labels[row : row + 1]
        values = torch.cat([game.values(image, label, part) for part in every_coalition(GRID**2).split(CHUNK)], dim=1)
        values[:, 0] = game.empty_values(image, label)
        rows.append(values.cpu().double())
    return torch.cat(rows)


def best_window(shapley: Tensor) -> Tensor:
    """The 2x2 block of patches with the largest mean, by image."""
    return F.avg_pool2d(shapley.view(-1, 1, GRID, GRID), 2, 1).flatten(1).argmax(1)


def measure(values: Tensor, interactions: Sequence[tuple[int, int, int]]) -> dict[str, dict[str, float]]:
    """Relative error and share of equal windows by the number of coalitions."""
    exact, places = exact_shapley_values(values), 2 ** torch.arange(GRID**2)
    rows = {}
    for count in COALITIONS:
        errors, same = [], []
        for seed in range(DESIGNS):
            design = coalition_design(GRID**2, count, seed, interactions)
            seen = values[:, (design.coalitions * places).sum(1)]
            estimate = shapley_values(design, seen, values[:, 0], values[:, -1])
            errors.append(float(((estimate - exact).norm(dim=1) / exact.norm(dim=1)).mean()))
            same.append(float((best_window(estimate) == best_window(exact)).float().mean()))
        numbers = {"relative_error": statistics.fmean(errors), "same_window": statistics.fmean(same)}
        rows[str(count)] = {name: float(f"{value:.4g}") for name, value in numbers.items()}
    return rows


def main(words: Sequence[str] | None = None) -> None:
    args = network_parser(__doc__, images=4).parse_args(words)
    classifier, pixels, labels = load_network(args, args.images)
    values = table_of(classifier, pixels, labels, args.batch_size or 32)
    result = describe(args, classifier, pixels, labels)
    result |= {"images": len(pixels), "designs": DESIGNS, "grid": GRID}
    result |= {"patches": measure(values, ()), "patches_and_interactions": measure(values, neighbouring_triples(GRID))}
    write_result(args.output_dir / "interactions.json", key_of(args, classifier), result)


if __name__ == "__main__":
    main()
