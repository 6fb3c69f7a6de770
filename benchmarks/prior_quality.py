"""Claim: a prior's samples are of their class, and its training brings them nearer to real images.

    decoct train-teacher --dataset DATASET --validation_fraction 0.1 --model convnet4_w64 --seed 1 --epochs 3 \\
        --learning_rate 0.003 --output_dir JUDGE
    python benchmarks/prior_quality.py --dataset DATASET --judge JUDGE --priors "4,000 images, 70 epochs=sample" \\
        "54,000 images, 1 epoch=PRIOR"

The judge is a network that neither guides nor labels. A record per prior says how many samples the judge recognises,
and their Frechet distance to held-out real images in the judge's features (as FID in those of Inception, which do not
suit small grey images). Real images of the training split stand beside them: as many, drawn by the same seed, so that
what the distance owes to the number of images is the same. Records go to benchmarks/results/prior_quality.json; the
same setting measured again replaces its record.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from scipy.linalg import sqrtm
from timing import RESULTS, public_name
from torch import Tensor

from decoct.config import TeacherConfig, config_hash
from decoct.data.loading import load_train_and_eval
from decoct.data.spec import ImageSpec
from decoct.data.tensors import PixelDataset
from decoct.igds.prior import load_pipeline, prior_fingerprint
from decoct.models.classifier import Classifier
from decoct.models.zoo import load_classifier
from decoct.results.records import merge_records
from decoct.run.seeding import numpy_generator, torch_generator
from decoct.run.versions import installed_versions

BATCH = 100


def parser() -> argparse.ArgumentParser:
    """The data, the networks and the number of samples."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset", required=True, help="Hub id or folder.")
    options.add_argument("--validation_fraction", type=float, default=0.1, help="Share that is held out.")
    options.add_argument("--judge", required=True, help="Folder or Hub id of a classifier with no part in the rest.")
    options.add_argument("--priors", nargs="+", required=True, help="NAME=FOLDER, or NAME=sample.")
    options.add_argument("--per_class", type=int, default=30, help="Samples of a class.")
    options.add_argument("--steps", type=int, default=25, help="DDIM steps.")
    options.add_argument(
        "--classifier_free_guidance_scale", type=float, default=1.0, help="Weight of the class against none; 1: off."
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=RESULTS / "prior_quality.json", help="Result file.")
    return options


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians with the means and covariances of features `(images, width)`."""
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(axis=0) - second.mean(axis=0)
    return float(shift @ shift + np.trace(one + other - 2 * np.real(sqrtm(one @ other))))


@torch.no_grad()
def judged(judge: Classifier, pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The judge's features `(images, width)` and its classes, of pixels in [0, 1]."""
    parts = [judge.features_and_logits(part) for part in pixels.split(BATCH)]
    features, logits = (torch.cat(each) for each in zip(*parts, strict=True))
    return features.double().numpy(), logits.argmax(dim=1).numpy()


def real_images(images: Dataset, spec: ImageSpec, per_class: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Pixels in [0, 1] and labels of `per_class` images of each class; 0: all."""
    labels = np.array(images["label"])
    generator = numpy_generator(seed, "prior quality")
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rows = [generator.choice(each, per_class, replace=False) if per_class else each for each in rows]
    chosen = np.concatenate(rows)
    items = PixelDataset(images.select(chosen), spec.image_size, spec.channels).__getitems__(range(len(chosen)))
    return torch.stack([pixels for pixels, _ in items]).float() / 255, labels[chosen]


def sampled_images(
    prior: str, classes: int, per_class: int, steps: int, scale: float, seed: int
) -> tuple[Tensor, np.ndarray, str]:
    """Pixels in [0, 1] and labels of samples of the prior alone, and the prior's fingerprint."""
    pipeline = load_pipeline(prior, None, "ddim")
    labels = [label for label in range(classes) for _ in range(per_class)]
    generators = [torch_generator(seed, "prior quality", number) for number in range(len(labels))]
    images = pipeline(
        class_labels=labels,
        num_inference_steps=steps,
        classifier_free_guidance_scale=scale,
        micro_batch=BATCH,
        generator=generators,
        output_type="pt",
    ).images
    return (images * 255).round() / 255, np.array(labels), prior_fingerprint(pipeline)


def main(words: Sequence[str] | None = None) -> None:
    args = parser().parse_args(sys.argv[1:] if words is None else list(words))
    judge = load_classifier(args.judge)
    config = TeacherConfig(dataset=args.dataset, validation_fraction=args.validation_fraction)
    images, held_out = load_train_and_eval(config)
    classes = judge.spec.num_classes
    reference, truth = real_images(held_out, judge.spec, 0, args.seed)
    features, found = judged(judge, reference)
    accuracy = float((found == truth).mean())

    scale = args.classifier_free_guidance_scale

    def record(name: str, pixels: Tensor, labels: np.ndarray, fingerprint: str | None) -> None:
        own, classes_found = judged(judge, pixels)
        setting = {
            "prior": name,
            "fingerprint": fingerprint,
            "dataset": public_name(args.dataset),
            "judge": public_name(args.judge),
            "per_class": args.per_class,
            "scheduler": "ddim",
            "steps": args.steps,
            "seed": args.seed,
            **({} if fingerprint is None or scale == 1 else {"classifier_free_guidance_scale": scale}),
        }
        hits = classes_found == labels
        measured = {
            "recognised": float(hits.mean()),
            "recognised_by_class": [float(hits[labels == label].mean()) for label in range(classes)],
            "frechet_distance": frechet_distance(own, features),
            "judge_accuracy": accuracy,
            "held_out_images": len(truth),
        }
        versions = {"versions": installed_versions(), "config_hash": config_hash(setting)}
        merge_records(args.output, [{**setting, **measured, **versions}])
        print(
            f"{name}: {measured['recognised']:.1%} recognised, distance {measured['frechet_distance']:.3f}", flush=True
        )

    record("real images", *real_images(images, judge.spec, args.per_class, args.seed), None)
    for given in args.priors:
        name, _, prior = given.rpartition("=")
        record(name or prior, *sampled_images(prior, classes, args.per_class, args.steps, scale, args.seed))


if __name__ == "__main__":
    main()
