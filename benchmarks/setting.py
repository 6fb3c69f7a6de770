"""What the benchmarks share: the network and the images they run on, the machine, and where results go."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decoct.data.loading import load_images
from decoct.data.measuring import measure_spec
from decoct.data.pixels import to_pixels
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier, load_classifier

RESULTS = Path(__file__).parent / "results"


def setting_parser(description: str | None, images: int) -> argparse.ArgumentParser:
    """Arguments of every benchmark of a network on images."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="Folder or Hub id of a trained classifier.")
    parser.add_argument("--model", default="convnet3", help="Untrained architecture, where no --teacher is given.")
    parser.add_argument("--dataset", default="sample", help="Hub id, folder, or `sample`.")
    parser.add_argument("--split", default="test", help="Split the images come from.")
    parser.add_argument("--images", type=int, default=images, help="Images per timed run.")
    parser.add_argument("--image_size", type=int, help="Side in pixels. Default: the images' own.")
    parser.add_argument("--repeats", type=int, default=5, help="Timed runs of each method, interleaved.")
    parser.add_argument("--batch_size", type=int, help="Images per forward pass. Default: the fastest.")
    parser.add_argument("--threads", type=int, help="CPU threads. Default: PyTorch's.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--name", help="Key of the result. Default: the architecture, the side and the device.")
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    return parser


def load_setting(args: argparse.Namespace, images: int) -> tuple[Classifier, Tensor, Tensor]:
    """The classifier, and the first `images` images and labels of the split on its device."""
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = load_images(args.dataset, f"{args.split}[:{images}]", image_size=args.image_size)
    if args.teacher:
        classifier = load_classifier(args.teacher)
    else:
        classifier = build_classifier(args.model, measure_spec(rows, args.image_size)).eval().requires_grad_(False)
    spec = classifier.spec
    pixels = to_pixels(rows["image"][:], spec.image_size, spec.channels).float() / 255
    return classifier.to(args.device), pixels.to(args.device), torch.tensor(rows["label"][:], device=args.device)


def describe(args: argparse.Namespace, classifier: Classifier, pixels: Tensor, labels: Tensor) -> dict[str, Any]:
    """The network, the images and the machine, for the result file."""
    with torch.inference_mode():
        accuracy = (torch.cat([classifier(part) for part in pixels.split(64)]).argmax(1) == labels).float().mean()
    return {
        "network": type(classifier.model).__name__,
        "trained": bool(args.teacher),
        "accuracy_on_these_images": round(accuracy.item(), 4),
        "dataset": Path(args.dataset).name,
        "split": args.split,
        "image_size": classifier.spec.image_size,
        "repeats": args.repeats,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "captum": version("captum"), "python": platform.python_version()},
    }


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum, to four digits."""
    numbers = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


def synchronize(device: str) -> None:
    """Waits for the device, so that a timer sees its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def write_result(args: argparse.Namespace, file: str, classifier: Classifier, result: dict[str, Any]) -> None:
    """Puts the result into `file` under its key, beside those of other networks, and prints it."""
    architecture = type(classifier.model).__name__.removesuffix("ForImageClassification").lower()
    depth = getattr(getattr(classifier.model, "config", None), "depth", "")
    key = args.name or f"{architecture}{depth}-{classifier.spec.image_size}px-{args.device}"
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / file
    results = json.loads(path.read_text()) if path.exists() else {}
    results[key] = result
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({key: result}, indent=2))
