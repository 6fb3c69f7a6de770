"""What `--dry_run` shows of a distilling run: images, passes, and the seconds they take at the measured throughput."""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset

from decoct.config import DistillConfig
from decoct.infoutil.processor import calibrated_batch_size, teacher_forward
from decoct.models.classifier import Classifier
from decoct.synthesis.distill import candidates_of
from decoct.synthesis.run import label_teacher

__all__ = ["label_bytes", "plan_selection", "throughput"]


def plan_selection(
    config: DistillConfig, images: Dataset, teacher: Classifier, accelerator: Accelerator
) -> dict[str, Any]:
    """What `--dry_run` shows: images, forward passes, and the seconds they take at the measured throughput."""
    candidates = candidates_of(config, images, teacher)
    for ipc in config.ipc:
        label_teacher(config, teacher, ipc)
    spec, per_second = teacher.spec, throughput(config, teacher, accelerator)
    count = {"kernel_shap": config.coalitions + 1, "captum_kernel_shap": config.coalitions + 2, "grad_cam": 3}
    count["exact_shapley"] = 2 ** (config.grid_size**2)
    attributed = spec.num_classes * sum(config.ipc) * config.tiles_per_image if config.whole_images else len(candidates)
    distilled = spec.num_classes * sum(config.ipc)
    crops = 1 if config.whole_images else config.crops_per_image
    forwards = {"random": 0, "forgetting": 0, "grad_norm": 4}.get(config.utility or "", 1)
    # Other scores give the features that a diverse selection needs on the way.
    forwards += config.selection != "top" and config.utility in ("random", "forgetting", "grad_norm")
    passes = {
        "attribution": attributed * count.get(config.attribution or "", 0),
        "utility": len(candidates) * crops * forwards,
        "labels": distilled * (2 * config.tiles_per_image + config.views),
    }
    return {
        "method": config.method,
        "candidates": len(candidates),
        "distilled_images": distilled,
        "tiles": distilled * config.tiles_per_image,
        "forward_passes": passes,
        "images_per_second": round(per_second),
        "estimated_seconds": round(sum(passes.values()) / per_second / accelerator.num_processes, 1),
        "label_bytes": label_bytes(config, distilled, spec.num_classes),
        "output_dir": config.output_dir,
    }


def throughput(config: DistillConfig, teacher: Classifier, accelerator: Accelerator) -> float:
    """Images per second of the teacher's forward pass on this machine."""
    teacher.to(accelerator.device)
    batch_size = config.batch_size or calibrated_batch_size(teacher, config.mixed_precision)
    spec = teacher.spec
    batch = torch.rand(batch_size, spec.channels, spec.image_size, spec.image_size, device=accelerator.device)
    forward = teacher_forward(teacher, config.mixed_precision)
    forward(batch)
    started = time.perf_counter()
    for _ in range(3):
        forward(batch).sum().item()
    return 3 * batch_size / (time.perf_counter() - started)


def label_bytes(config: DistillConfig, images: int, classes: int) -> int:
    """Bytes of the stored logits and view boxes."""
    return images * (2 * classes * (config.tiles_per_image + config.views) + 10 * config.views)
