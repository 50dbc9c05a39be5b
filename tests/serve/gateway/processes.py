"""adreg's own servers as processes: started, spoken to, killed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

ADDRESS = re.compile(r"(http://\S+)/v1 ")


@dataclass
class Running:
    """A process that serves at `url`; `said` is what it has written to stderr."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    @property
    def name(self) -> str:
        return self.url.removeprefix("http://")

    def listen(self) -> None:
        """Keep what it says, for as long as it does."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.said.append(line)
            found = ADDRESS.search(line)
            if found:
                self.url = found[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def started(*words: str, port: str = "0") -> Iterator[Running]:
    """`adreg` with these words, from where it listens until the end of the block, where a SIGTERM must end it."""
    command = [sys.executable, "-m", "adreg", *words, "--port", port]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        running = Running(process)
        listener = threading.Thread(target=running.listen)
        listener.start()
        try:
            deadline = time.monotonic() + 60
            while not running.url and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert running.url, "".join(running.said)
            yield running
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            listener.join()
