"""Opening a dataset by its name: a Hub id, a folder of images, a table of paths, parquet, or the sample."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError, DatasetsError
from datasets.fingerprint import Hasher

from decoct.data.csv_tables import readable_tables
from decoct.data.expansion import check_expansion
from decoct.data.folders import (
    IMAGES,
    METADATA,
    check_label_order,
    class_folders,
    image_counts,
    image_splits,
    labels_by_folder,
    split_of,
)
from decoct.data.silence import give_up_on_silence
from decoct.data.source import SAMPLE
from decoct.files import one_line

__all__ = ["builder_of", "name_of", "open_split"]

# Files that list images by their paths, and the builder that reads them.
TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}
# What `datasets` raises for files that are not as it expects.
UNOPENABLE = (OSError, ValueError, RuntimeError, TypeError, AttributeError, LookupError, DatasetsError)
EXPECTED = "a Hub id, a local image folder, a local parquet folder or file, a .csv, .tsv or .jsonl file, or 'sample'"


def open_split(source: str, split: str, config_name: str | None) -> datasets.Dataset:
    """The rows of a split, not checked yet.

    Raises:
        ValueError: If there is no such dataset or split, or it cannot be opened.
    """
    builder = builder_of(source, config_name)
    names = list(builder.info.splits)
    if any(part.split("[")[0] not in names for part in split.split("+")):
        raise ValueError(f"split must be one of {names}, the splits of {name_of(source)}. Got {split!r}.")
    if not any(builder.info.splits[part.split("[")[0]].num_examples for part in split.split("+")):
        raise ValueError(f"A split must have rows. Got none in the split {split!r} of {name_of(source)}.")
    rows = builder.as_dataset(split=split)
    path = Path(source).expanduser()
    if source == "sample" or not path.exists():
        return rows
    if path.suffix.lower() in TABLES or (path.is_dir() and tables_in(path)):
        return with_images(rows, path if path.is_dir() else path.parent)
    folders = image_splits(path) if path.is_dir() else None
    if folders is None or image_counts(path, folders) is None:
        return rows
    return labels_by_folder(rows, path, class_folders(path, folders))


def builder_of(source: str, config_name: str | None, prepare: bool = True) -> datasets.DatasetBuilder:
    """What makes the splits of a dataset, prepared; what it loads from disk is what lies there.

    Args:
        prepare: Make the splits; without, they can be streamed, but for images in folders and tables of paths.

    Raises:
        ValueError: If there is no such dataset, or it cannot be opened.
    """
    path = Path(source).expanduser()
    files = data_files(source)
    suffix = next((Path(file).suffix.lower() for file in (files or {}).values()), "")
    folders = image_splits(path) if files is None and path.is_dir() else None
    if not prepare and (folders is not None or suffix in TABLES):
        raise ValueError(
            f"dataset must be on the Hub, parquet or WebDataset for --streaming. Got images in {source!r}."
        )
    if files is None and folders is None and path.exists() and glob.has_magic(str(path.absolute())):
        raise ValueError(  # `datasets` would look for files in all folders that its path is a pattern of
            f"dataset must have no *, ? and [ in the path of its folder, unless that holds class folders or tables. "
            f"Got {source!r}: rename the folder."
        )
    try:
        if files is not None:
            kind = TABLES.get(suffix, "parquet")
            options: dict[str, Any] = {}
            if kind == "csv":  # pandas would read 001 as a number, and NA as a missing name
                files, options = readable_tables(files, "\t" if suffix == ".tsv" else ",")
            escaped = {split: glob.escape(file) for split, file in files.items()}
            builder = datasets.load_dataset_builder(kind, data_files=escaped, **options)
        elif folders is not None:
            here = glob.escape(str(path.absolute()))
            patterns = {
                split: [f"{here}/{glob.escape(top)}/**" if top else f"{here}/**" for top in tops]
                for split, tops in folders.items()
            }
            # Class folders are named by `labels_by_folder`; a metadata file says it otherwise.
            named = {"drop_labels": True} if image_counts(path, folders) is not None else {}
            builder = datasets.load_dataset_builder("imagefolder", data_files=patterns, **named)
        else:
            give_up_on_silence()
            builder = datasets.load_dataset_builder(str(path) if path.exists() else source, config_name)
        if path.exists():
            check_label_order([str(file) for each in (builder.config.data_files or {}).values() for file in each])
        if prepare or path.exists():  # to be streamed, files of the Hub are not downloaded
            _check_expansion(builder)
        if prepare:
            builder.download_and_prepare()
    except UNOPENABLE as error:
        missing = not path.exists() and files is None
        where = "there is no such folder or file here, and as a Hub id it " if missing else "it "
        raise ValueError(
            f"dataset must be {EXPECTED}. Got {source!r}: {where}cannot be opened: {one_line(_reason(error))}"
            + _remedy(error)
        ) from error
    if folders is not None:
        _check_counts(source, image_counts(path, folders), builder)
    return builder


def data_files(source: str) -> dict[str, str] | None:
    """The parquet files or tables of a name, by split; None for other folders, and for what is not on disk.

    Raises:
        ValueError: If they are of a kind that is not read, of several kinds, or empty.
    """
    path = Path(source).expanduser()
    if source == "sample":
        return {name: str(SAMPLE / f"{name}.parquet") for name in ("train", "test")}
    if path.is_file():
        if path.suffix.lower() not in (".parquet", *TABLES):
            raise ValueError(f"A dataset file must be one of {['.parquet', *TABLES]}. Got {source!r}.")
        files = {split_of_file(path): str(path)}
    else:
        files = {split: str(file) for split, file in tables_in(path).items()} if path.is_dir() else {}
    if empty := [file for file in files.values() if not Path(file).stat().st_size]:
        raise ValueError(f"A dataset file must have rows. Got {empty[0]!r}, which is empty.")
    suffixes = {Path(file).suffix.lower() for file in files.values()}
    if len(suffixes) > 1:
        raise ValueError(f"The tables in a folder must be of one kind. Got {sorted(suffixes)} in {source!r}.")
    return files or None


def _reason(error: BaseException) -> BaseException:
    """What the innermost cause says of files that were not read: `datasets` itself says no more than that."""
    if not isinstance(error, DatasetGenerationError):
        return error
    while error.__cause__ is not None and str(error.__cause__).strip():
        error = error.__cause__
    return error


def _remedy(error: BaseException) -> str:
    """What to do about an error of `datasets`, in brackets, where its words do not say it."""
    if "column names don't match" in str(_reason(error)):
        return " (All splits must have the same columns: put files without labels elsewhere.)"
    return " (Name a configuration with --dataset_config.)" if "onfig" in str(error) else ""


def _check_expansion(builder: datasets.DatasetBuilder) -> None:
    """Checks the parquet files of a dataset, downloaded if need be, unless it was prepared before."""
    if (Path(builder.cache_dir) / datasets.config.DATASET_INFO_FILENAME).is_file():
        return
    manager = datasets.DownloadManager(download_config=datasets.DownloadConfig(use_etag=False))
    for file in (str(file) for files in (builder.config.data_files or {}).values() for file in files):
        if file.endswith(".parquet"):
            check_expansion(Path(manager.download(file)))


def tables_in(folder: Path) -> dict[str, Path]:
    """The tables at the top of a folder that are named by a split, as `train.csv` and `test.csv`."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        split = split_of(file.stem)
        if split is not None and file.suffix.lower() in TABLES and file.name not in METADATA and file.is_file():
            if split in found:
                raise ValueError(f"A split must have one table. Got {found[split].name} and {file.name} in {folder}.")
            found[split] = file
    return found


