"""Renders the conversations of a training by a chat template, many at a time, in one process that a bad template may end."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from adreg.formats.text.renderer import Messages, Refusal, RenderProcess
from adreg.train.data.turns import Turn

CHUNK = 1000
MEMORY_BYTES, TEXT_LIMIT = 2 << 30, 8 << 20
TOO_MUCH = "it takes too much time or memory"
Talk = Sequence[Turn]


class TemplateProcess:
    """One process that renders; it starts when it is first asked, and anew after it was ended for using too much."""

    def __init__(self) -> None:
        self._process: RenderProcess | None = None
        self._owner = os.getpid()
        atexit.register(self.close)

    def render(
        self, template: str, tokens: dict[str, str], talks: Sequence[Talk], marked: bool = False, prompt: bool = False
    ) -> list[str | Refusal]:
        """The text of each of `talks`, or why there is none. `marked` shows generation tags, `prompt` asks for an answer."""
        variables = {"tools": None, "documents": None, **tokens, "add_generation_prompt": prompt}
        texts: list[str | Refusal] = []
        for at in range(0, len(talks), CHUNK):
            chunk = [[{"role": turn.role, "content": turn.content} for turn in talk] for talk in talks[at : at + CHUNK]]
            texts += self._chunk(template, variables, chunk, marked)
        return texts

    def close(self) -> None:
        """End the process; a fork of this program leaves it to its owner."""
        if self._process is not None and self._owner == os.getpid():
            self._process.end()
            self._process = None

    def _chunk(self, template: str, variables: dict[str, Any], chunk: Sequence[Messages], marked: bool) -> list[str | Refusal]:
        process = self._process = self._process or RenderProcess(MEMORY_BYTES, TEXT_LIMIT)
        try:
            answer = process.render(template, variables, chunk, marked)
        except BaseException:
            self._process = None
            raise
        if answer is not None:
            return answer
        self._process = None
        if len(chunk) == 1:
            return [Refusal(TOO_MUCH)]
        return [text for one in chunk for text in self._chunk(template, variables, [one], marked)]  # which was too much?


def shared_process() -> TemplateProcess:
    """The process that all of this program's preparations use."""
    return _of(os.getpid())


@cache
def _of(_: int) -> TemplateProcess:
    return TemplateProcess()
