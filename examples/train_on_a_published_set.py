# /// script
# requires-python = ">=3.10"
# dependencies = ["decoct"]
#
# [tool.uv.sources]
# decoct = { path = ".." }  # this clone; UV_NO_SOURCES=1 takes the published package
# ///
"""Train a network on a published distilled set, test it on real images if they are given, and save it.

    uv run examples/train_on_a_published_set.py --distilled user/cifar10-infoutil --test uoft-cs/cifar10

In a clone, which uv installs decoct from; elsewhere as in `distil_on_a_gpu_job.py`.
A script without decoct stands in the set's card.
"""

import argparse

import torch

from decoct.data.loading import check_label_names, load_images
from decoct.data.tensors import PixelDataset
from decoct.distilled.dataset import load_distilled, read_manifest, spec_of
from decoct.models.accuracy import accuracy
from decoct.models.zoo import build_classifier
from decoct.training.protocols import load_protocol, student_name
from decoct.training.student import train_student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distilled", required=True, help="Hub id or folder of a distilled set")
    parser.add_argument("--ipc", type=int, help="images per class (default: the most that the set has)")
    parser.add_argument("--student", default="convnet3", help="architecture (default: convnet3)")
    parser.add_argument("--labels", default="mixed", help="label mode that the set stores (default: mixed)")
    parser.add_argument("--protocol", default="strong_kd", help="training protocol (default: strong_kd)")
    parser.add_argument("--epochs", type=int, help="epochs (default: the protocol's)")
    parser.add_argument("--test", help="Hub id or folder of real images to test on (default: no test)")
    parser.add_argument("--test_split", default="test", help="their split (default: test)")
    parser.add_argument("--output_dir", default="runs/network", help="folder to save it in (default: runs/network)")
    options = parser.parse_args()

    manifest = read_manifest(options.distilled)
    distilled = load_distilled(options.distilled, options.ipc or max(manifest["ipcs"]))
    protocol, device = load_protocol(options.protocol), "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    spec = spec_of(manifest)
    network = build_classifier(student_name(protocol, options.student), spec)
    train_student(network, distilled, protocol, options.labels, device=device, epochs=options.epochs)
    network.eval().model.save_pretrained(options.output_dir)
    print(f"trained on {len(distilled)} images; saved in {options.output_dir}")
    if options.test is not None:
        images = load_images(
            options.test,
            options.test_split,
            image_size=spec.image_size,
            label_names=spec.label_names,
            channels=spec.channels,
            bit_depth=manifest.get("bit_depth"),
        )
        check_label_names(images.features["label"].names, spec.label_names, options.test, options.distilled)
        pixels = PixelDataset(images, spec.image_size, spec.channels)
        print(f"accuracy on {len(pixels)} real images: {100 * accuracy(network, pixels, device=device):.1f} %")


if __name__ == "__main__":
    main()
