"""Train a variational estimator: an encoder without labels, then a linear classifier on it.

On the embedded sample, with the smallest network:

    accelerate launch scripts/train_estimator.py --encoder resnet10_w16 --epochs 20 --output_dir runs/estimator

CIFAR-10 from the Hub, with the contextual term's reference from class means instead of the two views:

    accelerate launch scripts/train_estimator.py --dataset uoft-cs/cifar10 --q_mode class_mean --output_dir runs/ve

An existing encoder, of which only the classifier is trained:

    accelerate launch scripts/train_estimator.py --dataset uoft-cs/cifar10 --encoder microsoft/resnet-18

The same command continues a run that was interrupted.

With `--push_to_hub user/name` the result is published as `scripts/publish.py` would, once it is finished.
"""

from decoct.arguments import Stage, run_stage
from decoct.config import EstimatorConfig


def stage(config: EstimatorConfig) -> Stage:
    from decoct.pages.printed import estimator_report
    from decoct.training.estimator import plan_estimator, train_estimator

    return Stage(train_estimator, plan_estimator, lambda record: estimator_report(record, config.output_dir))


if __name__ == "__main__":
    run_stage(EstimatorConfig, stage, __doc__)
