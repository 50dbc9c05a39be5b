"""Asks several models the same question at the same time and shows the answers side by side as they stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from adreg.cli.terminal import clean

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

FRAMES_PER_SECOND = 12


@dataclass
class Answer:
    """One model's answer, written by one thread and drawn by another."""

    model: str
    text: str = ""
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    finish: str = ""

    def panel(self, width: int) -> Panel:
        state = f"{self.tokens} tokens, {self.seconds:.1f} s, {self.finish}" if self.finish else "…"
        return Panel(Text(clean(self.text), overflow="fold"), title=self.model, subtitle=Text(state, style="dim"), width=width)


def ask_all(console: Console, base_url: str, models: list[str], question: str, max_tokens: int = 96) -> list[Answer]:
    """Stream `question` to every model of the server at once, through the official client; greedy."""
    answers = [Answer(model) for model in models]
    with ThreadPoolExecutor(len(models)) as pool:
        asked = [pool.submit(_ask, base_url, answer, question, max_tokens) for answer in answers]
        if console.is_terminal:
            _draw_until_done(console, answers, lambda: all(future.done() for future in asked))
        for future in asked:
            future.result()
    if not console.is_terminal:
        for answer in answers:
            console.print(Text(f"  {answer.model}: ", style="bold") + Text(clean(answer.text)), soft_wrap=True)
    return answers


def _ask(base_url: str, answer: Answer, question: str, max_tokens: int) -> None:
    from openai import OpenAI

    with OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=answer.model,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            _take(answer, chunk)


def _take(answer: Answer, chunk: ChatCompletionChunk) -> None:
    answer.seconds = time.monotonic() - answer.started
    for choice in chunk.choices:
        answer.text += choice.delta.content or ""
        answer.finish = choice.finish_reason or ""
    if chunk.usage:
        answer.tokens = chunk.usage.completion_tokens


def _draw_until_done(console: Console, answers: list[Answer], done: Callable[[], bool]) -> None:
    width = max(24, console.width // len(answers) - 1)
    with Live(console=console, refresh_per_second=FRAMES_PER_SECOND) as live:
        while True:
            finished = done()
            live.update(Columns([answer.panel(width) for answer in answers], padding=(0, 1)))
            if finished:
                return
            time.sleep(1 / FRAMES_PER_SECOND)
