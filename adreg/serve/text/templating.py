"""Renders chat templates, which come with models and are not trusted, in processes of their own that can be killed.

A process renders one conversation after the other. One that takes too much time or memory ends; nobody else waits for it.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, LifoQueue
from subprocess import PIPE, Popen
from typing import Any

from adreg.errors import UsageError
from adreg.formats.text.templates import child_environment

PROCESSES = 4
WALL_SECONDS = 20


class TemplatePool:
    """Renders for any number of threads, `PROCESSES` at a time; the processes start when they are first needed."""

    def __init__(self) -> None:
        self._idle: LifoQueue[Popen[bytes]] = LifoQueue()
        self._places = threading.BoundedSemaphore(PROCESSES)

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """The text of `template` with `variables`, which are JSON. Raises `UsageError` where it refuses them, is no Jinja,
        or takes too much time or memory. Slow: not for an event loop."""
        given = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._places:
            process = self._take()
            answer = _ask(process, given)
            if answer is None:
                _end(process)
                raise UsageError("the chat template takes too much time or memory for these messages")
            self._idle.put(process)
        told: dict[str, str] = json.loads(answer)
        if "text" not in told:
            raise UsageError(f"the chat template refuses these messages: {told['error']}")
        return told["text"]

    def close(self) -> None:
        """End the processes that are idle."""
        with suppress(Empty):
            while True:
                _end(self._idle.get_nowait())

    def _take(self) -> Popen[bytes]:
        try:
            return self._idle.get_nowait()
        except Empty:
            return _start()


def _start() -> Popen[bytes]:
    command = (sys.executable, "-P", "-m", "adreg.serve.text.templateprocess")
    # a session of its own: Ctrl-C at the terminal is not meant for it
    return Popen(command, env=child_environment(), stdin=PIPE, stdout=PIPE, start_new_session=True)


def _end(process: Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _ask(process: Popen[bytes], question: bytes) -> bytes | None:
    """The line that answers `question`, or None where the process ended before it."""
    assert process.stdin is not None and process.stdout is not None
    alarm = threading.Timer(WALL_SECONDS, process.kill)
    alarm.start()
    try:
        process.stdin.write(question)
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        return None
    finally:
        alarm.cancel()
    return answer if answer.endswith(b"\n") else None
