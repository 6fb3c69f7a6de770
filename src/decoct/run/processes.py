"""Opening and closing accelerate, and sharing work over its processes."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from decoct.run.precision import times_fp32

__all__ = ["close", "device_name", "open_accelerator", "share_out"]

logger = logging.getLogger(__name__)

Piece = TypeVar("Piece")

# Processes wait for each other, say, while one trains the last student; torch's default gives them 10 or 30 minutes.
LONGEST_WAIT = timedelta(days=7)
# Processors with instructions for a half precision are faster in it, or about as fast; those without 50 times slower.
WORTHLESS = 2.0


def open_accelerator(
    mixed_precision: str = "no", report_to: str | None = None, tracker_dir: Path | None = None
) -> Accelerator:
    """An accelerator in a precision; its tracker, given by name, is started by `accelerator.init_trackers`.

    Raises:
        ValueError: If the launcher started several processes that do not know of each other.
    """
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
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
    if mixed_precision != "no" and accelerator.device.type == "cpu" and accelerator.is_main_process:
        slower = times_fp32(accelerator.device, mixed_precision)
        if slower > WORTHLESS:
            logger.warning(
                "This processor multiplies matrices %.0f times as slowly in %s as in fp32: pass --mixed_precision no.",
                slower,
                mixed_precision,
            )
    return accelerator


def share_out(accelerator: Accelerator, pieces: Sequence[Piece], do: Callable[[Piece], None]) -> None:
    """Does each piece of work in one of the processes, and waits for all of them.

    Args:
        pieces: What is missing, the same in all processes.
    """
    accelerator.wait_for_everyone()  # all processes must have listed what is missing before the first result is saved
    for piece in pieces[accelerator.process_index :: accelerator.num_processes]:
        do(piece)
    accelerator.wait_for_everyone()


def close(accelerator: Accelerator) -> None:
    """Ends trackers and process groups in the order that keeps gloo from aborting at exit."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    gc.collect()
    accelerator.end_training()


def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
