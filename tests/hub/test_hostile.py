"""What a hostile or damaged repository may hold: a clear error for each, nothing executed, nothing else read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, file_download
from worlds import write_run

from decoct.config import VerifyConfig
from decoct.hub.verify import verify, verify_folder
from decoct.run.folder import sha256

from .test_pickles import Payload
from .test_verify import FILE, change_manifest, change_rows, found, rehash

OTHER_FILE = "data/ipc_1/train-00000-of-00001.parquet"
MARKUP = ("{{ 7 * 7 }}", "<script>alert(1)</script>", "- a: &b [*b] # | ../../etc")
OUTSIDE = ["../secret", "data/../../secret", "data/ipc_1/../../../secret", "~/secret", "C:\\secret", "..\\secret"]


def list_as(folder: Path, name: str, digest: str) -> None:
    """Adds a file to the manifest's list."""
    named = json.loads((folder / "manifest.json").read_text())["files"]
    change_manifest(folder, files={**named, name: digest})


@pytest.mark.parametrize("name", [*OUTSIDE, "https://host/secret", "data/ipc_1/a\x1b[2Jb.parquet", "a\nb", ""])
def test_paths_that_leave_the_folder_are_named_and_not_opened(run_folder, name):
    secret = run_folder.parent / "secret"
    secret.write_text("secret")
    list_as(run_folder, name, sha256(secret))
    report = verify_folder(run_folder)
    assert "it was not opened" in found(report, "paths") and report.files == 4
    assert {problem.check for problem in report.problems} == {"paths"}
    assert "\x1b" not in str(report) and "secret\n" not in found(report, "hashes")


def test_an_absolute_path_is_not_opened(run_folder):
    list_as(run_folder, "/etc/hostname", "0" * 64)
    report = verify_folder(run_folder)
    assert "lists '/etc/hostname', which is not relative" in found(report, "paths") and report.files == 4


