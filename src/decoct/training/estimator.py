"""Training a variational estimator: the encoder by momentum contrast, then its linear classifier (IGDS, Section 4)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from decoct.config import EstimatorConfig
from decoct.data.loading import load_train_and_eval, measure_spec, require_class_count
from decoct.data.tensors import PixelDataset
from decoct.files import read_object
from decoct.igds.contrastive import ContrastiveLoss, MomentumContrast
from decoct.igds.estimator import VariationalEstimator
from decoct.igds.loading import build_estimator, is_trained_here, spec_of, wrap_encoder
from decoct.igds.probe import classifier_rank, extract_features, fit_linear_classifier, full_rank, knn_accuracy
from decoct.pipelines.igds.estimates import estimator_input, frozen_copy
from decoct.run.files import named_errors
from decoct.run.folder import write_json
from decoct.run.lock import writes_alone
from decoct.run.precision import convolution_layout
from decoct.run.processes import close, open_accelerator
from decoct.run.seeding import numpy_generator
from decoct.training.loop import (
    check_training,
    claim_training,
    cosine_schedule,
    finish_training,
    parameter_groups,
    provenance,
    steps_per_epoch,
    train_epochs,
)
from decoct.training.view_augment import draw_choices, view_of

__all__ = ["plan_estimator", "train_estimator"]

logger = logging.getLogger(__name__)

WRITTEN = ("training.json", "config.json", "model*.safetensors*", "estimator.py", "checkpoints", "trackers")
REFERENCE_BATCH = 512  # the batch that `learning_rate` is for


@writes_alone
def train_estimator(config: EstimatorConfig) -> dict[str, Any]:
    """Trains an estimator into `config.output_dir`; a rerun of a killed run continues and ends bit for bit the same.

    An encoder that is a folder or Hub id is taken as it is, and only the classifier is trained. `training.json` holds
    each epoch's loss and its two parts in nats (those of the main process), the accuracy of the linear classifier (also
    with Softplus in place of ReLU, as it guides) and of 20 nearest neighbours on the evaluation split, the classifier's
    rank, the configuration and the versions.

    Returns:
        The content of `training.json`.

    Raises:
        ValueError: If the data or the configuration cannot be used, or the folder belongs to another configuration.
    """
    folder = Path(config.output_dir)
    accelerator = open_accelerator(config.mixed_precision, config.report_to, folder / "trackers")
    config, images, eval_images, side, estimator = _prepare(config, accelerator)
    if (finished := claim_training(accelerator, config, images, WRITTEN)) is not None:
        return finished
    channels = estimator.config.num_channels
    dataset = PixelDataset(images, side, channels)
    history: list[dict[str, float]] = []
    if is_trained_here(config.encoder):
        history = _train_encoder(accelerator, config, folder, estimator, dataset)

    eval_dataset = PixelDataset(eval_images, side, channels)
    found = _all_features(estimator, (dataset, eval_dataset), accelerator, config.num_workers)

    def save() -> None:
        measured = _fit_classifier(estimator, *found)
        made = provenance(config, images, spec_of(estimator), accelerator.device)
        with named_errors(folder):
            estimator.save_pretrained(folder)
        write_json(folder / "training.json", {**measured, "epochs": history, **made})

    finish_training(accelerator, folder, save)
    return read_object(folder / "training.json")


def plan_estimator(config: EstimatorConfig) -> dict[str, Any]:
    """What `train_estimator` would do; an image pass is one image through an encoder, forward or with backward."""
    accelerator = open_accelerator(config.mixed_precision)
    config, images, eval_images, _, estimator = _prepare(config, accelerator)
    check_training(config, images)
    close(accelerator)
    trained = is_trained_here(config.encoder)
    steps = config.epochs * steps_per_epoch(len(images), config.batch_size) if trained else 0
    return {
        "encoder": config.encoder,
        "parameters": sum(parameter.numel() for parameter in estimator.parameters()),
        "images": len(images),
        "image_size": estimator.config.image_size,
        "classes": estimator.config.num_labels,
        "steps": steps,
        "image_passes": 2 * steps * config.batch_size + len(images) + len(eval_images),
        "output_dir": config.output_dir,
    }


def _prepare(
    config: EstimatorConfig, accelerator: Accelerator
) -> tuple[EstimatorConfig, Dataset, Dataset, int, VariationalEstimator]:
    """The configuration with its batch size, images to train on and to measure on, their side, the new estimator.

    Raises:
        ValueError: For what would keep the estimator from being trained.
    """
    with accelerator.main_process_first():
        images, eval_images = load_train_and_eval(config)
        require_class_count(images, 1)
        spec = measure_spec(images, config.image_size)
        if spec.num_classes < 2:
            raise ValueError(
                f"dataset must have at least 2 classes, for the classifier to tell apart. Got {list(spec.label_names)}."
            )
        config = config.with_batch_size(len(images), accelerator.num_processes)
        if not is_trained_here(config.encoder):
            wrapped = wrap_encoder(config.encoder, spec.label_names, config.seed)
            return config, images, eval_images, spec.image_size, wrapped
        estimator = build_estimator(config.encoder, spec, config.projection_dim, config.seed)
    steps_per_epoch(len(images), config.batch_size, accelerator.num_processes)
    return config, images, eval_images, spec.image_size, estimator


def _train_encoder(
    accelerator: Accelerator,
    config: EstimatorConfig,
    folder: Path,
    estimator: VariationalEstimator,
    dataset: PixelDataset,
) -> list[dict[str, float]]:
    """Trains the encoder and the projection in place; returns each epoch's metrics."""
    contrast = _contrast(config, estimator)
    layout = convolution_layout(contrast)
    contrast.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(parameter_groups(contrast, config.weight_decay), lr=config.learning_rate, momentum=0.9)
    optimizer.register_step_post_hook(lambda *_: contrast.update_momentum_encoder())
    model, prepared = accelerator.prepare(contrast, optimizer)
    parts = _Parts()
    accelerator.register_for_checkpointing(parts)
    share = config.batch_size // accelerator.num_processes
    first = accelerator.process_index * share

    def loss_of(batch: tuple[Tensor, Tensor], epoch: int, step: int) -> Tensor:
        pixels, labels = (part.to(accelerator.device, non_blocking=True) for part in batch)
        generator = numpy_generator(config.seed, "views", epoch, step)
        views = []
        for _ in range(2):
            choices = draw_choices(generator, config.batch_size, config.crop_scale, config.flip, config.color_jitter)
            view = estimator_input(view_of(pixels, choices.rows(first, first + share)) * 2 - 1, estimator.config)
            views.append(view.contiguous(memory_format=layout))
        with accelerator.autocast():
            losses: ContrastiveLoss = model(*views, labels)
        parts.add(losses)
        return losses.loss

    def after_epoch(epoch: int, loss: float) -> dict[str, float]:
        means = parts.means()
        if accelerator.is_main_process:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
            tqdm.write(f"epoch {epoch}/{config.epochs}: loss {loss:.4f}, {shown}")
        return means

    schedule = cosine_schedule(config, len(dataset), config.learning_rate * config.batch_size / REFERENCE_BATCH)
    return train_epochs(accelerator, model, prepared, dataset, config, folder, loss_of, schedule, after_epoch)


