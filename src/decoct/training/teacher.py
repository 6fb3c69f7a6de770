"""Training a teacher: the early one and the converged one from a single run (InfoUtil, App. B.2)."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from decoct.config import TeacherConfig
from decoct.data.loading import load_train_and_eval, measure_spec
from decoct.data.tensors import PixelDataset
from decoct.models.accuracy import accuracy
from decoct.models.chance import guesswork
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.run.files import named_errors
from decoct.run.folder import write_json
from decoct.run.lock import writes_alone
from decoct.run.precision import lay_out
from decoct.run.processes import close, open_accelerator
from decoct.run.seeding import seeded
from decoct.training.augment import padded_crops
from decoct.training.forgetting import FORGETTING_FILE, ForgettingEvents, write_forgetting_events
from decoct.training.loop import (
    EpochBatches,
    check_training,
    claim_training,
    cosine_schedule,
    finish_training,
    parameter_groups,
    provenance,
    steps_per_epoch,
    train_epochs,
)

__all__ = ["plan_teacher", "train_teacher"]

logger = logging.getLogger(__name__)

NETWORK_FILES = ("training.json", "config.json", "model*.safetensors*", "convnet.py", "resnet.py", "vgg.py")
WRITTEN = (
    *NETWORK_FILES,
    *(f"epoch_*/{name}" for name in NETWORK_FILES),
    FORGETTING_FILE,
    "checkpoints",
    "trackers",
)


@writes_alone
def train_teacher(config: TeacherConfig) -> dict[str, Any]:
    """Trains a teacher into `config.output_dir`; a rerun of a killed run continues and ends bit for bit the same.

    The converged network is saved in the folder itself, early ones in `epoch_N/`; `training.json` holds the accuracy
    of each epoch, the configuration and the versions, `forgetting.safetensors` the forgetting events of each image.

    Returns:
        The content of `training.json`.

    Raises:
        ValueError: If the data or the configuration cannot be used, or the folder belongs to another configuration.
    """
    accelerator = open_accelerator(config.mixed_precision, config.report_to, Path(config.output_dir) / "trackers")
    config, images, eval_images, classifier = _prepare(config, accelerator)
    if (finished := claim_training(accelerator, config, images, WRITTEN)) is not None:
        return finished
    return _train(accelerator, config, images, eval_images, classifier)


def plan_teacher(config: TeacherConfig) -> dict[str, Any]:
    """What `train_teacher` would do; nothing is written."""
    accelerator = open_accelerator(config.mixed_precision)
    config, images, _, classifier = _prepare(config, accelerator)
    check_training(config, images)
    close(accelerator)
    return {
        "model": config.model,
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "images": len(images),
        "image_size": classifier.spec.image_size,
        "classes": classifier.spec.num_classes,
        "steps": config.epochs * steps_per_epoch(len(images), config.batch_size),
        "image_passes": config.epochs * len(images),
        "output_dir": config.output_dir,
    }


def _prepare(config: TeacherConfig, accelerator: Accelerator) -> tuple[TeacherConfig, Dataset, Dataset, Classifier]:
    """The configuration with its batch size, images to train on and to measure on, and the new network.

    Raises:
        ValueError: For what would keep it from being trained.
    """
    with accelerator.main_process_first():
        images, eval_images = load_train_and_eval(config)
        spec = measure_spec(images, config.image_size)
    config = config.with_batch_size(len(images), accelerator.num_processes)
    steps_per_epoch(len(images), config.batch_size)
    return config, images, eval_images, build_classifier(config.model, spec, config.seed)


def _train(
    accelerator: Accelerator, config: TeacherConfig, images: Dataset, eval_images: Dataset, classifier: Classifier
) -> dict[str, Any]:
    """Trains, saving early teachers on the way and the converged one at the end."""
    folder, spec = Path(config.output_dir), classifier.spec
    dataset, eval_pixels = (PixelDataset(each, spec.image_size, spec.channels) for each in (images, eval_images))
    lay_out(classifier, accelerator.device)
    if config.compile:
        classifier.compile()
    optimizer = torch.optim.AdamW(parameter_groups(classifier, config.weight_decay), lr=config.learning_rate)
    model, optimizer = accelerator.prepare(classifier, optimizer)
    augment = padded_crops(spec.image_size, config.crop_padding, config.flip)
    forgetting = ForgettingEvents(len(dataset), accelerator.device)
    accelerator.register_for_checkpointing(forgetting)

    @lru_cache(maxsize=1)
    def batches(epoch: int) -> list[list[int]]:
        return list(EpochBatches(len(dataset), config.batch_size, config.seed, epoch))

    def loss_of(batch: tuple[Tensor, Tensor], epoch: int, step: int) -> Tensor:
        pixels, labels = (part.to(accelerator.device, non_blocking=True) for part in batch)
        with seeded(config.seed, "augment", epoch, step, accelerator.process_index):
            pixels = augment(pixels.float() / 255)
        with accelerator.autocast():
            logits = model(pixels)
        # In the order of the processes, whose shares follow each other in the batch.
        right = accelerator.gather((logits.argmax(1) == labels).to(torch.uint8))
        forgetting.update(torch.tensor(batches(epoch)[step], device=accelerator.device), right.bool())
        return F.cross_entropy(logits.float(), labels)

    def after_epoch(epoch: int, loss: float) -> dict[str, float]:
        trained = accelerator.unwrap_model(model, keep_torch_compile=False)
        measured = accuracy(trained, eval_pixels, device=accelerator.device, mixed_precision=config.mixed_precision)
        if accelerator.is_main_process:
            tqdm.write(f"epoch {epoch}/{config.epochs}: loss {loss:.4f}, accuracy {measured:.4f}")
            if epoch in config.save_epochs and epoch < config.epochs:
                early = {"epoch": epoch, "accuracy": measured, "validation_fraction": config.validation_fraction or 0}
                _save(trained, folder / f"epoch_{epoch}", early)
        return {"accuracy": measured}

    schedule = cosine_schedule(config, len(dataset), config.learning_rate)
    history = train_epochs(accelerator, model, optimizer, dataset, config, folder, loss_of, schedule, after_epoch)
    made = provenance(config, images, spec, accelerator.device)
    record = {"accuracy": history[-1]["accuracy"], "epochs": history, **made}
    what = f"the {len(eval_pixels):,} images that it is measured on"
    if accelerator.is_main_process and (fault := guesswork(record["accuracy"], spec.num_classes, "The teacher", what)):
        logger.warning(fault)

    def save() -> None:
        write_forgetting_events(folder, forgetting, images, config.epochs)
        _save(accelerator.unwrap_model(model, keep_torch_compile=False), folder, record)

    finish_training(accelerator, folder, save)
    return record


def _save(classifier: Classifier, folder: Path, record: dict[str, Any]) -> None:
    """Saves the network with its code as safetensors, then its training record."""
    with named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        classifier.model.save_pretrained(folder)
    write_json(folder / "training.json", record)
