"""From a Hub id, a folder, a file, the sample or a `Dataset` in memory to checked images with class labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from decoct.config import DataConfig
from decoct.config.data import HELD_OUT
from decoct.data.columns import SHOWN, find_image_column, find_label_column, listed, read_labels
from decoct.data.duplicates import count_shared_images
from decoct.data.held_out import split_off_validation
from decoct.data.inspection import GREY, checked_when_read, inspect_images, to_eight_bits
from decoct.data.measuring import measure_spec
from decoct.data.opening import builder_of, name_of, open_split

__all__ = [
    "bit_depth_of",
    "check_label_names",
    "class_counts",
    "eval_split_name",
    "load_images",
    "load_split",
    "loaded_images",
    "load_train_and_eval",
    "measure_spec",
    "noted",
    "require_class_count",
    "side_of",
    "source_rows",
    "unreadable_rows",
]

logger = logging.getLogger(__name__)

BIT_DEPTHS = (8, 10, 12, 14, 16)  # of cameras and scanners
LARGE = 100_000  # images; all of fewer are looked at before a training starts, so that it does not fail on the way
NOTES = "decoct: "  # before what is to be known of a loaded dataset, as JSON in its description


def load_images(
    source: str | datasets.Dataset,
    split: str = "train",
    *,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    skip_unreadable: bool = False,
    bit_depth: int | None = None,
    label_names: Sequence[str] | None = None,
    channels: int | None = None,
    read_unchecked: int | None = None,
) -> datasets.Dataset:
    """A checked dataset with exactly the columns `image`, `label` and `source_index`.

    `image` is RGB, or grey (mode L) if every image is grey; alpha channels are dropped, 16-bit grey keeps the upper
    byte of its range. `label` is a `ClassLabel`; text, whole numbers and truth values become classes in their order.
    `source_index` is the row in the split (or slice) that was loaded, and is kept when such a dataset is loaded again.
    Images keep their sizes. Every image is decoded once to check it (see `inspect_images`).

    Args:
        source: Hub id, local image folder, local parquet folder or file, local .csv, .tsv or .jsonl with paths,
            `sample` (embedded), or a dataset in memory.
        split: Split by name; slices such as `train[:1000]` are allowed. Not used for a dataset in memory.
        config_name: Configuration of a dataset that has several.
        image_column: Column of the images. Default: the only image column.
        label_column: Column of the labels. Default: the only `ClassLabel` column, else `label` or `labels`.
        image_size: Side that images will be resized to, in pixels; allows images of different sizes or not square.
        skip_unreadable: Leave unreadable images out with a warning; `unreadable_rows` lists them.
        bit_depth: Bits of 16-bit images that are used, 8 to 16. Default: measured; `bit_depth_of` tells.
        label_names: Classes of labels that have no names, in label order, as another split has them. Default: those
            that are found, which a warning shows.
        channels: Of the pixels that images will be made, 1 or 3, which is then not asked of them.
        read_unchecked: Of datasets with at least so many images none is decoded before it is read, and checked then
            (`CheckedImage`), unless unreadable ones are to be skipped, or grey or 16-bit images ask for a look at all.

    Raises:
        ValueError: For anything that cannot be loaded or trained on, with the rows or columns at fault and the remedy.
    """
    if not isinstance(source, (str, datasets.Dataset)):
        raise ValueError(
            f"source must be a Hub id, a path (as text) or a datasets.Dataset. Got {type(source).__name__}; "
            "of a DatasetDict, pass one split."
        )
    dataset = open_split(source, split, config_name) if isinstance(source, str) else source.with_format(None)
    if len(dataset) == 0:
        raise ValueError(f"split must have at least one image. Got {split!r} of {name_of(source)}, which is empty.")
    image_column = find_image_column(dataset, image_column)
    label_column = find_label_column(dataset, label_column)
    labels, label_feature = read_labels(dataset, label_column, label_names)
    source_index = _source_index(dataset)

    images = dataset.select_columns([image_column])
    if image_column != "image":
        images = images.rename_column(image_column, "image")
    images = images.cast_column("image", datasets.Image(decode=False))
    if read_unchecked is not None and len(images) >= read_unchecked and not skip_unreadable and bit_depth is None:
        checked = checked_when_read(images, image_size is not None, channels is not None)
        if checked is not None:
            return _with_labels(checked, labels, label_feature, source_index)
    inspected: pa.Table = inspect_images(images).with_format("arrow")[:]
    readable = _check_readable(images, inspected["error"], source_index, skip_unreadable)
    columns = ("mode", "width", "height", "highest")
    modes, widths, heights, highest = (inspected[key].take(readable).to_numpy() for key in columns)
    if image_size is None:
        _check_sizes(widths, heights, source_index[readable])
    images, found = _to_one_mode(images, modes, highest, readable, source_index, bit_depth)

    images = _with_labels(images, labels, label_feature, source_index)
    skipped = source_index[np.setdiff1d(np.arange(len(images)), readable)].tolist()
    if skipped:
        images = images.select(readable)
    if skipped or found:
        notes = {"unreadable": skipped, **({"bit_depth": found} if found else {})}
        images.info.description = f"{NOTES}{json.dumps(notes)}"
    return images


def side_of(asked: int | None, side: int, whose: str) -> int:
    """The side of images that a network or a set gives; raises ValueError if another one is asked for."""
    if asked not in (None, side):
        raise ValueError(f"image_size must be that of {whose}, {side}, or be left out. Got {asked}.")
    return side


def load_split(
    config: DataConfig,
    split: str,
    image_size: int | None = None,
    label_names: Sequence[str] | None = None,
    channels: int | None = None,
    read_unchecked: int | None = None,
) -> datasets.Dataset:
    """`load_images` of one split of the configured dataset; the training split is without what is held out of it.

    Args:
        split: By name; `held_out` is what is held out of the training split.
        image_size: Instead of the configured one, for example a network's.
        label_names: Classes of labels that have no names, in label order. Default: those that are found.
        channels, read_unchecked: As for `load_images`.

    Raises:
        ValueError: If `held_out` is asked for, and nothing is; otherwise as `load_images`.
    """
    fraction, held_out = config.validation_fraction or 0.0, split == HELD_OUT
    if held_out and not fraction:
        raise ValueError(
            f"validation_fraction must be positive for the split {HELD_OUT!r}. Got {config.validation_fraction}: train "
            "the teacher with --validation_fraction 0.1."
        )
    images = load_images(
        config.dataset,
        config.train_split if held_out else split,
        config_name=config.dataset_config,
        image_column=config.image_column,
        label_column=config.label_column,
        image_size=image_size or config.image_size,
        skip_unreadable=config.skip_unreadable,
        bit_depth=config.bit_depth,
        label_names=label_names,
        channels=channels,
        read_unchecked=read_unchecked,
    )
    if not fraction or not (held_out or split == config.train_split):
        return images
    return split_off_validation(images, fraction)[held_out]


def loaded_images(images: datasets.Dataset, image_size: int, config: DataConfig) -> datasets.Dataset:
    """Images from `load_images` as they are; other datasets in memory by it, with the columns of a configuration.

    Raises:
        ValueError: As `load_images`, or for something else than a dataset.
    """
    if not isinstance(images, datasets.Dataset):
        raise ValueError(
            f"images must be a datasets.Dataset (of a DatasetDict, one split). Got {type(images).__name__}."
        )
    kinds = {"image": datasets.Image, "label": datasets.ClassLabel, "source_index": datasets.Value}
    same = images.features.keys() == kinds.keys() and all(isinstance(images.features[k], kinds[k]) for k in kinds)
    if same and images.features["image"].mode is not None and len(images):
        return images if images.format["type"] is None else images.with_format(None)
    return load_images(
        images,
        image_column=config.image_column,
        label_column=config.label_column,
        image_size=image_size,
        skip_unreadable=config.skip_unreadable,
        bit_depth=config.bit_depth,
    )


def unreadable_rows(images: datasets.Dataset) -> list[int]:
    """Rows of the original split that `load_images(..., skip_unreadable=True)` left out."""
    return _notes(images).get("unreadable", [])


def bit_depth_of(images: datasets.Dataset) -> int | None:
    """The bits of 16-bit images that `load_images` took for their range; None where there were no such images."""
    return _notes(images).get("bit_depth")


def noted(images: datasets.Dataset, **notes: Any) -> datasets.Dataset:
    """The images, with more that is to be known of them."""
    images = images.select(range(len(images)))  # of which the description can be another one
    images.info.description = f"{NOTES}{json.dumps({**_notes(images), **notes})}"
    return images


def source_rows(images: datasets.Dataset) -> int:
    """Images of the split that these are, or were drawn from."""
    return _notes(images).get("drawn_from", len(images))


def _notes(images: datasets.Dataset) -> dict[str, Any]:
    description = images.info.description or ""
    return json.loads(description.removeprefix(NOTES)) if description.startswith(NOTES) else {}


def load_train_and_eval(config: DataConfig) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The training split and the evaluation split of the configured dataset; images in both are reported.

    Images of large splits are checked when they are read.
    """
    eval_split = eval_split_name(config.dataset, config.dataset_config, config.eval_split, config.label_column)
    train = load_split(config, config.train_split, read_unchecked=LARGE)
    evaluation = load_split(config, eval_split, label_names=train.features["label"].names, read_unchecked=LARGE)
    depths = bit_depth_of(train), bit_depth_of(evaluation)
    if None not in depths and depths[0] != depths[1]:
        raise ValueError(
            f"Splits must have the same range. Got {depths[0]} bits of {config.train_split!r} and {depths[1]} of "
            f"{eval_split!r} as measured: say which with --bit_depth."
        )
    if shared := count_shared_images(train, evaluation):
        logger.warning(
            "%d of %d images of the split %r are in the split %r too, so that accuracies measured on them flatter.",
            shared, len(evaluation), eval_split, config.train_split,
        )  # fmt: skip
    return train, evaluation


