import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from decoct.data.spec import ImageSpec
from decoct.distilled.dataset import DistilledSet, load_distilled
from decoct.distilled.manifest import READ_FIELDS
from decoct.distilled.schema import spec_fields, spec_of
from decoct.pages.explored import open_set


def test_everything_stored_comes_back(run_folder):
    distilled = load_distilled(run_folder, 3)
    rows = datasets.load_dataset(str(run_folder), "ipc_3", split="train")
    assert len(distilled) == 9 and distilled.ipc == 3 and distilled.tiles_per_image == 4
    assert distilled.images.dtype == torch.uint8 and distilled.labels.tolist() == rows["label"][:]
    for pixels, image in zip(distilled.images, rows["image"], strict=True):
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))
    assert distilled.tile_logits.shape == (9, 4, 3) and distilled.tile_logits.dtype == torch.float32
    assert distilled.view_logits.shape == (9, 3, 3) and distilled.view_boxes.shape == (9, 3, 5)
    np.testing.assert_array_equal(distilled.tile_logits.numpy(), np.array(rows["tile_logits"][:], dtype=np.float32))
    np.testing.assert_array_equal(distilled.view_boxes.numpy(), np.array(rows["view_boxes"][:], dtype=np.float32))
    assert distilled.spec.label_names == ("red", "green", "blue")


def test_the_fingerprint_tells_contents_apart(run_folder):
    first, second = load_distilled(run_folder, 1), load_distilled(run_folder, 3)
    assert first.fingerprint() == load_distilled(run_folder, 1).fingerprint()
    assert first.fingerprint() != second.fingerprint()
    assert second.head(3).fingerprint() != second.fingerprint()


def test_an_unknown_ipc_lists_those_that_exist(run_folder):
    with pytest.raises(ValueError, match=r"ipc must be one of \[1, 3\].*Got 10"):
        load_distilled(run_folder, 10)


def test_a_missing_manifest_or_folder_is_an_error(run_folder, tmp_path):
    with pytest.raises(ValueError, match="existing folder or a Hub id"):
        load_distilled(tmp_path / "nowhere", 1)
    (run_folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match="manifest.json"):
        load_distilled(run_folder, 1)


def test_images_and_labels_must_be_the_manifests(run_folder):
    file = run_folder / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "image_size": 32}))
    with pytest.raises(ValueError, match="32 x 32 px.*row 0"):
        load_distilled(run_folder, 1)
    file.write_text(json.dumps({**manifest, "label_names": ["green", "red", "blue"]}))
    with pytest.raises(ValueError, match="label names"):
        load_distilled(run_folder, 1)


@pytest.mark.parametrize("column", ["image", "label"])
def test_data_without_images_or_labels_is_named_where_it_is_read_and_explored(run_folder, column):
    (path,) = run_folder.glob("data/ipc_1/*.parquet")
    pq.write_table(pq.read_table(path).drop([column]), path)
    for read in (lambda: load_distilled(run_folder, 1), lambda: open_set(str(run_folder))):
        with pytest.raises(ValueError, match=rf"data/ipc_1/{path.name} of .* can be read\. Got: no column {column}\."):
            read()


def test_a_damaged_image_is_named(run_folder):
    (path,) = run_folder.glob("data/ipc_1/*.parquet")
    table = pq.read_table(path)
    place, kind = table.schema.get_field_index("image"), table.schema.field("image").type
    images = table["image"].to_pylist()
    images[2]["bytes"] = images[2]["bytes"][:40]
    pq.write_table(table.set_column(place, "image", pa.array(images, kind)), path)
    with pytest.raises(
        ValueError, match=rf"Images of {run_folder}, ipc_1 must be readable\. Got one in row 2 that is not"
    ):
        load_distilled(run_folder, 1)


def test_a_set_without_views_says_how_to_get_them(make_run, teacher):
    distilled = load_distilled(make_run("bare", [1], teacher, views=0), 1)
    assert distilled.view_logits is None and distilled.view_boxes is None
    distilled.check_labels("tiles")
    with pytest.raises(ValueError, match="--views"):
        distilled.check_labels("views")


def test_what_images_are_like_goes_into_a_manifest_and_back():
    spec = ImageSpec(16, 1, (0.5,), (0.25,), ("a", "b"))
    fields = json.loads(json.dumps(spec_fields(spec)))
    assert spec_of(fields) == spec
    assert set(fields) <= set(READ_FIELDS)
    rows = DistilledSet.unlabelled(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), [1, 0], 1, 1, spec)
    assert (rows.spec, rows.labels.tolist(), rows.manifest) == (spec, [1, 0], fields)