def test_links_out_of_the_folder_and_pipes_are_named_and_not_opened(run_folder):
    secret = run_folder.parent / "secret"
    secret.mkdir()
    (secret / "file.parquet").write_text("secret")
    (run_folder / "data/ipc_2/link.parquet").symlink_to(secret / "file.parquet")
    (run_folder / "data/ipc_3").symlink_to(secret)
    os.mkfifo(run_folder / "report.html")  # opening it would wait for ever
    (run_folder / "results.json").symlink_to(run_folder / "nothing")
    (run_folder / "a\x1b]0;title\x07").write_text("")
    problems = found(verify_folder(run_folder), "paths")
    for name in ("data/ipc_2/link.parquet: is a link", "data/ipc_3: is a link"):
        assert name + " that leads out of the folder" in problems
    for name in ("report.html", "results.json"):
        assert name + ": is not a regular file" in problems
    assert r"a\x1b]0;title\x07: is empty or has control characters" in problems


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"text"', "{}", nested(100_000), '{"label_names": NaN}', "\x00\x01", "\ud800"]
)
def test_a_manifest_that_is_none_is_a_problem(run_folder, text):
    (run_folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    report = verify_folder(run_folder)
    assert found(report, "manifest") and not report.ok and report.files == 0
    assert "not checked" in str(report)


WRONG_FIELDS: list[tuple[str, Any]] = [
    ("label_names", "red"),
    ("label_names", []),
    ("label_names", ["red", "red", "blue"]),
    ("label_names", ["red", None, "blue"]),
    ("label_names", ["red", "gr\x1b[31meen", "blue"]),
    ("label_names", ["red", "line\nbreak", "blue"]),
    ("label_names", {"0": "red"}),
    ("image_size", "8"),
    ("image_size", 0),
    ("image_size", 8.5),
    ("image_size", True),
    ("channels", 4),
    ("channels", None),
    ("image_mean", [0.5]),
    ("image_mean", ["0.5"] * 3),
    ("image_mean", [float("nan")] * 3),
    ("image_std", [0.0] * 3),
    ("image_std", 0.5),
    ("ipcs", [0]),
    ("ipcs", ["1"]),
    ("ipcs", [1, 1]),
    ("ipcs", "12"),
    ("ipcs", {}),
    ("files", []),
    ("files", {}),
    ("files", {"README.md": "short"}),
    ("files", {"README.md": None}),
    ("config", []),
    ("config", {"method": "infoutil"}),
    ("config", {"method": "other", "tiles_per_image": 4, "views": 2}),
    ("config", {"method": ["infoutil"], "tiles_per_image": 4, "views": 2}),
    ("config", {"method": "infoutil", "tiles_per_image": 10**9, "views": 2}),
    ("config", {"method": "infoutil", "tiles_per_image": "4", "views": 2}),
    ("config", {"method": "infoutil", "tiles_per_image": 4, "views": -1}),
    ("config", {"method": "infoutil", "tiles_per_image": 4, "views": False}),
    ("dataset", 5),
    ("decoct_version", None),
]


@pytest.mark.parametrize(("name", "value"), WRONG_FIELDS)
def test_a_manifest_with_wrong_types_names_the_field(run_folder, name, value):
    change_manifest(run_folder, **{name: value})
    report = verify_folder(run_folder)
    assert name in found(report, "manifest") and "\x1b" not in str(report)
    assert report.checked == ["paths", "code", "manifest"]


def test_numbers_far_too_large_cost_no_memory(run_folder):
    change_manifest(
        run_folder,
        image_size=10**12,
        ipcs=[1, 2, 10**15],
        config={"method": "infoutil", "tiles_per_image": 4, "views": 10**12},
    )
    report = verify_folder(run_folder)
    assert "1000000000000 x 1000000000000 px" in found(report, "images")
    assert "of shape (1000000000000, 3)" in found(report, "schema")


def test_label_names_with_markup_are_only_names(tmp_path):
    folder = write_run(tmp_path / "run", names=MARKUP)
    report = verify_folder(folder)
    assert report.ok, str(report)


def test_hostile_label_names_in_parquet_are_named_and_shown_harmlessly(run_folder):
    table = pq.read_table(run_folder / FILE)
    stored = json.loads(table.schema.metadata[b"huggingface"])
    stored["info"]["features"]["label"]["names"] = ["../../red", "\x1b[2Jgreen", "{{ blue }}"]
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(stored)}), run_folder / FILE)
    rehash(run_folder)
    report = verify_folder(run_folder)
    assert "../../red" in found(report, "labels") and "\x1b" not in str(report)
    assert {problem.check for problem in report.problems} == {"labels"}


@pytest.mark.parametrize("content", ["{", "[]", '{"info": 5}', '{"info": {"features": {"label": 3}}}', nested(100_000)])
def test_a_parquet_schema_with_other_features_is_a_problem(run_folder, content):
    table = pq.read_table(run_folder / FILE).replace_schema_metadata({"huggingface": content})
    pq.write_table(table, run_folder / FILE)
    rehash(run_folder)
    report = verify_folder(run_folder)
    assert FILE in found(report, "schema") + found(report, "parquet")