def eval_split_name(
    source: str | datasets.Dataset,
    config_name: str | None = None,
    given: str | None = None,
    label_column: str | None = None,
) -> str:
    """The split to measure accuracy on: `given`, else `test`, else `validation` (`valid`, `val`).

    A split that is empty, or whose labels are all missing or negative, as those of test sets that are kept secret, is
    passed over; no image is decoded.

    Raises:
        ValueError: If none is given and the dataset has none of these with labels.
    """
    if given is not None:
        return given
    builder = builder_of(source, config_name) if isinstance(source, str) else None
    names = list(builder.info.splits) if builder is not None else []
    present = [name for name in ("test", "validation", "valid", "val") if name in names]
    for name in present:
        if builder is None or not builder.info.splits[name].num_examples:
            continue
        if _is_labelled(builder.as_dataset(split=name), label_column):
            return name
    unlabelled = f" of which {present} have no labels" if present else ""
    raise ValueError(
        f"{name_of(source)} must have a split named test or validation, with labels, to measure accuracy on. "
        f"Got {names}{unlabelled}. Name one with --eval_split."
    )


def _is_labelled(dataset: datasets.Dataset, label_column: str | None) -> bool:
    """Whether a split has a label that is not negative; one whose column cannot be told has, until it is loaded."""
    try:
        column = find_label_column(dataset, label_column)
    except ValueError:
        return True
    if not isinstance(dataset.features[column], datasets.ClassLabel | datasets.Value):
        return True
    values = dataset.select_columns([column]).with_format("arrow")[:][column]
    if not pa.types.is_integer(values.type):
        return values.null_count < len(values)
    return bool(pc.any(pc.greater_equal(values, 0)).as_py())


