"""The process that renders chat templates: a line of JSON in, a line of JSON out, little time for each and little memory.

Reads `{"template": ..., "variables": {...}}`, and answers `{"text": ...}` or `{"error": ...}`. Ends with its input.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from typing import Any

from adreg.formats.text.chat_template import compile_template

CPU_SECONDS, MEMORY_BYTES, TEXT_LIMIT = 2, 1 << 30, 4 << 20


def main() -> None:
    """Answer until there are no more questions."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows no limit of memory; time and length still hold there
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin.buffer:
        _allow_time()
        answer = _answer(**json.loads(line))
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _allow_time() -> None:
    """`CPU_SECONDS` from now on; the system ends the process that uses more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_SECONDS, resource.RLIM_INFINITY))


def _answer(template: str, variables: dict[str, Any]) -> dict[str, str]:
    pieces, length = [], 0
    try:
        for piece in compile_template(template).generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > TEXT_LIMIT:
                return {"error": f"the text becomes longer than {TEXT_LIMIT} characters"}
    except Exception as error:  # noqa: BLE001 - a template can raise anything, and that it raised is the answer
        return {"error": str(error)[:500] or type(error).__name__}
    return {"text": "".join(pieces)}


if __name__ == "__main__":
    main()
