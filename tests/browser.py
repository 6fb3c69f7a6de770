"""Headless Chromium for tests of pages: what a reader sees, driven by the DevTools protocol."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--no-first-run", "--hide-scrollbars"),
    *("--window-size=1280,900", "--remote-debugging-pipe", "about:blank"),
]
# Chromium reads commands from descriptor 3 and answers on 4; copies high up keep them from being each other.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
TIMEOUT = 60.0


class Browser:
    """A tab, driven by the DevTools protocol over a pipe."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        """The next message; events are kept."""
        limit = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], max(0.0, limit - time.monotonic()))[0], "Chromium is silent"
            received = os.read(self._read, 2**16)
            assert received, "Chromium ended"
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, page: Path | str) -> None:
        """Opens a file or an address, and waits until it is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def named(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of the events of these names since the page was opened."""
        self.value("0")  # what was sent before the answer has arrived with it
        return [event["params"] for event in self.events if event["method"] in methods]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    commands, answers = os.pipe(), os.pipe()
    profile = tmp_path_factory.mktemp("chromium")
    words = [sys.executable, "-c", LAUNCH, str(commands[0]), str(answers[1]), str(CHROMIUM), *OPTIONS]
    process = subprocess.Popen(
        [*words[:-1], f"--user-data-dir={profile}", words[-1]],
        pass_fds=(commands[0], answers[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in (commands[0], answers[1]):
        os.close(end)
    try:
        yield Browser(commands[1], answers[0])
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(commands[1], json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        process.wait(TIMEOUT)
        for end in (commands[1], answers[0]):
            os.close(end)


@pytest.fixture
def tab(browser) -> Iterator[Browser]:
    """The browser as a reader has it at first: light, wide, with scripts."""
    yield browser
    browser.send("Emulation.setEmulatedMedia", features=[])
    browser.send("Emulation.clearDeviceMetricsOverride")
    browser.send("Emulation.setScriptExecutionDisabled", value=False)