def image_header(side: int) -> bytes:
    """A PNG that claims to be `side` pixels wide and has nothing."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("side", [8, 20_000, 2**31 - 1])
def test_an_image_that_claims_to_be_huge_is_not_decoded(run_folder, side):
    change_rows(
        run_folder, lambda columns: columns["image"].__setitem__(0, {"bytes": image_header(side), "path": None})
    )
    assert "row 0 (class 'red')" in found(verify_folder(run_folder), "images")


@pytest.mark.parametrize("kept", [0, 3, 500, -1, -9])
def test_a_truncated_parquet_file_is_named(run_folder, kept):
    content = (run_folder / FILE).read_bytes()
    (run_folder / FILE).write_bytes(content[:kept])
    report = verify_folder(run_folder)
    for check in ("hashes", "parquet"):
        assert FILE in found(report, check) and OTHER_FILE not in found(report, check)
    assert not found(report, "counts")


@pytest.mark.parametrize("name", ["README.md", "preview.png", OTHER_FILE, FILE])
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.8, 0.999])
def test_a_flipped_byte_names_the_file(run_folder, name, share):
    content = bytearray((run_folder / name).read_bytes())
    content[int(share * len(content))] ^= 0xFF
    (run_folder / name).write_bytes(content)
    problems = verify_folder(run_folder).problems
    assert {problem.where for problem in problems if problem.check == "hashes"} == {name}
    assert {problem.where for problem in problems} <= {name, str(Path(name).parent)}


def test_damage_that_the_hashes_cover_up_never_ends_the_check(run_folder):
    content = (run_folder / FILE).read_bytes()
    for offset in range(0, len(content), max(1, len(content) // 20)):
        (run_folder / FILE).write_bytes(content[:offset] + bytes([content[offset] ^ 0x55]) + content[offset + 1 :])
        rehash(run_folder)
        report = verify_folder(run_folder)
        assert not found(report, "hashes") and len(str(report).splitlines()) >= 16


def test_the_manifest_of_another_set_fits_none_of_the_files(run_folder, tmp_path):
    other = write_run(tmp_path / "other", method="igds", names=("cyan", "magenta", "yellow"))
    shutil.copy(other / "manifest.json", run_folder / "manifest.json")
    report = verify_folder(run_folder)
    assert "fits none of the data files: it may be that of another dataset" in found(report, "hashes")
    assert "'cyan'" in found(report, "labels") and "'tiles' must be" in found(report, "schema")


@pytest.mark.parametrize(
    "files",
    ["https://host/data.parquet", "../other/*.parquet", "/etc/*", "hf://datasets/user/other/*.parquet", "**", [5], 7],
)
def test_a_card_that_loads_from_elsewhere_is_named(run_folder, files):
    configs = [{"config_name": f"ipc_{ipc}", "data_files": files} for ipc in (1, 2)]
    (run_folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    rehash(run_folder)
    assert "ipc_1 must load data/ipc_1/*.parquet" in found(verify_folder(run_folder), "card")


def test_yaml_that_asks_for_code_or_memory_gets_neither(run_folder, tmp_path):
    marker = tmp_path / "executed"
    doubled = "".join(f"x{n}: &x{n} [{', '.join(f'*x{n - 1}' for _ in range(9))}]\n" for n in range(1, 30))
    cards = [
        f"configs: !!python/object/apply:os.mkdir ['{marker}']\n",
        f"x0: &x0 [lol]\n{doubled}configs: *x29\n",
        f"x0: &x0 [lol]\n{doubled}configs: [{{config_name: ipc_1, data_files: *x29}}]\n",
        f"configs: {nested(2000)}\n",
    ]
    for card in cards:
        (run_folder / "README.md").write_text(f"---\n{card}---\n")
        rehash(run_folder)
        report = verify_folder(run_folder)
        assert found(report, "card") and len(str(report)) < 10_000
    assert not marker.exists()


def test_pickles_and_code_in_a_dataset_are_named(run_folder, tmp_path):
    marker = tmp_path / "executed"
    (run_folder / "run.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    (run_folder / "evaluation").mkdir()
    for name in ("weights.BIN", "report.html", "evaluation/student.safetensors"):
        (run_folder / name).write_bytes(pickle.dumps(Payload(marker)))
    problems = found(verify_folder(run_folder), "code")
    for name in ("run.py", "weights.BIN", "report.html", "evaluation/student.safetensors"):
        assert f"{name}: " in problems
    assert problems.count("Do not load it") == 4 and not marker.exists()


def test_a_loading_script_in_a_repository_is_named_and_not_executed(run_folder, tmp_path, hub):
    marker = tmp_path / "executed"
    (run_folder / "set.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    to_hub(hub, run_folder)
    assert "set.py: may hold code" in found(verify(VerifyConfig(source="user/set")), "code")
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        datasets.load_dataset("user/set", "ipc_1", split="train")
    assert not marker.exists()


def to_hub(hub, folder: Path, **options: Any) -> None:
    """Uploads a folder as it is to `user/set`."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("user/set", repo_type="dataset", exist_ok=True, **options)
    api.upload_folder(repo_id="user/set", folder_path=folder, repo_type="dataset")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_during_the_download_is_said_and_loses_nothing(run_folder, hub, monkeypatch):
    to_hub(hub, run_folder)
    real, kept = file_download.http_get, []

    def full(url: str, temporary: Any, **options: Any) -> None:
        if "ipc_2" not in url:
            kept.append(url)
            return real(url, temporary, **options)
        with open("/dev/full", "wb", buffering=0) as device:
            return real(url, device, **options)

    with monkeypatch.context() as patched:
        patched.setattr(file_download, "http_get", full)
        with pytest.raises(OSError, match="user/set could not be downloaded: no space left .*set HF_HOME"):
            verify(VerifyConfig(source="user/set"))
    hub.requests.clear()
    assert verify(VerifyConfig(source="user/set")).ok
    again = {hub.url + request.removeprefix("GET ") for request in hub.requests if request.startswith("GET")}
    assert kept and not again & set(kept)  # what was complete is not downloaded again


