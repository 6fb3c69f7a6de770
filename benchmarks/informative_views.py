"""Claim to test: mixed views drawn towards the informative regions of an image teach more than uniform ones.

    python benchmarks/informative_views.py --dataset DATASET --teacher TEACHER --ipc 1 10 --seeds 0 1 2

InfoUtil chooses whole images of the dataset. Each then has M mixed views: the first M slots (`uniform`), or those M of
three times as many that do best by the image's KernelSHAP heat map on a 4x4 grid, its negative values left out:

    area       the area of the crop, whatever it shows
    mass       the share of the heat map that the crop holds, which grows with its area too
    density    the same for each pixel of the crop
    visible    the share of the crop's part of the heat map that the pasted square leaves visible

or by what the network that labels makes of the view itself, the gradient's part that a last layer's error is:

    easiest    the norm of its probabilities minus the hard labels of both images by their areas, the smallest
    hardest    the same, the largest

All arms have the same images, labels of the same teacher without rounding, and training; which slots were kept would
cost a heat map of 16 numbers an image. Accuracies are those on the images that the teacher held out.

A record per student goes to benchmarks/results/informative_views.json, as soon as it is known; those that are there are
not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import RESULTS, public_name
from torch import Tensor

ARMS = ("uniform", "area", "mass", "density", "visible", "easiest", "hardest")
PROPOSED = 3  # slots that are proposed for each that is kept
GRID, COALITIONS = 4, 128
FOLDER = Path("runs/informative_views")


def parser() -> argparse.ArgumentParser:
    """The data, the networks and the length of training."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset", default="sample", help="Hub id, folder, or `sample`")
    options.add_argument("--teacher", required=True, help="folder of a teacher trained with --validation_fraction")
    options.add_argument("--label_teacher", default="converged", help="or an early one of the teacher's, `epoch_5`")
    options.add_argument("--student", default="convnet3")
    options.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options.add_argument("--slots", type=int, default=300, help="mixed views of an image (M)")
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--output", type=Path, default=RESULTS / "informative_views.json")
    return options


class TrueLogits:
    """What students read of labels, without rounding; `scales` says how many there are."""

    def __init__(self, logits: Tensor, seed: int, smallest_area: float) -> None:
        self.values, self.seed, self.smallest_area = logits, seed, smallest_area

    @property
    def scales(self) -> Tensor:
        """`(images, slots)`."""
        return self.values[..., 0]

    def to(self, device: torch.device) -> TrueLogits:
        """The same on a device."""
        return TrueLogits(self.values.to(device), self.seed, self.smallest_area)

    def logits(self, images: Tensor, slots: Tensor, classes: int) -> Tensor:
        """Logits `(batch, classes)` of a slot of each image."""
        return self.values[images, slots]


def inside(heatmaps: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, side: int) -> Tensor:
    """The part of each heat map in a rectangle, `(images, slots)`.

    Args:
        heatmaps: `(images, grid, grid)`.
        top, left, height, width: `(images, slots)` in pixels, fractions of one too.
    """
    edges = torch.arange(GRID + 1) * side / GRID

    def shares(start: Tensor, length: Tensor) -> Tensor:
        low = torch.maximum(start[..., None], edges[:-1])
        high = torch.minimum((start + length)[..., None], edges[1:])
        return (high - low).clamp_min(0) / (side / GRID)

    return torch.einsum("nmr,nrc,nmc->nm", shares(top, height), heatmaps, shares(left, width))


def errors_of(logits: Tensor, labels: Tensor, views: Any, side: int) -> Tensor:
    """The norm of the error in each proposed view, `(images, slots)`.

    Args:
        logits: `(images, slots, classes)`.
        labels: `(images,)` int64.
    """
    first, end, begin, stop = views.cuts.unbind(-1)
    pasted = ((end - first) * (stop - begin) / side**2)[..., None]
    hard = torch.nn.functional.one_hot(labels, logits.shape[-1]).float()
    return (logits.softmax(-1) - (1 - pasted) * hard[:, None] - pasted * hard[views.partners]).norm(dim=-1)


def scores_of(arm: str, heatmaps: Tensor, views: Any, side: int) -> Tensor:
    """What each proposed view is kept by, `(images, slots)`."""
    top, left, height, width = views.boxes.double().unbind(-1)
    if arm == "area":
        return height * width
    mass = inside(heatmaps, top, left, height, width, side)
    if arm == "mass":
        return mass
    if arm == "density":
        return mass / (height * width)
    first, end, begin, stop = views.cuts.double().unbind(-1)
    begin, stop = (torch.where(views.flips, *each) for each in ((side - stop, begin), (side - begin, stop)))
    down, across = height / side, width / side
    square = top + first * down, left + begin * across, (end - first) * down, (stop - begin) * across
    return 1 - inside(heatmaps, *square, side) / mass.clamp_min(1e-12)


