"""What the benchmarks of time and memory share: the network and its images, runs, processes, the machine, result files.

Nothing large is imported before it is used: a child's ru_maxrss begins with what its parent had when it was forked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from decoct.models.classifier import Classifier

RESULTS = Path(__file__).parent / "results"
SAMPLE_SECONDS = 0.1
MB = 1e6


# The network and its images


def network_parser(description: str | None, images: int) -> argparse.ArgumentParser:
    """Arguments of every benchmark of a network on images."""
    import torch

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


def load_network(args: argparse.Namespace, images: int) -> tuple[Classifier, Tensor, Tensor]:
    """The classifier, and the first `images` images and labels of the split on its device."""
    import torch

    from decoct.data.loading import load_images
    from decoct.data.measuring import measure_spec
    from decoct.data.pixels import to_pixels
    from decoct.models.zoo import build_classifier, load_classifier

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
    import torch

    from decoct.run.versions import installed_versions

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
        "device": device_name(args.device),
        "threads": torch.get_num_threads(),
        "versions": installed_versions(),
    }


def key_of(args: argparse.Namespace, classifier: Classifier) -> str:
    """The key of a network's result."""
    architecture = type(classifier.model).__name__.removesuffix("ForImageClassification").lower()
    depth = getattr(getattr(classifier.model, "config", None), "depth", "")
    return args.name or f"{architecture}{depth}-{classifier.spec.image_size}px-{args.device}"


# Time


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds and result of one call."""
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: str) -> None:
    """Waits for the device, so that a timer sees its work."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def alternate(works: Mapping[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of all runs of each work; a repeat runs every work once, in the reverse order of the repeat before."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name in list(works)[:: -1 if repeat % 2 else 1]:
            seconds[name].append(timed(works[name], device)[0])
    return seconds


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Ratios of the runs of one repeat."""
    return [first / second for first, second in zip(numerators, denominators, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum, to four digits."""
    numbers = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


# Memory


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB, 1)


def anonymous_mb() -> float:
    """Resident memory of this process without mapped files, in MB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) * 1024 / MB for line in lines if line.startswith("RssAnon"))


@contextlib.contextmanager
def largest(*measures: Callable[[], float]) -> Iterator[list[float]]:
    """The largest value of each measure inside the block, sampled by a thread."""
    found = [0.0] * len(measures)
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            for index, measure in enumerate(measures):
                found[index] = max(found[index], measure())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def in_fresh_process(script: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """What a script prints in its last line, as JSON, in a process of its own."""
    command = [sys.executable, script, *words]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(finished.stdout.splitlines()[-1])


# The machine and the result files


def device_name(device: str) -> str:
    """The name of the GPU or of the processor."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def part_of(text: str) -> tuple[int, int]:
    """`0/2` as the pair it is: every second piece of work, beginning with the first.

    Raises:
        ArgumentTypeError: If it is not i/n with i from 0 to n - 1.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"must be i/n with i from 0 to n - 1. Got {text!r}.")
    return int(part), int(parts)


def public_name(argument: str) -> str:
    """An argument; of a local path, also of one that is yet to be written, the last part alone."""
    path = Path(argument)
    return path.name if path.is_absolute() or path.exists() else argument


def command_of(script: str, words: Sequence[str]) -> str:
    """The command that made a result, without local paths."""
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *map(public_name, words)])


def save_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result as the whole of a file, and prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def write_result(path: Path, key: str, result: Mapping[str, Any]) -> None:
    """Puts a result under its key into a file, beside those of other keys, and prints it."""
    results = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**results, key: result}, indent=2) + "\n")
    print(json.dumps({key: result}, indent=2))