def with_images(rows: datasets.Dataset, folder: Path) -> datasets.Dataset:
    """Columns of a table that hold paths of images, which count from the folder, as columns of images."""
    found: dict[str, list[str | None]] = {}
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
            paths = rows.select_columns([name]).with_format("arrow")[:][name].to_pylist()
            if Path(next((path for path in paths if path is not None), "")).suffix.lower() in IMAGES:
                found[name] = [None if path is None else str(folder.absolute() / path) for path in paths]
    if not found:
        return rows
    places = {name: datasets.Image(decode=False) for name in found}

    def entries_of(batch: dict[str, Any], indices: list[int]) -> dict[str, list[Any]]:
        return {
            name: [paths[row] and {"bytes": None, "path": paths[row]} for row in indices]
            for name, paths in found.items()
        }

    # What is computed of the images is cached, until one changes.
    states = [state_of(path) for paths in found.values() for path in paths]
    rows = rows.map(
        entries_of,
        batched=True,
        with_indices=True,
        features=datasets.Features({**rows.features, **places}),
        new_fingerprint=Hasher.hash(["decoct paths of images", rows._fingerprint, found, states]),
        desc="Reading paths",
    )
    for name in found:
        rows = rows.cast_column(name, datasets.Image())
    return rows


def state_of(path: str | None) -> tuple[int, int] | None:
    """Size and time of the last change of a file; None for none."""
    try:
        status = os.stat(path or "")
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _check_counts(source: str, expected: dict[str, int] | None, builder: datasets.DatasetBuilder) -> None:
    """Raises ValueError unless each split holds as many images as lie in its folders."""
    loaded = {name: split.num_examples for name, split in builder.info.splits.items()}
    if expected is not None and loaded != expected:
        raise ValueError(
            f"Every image of {source!r} must be loaded once, in its split. Got {loaded}, where {expected} lie."
        )


def split_of_file(path: Path) -> str:
    """The split that a single file holds: that of the first word of its name, as in `test-00000`, else the training."""
    word = re.match(r"[^\W\d_]*", path.stem)
    return split_of(word[0] if word else "") or "train"


def name_of(source: str | datasets.Dataset) -> str:
    """A dataset's name, for messages."""
    return repr(source) if isinstance(source, str) else "the dataset in memory"
