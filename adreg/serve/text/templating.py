"""Renders chat templates for requests, in processes of their own. One that takes too much ends; nobody else waits for it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, LifoQueue
from typing import Any

from adreg.errors import UsageError
from adreg.formats.text.renderer import Messages, Refusal, RenderProcess

PROCESSES = 4
WALL_SECONDS, MEMORY_BYTES, TEXT_LIMIT = 20, 1 << 30, 4 << 20


class TemplatePool:
    """Renders for any number of threads, `PROCESSES` at a time; the processes start when they are first needed."""

    def __init__(self) -> None:
        self._idle: LifoQueue[RenderProcess] = LifoQueue()
        self._places = threading.BoundedSemaphore(PROCESSES)

    def render(self, template: str, messages: Messages, variables: Mapping[str, Any]) -> str:
        """The text of `template` for `messages` with `variables`, which are JSON. Raises `UsageError` where it refuses them,
        is no Jinja, or takes too much time or memory. Slow: not for an event loop."""
        with self._places:
            process = self._take()
            answer = process.render(template, variables, [messages], seconds=WALL_SECONDS)
            if answer is None:
                raise UsageError("the chat template takes too much time or memory for these messages")
            self._idle.put(process)
        (text,) = answer
        if isinstance(text, Refusal):
            raise UsageError(f"the chat template refuses these messages: {text.why}")
        return text

    def close(self) -> None:
        """End the processes that are idle."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().end()

    def _take(self) -> RenderProcess:
        try:
            return self._idle.get_nowait()
        except Empty:
            return RenderProcess(MEMORY_BYTES, TEXT_LIMIT)
