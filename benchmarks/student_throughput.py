"""Images a second in training a student by `train_student` and by a loop written by hand, in one run.

    python benchmarks/student_throughput.py --dataset path/to/cifar10 --teacher runs/cifar10-teacher

Protocol `rded_kd`, online labels: random-resized crops, flips, CutMix, a teacher's forward pass, KL divergence, AdamW.
Both train the same architecture on the same images with the same teacher and precision. The loop is what one writes
with PyTorch and kornia: a `DataLoader` over uint8 images, kornia's augmentations on each batch (in its faster cropping
mode for the device), everything else at PyTorch's defaults. Runs are interleaved in alternating order and timed as
wholes, set-up included, after one untimed run of each. `ratio` above 1: `train_student` is faster.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from kornia.augmentation import RandomHorizontalFlip, RandomResizedCrop
from timing import alternate, describe, load_network, network_parser, ratios, spread, write_result
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from decoct.distilled.dataset import DistilledSet
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.run.precision import autocast
from decoct.training.protocols import Protocol, batch_size, learning_rate, load_protocol
from decoct.training.student import train_student

RRC_SCALE = 0.08


def main(words: Sequence[str] | None = None) -> None:
    parser = network_parser(__doc__, images=100)
    parser.add_argument("--epochs", type=int, default=10, help="Epochs of each timed run.")
    parser.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no")
    parser.set_defaults(image_size=32)
    args = parser.parse_args(words)
    teacher, pixels, labels = load_network(args, args.images)
    teacher.requires_grad_(False)
    protocol, distilled = load_protocol("rded_kd"), distilled_set(teacher, pixels, labels)
    size = args.batch_size or batch_size(protocol, distilled.ipc, teacher.spec.num_classes, len(distilled))
    runs: dict[str, Callable[[], None]] = {
        "decoct": lambda: by_decoct(args, distilled, protocol, teacher),
        "plain": lambda: by_hand(args, distilled, protocol, teacher, size),
    }
    for run in runs.values():
        run()
    seconds = alternate(runs, args.repeats, args.device)
    speeds = {name: [args.images * args.epochs / each for each in times] for name, times in seconds.items()}
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    of_medians = round(medians["decoct"] / medians["plain"], 3)
    result = {
        **describe(args, teacher, pixels, labels),
        "protocol": protocol.name,
        "labels": "online",
        "student": args.model,
        "rrc_scale": RRC_SCALE,
        "images": args.images,
        "batch_size": size,
        "epochs": args.epochs,
        "mixed_precision": args.mixed_precision,
        "images_per_second": {name: spread(values) for name, values in speeds.items()},
        "ratio": {**spread(ratios(speeds["decoct"], speeds["plain"])), "of_medians": of_medians},
    }
    key = args.name or f"{args.model}-{teacher.spec.image_size}px-{args.device}-{args.mixed_precision}"
    write_result(args.output_dir / "student_throughput.json", key, result)


def distilled_set(teacher: Classifier, pixels: Tensor, labels: Tensor) -> DistilledSet:
    """The images as a distilled set without stored labels."""
    ipc = max(1, len(labels) // teacher.spec.num_classes)
    images = (pixels * 255).round().to(torch.uint8).cpu()
    return DistilledSet.unlabelled(images, labels.tolist(), ipc, 1, teacher.spec)


def by_decoct(args: argparse.Namespace, distilled: DistilledSet, protocol: Protocol, teacher: Classifier) -> None:
    """Trains a student as an evaluation does."""
    train_student(
        build_classifier(args.model, distilled.spec),
        distilled,
        protocol,
        "online",
        teacher,
        device=args.device,
        mixed_precision=args.mixed_precision,
        epochs=args.epochs,
        rrc_scale=RRC_SCALE,
    )


def by_hand(
    args: argparse.Namespace, distilled: DistilledSet, protocol: Protocol, teacher: Classifier, size: int
) -> None:
    """Trains a student in a loop of its own, which uses nothing of the package but the two networks."""
    device, side = torch.device(args.device), distilled.spec.image_size
    student = build_classifier(args.model, distilled.spec).to(device).train()
    loader = DataLoader(TensorDataset(distilled.images, distilled.labels), batch_size=size, shuffle=True)
    mode = "slice" if device.type == "cpu" else "resample"
    augment = nn.Sequential(
        RandomResizedCrop((side, side), (RRC_SCALE, 1.0), protocol.rrc_ratio, cropping_mode=mode),
        RandomHorizontalFlip(protocol.flip),
    )
    matrices = [parameter for parameter in student.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in student.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=protocol.learning_rate, weight_decay=protocol.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=args.mixed_precision == "fp16")
    temperature, total = protocol.temperature, 0.0
    for epoch in range(args.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(protocol, epoch, args.epochs)
        for images, _ in loader:
            pixels = mixed(augment(images.to(device).float() / 255), protocol.cutmix_alpha)
            with autocast(device, args.mixed_precision):
                with torch.no_grad():
                    target = (teacher(pixels).float() / temperature).softmax(dim=1)
                logits = student(pixels)
            loss = F.kl_div((logits.float() / temperature).log_softmax(dim=1), target, reduction="batchmean")
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.item()


def mixed(pixels: Tensor, alpha: float) -> Tensor:
    """CutMix of a batch, as the published code has it."""
    side = pixels.shape[-1]
    length = int(side * np.sqrt(1 - np.random.beta(alpha, alpha)))
    row, column = np.random.randint(side), np.random.randint(side)
    top, bottom = np.clip([row - length // 2, row + length // 2], 0, side)
    left, right = np.clip([column - length // 2, column + length // 2], 0, side)
    result = pixels.clone()
    result[:, :, top:bottom, left:right] = pixels[torch.randperm(len(pixels)), :, top:bottom, left:right]
    return result


if __name__ == "__main__":
    main()
