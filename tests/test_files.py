"""Files of strangers: bounded memory and time, and one line for what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from decoct.files import MOST_DIGITS, parse_yaml, read_card_header, read_json, read_object, read_yaml

LAUGHS = "x0: &x0 [lol]\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGES = "x0: &x0 {a: 1}\n" + "".join(f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}\n" for n in range(1, 30))


def test_plain_values_anchors_and_merges_are_read():
    assert parse_yaml("base: &b {x: 1}\nc: {<<: *b, y: 2}\nd: 1e-4\n", "f") == {
        "base": {"x": 1},
        "c": {"x": 1, "y": 2},
        "d": "1e-4",
    }
    assert parse_yaml("", "f") is None


def test_only_true_and_false_are_truth_values():
    text = "[no, yes, on, off, n, Y, No, OFF, true, False, 'true', !!bool yes, ~, 1]"
    words = ["no", "yes", "on", "off", "n", "Y", "No", "OFF"]
    assert parse_yaml(text, "f") == [*words, True, False, "true", True, None, 1]
    assert parse_yaml("{no: a, on: b}", "f") == {"no": "a", "on": "b"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "Line 3: the key 'a' is there twice."),
        ("a:\n  - {b: 1, b: 2}", "Line 2: the key 'b' is there twice."),
        ("&a [*a]", "Its aliases make more than"),
        (LAUGHS, "Its aliases make more than"),
        (MERGES, "Its aliases make more than"),
        ("[" * 5000, "It is nested too deeply."),
        ("a: !!python/object/apply:os.mkdir [a]", "Line 1: could not determine a constructor"),
        ("a: !!float ''", "A value is not of the type that it names"),
        ("a: 1" + ":01" * MOST_DIGITS, "A number may have"),
        ("a: [", "Line 1: "),
        ("\x00", "unacceptable character"),
    ],
)
def test_other_yaml_is_refused_in_one_line(text, reason):
    with pytest.raises(ValueError, match="own.yaml must be valid YAML. ") as refused:
        parse_yaml(text, "own.yaml")
    assert reason in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1, "a": 2}', "The key 'a' is there twice."),
        (b"[" * 100_000, "It is nested too deeply."),
        (b"{", "Expecting"),
        (b"\xff", "codec can't decode"),
        (b"", "Expecting value"),
        (b"1" * 5000, "Exceeds the limit"),
    ],
)
def test_other_json_is_refused_in_one_line(tmp_path, content, reason):
    (tmp_path / "own.json").write_bytes(content)
    with pytest.raises(ValueError, match="own.json must be JSON. ") as refused:
        read_json(tmp_path / "own.json")
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_an_object_is_an_object(tmp_path):
    (tmp_path / "run.json").write_text("[1]")
    assert read_json(tmp_path / "run.json") == [1]
    with pytest.raises(ValueError, match=r"run.json must be a JSON object. Got \[1\]: restore the file"):
        read_object(tmp_path / "run.json")


def test_the_header_of_a_card(tmp_path):
    card = tmp_path / "README.md"
    for text, header in (("---\nlicense: mit\n---\n# A", {"license": "mit"}), ("# A\n---\nb: 1\n---\n", {}), ("", {})):
        card.write_text(text)
        assert read_card_header(card) == header
    card.write_text("---\n- 1\n---\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        read_card_header(card)


def test_sizes_are_limited_before_anything_is_read(tmp_path):
    with (tmp_path / "own").open("wb") as file:
        file.truncate(10**12)
    for read, kind in ((read_json, "JSON"), (read_yaml, "valid YAML")):
        with pytest.raises(ValueError, match=rf"own must be {kind}. It may have .* bytes, and has more."):
            read(tmp_path / "own")


BOUNDED = """
import resource, sys
from pathlib import Path
from decoct.files import read_json, read_yaml
resource.setrlimit(resource.RLIMIT_AS, (512 * 2**20,) * 2)
for name in sys.argv[1:]:
    try:
        (read_json if name.endswith("json") else read_yaml)(Path(name))
    except ValueError as error:
        print(error)
"""


def test_bombs_take_little_memory(tmp_path):
    files = {"laughs.yaml": LAUGHS, "merges.yaml": MERGES, "deep.json": "[" * 10**6, "deep.yaml": "[" * 10**5}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(10**12)
    words = [sys.executable, "-c", BOUNDED, *files, "huge.json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*files, "huge.json"]
