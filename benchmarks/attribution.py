"""Claims: attribution costs the network's forward passes and little else (at least 90 % of the bare forward
throughput), and needs no more than a quarter of the time of captum's KernelShap at equal error to exact values.

    python benchmarks/attribution.py --teacher runs/teacher --dataset uoft-cs/cifar10

Timed runs of the bare network, decoct and captum alternate within one process. Errors are relative,
||estimate - exact|| / ||exact||, averaged over images and seeds; exact values come from all 2^9 coalitions of a 3x3
grid, or all 2^16 of a 4x4 grid. Results, with hardware and versions, go to benchmarks/results/attribution.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timing import alternate, describe, key_of, load_network, network_parser, ratios, spread, timed, write_result
from torch import Tensor

from decoct.infoutil.attribution import CaptumKernelShap, ExactShapley, KernelShap
from decoct.models.classifier import Classifier
from decoct.models.throughput import fastest_batch_size

GRID, COALITIONS = 4, 128
ERROR_COALITIONS = (32, 64, 128, 256, 510)


@torch.inference_mode()
def bare_forwards(classifier: Classifier, pixels: Tensor, count: int, batch_size: int) -> None:
    """`count` images through the network alone, from one batch that is ready."""
    batch = pixels[torch.arange(batch_size, device=pixels.device) % len(pixels)]
    for start in range(0, count, batch_size):
        classifier(batch[: min(batch_size, count - start)])


def throughput(args: Any, classifier: Classifier, pixels: Tensor, labels: Tensor, batch_size: int) -> dict[str, Any]:
    """Images per second of decoct and captum, and decoct's share of the bare network's throughput."""
    pixels, labels = pixels[: args.images], labels[: args.images]
    options = {"baseline_value": classifier.spec.mean, "batch_size": batch_size}
    ours = KernelShap(classifier, GRID, COALITIONS, **options)
    captum = CaptumKernelShap(classifier, GRID, COALITIONS, **options)
    forwards = len(pixels) * (COALITIONS + 1) + 1
    works: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare_forwards(classifier, pixels, forwards, batch_size),
        "decoct": lambda: ours.attribute(pixels, labels),
        "captum": lambda: captum.attribute(pixels, labels),
    }
    for method in (ours, captum):
        method.attribute(pixels[:1], labels[:1])
    seconds = alternate(works, args.repeats, args.device)
    return {
        "grid": GRID,
        "coalitions": COALITIONS,
        "images": len(pixels),
        "batch_size": batch_size,
        "forwards": forwards,
        "bare_forwards_per_second": spread([forwards / second for second in seconds["bare"]]),
        "decoct_images_per_second": spread([len(pixels) / second for second in seconds["decoct"]]),
        "captum_images_per_second": spread([len(pixels) / second for second in seconds["captum"]]),
        "share_of_bare_forward": spread(ratios(seconds["bare"], seconds["decoct"])),
        "speedup_over_captum": spread(ratios(seconds["captum"], seconds["decoct"])),
    }


def errors(args: Any, classifier: Classifier, pixels: Tensor, labels: Tensor, grid: int, batch: int) -> dict[str, Any]:
    """Relative errors to exact values, seconds per image, and the time both need for the same error."""
    options = {"baseline_value": classifier.spec.mean, "batch_size": batch}
    exact = ExactShapley(classifier, grid, **options).attribute(pixels, labels).flatten(1)
    table: dict[str, dict[str, dict[str, float]]] = {"decoct": {}, "captum": {}}
    for count in ERROR_COALITIONS:
        found: dict[str, list[tuple[float, float]]] = {"decoct": [], "captum": []}
        for seed in range(args.seeds):
            ours = KernelShap(classifier, grid, count, seed=seed, **options)
            captum = CaptumKernelShap(classifier, grid, count, **options)
            seeds = [seed * len(pixels) + row for row in range(len(pixels))]
            works: dict[str, Callable[[], Tensor]] = {
                "decoct": lambda ours=ours: ours.attribute(pixels, labels),
                "captum": lambda captum=captum, seeds=seeds: captum.attribute(pixels, labels, seeds=seeds),
            }
            for name, work in works.items():
                seconds, heatmap = timed(work, args.device)
                error = (heatmap.flatten(1) - exact).norm(dim=1) / exact.norm(dim=1)
                found[name].append((error.mean().item(), seconds / len(pixels)))
        for name, runs in found.items():
            mean_error, mean_seconds = (sum(column) / len(runs) for column in zip(*runs, strict=True))
            row = {"relative_error": mean_error, "seconds_per_image": mean_seconds}
            table[name][str(count)] = {key: float(f"{value:.4g}") for key, value in row.items()}
    return {"images": len(pixels), "seeds": args.seeds, **table, "at_equal_error": equal_error(table)}


def equal_error(table: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """For each captum run, the smallest decoct run that is at least as accurate: forwards saved and speed-up."""
    rows = {}
    for count, captum in table["captum"].items():
        for enough, ours in table["decoct"].items():
            if ours["relative_error"] <= captum["relative_error"]:
                speedup = captum["seconds_per_image"] / ours["seconds_per_image"]
                rows[f"captum_{count}"] = {
                    "decoct_coalitions": int(enough),
                    "fewer_forwards": round(int(count) / int(enough), 2),
                    "speedup": round(speedup, 2),
                }
                break
    return rows


def main(words: Sequence[str] | None = None) -> None:
    parser = network_parser(__doc__, images=10)
    parser.add_argument("--seeds", type=int, default=3, help="Designs, or captum's draws, per error.")
    parser.add_argument("--exact_3x3", type=int, default=20, help="Images with 2^9 forward passes each.")
    parser.add_argument("--exact_4x4", type=int, default=2, help="Images with 2^16 forward passes each; 0 skips them.")
    args = parser.parse_args(words)
    classifier, pixels, labels = load_network(args, max(args.images, args.exact_3x3, args.exact_4x4))
    batch_size = args.batch_size or fastest_batch_size(classifier, pixels)
    result = describe(args, classifier, pixels, labels)
    result["throughput"] = throughput(args, classifier, pixels, labels, batch_size)
    for grid, count in ((3, args.exact_3x3), (4, args.exact_4x4)):
        if count:
            part = errors(args, classifier, pixels[:count], labels[:count], grid, batch_size)
            result[f"errors_{grid}x{grid}"] = part
    write_result(args.output_dir / "attribution.json", key_of(args, classifier), result)


if __name__ == "__main__":
    main()
