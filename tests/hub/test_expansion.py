"""Parquet that is small on disk and huge in memory is refused before it is read, by verify and by the reader."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from decoct.data.expansion import check_expansion
from decoct.distilled.dataset import load_distilled
from decoct.distilled.parquet import check_footer, check_images
from decoct.hub.verify import verify_folder

from .test_verify import FILE, found, rehash

LIMITED = """
import resource, sys
from pathlib import Path
import decoct
import decoct.distilled.dataset, decoct.hub.verify, decoct.data.loading
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1500 * 2**20,) * 2)
report = decoct.hub.verify.verify_folder(Path(sys.argv[1]))
print([problem.what for problem in report.problems if problem.check == "parquet"])
try:
    decoct.distilled.dataset.load_distilled(sys.argv[1], 2)
except ValueError as error:
    print(error)
try:
    decoct.load_images(sys.argv[2])
except ValueError as error:
    print(error)
"""


def repeated(path: Path, rows: int, size: int, **options: str) -> Path:
    """Images that are one value, which a dictionary has once."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([b"x" * size]))
    images = pa.StructArray.from_arrays([values, pa.nulls(rows, pa.string())], names=["bytes", "path"])
    pq.write_table(pa.table({"image": images}), path, store_schema=False, **options)
    return path


def test_rows_codecs_and_repeated_images(tmp_path):
    path = repeated(tmp_path / "a.parquet", rows=200, size=2**19)
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="a.parquet must have at most 100 rows. Got 200."):
        check_footer(path, 100)
    check_footer(path, 200)
    with pytest.raises(ValueError, match="a.parquet must not repeat its images"):
        check_images(path)
    with pytest.raises(ValueError, match="must be compressed by Snappy, as decoct writes it. Got ZSTD"):
        check_footer(repeated(tmp_path / "a.parquet", rows=2, size=9, compression="zstd"), 200)
    lists = pa.ListArray.from_arrays(pa.array([0, 10**7, 2 * 10**7], pa.int32()), np.zeros(2 * 10**7, np.int64))
    pq.write_table(pa.table({"image": lists}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="must expand to at most .*20,000,000 values"):
        check_footer(tmp_path / "a.parquet", 200)


def test_files_as_decoct_writes_them_pass(run_folder):
    check_footer(run_folder / FILE, 6)
    check_images(run_folder / FILE)


def test_a_small_file_of_gigabytes_takes_little_memory(run_folder, tmp_path):
    """The manifest allows for the rows; what they take shows in the file alone. So it is with real images."""
    classes = 5000
    manifest = json.loads((run_folder / "manifest.json").read_text())
    names = [f"class {number}" for number in range(classes)]
    (run_folder / "manifest.json").write_text(json.dumps({**manifest, "label_names": names}))
    path = repeated(run_folder / FILE, rows=2 * classes, size=2**20)
    rehash(run_folder)
    assert path.stat().st_size < 300_000  # for 10 GB
    (tmp_path / "images").mkdir()
    images = Path(shutil.copy(path, tmp_path / "images" / "train.parquet"))
    words = [sys.executable, "-c", LIMITED, run_folder, images.parent]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    distilled, real = done.stdout.splitlines()[-2:]
    assert "must not repeat its images" in distilled
    assert f"{images} must expand to at most" in real and "write it again with each image once" in real


@pytest.mark.parametrize("kind", ["repeated", "compressed", "runs", "in lists", "text"])
def test_real_images_that_expand(tmp_path, kind):
    path = tmp_path / "a.parquet"
    if kind == "repeated":
        repeated(path, rows=200, size=2**20)
    elif kind == "compressed":
        one = pa.table({"image": [b"x" * (66 * 2**20)]})
        pq.write_table(one, path, compression="zstd", use_dictionary=False, write_statistics=False)
    elif kind == "runs":
        pq.write_table(pa.table({"label": np.zeros(10**7, np.int64)}), path)
    else:
        values = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), pa.array(["x" * 2**20]))
        column = pa.ListArray.from_arrays(pa.array(range(201), pa.int32()), values) if kind == "in lists" else values
        pq.write_table(pa.table({"image": column}), path, store_schema=False)
    assert path.stat().st_size < 400_000
    with pytest.raises(ValueError, match=r"a.parquet must expand to at most [\d,]* bytes"):
        check_expansion(path)


def test_real_images_as_they_are_pass(sample_part, tmp_path):
    check_expansion(sample_part / "train.parquet")
    # Some images twice, and labels as text.
    noise = [np.random.default_rng(number).bytes(2**16) for number in range(20)]
    columns = {"image": noise * 100, "label": ["a", "b"] * 1000}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", compression="zstd", row_group_size=1000)
    check_expansion(tmp_path / "a.parquet")


def test_verify_names_a_file_of_too_many_rows(run_folder):
    pq.write_table(pa.table({"label": pa.array([0] * 10**6, pa.int64())}), run_folder / FILE)
    rehash(run_folder)
    assert "must have at most 10,000 rows. Got 1,000,000." in found(verify_folder(run_folder), "parquet")
    with pytest.raises(ValueError, match=r"must be parquet that can be read. Got: .*at most 6 rows"):
        load_distilled(run_folder, 2)
