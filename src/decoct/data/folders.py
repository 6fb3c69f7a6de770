"""Folders on disk by their own tree: top-level split folders, then classes; and whether all of it was loaded.

`datasets` looks for split words anywhere in a path, so that a class folder `bullet train` of the test split would
become part of the training split.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from datasets.fingerprint import Hasher
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

__all__ = [
    "IMAGES",
    "METADATA",
    "check_label_order",
    "class_folders",
    "image_counts",
    "image_splits",
    "is_text",
    "labels_by_folder",
    "split_of",
]

logger = logging.getLogger(__name__)

# The words that `datasets` takes for a split, here of a whole folder name alone.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# A folder's name with one of them in it.
HAS_SPLIT_WORD = re.compile(
    rf"(?<![a-z])({'|'.join(word for words in SPLIT_WORDS.values() for word in words)})(?![a-z])"
)
METADATA = tuple(ImageFolder.METADATA_FILENAMES)
IMAGES = frozenset(ImageFolder.EXTENSIONS)
# Files of a folder that is no image folder, where they are the most: `datasets` opens it by these.
TABLES = frozenset({".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".tar", ".zip"})


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds; None if it is no split's name."""
    return next((split for split, words in SPLIT_WORDS.items() if name.lower() in words), None)


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8, which one with bytes of another encoding in it cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def image_splits(folder: Path) -> dict[str, list[str]] | None:
    """The top-level folders of each split of an image folder, `""` for the folder itself; None if it is none.

    A top-level folder is a split if it has a split's name and holds class folders or a metadata file; else it is a
    class of the training split.

    Raises:
        ValueError: If split folders and others lie side by side, or some seem to be meant that are none by name and
            place, as in `training_set/bus` or `data/train/bus`.
    """
    tops: dict[str, bool] = {}  # whether there is something below that only a split has
    deep, tables, images = set(), 0, 0
    for path, names in _files(folder):
        parts = path.relative_to(folder).parts
        if any(not is_text(part) for part in parts):
            raise ValueError(f"Names of folders must be UTF-8. Got {'/'.join(parts)!r} in {folder}: rename it.")
        if not parts and _has_configs(folder):
            return None
        suffixes = [Path(name).suffix.lower() for name in names if name not in METADATA]
        found = set(suffixes)
        tables += sum(suffix in TABLES for suffix in suffixes)
        images += sum(suffix in IMAGES for suffix in suffixes)
        if found & IMAGES and len(parts) > 1:
            deep.add("/".join(parts[:-1]))
        described = any(name in METADATA for name in names)
        if parts and (found & IMAGES or described):
            tops[parts[0]] = tops.get(parts[0], False) or len(parts) > 1 or described
        elif not parts and (found & IMAGES or described):
            return None  # images without class folders
    if not tops or tables >= images:
        return None
    splits = {name: split for name, split in ((name, split_of(name)) for name in tops) if split and tops[name]}
    if not splits:
        if meant := sorted(path for path in deep if HAS_SPLIT_WORD.search(path.lower())):
            raise ValueError(
                f"Split folders must be called train, validation or test, and lie at the top of {folder}. "
                f"Got {meant[:5]} above class folders: rename them, or name the folder above them."
            )
        return {"train": [""]}
    others = sorted(set(tops) - set(splits))
    if others:
        raise ValueError(
            f"Folders in {folder} must all be splits or all be classes. Got the splits {sorted(splits)} beside "
            f"{others[:5]}: move these into a split's folder, or out of {folder.name}."
        )
    return {split: sorted(name for name in splits if splits[name] == split) for split in dict.fromkeys(splits.values())}


def image_counts(folder: Path, splits: Mapping[str, Sequence[str]]) -> dict[str, int] | None:
    """Images that lie in each split of an image folder; None where a metadata file says which ones count."""
    counts = Counter(dict.fromkeys(splits, 0))
    for split, tops in splits.items():
        for top in tops:
            for _, names in _files(folder / top):
                if any(name in METADATA for name in names):
                    return None
                counts[split] += sum(map(_is_image, names))
    return dict(counts)


