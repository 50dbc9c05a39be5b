"""What a chat template means: the hash of six renderings of its own. Knows processes and hashes, not Jinja.

A template comes with a model and is not trusted: it renders in a process of its own (`golden.py`) with little time
and memory, so that neither an endless loop nor a giant text can harm. What it does not answer counts as an error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from subprocess import Popen

READY, RAISED = "ready", "raised"
COUNT = 6
WALL_SECONDS = 120
COMMAND = (sys.executable, "-P", "-m", "adreg.formats.golden")


def template_meaning(template: str, tokens: Mapping[str, str]) -> str:
    """The id of what `template` renders with these special tokens (by role, such as `bos_token`)."""
    with rendering(template, tokens) as meaning:
        return meaning()


@contextmanager
def rendering(template: str, tokens: Mapping[str, str]) -> Iterator[Callable[[], str]]:
    """Renders beside whatever the caller does meanwhile; the function it gives waits, and says what `template_meaning` does."""
    from subprocess import PIPE, Popen

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}
    with Popen(COMMAND, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        try:
            _send(process, json.dumps({"template": template, "tokens": dict(tokens)}).encode())
            yield lambda: _meaning(process)
        finally:
            process.kill()


def _send(process: Popen[bytes], text: bytes) -> None:
    if process.stdin:
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(text)
        process.stdin = None  # else `communicate` writes to it


def _meaning(process: Popen[bytes]) -> str:
    from subprocess import TimeoutExpired

    try:
        answered, errors = process.communicate(timeout=WALL_SECONDS)
    except TimeoutExpired as expired:
        answered, errors = expired.stdout or b"", b"out of time"
    ready, *answers = answered.decode().split() or [""]
    if ready != READY:
        raise RuntimeError(f"cannot render chat templates: {errors.decode(errors='replace')[-2000:]}")
    answers += [RAISED] * (COUNT - len(answers))
    return "b3:" + blake3(b"adreg.tplsem.v1\0" + "\0".join(answers).encode()).hexdigest()
