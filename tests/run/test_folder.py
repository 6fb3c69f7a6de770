"""Folders: who may write there, what is kept and what is removed, and what is said before any work."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from decoct.arguments import message_of, parse_config
from decoct.config import DistillConfig, EvaluateConfig, TeacherConfig, VerifyConfig
from decoct.files import read_object
from decoct.run import lock
from decoct.run.files import named_errors, write_tensors, written_whole
from decoct.run.folder import check_folder, claim_folder, write_text
from decoct.run.lock import LOCK_FILE, one_writer
from decoct.run.outputs import check_output, require_space

HOLD = """
import sys, time
from pathlib import Path
from decoct.run.lock import one_writer
with one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_takes_over_from_a_dead_one(tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        (folder / "part.parquet.123.tmp").write_text("half")
        with (
            pytest.raises(ValueError, match=f"process {first.pid} on .* has been writing since 20"),
            one_writer(folder),
        ):
            pass
        first.kill()
        first.wait()
        assert (folder / LOCK_FILE).is_file()
        with one_writer(folder):
            (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_ranks_write_beside_each_other_and_never_beside_one_that_works_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "ENDING_SECONDS", 0.05)
    with one_writer(tmp_path, rank=0):
        (tmp_path / "part.parquet.123.tmp").write_text("another rank's")
        with one_writer(tmp_path, rank=1):
            for rank in (0, 1, None):
                with (
                    pytest.raises(ValueError, match=f"process {os.getpid()} on .* has been writing since"),
                    one_writer(tmp_path, rank),
                ):
                    pass
    assert [path.name for path in tmp_path.iterdir()] == ["part.parquet.123.tmp"]
    with one_writer(tmp_path), pytest.raises(ValueError, match="one command at a time"), one_writer(tmp_path, rank=0):
        pass
    assert not list(tmp_path.iterdir()), "who works alone clears away"


def test_a_folder_on_the_hub_is_refused():
    with pytest.raises(ValueError, match=r"output_dir must be a folder of this machine .* Got 'hf://buckets/me/run'"):
        check_output(DistillConfig(output_dir="hf://buckets/me/run"))


def test_a_folder_that_stays_empty_is_removed_and_an_error_frees_it(tmp_path):
    with pytest.raises(RuntimeError), one_writer(tmp_path / "a" / "b"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_overwriting_keeps_other_kinds_of_runs_and_other_peoples_files(tmp_path):
    claim_folder(tmp_path, {"method": "rded"}, False, ["manifest.json"])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="must be empty or hold a teacher. Got .*, which holds a distilled dataset"):
        check_folder(tmp_path, {"model": "convnet3"}, overwrite=True)
    claim_folder(tmp_path, {"method": "random"}, True, ["manifest.json"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.json"]


def test_a_folder_with_nothing_but_a_claim_is_as_good_as_new_unless_other_machines_may_work_there(tmp_path):
    claim_folder(tmp_path, {"method": "rded"}, False, [])
    with pytest.raises(ValueError, match="differs in\n  method: 'rded' there, 'random' now"):
        claim_folder(tmp_path, {"method": "random"}, False, [], alone=False)
    check_folder(tmp_path, {"method": "random"}, overwrite=False)
    claim_folder(tmp_path, {"method": "random"}, False, [])
    assert read_object(tmp_path / "run.json") == {"method": "random"}
    for other, message in (({"method": "rded", "ipc": 1}, "differs in"), ({"model": "convnet3"}, "which holds a dist")):
        with pytest.raises(ValueError, match=message):  # it may be a file of somebody else's
            check_folder(tmp_path, other, overwrite=False)
    (tmp_path / "shards").mkdir()
    with pytest.raises(ValueError, match="differs in"):
        check_folder(tmp_path, {"method": "rded"}, overwrite=False)


@pytest.mark.parametrize("content", ["[1]", "{", ""])
def test_a_damaged_run_file_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json must be"):
        claim_folder(tmp_path, {"method": "rded"}, True, ["*"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EMFILE])
def test_what_the_operating_system_refuses_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch, number):
    file = tmp_path / "results.json"
    write_text(file, "old")

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        self.touch()
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        with pytest.raises(OSError) as refused:
            write_text(file, "new")
    said = message_of(refused.value)
    assert said.startswith(f"{file}: {os.strerror(number)}. ")
    assert said.endswith("; a long run continues with the same command.") and "\n" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"] and file.read_text() == "old"


def test_errors_of_libraries_name_the_file_too(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"), named_errors(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="something else"), named_errors(tmp_path):
        raise RuntimeError("something else")
    import torch

    said = "[enforce fail at inline_container.cc:672] . unexpected pos 14592 vs 14484"  # by torch, on a full disk
    for free, words in ((0, "No space left on device"), (2**30, "Input/output error")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        with (
            pytest.raises(OSError, match=f"{words}: '{tmp_path / 'checkpoint'}'"),
            named_errors(tmp_path / "checkpoint"),
        ):
            raise RuntimeError(said)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OSError, match="file"):
        write_tensors(blocked / "weights.safetensors", {"a": torch.zeros(1)})


def test_few_file_descriptors_are_one_line_and_the_work_goes_on_later(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from decoct.arguments import run\n"
        "from decoct.run.folder import write_text\n"
        "def main():\n    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); write_text(Path(sys.argv[1]), 'x')\n"
        "run(main)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "file")]
    result = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert "Too many open files. Allow more open files (`ulimit -n`)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    with written_whole(tmp_path / "file") as temporary:
        temporary.touch()


def test_too_little_memory_is_one_line():
    assert message_of(MemoryError()).startswith("not enough memory. Lower --batch_size")


def test_outputs_are_checked_before_work(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "file").touch()
    data = {"dataset": str(tmp_path / "data")}
    for folder in ("data", "data/run", "."):
        with pytest.raises(ValueError, match="output_dir must be apart from what is read"):
            check_output(DistillConfig(**data, output_dir=str(tmp_path / folder)))
    for folder in ("file", "file/run"):
        with pytest.raises(ValueError, match="output_dir must be a folder"):
            check_output(DistillConfig(**data, output_dir=str(tmp_path / folder)))
    with pytest.raises(ValueError, match=r"output_dir must have room for about .* MB"):
        require_space(tmp_path / "new" / "run", 10**18)
    check_output(DistillConfig(**data, output_dir=str(tmp_path / "run")))
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(ValueError, match="output_dir must be writable"):
        check_output(DistillConfig(**data, output_dir=str(tmp_path / "run")))


@pytest.mark.parametrize(
    ("config_class", "words", "message"),
    [
        (DistillConfig, "--method random --beta 3", "beta must be left out with method 'random'"),
        (DistillConfig, "--method igds --utility=loss", "utility must be left out with method 'igds'"),
        (DistillConfig, "--tune --pool_share 0.2", "pool_share must be left out with --tune, which chooses them"),
        (VerifyConfig, "--sample 9", "sample must be left out without --teacher"),
        (DistillConfig, "--noise_scale 2", "noise_scale must be left out where whole images are taken"),
        (DistillConfig, "--slots 0 --label_bits 4", "label_bits must be left out with --slots 0"),
        (DistillConfig, "--private", "private must be left out without --push_to_hub"),
        (TeacherConfig, "--checkpoint_steps 0", "checkpoint_steps must be at least 1. Got 0."),
        (TeacherConfig, "--crop_padding -1", "crop_padding must be at least 0. Got -1."),
        (EvaluateConfig, "--steps 3", "steps must be left out for task 'accuracy'"),
        (EvaluateConfig, "--overwrite", "overwrite must be left out"),
    ],
)
def test_options_that_change_nothing_or_are_out_of_range_are_refused(capsys, config_class, words, message):
    with pytest.raises(SystemExit) as stop:
        parse_config(config_class, words.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_options_of_other_methods_in_a_preset_are_left_alone():
    assert parse_config(DistillConfig, ["--preset", "demo", "--method", "random"]).sampling_steps == 50