def class_counts(images: datasets.Dataset) -> list[int]:
    """Images of each class, in label order."""
    labels = images.with_format("numpy")["label"][:]
    return np.bincount(labels, minlength=images.features["label"].num_classes).tolist()


def require_class_count(images: datasets.Dataset, needed: int) -> None:
    """Raises ValueError that names every class with fewer than `needed` images, and how many it has."""
    names = images.features["label"].names
    short = [f"{name} ({count})" for name, count in zip(names, class_counts(images), strict=True) if count < needed]
    if short:
        raise ValueError(
            f"Every class must have at least {needed} images. Got fewer in {len(short)} of {len(names)} classes: "
            f"{listed(short)}. Ask for fewer images per class, or leave these classes out."
        )


def check_label_names(expected: Sequence[str], got: Sequence[str], expected_of: str, got_of: str) -> None:
    """Raises ValueError that shows where both lists differ, unless they hold the same names in the same order.

    Args:
        expected: Label names that count, for example a teacher's.
        got: Label names to compare.
        expected_of: Whose `expected` are, for the message; likewise `got_of`.
    """
    expected, got = list(expected), list(got)
    if expected == got:
        return
    if sorted(expected) == sorted(got):
        place = next(label for label, (one, other) in enumerate(zip(expected, got, strict=True)) if one != other)
        found = (
            f"the same names in another order, so every label would mean another class; label {place} is "
            f"{expected[place]!r} and {got[place]!r}"
        )
    else:
        missing = [name for name in expected if name not in set(got)]
        extra = [name for name in got if name not in set(expected)]
        found = f"others, missing: {_shown(missing)}; unknown: {_shown(extra)}"
    raise ValueError(
        f"Label names of {got_of} must be those of {expected_of}, in the same order. Got {found}.\n"
        f"{expected_of}: {_shown(expected)}\n{got_of}: {_shown(got)}\n"
        "Cast the labels with `ds.cast_column('label', datasets.ClassLabel(names=...))`, or use a matching pair."
    )