def class_folders(folder: Path, splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The class of each folder of images below an image folder, by its path in it: the folder under the split.

    One folder more above all classes, as in `vehicles/photos/bus`, is no class; a warning names it.

    Raises:
        ValueError: If images lie in several folders of a class, or in none; they are named.
    """
    holding = {
        folder / top: [path for path, names in _files(folder / top) if any(map(_is_image, names))]
        for tops in splits.values()
        for top in tops
    }
    # Of a split with one folder of images alone, the others say how deep classes lie.
    above = [Path(os.path.commonpath(paths)).relative_to(top) for top, paths in holding.items() if len(paths) > 1]
    root = min(above, key=lambda path: len(path.parts), default=Path())
    depth = len(root.parts)
    if depth:
        logger.warning("The classes of %s are the folders in %s, which is taken for no class.", folder, root)
    classes: dict[str, str] = {}
    for top, paths in holding.items():
        first: dict[str, str] = {}
        for path in paths:
            place, parts = path.relative_to(folder).as_posix(), path.relative_to(top).parts[depth:]
            if not parts:
                raise ValueError(f"Every image must lie in the folder of its class. Got images in {path} itself.")
            if first.setdefault(parts[0], place) != place:
                raise ValueError(
                    f"The images of a class must lie in one folder. Got {first[parts[0]]!r} and {place!r} in {folder} "
                    f"for the class {parts[0]!r}: move the images up, name the folder above the classes, or list the "
                    "images with their labels in a metadata.csv."
                )
            classes[place] = parts[0]
    return classes


def labels_by_folder(images: datasets.Dataset, folder: Path, classes: Mapping[str, str]) -> datasets.Dataset:
    """The images of a split with the column `label`.

    Args:
        images: Column `image` of paths below `folder`.
        folder: The image folder.
        classes: As `class_folders` finds them.
    """
    names = sorted(set(classes.values()))
    label_of = {os.path.join(os.path.abspath(folder), place): names.index(name) for place, name in classes.items()}

    def labels_of(batch: dict[str, list[dict[str, str]]]) -> dict[str, list[int]]:
        return {"label": [label_of[os.path.dirname(os.path.abspath(entry["path"]))] for entry in batch["image"]]}

    undecoded = images.cast_column("image", datasets.Image(decode=False))
    # A column added in memory would keep what is computed of the images from being cached.
    labelled = undecoded.map(
        labels_of,
        batched=True,
        features=datasets.Features({**undecoded.features, "label": datasets.ClassLabel(names=names)}),
        new_fingerprint=Hasher.hash(["decoct labels by folder", images._fingerprint, label_of]),
        desc="Reading classes",
    )
    return labelled.cast_column("image", datasets.Image())


def check_label_order(files: Sequence[str]) -> None:
    """Raises ValueError unless the class names in local parquet files are the same, in the same order, in all of them.

    `datasets` takes the names of the first file for all, so that another order would give every label another class.
    """
    known: dict[str, tuple[list[str], str]] = {}
    for file in filter(os.path.isfile, files):
        if not file.endswith(".parquet"):
            continue
        written = (pq.read_schema(file).metadata or {}).get(b"huggingface")
        features = json.loads(written).get("info", {}).get("features", {}) if written else {}
        for column, feature in features.items():
            if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
                continue
            names, first = known.setdefault(column, (feature.get("names", []), file))
            if names != feature.get("names", []):
                place = next(
                    (row for row, pair in enumerate(zip(names, feature["names"], strict=False)) if len(set(pair)) > 1),
                    0,
                )
                raise ValueError(
                    f"The class names of column {column!r} must be the same, in the same order, in all files. "
                    f"Got {len(names)} names with {names[place : place + 3]} from label {place} on in {first}, and "
                    f"{len(feature['names'])} with {feature['names'][place : place + 3]} in {file}. Write one of them "
                    f"again with `ds.cast_column({column!r}, datasets.ClassLabel(names=...))` after mapping its labels."
                )


def _files(folder: Path) -> list[tuple[Path, list[str]]]:
    """Folders and the names of their files, hidden ones left out, as `datasets` does."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        found.append((Path(root), sorted(name for name in names if not name.startswith((".", "__")))))
    return found


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGES


def _has_configs(folder: Path) -> bool:
    """Whether the folder's card says which files are data."""
    card = folder / "README.md"
    return card.is_file() and "\nconfigs:" in card.read_text(encoding="utf-8", errors="replace")[:100_000]
