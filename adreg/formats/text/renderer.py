"""A process that renders chat templates, which come with models and are not trusted: it can be killed. Knows no Jinja."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import Any

from adreg.formats.text.templates import child_environment

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Refusal:
    """A conversation that a template did not render, and why."""

    why: str


class RenderProcess:
    """One process that renders for one thread at a time, in `memory` bytes and texts of at most `longest` characters."""

    def __init__(self, memory: int, longest: int) -> None:
        command = (sys.executable, "-P", "-m", "adreg.formats.text.renderprocess", str(memory), str(longest))
        # a session of its own: Ctrl-C at the terminal is not meant for it
        self._process = Popen(command, env=child_environment(), stdin=PIPE, stdout=PIPE, start_new_session=True)

    def render(
        self,
        template: str,
        variables: Mapping[str, Any],
        conversations: Sequence[Messages],
        marked: bool = False,
        seconds: float | None = None,
    ) -> list[str | Refusal] | None:
        """The text of each of `conversations`, rendered with `variables`, which are JSON, or why there is none.

        None where they took too much time (all together `seconds`, where given) or memory: the process is gone then.
        """
        asked = {"template": template, "marked": marked, "variables": variables, "conversations": conversations}
        question = json.dumps(asked, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            with self._killed_after(seconds):
                answer = self._ask(question)
        except BaseException:  # interrupted half-way: what it would still say belongs to no question
            self.end()
            raise
        if not answer.endswith(b"\n"):
            self.end()
            return None
        return [text if isinstance(text, str) else Refusal(text["error"]) for text in json.loads(answer)]

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, question: bytes) -> bytes:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(question)
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return b""

    @contextmanager
    def _killed_after(self, seconds: float | None) -> Iterator[None]:
        if seconds is None:
            yield
            return
        alarm = threading.Timer(seconds, self._process.kill)
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()
