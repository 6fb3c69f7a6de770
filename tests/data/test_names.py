"""Class names that people use are taken everywhere; those that no card can show are refused, the character named."""

from __future__ import annotations

import pytest
from worlds import coloured, encoded, labelled, write_run

from decoct.data.loading import load_images
from decoct.data.names import check_names
from decoct.hub.verify import verify_folder
from decoct.pages.markdown import one_line

PEOPLE = ("mille\u00a0feuille", "می\u200cخواهم", "क्\u200dष")
REFUSED = {"a\nb": "U+000A", "a\u202eb": "U+202E", "\u2066a": "U+2066", "a\ud800": "U+D800", "a\u2028": "U+2028"}


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_cannot_be_shown_name_the_character(name):
    with pytest.raises(ValueError, match=rf"Got {REFUSED[name].replace('+', '.')} in .*label 1") as refused:
        check_names(["red", name], "the dataset")
    assert str(refused.value).isprintable()


def test_names_with_joiners_and_wide_spaces_are_loaded_and_verified(tmp_path):
    images = labelled(encoded(coloured([0, 1, 2])), [0, 1, 2], PEOPLE)
    assert tuple(load_images(images).features["label"].names) == PEOPLE
    report = verify_folder(write_run(tmp_path / "run", names=PEOPLE))
    assert report.ok, str(report)


def test_a_card_keeps_joiners():
    assert one_line(PEOPLE[1]) == PEOPLE[1] and one_line("a\u202eb\nc") == "a b c"
