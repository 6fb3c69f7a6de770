"""A Space to look at distilled sets in: `python app.py FOLDER_OR_HUB_ID ...`, or the Space's variable SETS."""

import os
import sys

from decoct.explorer import build_explorer

if __name__ == "__main__":
    page, look = build_explorer(sys.argv[1:] or os.environ.get("SETS", "").split())
    page.launch(**look)
