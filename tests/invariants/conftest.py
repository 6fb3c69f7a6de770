"""Runs of several processes, and runs that are killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import forked
import pyarrow.parquet as pq
import pytest

from decoct.arguments import parse_config
from decoct.config import DistillConfig
from decoct.files import read_json
from decoct.synthesis.distill import distill

# `driver.py FOLDER --option value ...` distils; each process writes what it had to do to `FOLDER/rank_N.json`.
DRIVER = """
import json, os, sys
from accelerate import Accelerator
from decoct.arguments import parse_config
from decoct.config import DistillConfig
from decoct.run import shards
from decoct.synthesis.distill import distill

if __name__ == "__main__":
    written, write = [], shards.write_parquet
    shards.write_parquet = lambda table, path: (written.append(path.name), write(table, path))
    config = parse_config(DistillConfig, sys.argv[2:])
    state = Accelerator()
    world, rank = state.num_processes, state.process_index
    distill(config)
    with open(os.path.join(sys.argv[1], f"rank_{rank}.json"), "w") as file:
        json.dump({"world": world, "written": written}, file)
"""


@pytest.fixture(scope="module")
def uninterrupted(once, arguments, request) -> Path:
    """The module's run (`arguments`) in this process, from start to end."""

    def make(folder: Path) -> None:
        distill(parse_config(DistillConfig, [*arguments, "--output_dir", str(folder / "run")]))

    return once(f"uninterrupted-{request.path.stem}", make) / "run"


@pytest.fixture
def written_by_two(launch, arguments, tmp_path) -> list[set[str]]:
    """The module's run in `run/` by two processes: the names of the shards that each of them wrote."""
    (tmp_path / "driver.py").write_text(DRIVER)
    options = [tmp_path, *arguments, "--output_dir", tmp_path / "run"]
    done = launch(tmp_path / "driver.py", *options, cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    ranks = [read_json(tmp_path / f"rank_{rank}.json") for rank in range(2)]
    assert [rank["world"] for rank in ranks] == [2, 2]
    return [set(rank["written"]) for rank in ranks]


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    """`assert_same_run(folder, expected)` compares two finished runs."""
    return compare_runs


@pytest.fixture
def kill_when(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """`kill_when(ready, script, *arguments, cwd)` starts a script and kills it as soon as `ready()`."""

    def kill(ready: Callable[[], bool], script: Path, *arguments: object, cwd: Path) -> None:
        start_and_kill(ready, script, arguments, cwd, tmp_path_factory.mktemp("logs"))

    return kill


def compare_runs(folder: Path, expected: Path) -> None:
    """Equal tables, manifests (but for seconds and folder), and the same files."""
    for ipc in read_json(expected / "manifest.json")["ipcs"]:
        ours, theirs = (pq.read_table(next(run.glob(f"data/ipc_{ipc}/*.parquet"))) for run in (folder, expected))
        assert ours.schema == theirs.schema
        assert ours.equals(theirs)
    manifests = []
    for run in (folder, expected):
        manifest = read_json(run / "manifest.json")
        manifest.pop("seconds", None)  # a run that was continued has none
        del manifest["config"]["output_dir"]
        manifests.append(manifest)
    assert manifests[0] == manifests[1]
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}


def start_and_kill(ready: Callable[[], bool], script: Path, arguments: Sequence[object], cwd: Path, logs: Path) -> None:
    """Starts a script and ends it by SIGKILL as soon as `ready()`."""
    (process,) = forked.start(script, arguments, cwd, logs)
    try:
        limit = time.monotonic() + 200
        while not ready():
            assert process.is_alive(), f"ended before it was killed:\n{(logs / forked.ERRORS).read_text()}"
            assert time.monotonic() < limit, f"not ready in time:\n{(logs / forked.ERRORS).read_text()}"
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, "the command must have been killed, not ended by itself"
