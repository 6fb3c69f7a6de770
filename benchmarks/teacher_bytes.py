"""Claim: the network that labels is small itself: in 8 bits a weight it is as accurate, and fewer bytes than many sets.

    python benchmarks/teacher_bytes.py --dataset uoft-cs/cifar10 --teacher TEACHER

The accuracies are of the images that the teacher was trained without (`--validation_fraction`), with its weights as
they are, in float16, and in few bits: kernels and matrices rounded to whole steps between plus and minus the largest of
each output channel, whose scale and all that is one-dimensional stay in float16. They are the black points of
docs/label_bytes.png. Results go to benchmarks/results/teacher_bytes.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from timing import RESULTS, public_name, write_result
from torch import Tensor

from decoct.config import TeacherConfig
from decoct.data.held_out import check_share
from decoct.data.loading import load_train_and_eval
from decoct.data.tensors import PixelDataset
from decoct.models.accuracy import accuracy
from decoct.models.classifier import Classifier
from decoct.models.zoo import load_classifier
from decoct.run.versions import installed_versions


def rounded(weight: Tensor, bits: int) -> Tensor:
    """A weight `(out, ...)` as `bits` a value can say it, 16 being float16 and 32 the weight as it is."""
    if bits == 32:
        return weight
    if bits == 16 or weight.ndim < 2:
        return weight.half().float()
    most = 2 ** (bits - 1) - 1
    scale = (weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / most).half().float()
    return (weight / scale.clamp(min=1e-7)).round().clamp(-most, most) * scale


def bytes_of(weight: Tensor, bits: int) -> int:
    """Bytes of a weight so stored, with a scale of two bytes an output channel."""
    if bits == 32:
        return 4 * weight.numel()
    if bits == 16 or weight.ndim < 2:
        return 2 * weight.numel()
    return weight.numel() * bits // 8 + 2 * len(weight)


def measure(teacher: Classifier, images: PixelDataset, bits: Sequence[int]) -> dict[str, dict[str, float]]:
    """Accuracy and bytes by bits a weight; 32 is the network as it is. The teacher's weights are those of the last."""
    weights = {name: weight.detach().clone() for name, weight in teacher.model.named_parameters()}
    statistics = sum(4 * each.numel() for each in teacher.model.buffers() if each.is_floating_point())
    found = {}
    for each in (32, *bits):
        with torch.no_grad():
            for name, parameter in teacher.model.named_parameters():
                parameter.copy_(rounded(weights[name], each))
        size = sum(bytes_of(weight, each) for weight in weights.values()) + statistics
        found[str(each)] = {"accuracy": accuracy(teacher, images), "bytes": size}
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Hub id or folder")
    parser.add_argument("--teacher", required=True, help="folder or Hub id")
    parser.add_argument("--validation_fraction", type=float, default=0.1, help="share that the teacher never saw")
    parser.add_argument(
        "--bits", type=int, nargs="+", choices=[*range(2, 9), 16], default=[16, 8, 4], help="bits a weight"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "teacher_bytes.json", help="result file")
    args = parser.parse_args(words)
    check_share(args.teacher, "teacher", args.validation_fraction)
    teacher = load_classifier(args.teacher)
    config = TeacherConfig(dataset=args.dataset, validation_fraction=args.validation_fraction)
    _, held_out = load_train_and_eval(config)
    images = PixelDataset(held_out, teacher.spec.image_size, teacher.spec.channels)
    record = {
        "dataset": public_name(args.dataset),
        "images": len(images),
        "fingerprint": teacher.fingerprint(),
        "bits": measure(teacher, images, args.bits),
        "versions": installed_versions(),
    }
    write_result(args.output, type(teacher.model).__name__, record)


if __name__ == "__main__":
    main()
