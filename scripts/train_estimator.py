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

from typing import Any

from decoct.arguments import parse_config, run
from decoct.config import EstimatorConfig


def main() -> None:
    config = parse_config(EstimatorConfig, description=__doc__)
    from accelerate import PartialState

    from decoct.hub.publish import publish_run, require_publishing
    from decoct.pages.printed import format_settings
    from decoct.training.estimator import train_estimator

    if config.push_to_hub and not config.dry_run:
        require_publishing(config)
    record = train_estimator(config)
    if PartialState().is_main_process:
        print(format_settings(record) if config.dry_run else report(record, config.output_dir))
        if config.push_to_hub and not config.dry_run:
            print(publish_run(config, config.output_dir))


def report(record: dict[str, Any], folder: str) -> str:
    """Accuracies on real test images, rank and folder of a trained estimator."""
    linear, knn = (100 * record[key] for key in ("linear_accuracy", "knn_accuracy"))
    return (
        f"Estimator: linear classifier {linear:.1f} %, nearest neighbours {knn:.1f} % on real test images; "
        f"rank {record['rank']} of {record['full_rank']}. Saved in {folder}"
    )


if __name__ == "__main__":
    run(main)