def measure(args: argparse.Namespace, ipc: int, seed: int, arms: Sequence[str]) -> None:
    """Trains the students of one IPC and seed, an arm each, and records what they reach."""
    from decoct.config import DistillConfig
    from decoct.data.held_out import held_out_of, split_off_validation
    from decoct.data.loading import load_images
    from decoct.data.mixed_views import MixedViews, mixed_views
    from decoct.data.tensors import PixelDataset
    from decoct.distilled.dataset import load_distilled
    from decoct.infoutil.attribution import KernelShap
    from decoct.models.accuracy import accuracy
    from decoct.models.throughput import teacher_forward
    from decoct.models.zoo import build_classifier, load_classifier
    from decoct.run.versions import installed_versions
    from decoct.synthesis.distill import distill
    from decoct.synthesis.relabel import mixed_logits
    from decoct.training import student_batches
    from decoct.training.protocols import epoch_count, load_protocol
    from decoct.training.student import train_student

    early = args.label_teacher != "converged"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_classifier(args.teacher).eval().to(device)
    labeller = load_classifier(f"{args.teacher}/{args.label_teacher}").eval().to(device) if early else teacher
    spec = teacher.spec
    images = load_images(args.dataset, split="train", image_size=spec.image_size)
    share = held_out_of(args.teacher)
    if not share:
        raise ValueError(f"teacher must be trained with --validation_fraction. Got {args.teacher}, without.")
    _, validation = split_off_validation(images, share)
    held_out = PixelDataset(validation, spec.image_size, spec.channels)
    folder = FOLDER / f"{public_name(args.dataset)}-ipc{ipc}-seed{seed}"
    options = {"dataset": args.dataset, "teacher": args.teacher, "ipc": [ipc], "seed": seed, "slots": 0}
    distill(DistillConfig(**options, mixed_precision="bf16", batch_size=250, output_dir=str(folder)))
    distilled = load_distilled(folder, ipc)

    pixels = distilled.images.to(device).float() / 255
    shap = KernelShap(teacher_forward(teacher), GRID, COALITIONS, seed, baseline_value=spec.mean)
    heatmaps = shap.attribute(pixels, distilled.labels.to(device)).clamp_min(0).double().cpu()
    heatmaps /= heatmaps.sum((1, 2), keepdim=True).clamp_min(1e-12)
    protocol, smallest = load_protocol("strong_kd"), DistillConfig.view_scale
    geometry = {"count": len(distilled), "side": spec.image_size, "smallest_area": smallest}
    numbers, proposed = torch.arange(len(distilled))[:, None], torch.arange(PROPOSED * args.slots)
    proposals = mixed_views(numbers, proposed, seed=seed, **geometry)
    epochs = epoch_count(dataclasses.replace(protocol, steps=args.steps), ipc, spec.num_classes, len(distilled))
    forward, rows = teacher_forward(labeller, "bf16"), range(len(distilled))
    errors = torch.empty(0)
    if {"easiest", "hardest"} & set(arms):
        every = partial(mixed_views, seed=seed, **geometry)
        parts = mixed_logits(forward, distilled.images, every, rows, len(proposed), device, 500)
        logits = torch.cat([logits for _, logits in parts]).unflatten(0, (len(rows), len(proposed)))
        errors = errors_of(logits, distilled.labels, proposals, spec.image_size)
    for arm in arms:
        kept = proposed[: args.slots].expand(len(distilled), -1)
        if arm in ("easiest", "hardest"):
            kept = errors.topk(args.slots, largest=arm == "hardest").indices
        elif arm != "uniform":
            kept = scores_of(arm, heatmaps, proposals, spec.image_size).topk(args.slots).indices

        def views_of(members: Tensor, slots: Tensor, kept: Tensor = kept, **place: Any) -> MixedViews:
            return mixed_views(members, kept[members, slots], seed=seed, **geometry)

        batches = mixed_logits(forward, distilled.images, views_of, rows, args.slots, device, 500)
        logits = torch.cat([logits for _, logits in batches]).unflatten(0, (len(rows), args.slots))
        labelled = dataclasses.replace(distilled, slots=TrueLogits(logits, seed, smallest))
        student_batches.mixed_views = views_of  # that students are trained on the views that were labelled
        student = build_classifier(args.student, spec, seed)
        train_student(
            student, labelled, protocol, "mixed", seed=seed, device=device, mixed_precision="bf16", epochs=epochs
        )
        reached = accuracy(student, held_out, device=device, mixed_precision="bf16")
        machine = {"device": str(device), "versions": installed_versions()}
        add(args.output, {**identity(args, ipc, seed, arm), "accuracy": reached, **machine})
        print(f"{public_name(args.dataset)}, IPC {ipc}, seed {seed}, {arm}: {reached:.4f}", flush=True)


def identity(args: argparse.Namespace, ipc: int, seed: int, arm: str) -> dict[str, Any]:
    """What tells a record from others."""
    return {
        "dataset": public_name(args.dataset),
        "ipc": ipc,
        "seed": seed,
        "views": arm,
        "slots": args.slots,
        "steps": args.steps,
        "student": args.student,
        "label_teacher": args.label_teacher,
    }


def known(output: Path) -> list[dict[str, Any]]:
    """The records that are there."""
    return json.loads(output.read_text(encoding="utf-8")) if output.is_file() else []


def add(output: Path, record: dict[str, Any]) -> None:
    """Appends a record to the file."""
    from decoct.run.folder import write_json

    write_json(output, [*known(output), record])


def main() -> None:
    args = parser().parse_args()
    for ipc in args.ipc:
        for seed in args.seeds:
            done = known(args.output)
            wanted = [identity(args, ipc, seed, arm) for arm in args.arms]
            missing = [each["views"] for each in wanted if not any(each.items() <= record.items() for record in done)]
            if missing:
                measure(args, ipc, seed, missing)


if __name__ == "__main__":
    main()
