"""Train a teacher on the whole dataset; one run saves the converged teacher and early ones.

On the embedded sample:

    accelerate launch scripts/train_teacher.py --dataset sample --epochs 10 --save_epochs 3 --output_dir runs/teacher

CIFAR-10 from the Hub, with the settings of a preset:

    accelerate launch scripts/train_teacher.py --preset cifar10 --output_dir runs/teacher

A local folder with one sub-folder of images per class, resized to 64 pixels:

    accelerate launch scripts/train_teacher.py --dataset path/to/folder --image_size 64 --model convnet4

The same command continues a run that was interrupted.

With `--push_to_hub user/name` the result is published as `scripts/publish.py` would, once it is finished.
"""

from decoct.arguments import parse_config, run
from decoct.config import TeacherConfig


def main() -> None:
    config = parse_config(TeacherConfig, description=__doc__)
    from accelerate import PartialState

    from decoct.hub.publish import publish_run, require_publishing
    from decoct.pages.printed import format_settings, teacher_report
    from decoct.training.teacher import train_teacher

    if config.push_to_hub and not config.dry_run:
        require_publishing(config)
    record = train_teacher(config)
    if PartialState().is_main_process:
        print(format_settings(record) if config.dry_run else teacher_report(record, config.output_dir))
        if config.push_to_hub and not config.dry_run:
            print(publish_run(config, config.output_dir))


if __name__ == "__main__":
    run(main)
