"""Opening and closing accelerate, and telling datasets apart."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from datasets import Dataset, Image

from decoct.config import DataConfig, TrainingConfig, to_dict
from decoct.run_folder import claim_folder, identity_of, read_json

__all__ = ["claim_training", "close", "dataset_fingerprint", "open_accelerator"]

logger = logging.getLogger(__name__)

# Processes wait for each other, say, while one trains the last student; torch's default gives them 10 or 30 minutes.
LONGEST_WAIT = timedelta(days=7)


def open_accelerator(config: DataConfig, report_to: str | None = None, tracker_dir: Path | None = None) -> Accelerator:
    """An accelerator in the configured precision; its tracker is started by `accelerator.init_trackers`.

    Raises:
        ValueError: If the launcher started several processes that do not know of each other.
    """
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        log_with=report_to,
        project_dir=None if report_to is None else str(tracker_dir),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"The launcher must connect its {launched} processes. Got {accelerator.num_processes} here: on a machine "
            "without a GPU, set ACCELERATE_USE_CPU=true, or use `decoct ... --processes N`."
        )
    return accelerator


def claim_training(
    accelerator: Accelerator, config: TrainingConfig, images: Dataset, written: Iterable[str]
) -> dict[str, Any] | None:
    """Claims `config.output_dir` and starts the tracker, or returns the record of a training that is finished there.

    Args:
        images: The training images; their fingerprint is part of the run's identity.
        written: Glob patterns of everything such a training writes.

    Raises:
        ValueError: If the folder belongs to another configuration.
    """
    folder = Path(config.output_dir)
    if accelerator.is_main_process:
        identity = identity_of(to_dict(config), data=dataset_fingerprint(images))
        claim_folder(folder, identity, config.overwrite, written)
    accelerator.wait_for_everyone()
    if (folder / "training.json").is_file():
        logger.info("%s is finished already.", folder)
        close(accelerator)
        return read_json(folder / "training.json")
    if config.report_to is not None:
        accelerator.init_trackers("decoct")
    return None


def close(accelerator: Accelerator) -> None:
    """Ends trackers and process groups in the order that keeps gloo from aborting at exit."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    gc.collect()
    accelerator.end_training()


def dataset_fingerprint(images: Dataset) -> str:
    """Twelve hex digits from the number of images, all labels and the encoded bytes of 64 images spread evenly."""
    digest = hashlib.sha256(np.asarray(images["label"], dtype=np.int64).tobytes())
    rows = np.unique(np.linspace(0, len(images) - 1, 64).astype(int))
    for entry in images.select(rows).cast_column("image", Image(decode=False))["image"]:
        digest.update(entry["bytes"] if entry["bytes"] is not None else Path(entry["path"]).read_bytes())
    return digest.hexdigest()[:12]
