"""A command's processes end together, whatever ends the command, and with one status and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Starts processes that say who they are and then sleep, in Python or, before they know their parent, while importing.
COMMAND = """
import os, sys
from decoct.run.supervision import local_processes, supervise
words = [sys.executable, "-c", sys.argv[1]]
raise SystemExit(supervise(words, local_processes(os.environ, int(sys.argv[2])), "interrupted"))
"""
WORK = """
import os, pathlib, time
from decoct.run.supervision import end_with_parent
{begin}
pathlib.Path(os.environ["PLACE"], f"{{os.getpid()}}.pid").touch()
time.sleep(60)
"""


def start(folder: Path, work: str, processes: int, ignored: str = "") -> subprocess.Popen[str]:
    """Starts a command that ignores a signal, or none, whatever this process ignores."""
    signals = [f"import signal; signal.signal(signal.{each}, signal.SIG_DFL)" for each in ("SIGINT", "SIGHUP")]
    if ignored:
        signals.append(f"signal.signal(signal.{ignored}, signal.SIG_IGN)")
    words = [sys.executable, "-c", "\n".join([*signals, COMMAND]), work, str(processes)]
    environment = {**os.environ, "PLACE": str(folder)}
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def started(folder: Path, count: int) -> list[int]:
    limit = time.monotonic() + 60
    while len(found := list(folder.glob("*.pid"))) < count:
        assert time.monotonic() < limit, "the processes must start"
        time.sleep(0.02)
    return [int(path.stem) for path in found]


def all_gone(processes: list[int], seconds: float = 10) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not any(Path(f"/proc/{each}").exists() and "Z" not in state(each) for each in processes):
            return True
        time.sleep(0.02)
    return False


def state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGHUP, 129)]
)
def test_a_signal_to_the_command_ends_its_work(tmp_path, count, number, status):
    command = start(tmp_path, WORK.format(begin="end_with_parent()"), count)
    processes = started(tmp_path, count)
    command.send_signal(number)
    _, said = command.communicate(timeout=20)
    assert command.returncode == status
    assert all_gone(processes)
    assert said == ("\ninterrupted\n" if number == signal.SIGINT else "")


def test_what_nohup_ignores_stays_ignored(tmp_path):
    command = start(tmp_path, WORK.format(begin="end_with_parent()"), 1, ignored="SIGHUP")
    started(tmp_path, 1)
    command.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert command.poll() is None
    command.terminate()
    command.communicate(timeout=20)
    assert command.returncode == 143


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_in_a_terminal_is_one_line_before_the_work_knows_of_signals(tmp_path):
    command = start(tmp_path, WORK.format(begin=""), 2)
    processes = started(tmp_path, 2)
    os.killpg(command.pid, signal.SIGINT)  # a terminal sends it to all processes
    _, said = command.communicate(timeout=20)
    assert (command.returncode, said) == (130, "\ninterrupted\n")
    assert all_gone(processes)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_work_behind_a_launcher_ends_with_the_command(tmp_path):
    work = WORK.format(begin="end_with_parent()")
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    command = start(tmp_path, launcher, 1)
    processes = started(tmp_path, 1)
    command.kill()
    command.wait(20)
    assert all_gone(processes)


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_all_processes_is_one_line_and_keeps_its_status(tmp_path, count):
    work = "import sys; sys.stderr.write('usage\\n'); sys.exit(2)"
    _, said = (command := start(tmp_path, work, count)).communicate(timeout=60)
    assert (command.returncode, said) == (2, "usage\n")


def test_an_error_of_one_process_is_shown_and_ends_the_others(tmp_path):
    work = (
        "import os, sys, time\nif os.environ['RANK'] == '1': sys.stderr.write('no space\\n'); sys.exit(1)\n"
        "time.sleep(60)"
    )
    _, said = (command := start(tmp_path, work, 2)).communicate(timeout=60)
    assert (command.returncode, said) == (1, "no space\n")


def test_a_process_that_was_killed_is_said_in_one_line(tmp_path):
    _, said = (command := start(tmp_path, "import os; os.kill(os.getpid(), 9)", 1)).communicate(timeout=60)
    assert command.returncode == 137
    assert said == "A process of this command was ended by SIGKILL. The machine may have run out of memory.\n"


def test_of_a_process_that_was_killed_the_others_tell_nothing(tmp_path):
    work = (
        "import os, signal, sys, time\nif os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(2)\nsys.stderr.write('connection lost\\n'); sys.exit(1)"
    )
    _, said = (command := start(tmp_path, work, 2)).communicate(timeout=60)
    assert command.returncode == 137
    assert said == "A process of this command was ended by SIGKILL. The machine may have run out of memory.\n"


def test_a_status_is_kept_behind_a_launcher_that_has_its_own(tmp_path):
    work = "from decoct.run.supervision import keep_status; keep_status(2); raise SystemExit(1)"
    (command := start(tmp_path, work, 1)).communicate(timeout=60)
    assert command.returncode == 2
