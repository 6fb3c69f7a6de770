"""Top-1 accuracy, as an `evaluate.Metric` that needs no network."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from decoct.models.eval_mode import eval_mode
from decoct.run.precision import autocast

__all__ = ["Accuracy", "accuracy"]


class Accuracy(evaluate.Metric):
    """Share of predictions that equal their reference."""

    def _info(self) -> evaluate.MetricInfo:
        integer = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions, references: class indices.",
            features=datasets.Features({"predictions": integer, "references": integer}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:  # type: ignore[override]
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


@torch.no_grad()
def accuracy(
    classifier: nn.Module,
    images: Dataset[Any],
    *,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
    mixed_precision: str = "no",
    num_workers: int = 0,
) -> float:
    """Top-1 accuracy in [0, 1] of a classifier in eval mode; each module's own mode is restored.

    Args:
        classifier: Pixels in [0, 1] to logits.
        images: Items are (uint8 pixels, label).
        batch_size: Images per forward pass.
        device: Where the classifier is.
        mixed_precision: `no`, `bf16` or `fp16`.
        num_workers: Processes that read the images.
    """
    device = torch.device(device)
    metric = Accuracy(keep_in_memory=True)
    with eval_mode(classifier):
        for pixels, references in DataLoader(images, batch_size=batch_size, num_workers=num_workers):
            with autocast(device, mixed_precision):
                logits = classifier(pixels.to(device).float() / 255)
            metric.add_batch(predictions=logits.argmax(dim=1).cpu().numpy(), references=references.numpy())
    return float(metric.compute()["accuracy"])
