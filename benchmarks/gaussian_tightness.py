"""Claim (IGDS, 5.7): a variational estimator bounds a known distribution's information more tightly than cross-entropy.

    python benchmarks/gaussian_tightness.py

Three Gaussian classes in 5 dimensions with identity covariance, whose means are an equilateral triangle of side delta.
An encoder of three layers is trained by the contrastive loss of the variational estimator, with a linear classifier on
its frozen features afterwards; the same network is trained as a whole by cross-entropy; one that is not trained, with a
linear classifier on it, shows what comes for free. The same estimators measure all three on samples of their own.

What can be tight. I(X; Y) is a number of nats below log 3, and the prototype information bounds it from below. The true
H(X|Y) = (5/2) log(2 pi e) = 7.09 nats is a differential entropy: it changes with the unit of x (with x divided by 2 it
is 3.47 nats less), while the contextual score, a mutual information, does not. The score is also at most log(dim), 4.85
for the 128 dimensions here, and the temperature moves it anywhere below that. So no value of the score is right or
wrong by its distance to 7.09; a higher one says that the features tell more of the samples of a class apart, at this
temperature. That is what the figure compares.

The paper trains on 10^6 samples for 100 epochs (SGD, learning rate 0.01) and does not say what the views of a sample
are. Here they add Gaussian noise of 0.3, a third of a class's standard deviation. The paper's size takes hours:

    python benchmarks/gaussian_tightness.py --samples 1000000 --epochs 100 --name paper

Settings, hardware and versions go to benchmarks/results/gaussian_tightness.json beside the numbers, and the figure to
gaussian_tightness.png.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from timing import RESULTS, cpu_name, write_result
from torch import Tensor, nn

from decoct.igds.contrastive import MomentumContrast
from decoct.igds.estimator import EstimatorOutput, VariationalEstimatorConfig
from decoct.igds.information import contextual_score, prototype_information
from decoct.igds.probe import fit_linear_classifier
from decoct.results.statistics import mean_and_std
from decoct.run.seeding import item_seed, torch_generator
from decoct.run.versions import installed_versions

CLASSES, DIMENSIONS = 3, 5
TRUE_ENTROPY = DIMENSIONS / 2 * math.log(2 * math.pi * math.e)
NETWORKS = ("variational estimator", "cross-entropy", "not trained")


def class_centres(side: float) -> Tensor:
    """Means `(3, 5)` that are `side` apart from one another."""
    return torch.eye(CLASSES, DIMENSIONS) * side / math.sqrt(2)


def draw(count: int, side: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples `(count, 5)` and their classes, which are equally likely."""
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return class_centres(side)[labels] + torch.randn(count, DIMENSIONS, generator=generator), labels


def true_information(side: float, generator: torch.Generator, count: int = 1_000_000) -> float:
    """I(X; Y) in nats by Monte Carlo (Eqs. 35 and 36); its standard error is below 0.001."""
    samples, labels = draw(count, side, generator)
    logits = -torch.cdist(samples, class_centres(side)).square() / 2
    return math.log(CLASSES) - F.cross_entropy(logits.double(), labels).item()


class Network(nn.Module):
    """Three layers from a sample to `dim` features, and a linear classifier; the embedding is their unit vector."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        layers = [nn.Linear(DIMENSIONS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)]
        self.encoder = nn.Sequential(*layers)
        self.classifier = nn.Linear(dim, CLASSES)
        self.config = VariationalEstimatorConfig(projection_dim=dim, num_labels=CLASSES)

    def forward(self, samples: Tensor) -> EstimatorOutput:
        features = self.encoder(samples)
        return EstimatorOutput(features, F.normalize(features, dim=1), self.classifier(features))


def batches(count: int, args: argparse.Namespace, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of all full batches of all epochs."""
    for _ in range(args.epochs):
        permutation = torch.randperm(count, generator=generator)
        yield from permutation[: count - count % args.batch_size].split(args.batch_size)


