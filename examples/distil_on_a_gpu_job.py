# /// script
# requires-python = ">=3.10"
# dependencies = ["decoct", "trackio"]
#
# [tool.uv.sources]
# decoct = { path = ".." }  # this clone; UV_NO_SOURCES=1 takes the published package
# ///
"""Train a teacher on a dataset of the Hub, distil it, and push the result: one script for one job on a GPU.

In a clone, which uv installs decoct from:

    uv run examples/distil_on_a_gpu_job.py --dataset uoft-cs/cifar10 --push_to_hub user/cifar10-infoutil

As a job of Hugging Face, which has no clone. decoct is on no package index yet, so the job is told where its wheel
(`make wheel`) was uploaded to:

    hf jobs uv run --flavor a10g-small --secrets HF_TOKEN --env UV_NO_SOURCES=1 --env UV_FIND_LINKS=https://ADDRESS/ \
        examples/distil_on_a_gpu_job.py --dataset uoft-cs/cifar10 --push_to_hub user/cifar10-infoutil

Without --push_to_hub nothing is uploaded.
"""

import argparse

from decoct.config import DistillConfig, TeacherConfig
from decoct.hub.publish import publish_run, require_publishing
from decoct.pages.printed import distill_report
from decoct.synthesis.distill import distill
from decoct.training.teacher import train_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Hub id or folder of a labelled image dataset")
    parser.add_argument("--model", default="resnet18", help="architecture of the teacher (default: resnet18)")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of the teacher (default: 60)")
    parser.add_argument("--batch_size", type=int, default=128, help="images a step of the teacher (default: 128)")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10], help="images per class (default: 1 10)")
    parser.add_argument("--image_size", type=int, help="side in pixels, needed where sizes differ")
    parser.add_argument("--mixed_precision", default="no", help="bf16 on a GPU that has it (default: no)")
    parser.add_argument("--report_to", help="tracker of the training: trackio, tensorboard ... (default: none)")
    parser.add_argument("--output_dir", default="runs/job", help="folder for everything (default: runs/job)")
    parser.add_argument("--push_to_hub", help="repository user/name for the distilled set (default: no upload)")
    options = parser.parse_args()

    data = {
        "dataset": options.dataset,
        "image_size": options.image_size,
        "mixed_precision": options.mixed_precision,
    }
    teacher = TeacherConfig(
        **data,
        model=options.model,
        epochs=options.epochs,
        batch_size=options.batch_size,
        report_to=options.report_to,
        output_dir=f"{options.output_dir}/teacher",
    )
    distilled = DistillConfig(
        **data,
        teacher=teacher.output_dir,
        ipc=options.ipc,
        output_dir=f"{options.output_dir}/distilled",
        push_to_hub=options.push_to_hub,
    )
    if options.push_to_hub is not None:
        require_publishing(distilled)  # before the work, and not after it
    train_teacher(teacher)
    print(distill_report(distill(distilled), distilled.output_dir))
    if options.push_to_hub is not None:
        print(publish_run(distilled, distilled.output_dir))


if __name__ == "__main__":
    main()
