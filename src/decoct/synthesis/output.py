"""The finished run folder: parquet per IPC, manifest, card and preview."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, Features
from PIL import Image as PILImage

from decoct.data.pixels import to_pixels
from decoct.data.spec import ImageSpec
from decoct.pages.dataset_card import dataset_card
from decoct.pages.preview import IMAGES_PER_CLASS, MAX_CLASSES, PreviewRow, save_preview, save_strips
from decoct.pages.shown import storage_of
from decoct.run.files import written_whole
from decoct.run.folder import sha256, write_json, write_text

__all__ = ["BYTES_PER_FILE", "merge_shards", "write_card", "write_pixels", "write_preview", "write_samples_preview"]

BYTES_PER_FILE = 128 * 2**20  # about; readers of parquet hold a whole file in memory
STRIP_IMAGES = 8  # of a class in the preview of generated images


def merge_shards(shards: Sequence[Path], folder: Path, features: Features, slot_shards: Sequence[Path] = ()) -> float:
    """Writes `folder/train-*.parquet` from label shards, a shard at a time, without the column `correct`.

    Args:
        slot_shards: Further columns of the same rows, one file for each shard; empty if there are none.

    Returns:
        The teacher's accuracy on the tiles.
    """
    kept = Features({name: feature for name, feature in features.items() if name != "correct"})
    schema = kept.arrow_schema
    beside = dict(zip(shards, slot_shards, strict=True)) if slot_shards else {}
    sizes = {shard: sum(file.stat().st_size for file in (shard, beside.get(shard)) if file) for shard in shards}
    groups = group_by_bytes(sizes, BYTES_PER_FILE)
    right: list[bool] = []
    for number, group in enumerate(groups):
        path = folder / f"train-{number:05d}-of-{len(groups):05d}.parquet"
        with written_whole(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for shard in group:
                table = pq.read_table(shard)
                if shard in beside:
                    labels = pq.read_table(beside[shard])
                    for name in labels.column_names:
                        table = table.append_column(name, labels[name])
                right += [verdict for row in table["correct"].to_pylist() for verdict in row]
                writer.write_table(table.select(list(kept)).cast(schema))
    return float(np.mean(right))


def write_pixels(file: Path, shards: Sequence[Path], count: int, spec: ImageSpec) -> None:
    """The pixels of all images in label shards, `(count, channels, side, side)` uint8, as a file to be mapped."""
    shape = (count, spec.channels, spec.image_size, spec.image_size)
    with written_whole(file) as temporary:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        start = 0
        for shard in shards:
            encoded = pq.read_table(shard, columns=["image"])["image"].to_pylist()
            images = [PILImage.open(io.BytesIO(each["bytes"])) for each in encoded]
            pixels[start : start + len(images)] = to_pixels(images, spec.image_size, spec.channels).numpy()
            start += len(images)
        pixels.flush()


def group_by_bytes(sizes: Mapping[Path, int], most: int) -> list[list[Path]]:
    """Consecutive files, together of at most so many bytes, or one file that has more."""
    groups: list[list[Path]] = []
    room = 0
    for path, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(path)
        room -= size
    return groups


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes README.md and, last of all, manifest.json with the columns' bytes and every other file's sha256."""
    sizes = {str(each.ipc): {"image": each.images, **each.labels} for each in storage_of(folder, manifest)}
    manifest = {**manifest, "bytes": sizes}
    names = ["preview.png", *sorted(str(path.relative_to(folder)) for path in folder.glob("data/*/*.parquet"))]
    hashes = {name: sha256(folder / name) for name in names}
    write_text(folder / "README.md", dataset_card({**manifest, "files": hashes}, folder.name))
    write_json(folder / "manifest.json", {**manifest, "files": {"README.md": sha256(folder / "README.md"), **hashes}})


def write_preview(
    folder: Path, ipcs: Sequence[int], candidates: Dataset, rows: dict[int, int], spec: ImageSpec
) -> None:
    """Writes preview.png: the first images of each class, beside the source image of their best tile.

    Args:
        candidates: Real images; `rows` maps a source index to its row there.
    """
    shown = next((ipc for ipc in ipcs if ipc >= IMAGES_PER_CLASS), ipcs[-1])
    distilled = Dataset.from_parquet([str(path) for path in sorted(folder.glob(f"data/ipc_{shown}/*.parquet"))])
    starts = [
        label * shown + number for label in range(spec.num_classes) for number in range(min(shown, IMAGES_PER_CLASS))
    ]
    preview = []
    for row in distilled.select(starts[: 10 * IMAGES_PER_CLASS]):
        best = row["tiles"][0]
        same = [tile for tile in row["tiles"] if tile["source_index"] == best["source_index"]]
        source = to_pixels([candidates[rows[best["source_index"]]]["image"]], spec.image_size, spec.channels)[0]
        preview.append(
            PreviewRow(
                label_name=spec.label_names[row["label"]],
                source=source.numpy(),
                boxes=[tile["box"] for tile in same],
                heatmap=None if best["heatmap"] is None else np.array(best["heatmap"]),
                distilled=to_pixels([row["image"]], spec.image_size, spec.channels)[0].numpy(),
                scores=[tile["score"] for tile in same],
            )
        )
    save_preview(folder / "preview.png", preview)


def write_samples_preview(
    folder: Path, ipcs: Sequence[int], images: Dataset, spec: ImageSpec, title: str = "IGDS"
) -> None:
    """Writes preview.png: the first distilled images of each class, beside real ones.

    Args:
        images: The source dataset.
        title: What made the distilled ones.
    """
    shown = next((ipc for ipc in ipcs if ipc >= STRIP_IMAGES), ipcs[-1])
    labels = np.asarray(images["label"][:])
    count = min(shown, STRIP_IMAGES, *np.bincount(labels, minlength=spec.num_classes).tolist())
    distilled = Dataset.from_parquet([str(path) for path in sorted(folder.glob(f"data/ipc_{shown}/*.parquet"))])
    classes = min(spec.num_classes, MAX_CLASSES)
    real, made = [], []
    for label in range(classes):
        rows = np.flatnonzero(labels == label)[:count]
        real.append(to_pixels(images.select(rows)["image"][:], spec.image_size, spec.channels).numpy())
        members = distilled.select(range(label * shown, label * shown + count))
        made.append(to_pixels(members["image"][:], spec.image_size, spec.channels).numpy())
    strips = {f"{title}, IPC {shown}": np.stack(made), "real": np.stack(real)}
    save_strips(folder / "preview.png", strips, spec.label_names[:classes])
