"""An engine as a process of its own: started, awaited, weighed and stopped. Knows no engine by name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.load.dialects import Dialect

START_SECONDS, STOP_SECONDS = 300, 20


@dataclass(frozen=True)
class Engine:
    """`command` gets the port; `ready` answers 200 once requests are taken."""

    name: str
    dialect: Dialect
    command: Callable[[int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/health"


class Process:
    """A running engine; `seconds` is what it took to get ready, `peak` its largest resident memory so far in bytes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port, self.seconds, self.peak = port, 0.0, 0
        self._process = process
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def memory(self) -> int:
        """Resident bytes of the engine and of every process it started."""
        try:
            own = psutil.Process(self._process.pid)
            return sum(int(one.memory_info().rss) for one in (own, *own.children(recursive=True)))
        except psutil.NoSuchProcess:
            return 0

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _watch(self) -> None:
        while self.alive:
            self.peak = max(self.peak, self.memory)
            time.sleep(0.5)


@contextmanager
def running(engine: Engine, log: Path) -> Iterator[Process]:
    """Start `engine` and wait until it is ready; what it says goes to `log`. Raises `RuntimeError` with its end."""
    port, began = free_port(), time.perf_counter()
    with log.open("wb") as said:
        process = subprocess.Popen(
            engine.command(port), env={**clean(), **engine.environment}, stdout=said, stderr=said, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        found = Process(process, port)
        try:
            while not answers(port, engine.ready):
                if not found.alive or time.perf_counter() - began > START_SECONDS:
                    raise RuntimeError(f"{engine.name} did not start: {log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.05)
            found.seconds = time.perf_counter() - began
            yield found
        finally:
            stop(process)


def clean() -> dict[str, str]:
    """This environment without what would limit or bind an engine's threads: each takes the processors it finds."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_", "MKL_"))}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine's whole process group, by force where asking does not help."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
