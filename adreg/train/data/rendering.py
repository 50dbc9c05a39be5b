"""Renders conversations by chat templates, which come with models and are not trusted, in a process that can be killed."""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from subprocess import PIPE, Popen
from typing import Any

from adreg.formats.text.templates import child_environment
from adreg.train.data.turns import Turn

CHUNK = 1000
TOO_MUCH = "it takes too much time or memory"
Talk = Sequence[Turn]


@dataclass(frozen=True)
class Refusal:
    """A conversation that a template did not render, and why."""

    why: str


class TemplateProcess:
    """One process that renders; it starts when it is first asked, and anew after it was ended for using too much."""

    def __init__(self) -> None:
        self._process: Popen[bytes] | None = None
        self._owner = os.getpid()
        atexit.register(self.close)

    def render(
        self, template: str, tokens: dict[str, str], talks: Sequence[Talk], marked: bool = False, prompt: bool = False
    ) -> list[str | Refusal]:
        """The text of each of `talks`, or why there is none. `marked` shows generation tags, `prompt` asks for an answer."""
        asked = {"template": template, "tokens": tokens, "marked": marked, "prompt": prompt}
        texts: list[str | Refusal] = []
        for at in range(0, len(talks), CHUNK):
            texts += self._chunk(asked, talks[at : at + CHUNK])
        return texts

    def close(self) -> None:
        """End the process; a fork of this program leaves it to its owner."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _chunk(self, asked: dict[str, Any], talks: Sequence[Talk]) -> list[str | Refusal]:
        question = json.dumps({**asked, "conversations": talks}, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        answer = self._ask(question)
        if answer is None and len(talks) > 1:  # one of them was too much: which?
            return [text for talk in talks for text in self._chunk(asked, [talk])]
        if answer is None:
            return [Refusal(TOO_MUCH)]
        return [text if isinstance(text, str) else Refusal(text["error"]) for text in json.loads(answer)]

    def _ask(self, question: bytes) -> bytes | None:
        """The line that answers `question`, or None where the process ended before it."""
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(question)
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        except BaseException:  # interrupted half-way: what it would still say belongs to no question
            self.close()
            raise
        if answer.endswith(b"\n"):
            return answer
        self.close()
        return None


def shared_process() -> TemplateProcess:
    """The process that all of this program's preparations use."""
    return _of(os.getpid())


@cache
def _of(_: int) -> TemplateProcess:
    return TemplateProcess()


def _start() -> Popen[bytes]:
    command = (sys.executable, "-P", "-m", "adreg.train.data.renderprocess")
    # a session of its own: Ctrl-C at the terminal is not meant for it
    return Popen(command, env=child_environment(), stdin=PIPE, stdout=PIPE, start_new_session=True)
