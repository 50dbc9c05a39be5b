"""The process that renders conversations for a training: a line of JSON in, a line out, little time and memory for each.

Reads `{"template", "tokens", "marked", "prompt", "conversations": [[[role, content], ...], ...]}` and answers with a list
of texts, or of `{"error": why}` where the template refused. Ends with its input.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from typing import Any

from adreg.formats.text.chat_template import compile_template

CPU_SECONDS, MEMORY_BYTES, TEXT_LIMIT = 2, 2 << 30, 8 << 20


def main() -> None:
    """Answer until there are no more questions."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows no limit of memory; time and length still hold there
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin.buffer:
        answers = _answers(json.loads(line))
        sys.stdout.buffer.write(json.dumps(answers, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        sys.stdout.buffer.flush()


def _answers(asked: dict[str, Any]) -> list[str | dict[str, str]]:
    given = {"tools": None, "documents": None, **asked["tokens"], "add_generation_prompt": asked["prompt"]}
    answers = []
    for turns in asked["conversations"]:
        _allow_time()
        messages = [{"role": role, "content": content} for role, content in turns]
        answers.append(_answer(asked["template"], asked["marked"], {**given, "messages": messages}))
    return answers


def _allow_time() -> None:
    """`CPU_SECONDS` from now on; the system ends the process that uses more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_SECONDS, resource.RLIM_INFINITY))


def _answer(template: str, marked: bool, variables: dict[str, Any]) -> str | dict[str, str]:
    try:
        text = "".join(_limited(compile_template(template, marked).generate(variables)))
    except Exception as error:  # noqa: BLE001 - a template can raise anything, and that it raised is the answer
        return {"error": str(error)[:500] or type(error).__name__}
    return text


def _limited(pieces: Any) -> Any:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > TEXT_LIMIT:
            raise OverflowError(f"the text becomes longer than {TEXT_LIMIT} characters")
        yield piece


if __name__ == "__main__":
    main()
