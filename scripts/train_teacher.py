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

from decoct.arguments import Stage, run_stage
from decoct.config import TeacherConfig


def stage(config: TeacherConfig) -> Stage:
    from decoct.pages.printed import teacher_report
    from decoct.training.teacher import plan_teacher, train_teacher

    return Stage(train_teacher, plan_teacher, lambda record: teacher_report(record, config.output_dir))


if __name__ == "__main__":
    run_stage(TeacherConfig, stage, __doc__)
