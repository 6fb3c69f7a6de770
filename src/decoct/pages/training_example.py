"""The training example of a dataset card: plain PyTorch that runs as pasted, by the settings of a protocol.

The network is a ConvNet-D of width 128, and the card states what decoct reached with the same labels, if it measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from decoct.config.data import HELD_OUT
from decoct.models.zoo import depth_of
from decoct.pages.describe import Run, counted
from decoct.pages.markdown import code, escape, python_string
from decoct.pages.source import Source
from decoct.results.records import is_accuracy_record
from decoct.results.tables import percent
from decoct.training.protocols import batch_size, entry_of, epoch_count, load_protocol

__all__ = ["PROTOCOLS", "eval_split_of", "training_example"]

# By the labels that the example trains with.
PROTOCOLS = {"hard": "rded_kd", "views": "rded_kd", "tiles": "rded_kd", "mixed": "strong_kd"}
WIDTH = 128


def training_example(
    run: Run, manifest: dict[str, Any], source: Source, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What the example in `dataset_card.md` is filled in with, for the largest IPC."""
    side, channels, ipc = manifest["image_size"], manifest["channels"], run.ipcs[-1]
    protocol, depth = load_protocol(PROTOCOLS[run.labels]), depth_of(side)
    classes, images = len(run.classes), run.images[ipc]
    return {
        "protocol": protocol.name,
        "epochs": epoch_count(protocol, ipc, classes, images),
        "steps": None if protocol.steps is None else entry_of(protocol.steps, ipc),
        "loss": protocol.loss,
        "batch_size": batch_size(protocol, ipc, classes, images),
        "learning_rate": protocol.learning_rate,
        "weight_decay": protocol.weight_decay,
        "temperature": protocol.temperature if run.soft else 1,
        "matrix_learning_rate": protocol.matrix_learning_rate,
        "momentum": protocol.momentum,
        "ema_decay": protocol.ema_decay,
        "seed": int(run.config.get("seed") or 0) & 0xFFFFFFFF,
        "least": max(1, math.floor(float(run.config.get("view_scale") or 1) * (side * side))),
        "channels": channels,
        "mode": "RGB" if channels == 3 else "L",
        "shift": int(manifest["bit_depth"]) - 8 if manifest.get("bit_depth") else None,  # of 16-bit images
        "mean": [round(value, 4) for value in manifest["image_mean"]],
        "std": [round(value, 4) for value in manifest["image_std"]],
        "widths": [channels, *[WIDTH] * depth],
        "flat": WIDTH * (side >> depth) ** 2,
        "tile_rows": math.isqrt(run.tiles),
        **real_images(manifest["dataset"], run.config, source, eval_split_of(manifest)),
        "expected": expected_accuracy(results, ipc, f"convnet{depth}", run.labels, protocol.name),
    }


def eval_split_of(manifest: dict[str, Any]) -> str | None:
    """The split that measures: as given, or `held_out` where the dataset is known to have none; None if not known."""
    return manifest["config"].get("eval_split") or manifest.get("eval_split")


def real_images(dataset: str, config: dict[str, Any], source: Source, eval_split: str | None) -> dict[str, Any]:
    """Where the example finds real images, as Python; split and columns are found as decoct finds them.

    `note` says what to put there where the source is not on the Hub. Of a source that has only its training split,
    whose images flatter, the example has a place for others; `held_out` says so.
    """
    held_out = eval_split == HELD_OUT
    known = dataset not in ("sample", "in memory") and not held_out
    arguments = [dataset if known else "path/to/other/images" if held_out else "path/to/the/source"]
    if known and config.get("dataset_config"):
        arguments.append(config["dataset_config"])
    note = "" if source.hub_id else "the folder or Hub id of your copy"
    if dataset == "sample":
        note = "a folder with nothing but train.parquet and test.parquet of decoct's src/decoct/data/sample"
    features = "for name, feature in real.features.items() if isinstance(feature"
    names = ["test", "validation", "valid", "val", *(["train"] if held_out else [])]
    found = {
        "image_column": ("image_column", f"next(name {features}, Image))"),
        "label_column": ("label_column", f'next((name {features}, ClassLabel)), "label")'),
    }
    kinds = {"ClassLabel": "label_column", "Image": "image_column"}
    return {
        "imports": ", ".join(kind for kind, column in kinds.items() if not config.get(column)),
        "source": ", ".join(map(python_string, arguments)),
        "note": note,
        "held_out": held_out,
        "split": "" if held_out or eval_split is None else python_string(eval_split),
        "splits": ", ".join(map(python_string, names)),
        **{
            name: python_string(config[field]) if config.get(field) else search
            for name, (field, search) in found.items()
        },
    }


def expected_accuracy(results: Sequence[dict[str, Any]], ipc: int, student: str, labels: str, protocol: str) -> str:
    """What decoct reached with the same labels, in words; empty if no record says so.

    A record of the example's own network and protocol goes before others.
    """
    records = [
        record
        for record in results
        if is_accuracy_record(record) and record["labels"] == labels and int(record["ipc"]) == ipc
    ]
    if not records:
        return ""

    def differs(record: dict[str, Any]) -> tuple[bool, bool, bool]:
        other = record["protocol"] != protocol or bool(record.get("overrides"))
        return other, record["student"] != student, record["epoch"] != "last"

    record = min(records, key=differs)
    spread = f" ± {percent(record['accuracy_std'])}" if len(record["seeds"]) > 1 else ""
    reached = f"{percent(record['accuracy_mean'])} %{spread}"
    changed = ", ".join(f"{name}={value}" for name, value in sorted((record.get("overrides") or {}).items()))
    how = (
        f"{code(record['student'])} under the protocol {code(record['protocol'])}"
        f"{f' with {code(changed)}' if changed else ''}, {escape(record['epoch'])} epoch, "
        f"{counted(len(record['seeds']), 'seed')}"
    )
    if not any(differs(record)):
        return f"Expect an accuracy of about {reached}, which decoct measured with the same settings ({how})."
    return f"For comparison, decoct measured {reached} with the same labels ({how})."
