"""What a chat template means, the hash of six renderings of its own, and what it holds. Knows processes, not Jinja.

A template comes with a model and is not trusted: it is read and renders in a process of its own (`golden.py`, `rendered.py`
and `templatefacts.py`) with little time and memory, so that neither an endless loop nor a giant text can harm. What it does
not answer counts as an error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from blake3 import blake3

if TYPE_CHECKING:
    from subprocess import Popen

READY, RAISED, RENDERED = "ready", "raised", "rendered"
COUNT = 6
WALL_SECONDS = 120


@dataclass(frozen=True)
class TemplateFacts:
    """What a template holds: web `addresses`, `inner` names that reach into Python, words that it looks for in a message
    (`tests`), its longest text and longest text without white space; `broken` says why it is no Jinja.

    `outcomes` has `RENDERED` or an error for each of the golden conversations that it came to: fewer than `COUNT` where
    it used up its time or memory.
    """

    broken: str = ""
    addresses: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    longest: int = 0
    unbroken: int = 0
    outcomes: tuple[str, ...] = ()


def template_meaning(template: str, tokens: Mapping[str, str]) -> str:
    """The id of what `template` renders with these special tokens (by role, such as `bos_token`)."""
    with rendering(template, tokens) as meaning:
        return meaning()


@lru_cache(maxsize=64)
def template_facts(template: str, tokens: tuple[tuple[str, str], ...]) -> TemplateFacts:
    """What `template` holds, and how it renders with these special tokens (role and text)."""
    with _started("adreg.formats.text.templatefacts", template, dict(tokens)) as process:
        found, *outcomes = _answers(process) or ["{}"]
    if not outcomes and found == "{}":
        return TemplateFacts(broken="reading it takes too much time or memory")
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(found).items()
    }
    return TemplateFacts(**facts, outcomes=tuple(outcomes))


def renderings(template: str, conversations: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """The text of each of `conversations`, the variables that the template is given; None where it raised or took too much."""
    with _started("adreg.formats.text.rendered", template, {}, conversations) as process:
        texts: list[str | None] = [json.loads(answer) for answer in _answers(process)]
    return texts + [None] * (len(conversations) - len(texts))


@contextmanager
def rendering(template: str, tokens: Mapping[str, str]) -> Iterator[Callable[[], str]]:
    """Renders beside whatever the caller does meanwhile; the function it gives waits, and says what `template_meaning` does."""
    with _started("adreg.formats.text.golden", template, tokens) as process:
        yield lambda: _meaning(process)


@contextmanager
def _started(
    module: str, template: str, tokens: Mapping[str, str], conversations: Sequence[Mapping[str, Any]] = ()
) -> Iterator[Popen[bytes]]:
    """`module` at work on `template` in a process of its own; it is gone when the context is."""
    from subprocess import PIPE, Popen

    command = (sys.executable, "-P", "-m", module)
    with Popen(command, env=child_environment(), stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        try:
            given = {"template": template, "tokens": dict(tokens), "conversations": list(conversations)}
            _send(process, json.dumps(given).encode())
            yield process
        finally:
            process.kill()


def child_environment() -> dict[str, str]:
    """The environment in which a child finds the modules that this process has, with hashes that are the same each time."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}


def _send(process: Popen[bytes], text: bytes) -> None:
    if process.stdin:
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(text)
        process.stdin = None  # else `communicate` writes to it


def _meaning(process: Popen[bytes]) -> str:
    answers = _answers(process)
    answers += [RAISED] * (COUNT - len(answers))
    return "b3:" + blake3(b"adreg.tplsem.v1\0" + "\0".join(answers).encode()).hexdigest()


def _answers(process: Popen[bytes]) -> list[str]:
    """The whole lines that the process printed behind `READY`. Raises `RuntimeError` where it never got ready."""
    from subprocess import TimeoutExpired

    try:
        answered, errors = process.communicate(timeout=WALL_SECONDS)
    except TimeoutExpired as expired:
        answered, errors = expired.stdout or b"", b"out of time"
    ready, *answers = answered.decode().split("\n")[:-1] or [""]
    if ready != READY:
        raise RuntimeError(f"cannot render chat templates: {errors.decode(errors='replace')[-2000:]}")
    return answers
