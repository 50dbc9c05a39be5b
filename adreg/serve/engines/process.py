"""An engine as a process of its own: started, awaited, watched, and stopped with all that it started. Knows no engine.

What it says goes to a file, whose end is shown when it fails. Between it and adreg stands a keeper (`keeper.py`), which
ends it when adreg is gone, however adreg went.
"""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from adreg.errors import EngineFailed
from adreg.formats.atomic import disk_errors

KEEPER = Path(__file__).with_name("keeper.py")
LAST_BYTES, LAST_LINES, ERRORS = 256 << 10, 10, 10
KEEPER_SECONDS = 10
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e\xa0-\U0010ffff\n\t]")
_ERROR = re.compile(r"error\b.*:|: error\b|exception:", re.IGNORECASE)


@dataclass(frozen=True)
class Launch:
    """How an engine is started: the `command`, its whole `environment`, and the file for what it says.

    It has `start_seconds` to get ready, and `stop_seconds` to end after it was asked to.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    start_seconds: float = 600
    stop_seconds: float = 20


class EngineProcess:
    """A started engine; as a context manager it is stopped at the end of the block.

    Raises `StorageError` where the disk takes no log.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self._stopping = False
        words = [sys.executable, "-I", str(KEEPER), str(launch.stop_seconds), *launch.command]
        with disk_errors(launch.log):
            launch.log.parent.mkdir(parents=True, exist_ok=True)
            with launch.log.open("wb") as said:
                self._keeper = subprocess.Popen(
                    words, env=dict(launch.environment), stdin=subprocess.PIPE, stdout=said, stderr=said,
                    start_new_session=True,
                )  # fmt: skip

    @property
    def alive(self) -> bool:
        return self._keeper.poll() is None

    @property
    def failure(self) -> EngineFailed | None:
        """Why it is no more, where nobody stopped it."""
        status = self._keeper.poll()
        return None if status is None or self._stopping else self._failed(_ending(status))

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` says so. Raises `EngineFailed` with what it said last when it ends first, or takes too long."""
        until = time.monotonic() + self.launch.start_seconds
        while not ready():
            if self.failure:
                raise self.failure
            if time.monotonic() > until:
                raise self._failed(f"was not ready after {self.launch.start_seconds:.0f} seconds")
            time.sleep(0.1)

    def watch(self, died: Callable[[EngineFailed], None]) -> None:
        """Call `died` from another thread when it ends and nobody stopped it."""

        def wait() -> None:
            self._keeper.wait()
            if self.failure:
                died(self.failure)

        threading.Thread(target=wait, name=f"watch-{self.launch.name}", daemon=True).start()

    def stop(self) -> None:
        """End it and all that it started: ask, wait, then force. Once it is gone, nothing."""
        self._stopping = True
        if self._keeper.stdin:
            self._keeper.stdin.close()
        try:
            self._keeper.wait(self.launch.stop_seconds + KEEPER_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _failed(self, why: str) -> EngineFailed:
        return EngineFailed(self.launch.name, why, last_lines(self.launch.log), self.launch.log)


def last_lines(log: Path) -> tuple[str, ...]:
    """The end of what an engine said and, before it, the lines that tell of errors, fit for a terminal; nothing where the
    file is gone. An engine that fails goes on to clean up, and says much about that."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    lines = [line.rstrip() for line in _ESCAPES.sub("", text).splitlines() if line.strip()]
    errors = dict.fromkeys(line for line in lines[:-LAST_LINES] if _ERROR.search(line))
    return (*list(errors)[-ERRORS:], *lines[-LAST_LINES:])


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def answers(url: str, path: str = "/health", seconds: float = 5) -> bool:
    """Whether a GET of `path` at `url` is answered with 200; asked directly, past every proxy."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def _ending(status: int) -> str:
    """`status` as the keeper passes it on, or less than 0 where a signal ended the keeper itself."""
    number = status - 128 if status > 128 else -status
    if number in set(Signals):
        return f"was ended by {Signals(number).name}"
    return f"ended with status {status}"