def optimise(
    network: nn.Module, args: argparse.Namespace, rows: Iterator[Tensor], loss_of: Callable[[Tensor], Tensor]
) -> None:
    """SGD with momentum 0.9."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=args.learning_rate, momentum=0.9)
    for batch in rows:
        loss_of(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(network, MomentumContrast):
            network.update_momentum_encoder()


def train(kind: str, samples: Tensor, labels: Tensor, args: argparse.Namespace, side: float, seed: int) -> Network:
    """A network of one of `NETWORKS`; all kinds start from the same weights."""
    torch.manual_seed(item_seed(seed, "tightness weights"))
    network = Network(args.width, args.dim)
    generator = torch_generator(seed, "tightness training", kind, f"{side:g}")
    rows = batches(len(samples), args, generator)
    if kind == "cross-entropy":
        optimise(network, args, rows, lambda batch: F.cross_entropy(network(samples[batch]).logits, labels[batch]))
        return network
    if kind == "variational estimator":
        contrast: Any = MomentumContrast(
            network,  # type: ignore[arg-type]
            args.queue_size,
            args.momentum,
            args.contrast_temperature,
            args.kl_weight,
            args.contrast_temperature,
            args.q_mode,
            seed,
        )

        def loss_of(batch: Tensor) -> Tensor:
            noise = args.noise * torch.randn(2, len(batch), DIMENSIONS, generator=generator)
            query, key = samples[batch] + noise
            return contrast(query, key, labels[batch]).loss

        optimise(contrast, args, rows, loss_of)
    with torch.no_grad():
        weight, bias = fit_linear_classifier(network(samples).features.numpy(), labels.numpy(), CLASSES)
        network.classifier.weight.copy_(weight)
        network.classifier.bias.copy_(bias)
    return network


@torch.no_grad()
def estimates(network: Network, samples: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    """Both estimates on samples that the network was not trained on."""
    output = network(samples)
    return {
        "prototype": prototype_information(output.logits, labels).overall,
        "contextual": contextual_score(output.embeddings, labels, temperature).overall,
    }


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per distance: the truth, and each network's estimates over the seeds."""
    records = []
    for side in args.sides:
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in NETWORKS}
        for seed, kind in itertools.product(range(args.seeds), NETWORKS):
            samples, labels = draw(args.samples, side, torch_generator(seed, "tightness samples", f"{side:g}"))
            held_out = draw(args.eval_samples, side, torch_generator(seed, "tightness evaluation", f"{side:g}"))
            network = train(kind, samples, labels, args, side, seed)
            runs[kind].append(estimates(network, *held_out, args.temperature))
            print(f"side {side:g}, seed {seed}, {kind}: {runs[kind][-1]}", flush=True)
        truth = true_information(side, torch_generator(0, "tightness truth", f"{side:g}"))
        records.append({"side": side, "true_information": truth, **{kind: summary(runs[kind]) for kind in NETWORKS}})
    return records


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each estimate over the seeds."""
    spreads = {name: mean_and_std([run[name] for run in runs]) for name in ("prototype", "contextual")}
    return {name: {"mean": round(mean, 5), "std": round(std, 5)} for name, (mean, std) in spreads.items()}


def draw_figure(path: Path, result: dict[str, Any]) -> None:
    """Both estimates over the distance, with the truth and the bound of the score."""
    figure = Figure(figsize=(9.0, 4.2))
    FigureCanvasAgg(figure)
    records = result["records"]
    sides = [record["side"] for record in records]
    left, right = figure.subplots(1, 2)
    left.plot(sides, [record["true_information"] for record in records], color="black", label="true I(X; Y)")
    right.axhline(TRUE_ENTROPY, color="black", label="true H(X|Y), in the data's unit")
    right.axhline(result["contextual_bound"], color="0.5", linestyle=":", label="log(dim), the score's bound")
    for kind, color in zip(NETWORKS, ("#0072b2", "#d55e00", "0.6"), strict=True):
        for panel, name in ((left, "prototype"), (right, "contextual")):
            means, stds = ([record[kind][name][part] for record in records] for part in ("mean", "std"))
            style: dict[str, Any] = {"color": color, "marker": "o", "markersize": 4, "capsize": 2}
            panel.errorbar(sides, means, yerr=stds, label=kind, zorder=5 - NETWORKS.index(kind), **style)
    left.set(xlabel="distance of the class means", ylabel="prototype information, nats")
    right.set(xlabel="distance of the class means", ylabel="contextual score, nats", ylim=(0, None))
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=120, facecolor="white", metadata={"Software": None})


def parser() -> argparse.ArgumentParser:
    """The settings, all of which are recorded."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sides", type=float, nargs="+", default=[0.5, 1, 1.5, 2, 3, 4], help="Values of delta.")
    options.add_argument("--samples", type=int, default=20_000, help="Training samples.")
    options.add_argument("--eval_samples", type=int, default=20_000, help="Samples that the estimates are measured on.")
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--seeds", type=int, default=3, help="Data sets and networks per distance.")
    options.add_argument("--batch_size", type=int, default=256)
    options.add_argument("--learning_rate", type=float, default=0.01)
    options.add_argument("--width", type=int, default=128, help="Width of the hidden layers.")
    options.add_argument("--dim", type=int, default=128, help="Dimensions of the features.")
    options.add_argument("--temperature", type=float, default=0.07, help="Of the contextual score.")
    options.add_argument("--noise", type=float, default=0.3, help="Standard deviation of a view's noise.")
    options.add_argument("--queue_size", type=int, default=1024)
    options.add_argument("--momentum", type=float, default=0.99, help="Of the momentum encoder.")
    options.add_argument("--contrast_temperature", type=float, default=0.1, help="Of both parts of the VE's loss.")
    options.add_argument("--kl_weight", type=float, default=0.1, help="Lambda of the VE's loss.")
    options.add_argument("--q_mode", choices=("two_view", "class_mean"), default="two_view")
    options.add_argument("--name", default="default", help="Key of the result.")
    options.add_argument("--output_dir", type=Path, default=RESULTS)
    return options


def main() -> None:
    args = parser().parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    records = measure(args)
    result = {
        "true_conditional_entropy": round(TRUE_ENTROPY, 5),
        "label_entropy": round(math.log(CLASSES), 5),
        "contextual_bound": round(math.log(args.dim), 5),
        "records": records,
        "settings": {key: value for key, value in vars(args).items() if key not in ("name", "output_dir")},
        "seconds": round(time.perf_counter() - start, 1),
        "device": cpu_name(),
        "threads": 1,
        "versions": installed_versions(),
    }
    write_result(args.output_dir / "gaussian_tightness.json", args.name, result)
    suffix = "" if args.name == "default" else f"_{args.name}"
    draw_figure(args.output_dir / f"gaussian_tightness{suffix}.png", result)


if __name__ == "__main__":
    main()