def _contrast(config: EstimatorConfig, estimator: VariationalEstimator) -> MomentumContrast:
    """Query encoder, momentum encoder and queue of a run."""
    contrast = MomentumContrast(
        estimator,
        config.queue_size,
        momentum=config.momentum,
        temperature=config.temperature,
        kl_weight=config.kl_weight,
        kl_temperature=config.kl_temperature,
        q_mode=config.q_mode,
        kl_gradient=config.kl_gradient,
        seed=config.seed,
    )
    if config.compile:
        contrast.query.compile()
        contrast.key.compile()
    return contrast


class _Parts:
    """Sums of the loss's two parts over an epoch; kept in checkpoints, since an epoch may be interrupted."""

    def __init__(self) -> None:
        self._sums = {"contrastive": 0.0, "contextual": 0.0, "steps": 0.0}

    def add(self, losses: ContrastiveLoss) -> None:
        for name, value in (("contrastive", losses.contrastive), ("contextual", losses.contextual), ("steps", 1.0)):
            self._sums[name] += float(value)

    def means(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: self._sums[name] / self._sums["steps"] for name in ("contrastive", "contextual")}
        self._sums = dict.fromkeys(self._sums, 0.0)
        return means

    def state_dict(self) -> dict[str, float]:
        return dict(self._sums)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._sums = dict(state)


def _all_features(
    estimator: VariationalEstimator, datasets: tuple[PixelDataset, PixelDataset], accelerator: Accelerator, workers: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features of un-augmented images, in full precision, and their labels; each process computes a share.

    Of the images to train on and to measure on as the classifier sees them, then of the latter with Softplus in place
    of ReLU, as the estimator guides by default.
    """
    estimator.eval().requires_grad_(False)
    estimator.to(accelerator.device)  # type: ignore[arg-type]
    broadcast(list(estimator.state_dict().values()))  # each process has seen other images, and has other averages
    images, eval_images = datasets
    pairs = ((estimator, images), (estimator, eval_images), (frozen_copy(estimator, softplus=True), eval_images))
    return [
        extract_features(
            network,
            part,
            device=accelerator.device,
            num_workers=workers,
            share=(accelerator.process_index, accelerator.num_processes),
        )
        for network, part in pairs
    ]


def _fit_classifier(
    estimator: VariationalEstimator,
    train: tuple[np.ndarray, np.ndarray],
    evaluation: tuple[np.ndarray, np.ndarray],
    softened: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """Fits the classifier on the frozen encoder's features, and measures it.

    Args:
        train: Features and labels to fit on.
        evaluation: Those to measure on.
        softened: Those to measure on with Softplus in place of ReLU.
    """
    (features, labels), (eval_features, eval_labels), (soft_features, _) = train, evaluation, softened
    weight, bias = fit_linear_classifier(features, labels, estimator.config.num_labels)  # type: ignore[arg-type]
    estimator.classifier.weight.copy_(weight)
    estimator.classifier.bias.copy_(bias)
    rank, highest = classifier_rank(weight), full_rank(weight)
    if rank < highest:
        logger.warning("The classifier has rank %d of %d: some classes differ in nothing that it sees.", rank, highest)

    def accuracy_on(found: np.ndarray) -> float:
        predicted = (torch.from_numpy(found) @ weight.T + bias).argmax(dim=1).numpy()
        return float((predicted == eval_labels).mean())

    return {
        "linear_accuracy": accuracy_on(eval_features),
        "softplus_accuracy": accuracy_on(soft_features),
        "knn_accuracy": knn_accuracy(features, labels, eval_features, eval_labels),
        "rank": rank,
        "full_rank": highest,
    }
