"""Training a teacher: the early one and the converged one from a single run (InfoUtil, App. B.2)."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from decoct.config import TeacherConfig, to_dict
from decoct.data.loading import load_train_and_eval, measure_spec
from decoct.data.source import source_record
from decoct.data.spec import ImageSpec
from decoct.data.tensors import PixelDataset
from decoct.models.accuracy import accuracy
from decoct.models.classifier import Classifier
from decoct.models.zoo import build_classifier
from decoct.run.folder import write_json
from decoct.run.processes import close, open_accelerator
from decoct.run.versions import installed_versions
from decoct.training.forgetting import FORGETTING_FILE, ForgettingEvents, write_forgetting_events
from decoct.training.loop import EpochBatches, claim_training, cosine_schedule, parameter_groups, seeded, train_epochs

__all__ = ["train_teacher"]

WRITTEN = (
    "checkpoints",
    "epoch_*",
    "config.json",
    "model.safetensors",
    "convnet.py",
    "resnet.py",
    "vgg.py",
    FORGETTING_FILE,
    "training.json",
    "trackers",
)


def train_teacher(config: TeacherConfig) -> dict[str, Any]:
    """Trains a teacher into `config.output_dir`; a rerun of a killed run continues and ends bit for bit the same.

    The converged network is saved in the folder itself, early ones in `epoch_N/`; `training.json` holds the accuracy
    of each epoch, the configuration and the versions, `forgetting.safetensors` the forgetting events of each image.

    Returns:
        The content of `training.json`.

    Raises:
        ValueError: If the data or the configuration cannot be used, or the folder belongs to another configuration.
    """
    folder = Path(config.output_dir)
    accelerator = open_accelerator(config, None if config.dry_run else config.report_to, folder / "trackers")
    with accelerator.main_process_first():
        images, eval_images = load_train_and_eval(config)
        spec = measure_spec(images, config.image_size)
    plan = _plan(config, len(images), spec)  # raises for a bad configuration, before the folder is claimed
    if config.dry_run:
        return plan
    if (finished := claim_training(accelerator, config, images, WRITTEN)) is not None:
        return finished
    record = _train(accelerator, config, folder, images, eval_images, spec)
    close(accelerator)
    return record


def _plan(config: TeacherConfig, images: int, spec: ImageSpec) -> dict[str, Any]:
    """What `--dry_run` shows."""
    classifier = build_classifier(config.model, spec, config.seed)
    return {
        "model": config.model,
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "images": images,
        "image_size": spec.image_size,
        "classes": spec.num_classes,
        "steps": config.epochs * len(EpochBatches(images, config.batch_size, config.seed, 0)),
        "image_passes": config.epochs * images,
        "output_dir": config.output_dir,
    }


def _train(
    accelerator: Accelerator,
    config: TeacherConfig,
    folder: Path,
    images: Dataset,
    eval_images: Dataset,
    spec: ImageSpec,
) -> dict[str, Any]:
    """Trains, saving early teachers on the way and the converged one at the end."""
    dataset, eval_pixels = (PixelDataset(each, spec.image_size, spec.channels) for each in (images, eval_images))
    classifier = build_classifier(config.model, spec, config.seed)
    if config.compile:
        classifier.compile()
    optimizer = torch.optim.AdamW(parameter_groups(classifier, config.weight_decay), lr=config.learning_rate)
    model, optimizer = accelerator.prepare(classifier, optimizer)
    augment = _augmentation(config, spec)
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
                _save(trained, folder / f"epoch_{epoch}", {"epoch": epoch, "accuracy": measured})
        return {"accuracy": measured}

    schedule = cosine_schedule(config, len(dataset), config.learning_rate)
    history = train_epochs(accelerator, model, optimizer, dataset, config, folder, loss_of, schedule, after_epoch)
    record = {
        "accuracy": history[-1]["accuracy"],
        "epochs": history,
        "config": to_dict(config),
        "source": source_record(config.dataset, images.info),
        "spec": spec.to_dict(),
        "versions": installed_versions(),
        "device": str(accelerator.device),
    }
    if accelerator.is_main_process:
        write_forgetting_events(folder, forgetting, images, config.epochs)
        _save(accelerator.unwrap_model(model, keep_torch_compile=False), folder, record)
        shutil.rmtree(folder / "checkpoints")
    accelerator.wait_for_everyone()
    return record


def _augmentation(config: TeacherConfig, spec: ImageSpec) -> torch.nn.Module:
    """Random crops of the padded image, and horizontal flips."""
    padding = spec.image_size // 8 if config.crop_padding is None else config.crop_padding
    layers: list[Any] = []
    if padding:
        layers.append(K.RandomCrop((spec.image_size, spec.image_size), padding=padding, cropping_mode="slice"))
    if config.flip:
        layers.append(K.RandomHorizontalFlip())
    return K.ImageSequential(*layers)


def _save(classifier: Classifier, folder: Path, record: dict[str, Any]) -> None:
    """Saves the network with its code as safetensors, then its training record."""
    folder.mkdir(parents=True, exist_ok=True)
    classifier.model.save_pretrained(folder)
    write_json(folder / "training.json", record)