def test_a_download_without_the_rights_says_so(run_folder, hub, monkeypatch):
    to_hub(hub, run_folder, private=True)
    stranger = hub.add_token("hf_strangerstranger", user="stranger")
    for token in (stranger, "hf_wrongwrongwrong", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises((ValueError, OSError), match="token") as refused:
            verify(VerifyConfig(source="user/set"))
        assert "user/set" in str(refused.value) and "\n" not in str(refused.value)
        assert not token or token not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", hub.add_token("hf_readerreader", write=False))
    assert verify(VerifyConfig(source="user/set")).ok


def test_an_earlier_download_is_not_taken_for_what_the_hub_holds(run_folder, hub, monkeypatch):
    """Where the Hub refuses or is down, the client by itself falls back to the copy that it has."""
    to_hub(hub, run_folder)
    assert verify(VerifyConfig(source="user/set")).ok
    (run_folder / FILE).write_bytes(b"damaged")
    to_hub(hub, run_folder)
    assert not verify(VerifyConfig(source="user/set")).ok
    hub.repos["dataset", "user/set"].private = True
    for token in (hub.add_token("hf_strangerstranger", user="stranger"), "hf_wrongwrongwrong", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises((ValueError, OSError), match="token"):
            verify(VerifyConfig(source="user/set"))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.fail(1, "stop")
    with pytest.raises(OSError, match="could not be downloaded"):
        verify(VerifyConfig(source="user/set"))


def test_a_token_that_cannot_be_sent_is_not_shown(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret\x07secret")
    with pytest.raises(PermissionError, match="HF_TOKEN") as raised:
        verify(VerifyConfig(source="user/set"))
    assert "secret" not in str(raised.value)


def test_an_arrow_extension_of_its_own_runs_no_code(run_folder, tmp_path):
    marker = tmp_path / "executed"
    payload = pickle.dumps(Payload(marker))
    table = pq.read_table(run_folder / FILE)
    fields = [
        pa.field(
            each.name,
            each.type.storage_type,
            metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": payload},
        )
        if isinstance(each.type, pa.ExtensionType)
        else each
        for each in table.schema
    ]
    arrays = [
        each.combine_chunks().storage if isinstance(each.type, pa.ExtensionType) else each for each in table.columns
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), run_folder / FILE)
    rehash(run_folder)
    assert not verify_folder(run_folder).ok
    assert not marker.exists()
