"""The preview picture."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.font_manager import FontEntry
from PIL import Image

from decoct.pages import fonts
from decoct.pages.preview import PreviewRow, save_preview, save_strips


def row(name: str = "cat", channels: int = 3, heat: bool = True, side: int = 16) -> PreviewRow:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (channels, side, side), dtype=np.uint8)
    heatmap = generator.normal(size=(4, 4)) if heat else None
    return PreviewRow(name, image, [(2.0, 4.0, 8.0, 8.0)], heatmap, image[:, ::-1], [0.25])


def colors(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)


def size(path) -> tuple[int, int]:
    return Image.open(path).size


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("heat", [False, True])
def test_picture_of_grey_and_rgb_images(tmp_path, channels, heat):
    save_preview(tmp_path / "preview.png", [row(channels=channels, heat=heat)])
    pixels = colors(tmp_path / "preview.png")
    yellow = (abs(pixels - [255, 214, 10]) < 3).all(axis=1)
    assert yellow.any(), "the crop's outline is missing"
    red = pixels[:, 0] > pixels[:, 2] + 60
    if channels == 1:
        assert (red & ~(pixels[:, 1] > 150)).any() == heat, "only a heat map colours a grey image red"


def test_at_most_ten_classes_and_two_images_of_each(tmp_path):
    ten = [row(f"class {label}") for label in range(10) for _ in range(2)]
    save_preview(tmp_path / "ten.png", ten)
    save_preview(tmp_path / "more.png", [row(f"class {label}") for label in range(30) for _ in range(5)])
    assert size(tmp_path / "ten.png") == size(tmp_path / "more.png")
    assert (colors(tmp_path / "ten.png") == colors(tmp_path / "more.png")).all()


def test_heat_map_column_only_where_there_is_one(tmp_path):
    save_preview(tmp_path / "without.png", [row(heat=False)])
    save_preview(tmp_path / "with.png", [row(heat=True)])
    assert size(tmp_path / "without.png")[0] < size(tmp_path / "with.png")[0]


def test_a_class_name_is_text_not_a_formula(tmp_path):
    for name in ("$\\frac{1$", "", "a very long name " * 20, "x" * 300):
        save_preview(tmp_path / "preview.png", [row(name)])
        assert size(tmp_path / "preview.png")[0] > 200


def test_names_without_a_font_are_numbers_of_the_cards_list(tmp_path, monkeypatch, recwarn):
    names = ["chat \u00e9t\u00e9", "\u732b", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]
    installed = [font for font in fonts.fontManager.ttflist if font.name == fonts.BUNDLED]
    monkeypatch.setattr(fonts.fontManager, "ttflist", installed)
    assert fonts.drawable(names) == ([names[0], "class 2", names[2]], [fonts.BUNDLED])
    save_preview(tmp_path / "preview.png", [row(name) for name in names])
    assert not [warning for warning in recwarn if "missing from font" in str(warning.message)]
    other = FontEntry(fname="/fonts/other.ttf", name="Other")
    monkeypatch.setattr(fonts.fontManager, "ttflist", [*installed, other])
    known = fonts.characters_of
    monkeypatch.setattr(fonts, "characters_of", lambda file: {0x732B} if file == other.fname else known(file))
    assert fonts.drawable(names) == (names, [fonts.BUNDLED, "Other"])


def test_a_flat_heat_map_and_a_mosaic_larger_than_its_source(tmp_path):
    flat = row()
    flat.heatmap = np.zeros((4, 4))
    flat.distilled = np.zeros((3, 64, 64), dtype=np.uint8)
    save_preview(tmp_path / "preview.png", [flat, row("dog", heat=False)])
    assert size(tmp_path / "preview.png")[0] > 200


def test_no_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="rows"):
        save_preview(tmp_path / "preview.png", [])


@pytest.mark.parametrize("channels", [1, 3])
def test_strips_show_every_image(tmp_path, channels):
    generator = np.random.default_rng(0)
    red = [np.zeros((2, 3, channels, 8, 8), np.uint8) for _ in range(2)]
    red[1][:] = 255
    red[1][1, 2] = generator.integers(0, 256, (channels, 8, 8))
    path = tmp_path / "strips.png"
    save_strips(path, {"β = 0": red[0], "β = 0.5": red[1]}, ["first", "a $second$ class"])
    pixels = np.asarray(Image.open(path).convert("L")).astype(int)
    assert (pixels == 0).mean() > 0.2  # the black group
    save_strips(tmp_path / "wider.png", {"β = 0": red[0], "β = 0.1": red[0], "β = 0.5": red[1]})
    assert Image.open(tmp_path / "wider.png").size[0] > pixels.shape[1]


def test_strips_that_do_not_fit_together_are_refused(tmp_path):
    images = np.zeros((2, 3, 3, 8, 8), np.uint8)
    for wrong in ({}, {"a": images, "b": images[:1]}, {"a": images.astype(float)}, {"a": images[0]}):
        with pytest.raises(ValueError, match="groups must"):
            save_strips(tmp_path / "x.png", wrong)
    with pytest.raises(ValueError, match="label_names must be 2 names"):
        save_strips(tmp_path / "x.png", {"a": images}, ["one"])
