"""Every kind of source gives the same columns; every bad input says what is wrong, where, and what to do."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from decoct.config import DataConfig
from decoct.data import (
    check_label_names,
    class_counts,
    eval_split_name,
    load_images,
    require_class_count,
    unreadable_rows,
)
from decoct.data.loading import bit_depth_of, load_train_and_eval
from decoct.data.opening import open_split, split_of_file


def picture(value: int = 100, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).convert(mode)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def in_memory(images: list, labels: list, label: object = None, **columns: list) -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "label": label or datasets.ClassLabel(names=["cat", "dog"])}
    )
    data = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    for name, values in columns.items():
        data = data.add_column(name, values)
    return data


def write_class_folders(root: Path, per_class: int = 2) -> None:
    for value, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            picture(50 + 100 * value + index).save(root / name / f"{index}.png")


# Sources


def test_image_folder_with_class_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "pets")
    images = load_images(str(tmp_path / "pets"))
    assert images.column_names == ["image", "label", "source_index"]
    assert images.features["label"].names == ["cat", "dog"]
    assert images["label"][:] == [0, 0, 1, 1]
    assert images["source_index"][:] == [0, 1, 2, 3]
    assert images.features["image"].mode == "RGB"
    assert images[3]["image"].getpixel((0, 0)) == (151, 151, 151)


def test_image_folder_with_splits(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "pets" / "train", per_class=3)
    write_class_folders(tmp_path / "pets" / "test", per_class=1)
    source = str(tmp_path / "pets")
    assert len(load_images(source)) == 6
    assert len(load_images(source, "test")) == 2
    assert len(load_images(source, "train[:4]")) == 4
    assert eval_split_name(source) == "test"
    assert eval_split_name(source, given="train") == "train"


def test_parquet_folder_and_file(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    in_memory([png(picture(i)) for i in range(4)], [0, 1, 1, 0]).to_parquet(folder / "train.parquet")
    in_memory([png(picture(9))], [1]).to_parquet(folder / "validation.parquet")
    images = load_images(str(folder))
    assert images["label"][:] == [0, 1, 1, 0]
    assert images[2]["image"].getpixel((0, 0)) == (2, 2, 2)
    assert eval_split_name(str(folder)) == "validation"
    from_file = load_images(str(folder / "validation.parquet"), "validation")
    assert from_file[0]["image"].getpixel((0, 0)) == (9, 9, 9)


def test_parquet_written_without_the_datasets_library(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": png(picture(7)), "path": None}, {"bytes": png(picture(8)), "path": None}]
    pq.write_table(pa.table({"img": cells, "label": [1, 0]}), tmp_path / "plain.parquet")
    images = load_images(str(tmp_path / "plain.parquet"))
    assert images.features["label"].names == ["0", "1"]
    assert images[1]["image"].getpixel((0, 0)) == (8, 8, 8)


def test_images_as_bytes() -> None:
    cells = [png(picture(7)), png(picture(8))]
    features = datasets.Features({"photo": datasets.Value("binary"), "label": datasets.Value("string")})
    source = datasets.Dataset.from_dict({"photo": cells, "label": ["b", "a"]}, features=features)
    for images in (load_images(source), load_images(source, image_column="photo")):
        assert images[1]["image"].getpixel((0, 0)) == (8, 8, 8) and images["label"][:] == [1, 0]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_tables_of_paths(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "pictures").mkdir()
    rows = {"train": ["dog", "cat", "dog"], "test": ["cat"]}
    for split, labels in rows.items():
        entries = [{"file": f"pictures/{split}-{row}.png", "label": label} for row, label in enumerate(labels)]
        for row, entry in enumerate(entries):
            picture(50 + row).save(tmp_path / entry["file"])
        if suffix == ".jsonl":
            text = "".join(f"{json.dumps(entry)}\n" for entry in entries)
        else:
            comma = "\t" if suffix == ".tsv" else ","
            text = f"file{comma}label\n" + "".join(f"{entry['file']}{comma}{entry['label']}\n" for entry in entries)
        (tmp_path / f"{split}{suffix}").write_text(text)
    for source in (str(tmp_path), str(tmp_path / f"train{suffix}")):
        images = load_images(source)
        assert images.features["label"].names == ["cat", "dog"] and images["label"][:] == [1, 0, 1]
        assert [image.getpixel((0, 0))[0] for image in images["image"]] == [50, 51, 52]
    train, test = load_train_and_eval(DataConfig(dataset=str(tmp_path)))
    assert test.features["label"].names == ["cat", "dog"] and test["label"][:] == [0] and len(train) == 3
    (tmp_path / "pictures" / "train-1.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 images that cannot be read:\n  row 1 \(.*train-1\.png\)"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("comma", [",", "\t"])
@pytest.mark.parametrize(
    ("labels", "test_labels", "names"),
    [
        (["010", "002", "001", "010"], ["100", "001"], ["001", "002", "010", "100"]),
        (["cat", "NA", "None", "null"], ["NA", "cat"], ["NA", "None", "cat", "null"]),
        (["NA", "None", "NA", "None"], ["NA", "None"], ["NA", "None"]),
        (["10", "2", "0", "10"], ["2", "10"], ["0", "2", "10"]),
        (["True", "false", "True", "True"], ["True", "True"], ["False", "True"]),
        (["True", "1", "True", "2"], ["1", "2"], ["1", "2", "True"]),
    ],
)
def test_labels_of_tables_are_what_is_written(tmp_path: Path, comma: str, labels, test_labels, names) -> None:
    suffix = "csv" if comma == "," else "tsv"
    for split, column in (("train", labels), ("test", test_labels)):
        rows = []
        for row, label in enumerate(column):
            picture(50 + row).save(tmp_path / f"{split}{row}.png")
            rows.append(comma.join([f"{split}{row}.png", label, f"{row / 2}" if row else "NA"]))
        (tmp_path / f"{split}.{suffix}").write_text("\n".join([comma.join(["file", "label", "score"]), *rows]))
    rows = open_split(str(tmp_path), "train", None)
    assert rows["score"][:] == [None, 0.5, 1.0, 1.5]  # as pandas reads it
    if "100" in names or "1" in names:  # a class of one split alone
        images = load_images(str(tmp_path), "train+test")
        assert images.features["label"].names == names
    else:
        train, test = load_train_and_eval(DataConfig(dataset=str(tmp_path)))
        assert train.features["label"].names == names
        assert [names[label].lower() for label in train["label"]] == [label.lower() for label in labels]
        assert [names[label].lower() for label in test["label"]] == [label.lower() for label in test_labels]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("lines.jsonl", '{"file": "a.png", "label": 1}\n{"file"', "JSON|Unterminated|Expected|Missing"),
        ("rows.csv", "file,label\na.png,1\nb.png,2,3,4\n", "Expected 2 fields in line 3, saw 4"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"Got '.*{name}': it cannot be opened: .*({reason})") as caught:
        load_images(str(tmp_path / name))
    assert "An error occurred while generating" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.csv", "", r"A dataset file must have rows\. Got '.*none\.csv', which is empty\."),
        ("none.jsonl", "", r"A dataset file must have rows\. Got '.*none\.jsonl', which is empty\."),
        ("header.csv", "file,label\n", r"A split must have rows\. Got none in the split 'train' of '.*header\.csv'\."),
        ("list.json", "[]", r"A split must have rows\. Got none in the split 'train' of '.*list\.json'\."),
        ("lines.jsonl", "\n\n", r"A split must have rows\. Got none in the split 'train' of '.*lines\.jsonl'\."),
    ],
)
def test_a_table_without_rows_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path / name))


@pytest.mark.parametrize("test", ["file\n2.png\n3.png\n", "file,label\n2.png,\n3.png,\n", "file,label\n"])
def test_a_table_of_a_test_split_whose_labels_are_kept_secret_is_left_out(tmp_path: Path, caplog, test: str) -> None:
    for row in range(4):
        picture(50 + row).save(tmp_path / f"{row}.png")
    (tmp_path / "train.csv").write_text("file,label\n0.png,cat\n1.png,dog\n")
    (tmp_path / "test.csv").write_text(test)
    assert load_images(str(tmp_path))["label"][:] == [0, 1]
    assert "The split 'test' is left out" in caplog.text and "test.csv" in caplog.text
    with pytest.raises(ValueError, match=r"Got \['train'\]\. Name one with --eval_split"):
        eval_split_name(str(tmp_path))


def test_splits_of_other_columns_are_answered_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"file": "0.png", "label": "cat"}\n')
    (tmp_path / "test.jsonl").write_text('{"file": "1.png"}\n')
    with pytest.raises(ValueError, match="cannot be opened: .*the same columns: put files without labels elsewhere"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("labels", [[], [None, None]])
def test_a_test_split_without_labels_is_not_measured_on(tmp_path: Path, labels: list[str | None]) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    for split, own in (("train", ["cat", "dog"]), ("validation", ["cat", "dog"]), ("test", labels)):
        rows = {"image": [picture(50 + row) for row in range(len(own))], "label": own}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    assert eval_split_name(str(tmp_path)) == "validation"


def test_an_empty_label_of_a_table_is_missing(tmp_path: Path) -> None:
    for row in range(3):
        picture(50 + row).save(tmp_path / f"{row}.png")
    (tmp_path / "train.csv").write_text("file,label\n0.png,NA\n1.png,\n2.png,cat\n")
    with pytest.raises(ValueError, match=r"Every row must have a label\. Got 1 of 3 rows .*: rows 1\."):
        load_images(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[("values.csv", "train"), ("valley.csv", "train"), ("testimonials.parquet", "train"), ("7.csv", "train")],
        *[("test-00000-of-00001.parquet", "test"), ("Test_set.csv", "test"), ("testing.tsv", "test")],
        *[("val2.csv", "validation"), ("validation.parquet", "validation"), ("valid set.csv", "validation")],
    ],
)
def test_the_split_of_a_single_file_is_a_whole_word_of_its_name(name: str, split: str) -> None:
    assert split_of_file(Path(name)) == split


def test_metadata_csv_with_text_labels(tmp_path: Path) -> None:
    for row, name in enumerate(("a.png", "b.png")):
        picture(60 + row).save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,owl\nb.png,cat\n")
    images = load_images(str(tmp_path))
    assert images.features["label"].names == ["cat", "owl"] and images["label"][:] == [1, 0]
    assert images[0]["image"].getpixel((0, 0)) == (60, 60, 60)


def test_class_names_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Class names must be UTF-8. Got 'caf\\udce9' in column 'label'"):
        load_images(in_memory([picture()], [0], datasets.ClassLabel(names=["caf\udce9", "dog"])))


def test_dataset_in_memory_is_left_as_it_was() -> None:
    source = in_memory([picture(i) for i in range(4)], [0, 1, 0, 1], other=list("abcd")).select([3, 1, 0])
    features = source.features.copy()
    images = load_images(source)
    assert images.column_names == ["image", "label", "source_index"]
    assert images["label"][:] == [1, 1, 0]
    assert [image.getpixel((0, 0))[0] for image in images["image"]] == [3, 1, 0]
    assert source.features == features and "other" in source.column_names


def test_loading_again_keeps_the_source_index() -> None:
    images = load_images(in_memory([picture(i) for i in range(4)], [0, 1, 0, 1]))
    assert load_images(images.select([2, 3]))["source_index"][:] == [2, 3]


def test_columns_can_be_named() -> None:
    source = in_memory([picture(1)], [0]).add_column("second", [1], feature=datasets.ClassLabel(names=["x", "y"]))
    source = source.rename_column("image", "photo")
    images = load_images(source, image_column="photo", label_column="second")
    assert images.features["label"].names == ["x", "y"] and images["label"][:] == [1]


# Modes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_every_mode_becomes_rgb_beside_a_colour_image(mode: str) -> None:
    images = load_images(in_memory([png(picture(255)), png(picture(255, mode))], [0, 1]))
    assert images.features["image"].mode == "RGB"
    assert images[1]["image"].mode == "RGB"
    assert images[1]["image"].getpixel((3, 3)) == (255, 255, 255)


def test_cmyk_becomes_rgb() -> None:
    buffer = io.BytesIO()
    picture(255, "CMYK").save(buffer, "JPEG")
    images = load_images(in_memory([buffer.getvalue()], [0]))
    assert images[0]["image"].mode == "RGB"
    assert min(images[0]["image"].getpixel((3, 3))) >= 250


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_all_grey_stays_one_channel(mode: str) -> None:
    images = load_images(in_memory([png(picture(255, mode))], [0]))
    assert images.features["image"].mode == "L"
    assert images[0]["image"].getpixel((0, 0)) == 255


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    wide = Image.fromarray(np.array([[0, 256, 128 * 256, 65535]] * 4, dtype=np.uint16))
    grey = load_images(in_memory([png(wide), png(picture(80, "L", (4, 4)))], [0, 1]))
    assert grey.features["image"].mode == "L"
    assert [grey[0]["image"].getpixel((x, 0)) for x in range(4)] == [0, 1, 128, 255]
    assert grey[1]["image"].getpixel((0, 0)) == 80
    mixed = load_images(in_memory([png(picture(80, size=(4, 4))), png(wide)], [0, 1]))
    assert mixed[1]["image"].getpixel((2, 0)) == (128, 128, 128)


def wide_image(*values: int) -> bytes:
    return png(Image.fromarray(np.array([values] * len(values), dtype=np.uint16)))


@pytest.mark.parametrize(
    ("highest", "depth"), [(200, 8), (256, 10), (1023, 10), (4000, 12), (16383, 14), (16384, 16), (65535, 16)]
)
def test_the_range_of_sixteen_bits_is_measured(highest: int, depth: int, caplog) -> None:
    source = in_memory([wide_image(0, highest // 2), wide_image(highest, 1)], [0, 1])
    images = load_images(source)
    shown = [images[row]["image"].getpixel((column, 0)) for row in (0, 1) for column in (0, 1)]
    assert shown == [0, (highest // 2) >> (depth - 8), highest >> (depth - 8), 1 >> (depth - 8)]
    assert bit_depth_of(images) == bit_depth_of(load_images(images)) == depth
    assert f"values up to {highest}" in caplog.text and "--bit_depth" in caplog.text


def test_the_range_of_sixteen_bits_can_be_given() -> None:
    source = in_memory([wide_image(0, 4000), b"broken"], [0, 1])
    images = load_images(source, bit_depth=16, skip_unreadable=True)
    assert images[0]["image"].getpixel((1, 0)) == 4000 >> 8 and bit_depth_of(images) == 16
    assert unreadable_rows(images) == [1]
    with pytest.raises(ValueError, match="bit_depth must hold all values of 16-bit images. Got 10, and 4000 in row 0"):
        load_images(source, bit_depth=10, skip_unreadable=True)


def test_splits_of_other_ranges_ask_for_the_depth(tmp_path: Path) -> None:
    for split, highest in (("train", 4000), ("test", 900)):
        in_memory([wide_image(0, highest)] * 2, [0, 1]).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match="Got 12 bits of 'train' and 10 of 'test' as measured: say which with --bit_"):
        load_train_and_eval(DataConfig(dataset=str(tmp_path)))
    train, test = load_train_and_eval(DataConfig(dataset=str(tmp_path), bit_depth=12))
    assert train[0]["image"].getpixel((1, 0)) == 250 and test[0]["image"].getpixel((1, 0)) == 56


def test_thirty_two_bits_are_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="mode F in row 1"):
        load_images(in_memory([png(picture()), buffer.getvalue()], [0, 1]))


def test_sizes_are_those_after_the_camera_rotation() -> None:
    upright = picture(10, size=(8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn: shown as 4 wide, 8 high
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", exif=exif)
    with pytest.raises(ValueError, match=r"4x8 \(row 0\)"):
        load_images(in_memory([buffer.getvalue()], [0]))


# Bad input


def test_unreadable_images_are_named_and_counted(tmp_path: Path) -> None:
    write_class_folders(tmp_path, per_class=3)
    (tmp_path / "cat" / "1.png").write_bytes(b"not an image")
    whole = (tmp_path / "dog" / "2.png").read_bytes()
    (tmp_path / "dog" / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError) as caught:
        load_images(str(tmp_path))
    message = str(caught.value)
    assert "2 of 6 images that cannot be read" in message and "--skip_unreadable" in message
    assert "row 1" in message and "1.png" in message
    assert "row 5" in message and "2.png" in message


def test_unreadable_images_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    cells = [png(picture(i)) for i in range(10)]
    for row in (0, 2, 3, 4, 5, 9):
        cells[row] = b"broken"
    source = in_memory(cells, [0, 1] * 5)
    with caplog.at_level(logging.WARNING, logger="decoct.data.loading"):
        images = load_images(source, skip_unreadable=True)
    assert images["source_index"][:] == [1, 6, 7, 8]
    assert images["label"][:] == [1, 0, 1, 0]
    assert [image.getpixel((0, 0))[0] for image in images["image"]] == [1, 6, 7, 8]
    assert unreadable_rows(images) == [0, 2, 3, 4, 5, 9]
    assert unreadable_rows(source) == []
    assert "6 of 10 images" in caplog.text and "row 0" in caplog.text and "and 1 more" in caplog.text


def test_a_row_without_an_image_is_unreadable() -> None:
    with pytest.raises(ValueError, match="row 1: the row has no image"):
        load_images(in_memory([png(picture()), None], [0, 1]))


def test_nothing_readable_is_an_error_even_when_skipping() -> None:
    with pytest.raises(ValueError, match="images must be readable, one of them at least. Got 1 of 1"):
        load_images(in_memory([b"broken"], [0]), skip_unreadable=True)


def test_a_file_damaged_after_a_first_load_is_found(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    assert len(load_images(str(tmp_path))) == 4
    (tmp_path / "dog" / "1.png").write_bytes(b"damaged since")
    with pytest.raises(ValueError, match=r"1 of 4 images that cannot be read:\n  row 3 \(.*1\.png\)"):
        load_images(str(tmp_path))


def test_several_splits_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="Got DatasetDict; of a DatasetDict, pass one split"):
        load_images(datasets.DatasetDict(train=in_memory([picture()], [0])))  # type: ignore[arg-type]


def test_no_such_dataset(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder or file") as caught:
        load_images(str(tmp_path / "nowhere"))
    assert "nowhere" in str(caught.value) and "Hub id" in str(caught.value)


def test_empty_folder_and_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be opened"):
        load_images(str(tmp_path))
    (tmp_path / "rows.csv").write_text("a,b\n")
    (tmp_path / "rows.txt").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"must be one of \['.parquet', '.csv'"):
        load_images(str(tmp_path / "rows.txt"))


def test_missing_split_lists_the_others() -> None:
    with pytest.raises(ValueError, match=r"split must be one of \['train', 'test'\].*Got 'dev'"):
        load_images("sample", "dev")
    with pytest.raises(ValueError, match="Got 'dev"):
        load_images("sample", "dev[:10]")


def test_no_split_to_evaluate_on(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"Got \['train'\].*--eval_split"):
        eval_split_name(str(tmp_path / "pets"))


def test_empty_split() -> None:
    with pytest.raises(ValueError, match="which is empty"):
        load_images(in_memory([], []))


def test_no_image_column() -> None:
    source = datasets.Dataset.from_dict({"file": ["a.png"], "label": [0]})
    with pytest.raises(ValueError, match=r"file \(string\).*datasets\.Image\(\)"):
        load_images(source)
    with pytest.raises(ValueError, match="Got 'file'"):
        load_images(source, image_column="file")
    with pytest.raises(ValueError, match=r"one of \['file', 'label'\]. Got 'picture'"):
        load_images(source, image_column="picture")


def test_several_image_columns() -> None:
    source = in_memory([picture()], [0]).add_column("mask", [{"bytes": png(picture()), "path": None}])
    with pytest.raises(ValueError, match=r"\['image', 'mask'\].*--image_column"):
        load_images(source)


def test_no_label_column_and_several() -> None:
    one = in_memory([picture()], [0])
    with pytest.raises(ValueError, match="must hold class labels.*--label_column"):
        load_images(one.remove_columns("label"))
    two = one.add_column("fine", [0], feature=datasets.ClassLabel(names=["tabby"]))
    with pytest.raises(ValueError, match=r"\['label', 'fine'\].*--label_column"):
        load_images(two)


def test_labels_of_fractions_name_the_column_and_the_fix() -> None:
    source = in_memory([picture(), picture()], [0.5, 1.5], datasets.Value("float32"))
    with pytest.raises(ValueError, match=r"column 'label' with float32 values.*class_encode_column\('label'\)"):
        load_images(source)


@pytest.mark.parametrize(
    ("labels", "kind", "names", "numbers"),
    [
        (["dog", "cat", "dog"], "string", ["cat", "dog"], [1, 0, 1]),
        ([True, False, True], "bool", ["False", "True"], [1, 0, 1]),
        ([1, 2, 1], "int32", ["1", "2"], [0, 1, 0]),
        ([100, 7, 31], "int64", ["7", "31", "100"], [2, 0, 1]),
        ([2, 0, 1], "uint8", ["0", "1", "2"], [2, 0, 1]),
    ],
)
def test_labels_without_names_become_classes(labels, kind, names, numbers, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        images = load_images(in_memory([picture()] * 3, labels, datasets.Value(kind)))
    assert images.features["label"].names == names and images["label"][:] == numbers
    # The names are shown unless they can be expected.
    assert (f"they make {len(names)} classes: {', '.join(names)}." in caplog.text) == (kind != "uint8")


def test_a_split_that_lacks_a_class_keeps_the_classes_of_the_other() -> None:
    part = in_memory([picture()] * 2, ["owl", "cat"], datasets.Value("string"))
    images = load_images(part, label_names=["cat", "dog", "owl"])
    assert images.features["label"].names == ["cat", "dog", "owl"] and images["label"][:] == [2, 0]
    with pytest.raises(ValueError, match=r"must be among the classes cat, dog\. Got owl as well"):
        load_images(part, label_names=["cat", "dog"])


@pytest.mark.parametrize("missing", [None, -1])
def test_missing_labels_name_the_rows(missing: int | None) -> None:
    labels = [0, missing, 1, missing]
    for kind in (datasets.ClassLabel(names=["cat", "dog"]), datasets.Value("int64")):
        with pytest.raises(ValueError, match="2 of 4 rows of column 'label'.*rows 1, 3"):
            load_images(in_memory([picture()] * 4, labels, kind))


def test_integer_labels() -> None:
    images = load_images(in_memory([picture()] * 3, [2, 0, 1], datasets.Value("int32")))
    assert images.features["label"].names == ["0", "1", "2"] and images["label"][:] == [2, 0, 1]


def test_mixed_sizes_name_two_rows() -> None:
    source = in_memory([picture(), picture(), picture(size=(12, 8))], [0, 1, 0])
    with pytest.raises(ValueError, match=r"8x8 \(row 0\) and 12x8 \(row 2\).*--image_size"):
        load_images(source)
    assert load_images(source, image_size=8)[2]["image"].size == (12, 8)


def test_images_that_are_not_square() -> None:
    source = in_memory([picture(size=(12, 8))] * 2, [0, 1])
    with pytest.raises(ValueError, match=r"12x8 \(row 0\).*--image_size"):
        load_images(source)


def test_class_with_too_few_images() -> None:
    images = load_images(in_memory([picture()] * 4, [0, 1, 0, 0]))
    assert class_counts(images) == [3, 1]
    require_class_count(images, 1)
    with pytest.raises(ValueError, match=r"at least 3 images. Got fewer in 1 of 2 classes: dog \(1\)"):
        require_class_count(images, 3)


def test_label_names_must_agree() -> None:
    check_label_names(["a", "b"], ("a", "b"), "teacher", "dataset")
    with pytest.raises(ValueError, match="another order"):
        check_label_names(["a", "b"], ["b", "a"], "teacher", "dataset")
    with pytest.raises(ValueError) as caught:
        check_label_names(["cat", "dog"], ["cat", "wolf"], "teacher t", "dataset d")
    message = str(caught.value)
    assert "teacher t: ['cat', 'dog']" in message and "dataset d: ['cat', 'wolf']" in message
    assert "missing: ['dog']; unknown: ['wolf']" in message
    many = [f"class number {label} with a long name" for label in range(1000)]
    with pytest.raises(ValueError) as caught:
        check_label_names(many, ["something else", *many[1:]], "teacher t", "dataset d")
    assert "missing: ['class number 0 with a long name']; unknown: ['something else']" in str(caught.value)
    assert len(str(caught.value)) < 1000 and "… and 995 more" in str(caught.value)
