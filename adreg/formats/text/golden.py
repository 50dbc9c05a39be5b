"""Renders six fixed conversations by a chat template, in a process of its own with little time and memory.

Reads `{"template": ..., "tokens": {...}}` from standard input; prints `ready`, and then a line a conversation: the
hash of the text, or `raised`. A template that uses up its time or memory ends the process: the lines are then missing.
"""

from __future__ import annotations

import json
import random
import re
import resource
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

from blake3 import blake3
from jinja2 import Template

from adreg.formats.text.chat_template import compile_template
from adreg.formats.text.templates import RAISED, READY

CPU_SECONDS, MEMORY_BYTES, TEXT_LIMIT = 2, 512 << 20, 1 << 20
MOMENT = datetime(2024, 7, 26, 12, 0, 0)
ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")

USER = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris."}
SYSTEM = {"role": "system", "content": "Answer in one word."}
ODD = {"role": "user", "content": "  <b>\"quoted\" & 'kept'</b> {{ 1 + 1 }}\n\n\tünïcödé 漢字 🙂 \r\n "}
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}}}
ASKING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": '{"sky": "clear"}'}
CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather of a city.", "parameters": CITY}}

CONVERSATIONS: tuple[dict[str, Any], ...] = (
    {"messages": [USER]},
    {"messages": [USER], "add_generation_prompt": True},
    {"messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And of Spain?"}], "add_generation_prompt": True},
    {"messages": [USER, ANSWER, ODD, {"role": "assistant", "content": ""}]},
    {"messages": [ODD, ANSWER], "add_generation_prompt": False},
    {"messages": [USER, ASKING, RESULT], "tools": [TOOL], "add_generation_prompt": True},
)


def main() -> None:
    """Answer for one template, under limits that hold from before it is read."""
    limit_resources()
    given = json.load(sys.stdin)
    sys.stdout.write(f"{READY}\n")
    for conversation in CONVERSATIONS:
        sys.stdout.write(f"{_answer(given['template'], given['tokens'], conversation)}\n")
        sys.stdout.flush()


def limit_resources() -> None:
    """Little time and memory from now on, for this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    with suppress(ValueError, OSError):  # macOS knows no limit of memory; time and length still hold there
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _answer(template: str, tokens: dict[str, str], conversation: dict[str, Any]) -> str:
    random.seed(0)
    try:
        text = render(compile_template(template), {**tokens, **conversation})
    except Exception:  # noqa: BLE001 - a template can raise anything, and that it raised is all that counts
        return RAISED
    return blake3(ADDRESS.sub(" at 0x0", text).encode("utf-8", "surrogatepass")).hexdigest()


def render(template: Template, variables: dict[str, Any]) -> str:
    """The text by the variables, at one fixed moment. Raises `OverflowError` where it becomes too long."""
    given = {"tools": None, "documents": None, "add_generation_prompt": False, "strftime_now": MOMENT.strftime, **variables}
    pieces, length = [], 0
    for piece in template.generate(given):
        pieces.append(piece)
        length += len(piece)
        if length > TEXT_LIMIT:
            raise OverflowError("the text is too long")
    return "".join(pieces)


if __name__ == "__main__":
    main()