def _shown(names: list[str]) -> str:
    """A list with its first names."""
    rest = f" … and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{names[:SHOWN]}{rest}"


def _with_labels(
    images: datasets.Dataset, labels: np.ndarray, feature: datasets.ClassLabel, source_index: np.ndarray
) -> datasets.Dataset:
    """Images with their labels and rows."""
    images = images.add_column("label", labels, feature=feature)  # type: ignore[call-arg]
    return images.add_column("source_index", source_index, feature=datasets.Value("int64"))  # type: ignore[call-arg]


def _source_index(dataset: datasets.Dataset) -> np.ndarray:
    """Row numbers; those of a dataset that `load_images` made are kept."""
    if set(dataset.column_names) == {"image", "label", "source_index"}:
        return np.asarray(dataset.with_format("numpy")["source_index"][:], dtype=np.int64)
    return np.arange(len(dataset), dtype=np.int64)


def _check_readable(
    images: datasets.Dataset, errors: pa.ChunkedArray, source_index: np.ndarray, skip: bool
) -> np.ndarray:
    """Positions of the readable images; an error or, with `skip`, a warning names the others."""
    bad = np.flatnonzero(pc.is_valid(errors).to_numpy()).tolist()
    if bad:
        shown = []
        for row in bad[:SHOWN]:
            path = (images[row]["image"] or {}).get("path")
            shown.append(f"  row {source_index[row]}{f' ({path})' if path else ''}: {errors[row]}")
        rest = f"\n  … and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        listing = f"{len(bad)} of {len(errors)} images that cannot be read:\n" + "\n".join(shown) + rest
        if len(bad) == len(errors):
            raise ValueError(f"images must be readable, one of them at least. Got {listing}")
        if not skip:
            raise ValueError(
                f"images must be readable. Got {listing}\nRepair them, or leave them out with --skip_unreadable."
            )
        logger.warning("Left out: %s", listing)
    return np.setdiff1d(np.arange(len(errors)), bad)


def _check_sizes(widths: np.ndarray, heights: np.ndarray, rows: np.ndarray) -> None:
    """Raises ValueError with two example rows unless all images are square and of one size."""
    odd = np.flatnonzero((widths != widths[0]) | (heights != heights[0]))
    if len(odd) or widths[0] != heights[0]:
        examples = [0, *odd[:1]]
        shown = " and ".join(f"{widths[i]}x{heights[i]} (row {rows[i]})" for i in examples)
        raise ValueError(
            f"Images must be square and of one size. Got {shown}. Give --image_size to resize and crop them."
        )


def _to_one_mode(
    images: datasets.Dataset,
    modes: np.ndarray,
    highest: np.ndarray,
    readable: np.ndarray,
    source_index: np.ndarray,
    bit_depth: int | None,
) -> tuple[datasets.Dataset, int | None]:
    """Images that decode as grey (L) if all are grey, else as RGB; and the bits of 16-bit images, None without any."""
    unbounded = np.flatnonzero(np.isin(modes, ("I", "F")))
    if len(unbounded):
        row = source_index[readable[unbounded[0]]]
        raise ValueError(
            "Images must have 8 or 16 bits a channel, because the range of 32 bits is not known. "
            f"Got mode {modes[unbounded[0]]} in row {row}; convert such images to 8 bits."
        )
    wide = np.flatnonzero([mode.startswith("I;16") for mode in modes])
    if len(wide):
        bit_depth = _bit_depth(highest[wide], source_index[readable[wide]], bit_depth)
        images = to_eight_bits(images, readable[wide].tolist(), bit_depth)
    grey = all(mode in GREY or mode.startswith("I;16") for mode in set(modes))
    return images.cast_column("image", datasets.Image(mode="L" if grey else "RGB")), bit_depth if len(wide) else None


def _bit_depth(highest: np.ndarray, rows: np.ndarray, given: int | None) -> int:
    """The bits of the range of 16-bit images: as given, else the fewest of `BIT_DEPTHS` that hold all values.

    Raises:
        ValueError: If a value is above the range that is given.
    """
    largest = int(highest.max())
    if given is None:
        measured = next(depth for depth in BIT_DEPTHS if largest < 2**depth)
        logger.warning(
            "%d images of 16 bits have values up to %d, so that their range is taken to be %d bits; --bit_depth says "
            "another.",
            len(highest), largest, measured,
        )  # fmt: skip
        return measured
    if largest >= 2**given:
        raise ValueError(
            f"bit_depth must hold all values of 16-bit images. Got {given}, and {largest} in row "
            f"{rows[int(highest.argmax())]}."
        )
    return given
