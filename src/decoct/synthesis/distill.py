"""Distilling a dataset: score, select, cut, pack, label, write. Each stage leaves shards that a rerun takes up."""

from __future__ import annotations

from typing import Any

from decoct.config import DistillConfig
from decoct.data.loading import load_split
from decoct.models.zoo import load_classifier
from decoct.run.processes import close, open_accelerator
from decoct.synthesis.real import distill_images

__all__ = ["distill"]


def distill(config: DistillConfig) -> dict[str, Any]:
    """Distils `config.dataset` into the run folder `config.output_dir`; a rerun of a killed run continues.

    Returns:
        The manifest or, for a dry run, what would be computed and about how long it takes.

    Raises:
        ValueError: If the data, the teacher or the configuration cannot be used, or the folder belongs to another
            configuration.
    """
    accelerator = open_accelerator(config)
    teacher = load_classifier(config.teacher)
    with accelerator.main_process_first():
        images = load_split(config, config.train_split, config.image_size or teacher.spec.image_size)
    # Imported here, since each of them takes time to import and only one is needed.
    if config.method == "igds":
        from decoct.synthesis.sampled import distill_samples, plan_samples

        run = plan_samples if config.dry_run else distill_samples
    else:
        from decoct.synthesis.real import plan_selection

        run = plan_selection if config.dry_run else distill_images
    result = run(config, images, teacher, accelerator)
    close(accelerator)
    return result
