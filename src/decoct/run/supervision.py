"""The processes of one command: started together, ended together, with one exit status and one line for Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

__all__ = ["PARENT", "end_with_parent", "keep_status", "local_processes", "supervise"]

PARENT = "DECOCT_PARENT"  # set for processes that end with the one that started them
STATUS = "DECOCT_STATUS"  # a file for the exit status, where a launcher stands between, which has its own
PR_SET_PDEATHSIG = 1  # of Linux's prctl
POLL_SECONDS = 0.05
SAME_ERROR_SECONDS = 3.0  # processes that meet the same error end within this time of each other

Environment = Mapping[str, str]


class Stopped(Exception):
    """A signal that asks this process to end."""


def supervise(words: Sequence[str], environments: Sequence[Environment], interrupted: str) -> int:
    """Runs one command in as many processes as there are environments, and ends them all when one fails.

    The processes end with this one, however it ends. Ctrl-C reaches this process alone. What processes but the first
    write to stderr is shown only where they fail and the first does not.

    Args:
        words: The command.
        interrupted: Line that is written after Ctrl-C.

    Returns:
        The exit status: 0, that of the process that failed, 128 + n for one ended by signal n, 130 after Ctrl-C.
    """
    with tempfile.TemporaryDirectory() as folder, _stopped_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        status_file = os.path.join(folder, "status")
        processes: list[subprocess.Popen[bytes]] = []
        outputs: list[IO[Any] | None] = []
        try:
            for number, environment in enumerate(environments):
                outputs.append(open(os.path.join(folder, f"stderr-{number}"), "w+b") if number else None)  # noqa: SIM115
                told = {**environment, PARENT: str(os.getpid()), STATUS: status_file}
                with _ignored(signal.SIGINT):
                    processes.append(subprocess.Popen(words, env=told, stderr=outputs[-1]))
            return _status_of(_wait(processes), processes, outputs, status_file)
        except Stopped as stopped:
            number = int(stopped.args[0])
            _end(processes)
            if number == signal.SIGINT:
                sys.stderr.write(f"\n{interrupted}\n")
            return 128 + number
        finally:
            _end(processes)
            for output in outputs:
                if output is not None:
                    output.close()


def local_processes(environment: Environment, count: int) -> list[dict[str, str]]:
    """The environments of processes on this machine that find each other, as `torch.distributed` reads them."""
    if count == 1:
        return [dict(environment)]
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [{**environment, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def end_with_parent() -> None:
    """Makes this process end as soon as the one that started it, if that is a supervised command."""
    if PARENT not in os.environ:
        return
    supervisor, parent = int(os.environ[PARENT]), os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if sys.platform != "linux" or parent != supervisor:  # a launcher may stand between, which outlives the command
        threading.Thread(target=_end_after, args=(parent, supervisor), daemon=True).start()
    # They may have ended before the kernel was asked.
    if os.getppid() != parent or not _exists(supervisor):
        os._exit(1)


def keep_status(status: int) -> None:
    """Leaves a failure's exit status where the supervising process finds it behind a launcher."""
    if (file := os.environ.get(STATUS)) is not None:
        with contextlib.suppress(OSError), open(file, "w") as written:
            written.write(str(status))


def _end_after(parent: int, supervisor: int) -> None:
    while os.getppid() == parent and _exists(supervisor):
        time.sleep(1)
    os._exit(1)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _stopped_by(*signals: int) -> Iterator[None]:
    """Raises `Stopped` for the first of these signals inside the block; later ones change nothing.

    What is ignored already stays ignored, as `nohup` asks for.
    """

    def stop(number: int, frame: Any) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {each: signal.signal(each, stop) for each in signals if signal.getsignal(each) != signal.SIG_IGN}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def _ignored(number: int) -> Iterator[None]:
    """Ignores a signal; processes that are started inside go on ignoring it."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Waits until all have ended or one has failed; the number of one that failed, the first if it is among them."""
    while True:
        states = [process.poll() for process in processes]
        failed = [number for number, state in enumerate(states) if state]
        killed = any(state is not None and state < 0 for state in states)
        # Of an error that all have, the first process tells; of one that was killed, it would tell what it lost.
        if failed and states[0] is None and not killed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                states[0] = processes[0].wait(SAME_ERROR_SECONDS)
        if failed:
            return 0 if states[0] else failed[0]
        if all(state == 0 for state in states):
            return None
        time.sleep(POLL_SECONDS)


def _status_of(
    failed: int | None,
    processes: Sequence[subprocess.Popen[bytes]],
    outputs: Sequence[IO[Any] | None],
    status_file: str,
) -> int:
    """The exit status of all, after what the one that failed has said was shown."""
    if failed is None:
        return 0
    _end(processes)
    output = outputs[failed]
    if output is not None:
        output.seek(0)
        sys.stderr.write(output.read().decode(errors="replace"))
    status = processes[failed].returncode
    if status < 0:
        hint = " The machine may have run out of memory." if -status == signal.SIGKILL else ""
        sys.stderr.write(f"A process of this command was ended by {signal.Signals(-status).name}.{hint}\n")
        return 128 - status
    if os.path.isfile(status_file):
        with open(status_file) as kept:
            return int(kept.read() or status)
    return status


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends processes at once: runs are made to be killed at any moment."""
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()
