"""One command in all processes of this machine, from the first of them to the last one's end. Knows no training."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from adreg.train.launch.crew import TICK, Crew, Ending
from adreg.train.launch.member import READY, RUN
from adreg.train.launch.profile import Profile

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_together(command: Sequence[str], profile: Profile, content: bytes | None = None) -> Ending:
    """Run `command` in every process of this machine until none is left; `content` is the standard input of each.

    The leader comes first and alone: what all need it makes, and what is wrong for all it tells. Then come the others, whose
    output nobody sees unless they fail. A signal goes to each of them once, and none outlives this process.
    """
    with TemporaryDirectory(prefix="adreg-processes-") as scratch, _pipe() as (alive, _held), _pipe() as (ready, tell):
        given = Path(scratch) / "input"
        if content is not None:
            given.write_bytes(content)
        port = profile.port or _free_port()
        crew = Crew(command, profile, Path(scratch), given if content is not None else None, port, alive.fileno())
        with _noting(crew.noted):
            crew.start({READY: str(tell.fileno())}, tell.fileno())
            tell.close()
            run = _readied(crew, ready)
            for _ in range(profile.processes - 1 if run else 0):
                crew.start({RUN: run})
            while crew.tend():
                time.sleep(TICK)
        return crew.ending()


def _readied(crew: Crew, ready: IO[bytes]) -> str:
    """What the leader told when it was ready; empty where it ended before."""
    while not select.select([ready], [], [], TICK)[0]:
        crew.tend()
    return os.read(ready.fileno(), 100).decode()


@contextmanager
def _noting(noted: list[int]) -> Iterator[None]:
    """Meanwhile signals are noted and do nothing else."""
    before = {number: signal.signal(number, lambda came, _: noted.append(came)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as one, os.fdopen(writing, "wb", 0) as other:
        yield one, other


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
