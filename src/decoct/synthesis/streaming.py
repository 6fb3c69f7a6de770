"""Candidates of each class drawn from a dataset as it passes by, without keeping the rest of it.

A row's key is a hash of the run's seed and the number of the row, and a class keeps the rows with the smallest keys. So
the draw is known after one pass, needs no count of the classes, and is the same wherever it is made. It is another one
than of a dataset that is stored, whose candidates are drawn from all labels (`decoct.synthesis.selection`).
"""

from __future__ import annotations

import heapq
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
from datasets.arrow_writer import ArrowWriter
from datasets.fingerprint import Hasher

from decoct.config import DataConfig
from decoct.data.columns import find_image_column, find_label_column
from decoct.data.inspection import inspect_image
from decoct.data.loading import load_images, noted
from decoct.data.opening import builder_of
from decoct.run.files import written_whole
from decoct.run.seeding import item_seed

__all__ = ["load_streamed", "row_keys"]

logger = logging.getLogger(__name__)

READ_AT_ONCE = 256  # rows
KEPT = "decoct-streamed"  # folder of drawn candidates in the cache of `datasets`


def row_keys(seed: int, rows: np.ndarray) -> np.ndarray:
    """The keys of rows, uint64: SplitMix64 (Steele et al., 2014) of their numbers, from a start that the seed gives."""
    with np.errstate(over="ignore"):
        start = np.uint64(item_seed(seed, "streamed candidates"))
        mixed = start + (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def load_streamed(config: DataConfig, split: str, per_class: int, image_size: int, channels: int) -> datasets.Dataset:
    """At most `per_class` rows of each class of the configured dataset, class by class, as `load_images` returns them.

    They are kept in the cache of `datasets`, where a later call of the same finds them. The file there holds every row
    that was among the smallest of its class at some time: about `1 + log(n / per_class)` times as many.

    Args:
        config: Its `dataset` is a Hub id, a parquet file or folder, or a folder of WebDataset shards. With
            `skip_unreadable`, every image that is drawn is looked at, and another taken for one that cannot be read.

    Raises:
        ValueError: As `load_images`, or if the rows cannot be streamed.
    """
    rows, places, count = _drawn(
        config.dataset,
        split,
        per_class,
        config.seed,
        (config.dataset_config, config.image_column, config.label_column),
        config.skip_unreadable,
    )
    images = load_images(rows, image_size=image_size, bit_depth=config.bit_depth, channels=channels, read_unchecked=0)
    # After the loading, so that no image is copied.
    return noted(images.select(places), drawn_from=count)


def _drawn(
    source: str,
    split: str,
    per_class: int,
    seed: int,
    names: tuple[str | None, str | None, str | None],
    skip_unreadable: bool,
) -> tuple[datasets.Dataset, list[int], int]:
    """All rows that are kept in the cache, the places of those that were drawn, and how many rows there were."""
    config_name, image_column, label_column = names
    builder = builder_of(source, config_name, prepare=False)
    try:
        stream = builder.as_streaming_dataset(split=split)
        if stream.features is None:
            stream = stream._resolve_features()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"dataset and split must be some that can be streamed. Got {source!r}: {error}") from error
    image, label = find_image_column(stream, image_column), find_label_column(stream, label_column)
    state = [str(each.origin_metadata) for each in (builder.config.data_files or {}).values()]
    asked = [source, config_name, split, image, label, per_class, seed, skip_unreadable, state]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / KEPT / Hasher.hash(asked)
    kept = folder / "kept.json"
    if not kept.is_file():
        drawn = stream.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        features = {"image": datasets.Image(decode=False), "label": stream.features[label]}
        features |= {"source_index": datasets.Value("int64")}
        file, described = folder / "rows.arrow", datasets.Features(features)
        places, count = _draw(drawn, image, label, per_class, seed, skip_unreadable, described, file)
        with written_whole(kept) as file:
            file.write_text(json.dumps({"places": places, "rows": count}))
    found = json.loads(kept.read_text())
    return datasets.Dataset.from_file(str(folder / "rows.arrow")), found["places"], found["rows"]


def _draw(
    stream: datasets.IterableDataset,
    image: str,
    label: str,
    per_class: int,
    seed: int,
    skip_unreadable: bool,
    features: datasets.Features,
    file: Path,
) -> tuple[list[int], int]:
    """Writes the rows that are drawn at some time; returns the places in the file of those that stay, and all rows."""
    # Of each class: minus the key, row, place; the largest key first.
    smallest: dict[Any, list[tuple[int, int, int]]] = {}
    row = place = skipped = 0
    with written_whole(file) as temporary, ArrowWriter(features=features, path=str(temporary)) as writer:
        for batch in stream.with_format("arrow").iter(READ_AT_ONCE):
            labels = batch[label].to_pylist()
            keys = row_keys(seed, np.arange(row, row + len(labels))).tolist()
            taken: dict[str, list[Any]] = {"image": [], "label": [], "source_index": []}
            for offset, (each, key) in enumerate(zip(labels, keys, strict=True)):
                members = smallest.setdefault(each, [])
                if len(members) == per_class and -key < members[0][0]:
                    continue
                value = batch[image][offset].as_py()
                if value is not None and value["bytes"] is None and value["path"] is not None:
                    with fsspec.open(value["path"], "rb") as opened:
                        value = {"bytes": opened.read(), "path": value["path"]}
                if skip_unreadable and inspect_image(value)[-1] is not None:
                    skipped += 1
                    continue
                for name, content in (("image", value), ("label", each), ("source_index", row + offset)):
                    taken[name].append(content)
                add = heapq.heappush if len(members) < per_class else heapq.heapreplace
                add(members, (-key, row + offset, place))
                place += 1
            if taken["label"]:
                writer.write_table(pa.Table.from_pydict(taken, schema=features.arrow_schema))
            row += len(labels)
        writer.finalize()
    if skipped:
        logger.warning(
            "%d images that would have been drawn cannot be read; others of their classes were taken.", skipped
        )
    classes = sorted(smallest, key=lambda each: (each is None, each))
    stay = [place for each in classes for _, _, place in sorted(smallest[each], key=lambda member: member[1])]
    return stay, row
