"""Draws docs/preview.png: the first images of each class of distilled sets, a row an image, a column a class.

    python benchmarks/picture.py demo/infoutil demo/igds --ipc 10 --rows 2

The sets of the picture there are the demo's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from decoct.distilled.dataset import load_distilled, read_manifest
from decoct.methods import method_name

SIDE = 0.9  # inches of an image
SOURCE = Path(__file__).resolve().parents[1]


def draw(folders: list[Path], ipc: int, rows: int) -> Figure:
    """Rows of each set below one another, with the names of the classes and of the methods."""
    names = read_manifest(folders[0])["label_names"]
    height = rows * len(folders)
    figure = Figure(figsize=(SIDE * (len(names) + 1), SIDE * (height + 0.3)), dpi=100)
    axes = figure.subplots(height, len(names), squeeze=False)
    for number, folder in enumerate(folders):
        distilled = load_distilled(folder, ipc)
        for label, name in enumerate(names):
            for row, index in enumerate((distilled.labels == label).nonzero().flatten()[:rows]):
                place = axes[number * rows + row, label]
                place.imshow(distilled.images[index].movedim(0, -1), cmap="gray", vmin=0, vmax=255)
                if number == row == 0:
                    place.set_title(name, fontsize=9)
        middle = axes[number * rows + (rows - 1) // 2, 0]
        middle.set_ylabel(method_name(read_manifest(folder)["config"]["method"]), fontsize=11, fontweight="bold")
    for place in axes.flat:
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.06, right=0.995, bottom=0.01, top=0.92, wspace=0.05, hspace=0.05)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="distilled run folders with the same classes")
    parser.add_argument("--ipc", type=int, default=10, help="which of their sizes")
    parser.add_argument("--rows", type=int, default=2, help="images of a class that are shown")
    parser.add_argument("--output", type=Path, default=SOURCE / "docs" / "preview.png", help="file to write")
    options = parser.parse_args()
    draw(options.folders, options.ipc, options.rows).savefig(options.output)


if __name__ == "__main__":
    main()
