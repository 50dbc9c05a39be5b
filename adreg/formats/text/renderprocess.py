"""The process that renders conversations by chat templates: a line of JSON in, a line out, little time and memory for each.

Reads `{"template", "marked", "variables", "conversations": [messages, ...]}`, renders the template for each of them with the
variables, and answers with a list of texts, or of `{"error": why}` where it refused. Ends with its input. Its arguments are the
most bytes of memory that it may have and the most characters of a text.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from adreg.formats.text.chat_template import compile_template

CPU_SECONDS = 2


def main(memory: int, longest: int) -> None:
    """Answer until there are no more questions."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows no limit of memory; time and length still hold there
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for line in sys.stdin.buffer:
        answers = _answers(longest, **json.loads(line))
        sys.stdout.buffer.write(json.dumps(answers, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        sys.stdout.buffer.flush()


def _answers(
    longest: int, template: str, marked: bool, variables: dict[str, Any], conversations: list[Any]
) -> list[str | dict[str, str]]:
    answers: list[str | dict[str, str]] = []
    for messages in conversations:
        _allow_time()
        try:
            pieces = compile_template(template, marked).generate({**variables, "messages": messages})
            answers.append("".join(_limited(pieces, longest)))
        except Exception as error:  # noqa: BLE001 - a template can raise anything, and that it raised is the answer
            answers.append({"error": str(error)[:500] or type(error).__name__})
    return answers


def _allow_time() -> None:
    """`CPU_SECONDS` from now on; the system ends the process that uses more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_SECONDS, resource.RLIM_INFINITY))


def _limited(pieces: Iterable[str], longest: int) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > longest:
            raise OverflowError(f"the text becomes longer than {longest} characters")
        yield piece


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
