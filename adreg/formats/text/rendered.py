"""Renders conversations by a chat template, in a process of its own with little time and memory.

Reads what `golden.py` reads, and `conversations`; prints `ready`, and then a line of JSON for each: the text, or null.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from adreg.formats.text.chat_template import compile_template
from adreg.formats.text.golden import limit_resources, render
from adreg.formats.text.templates import READY


def main() -> None:
    """Answer for one template."""
    limit_resources()
    given = json.load(sys.stdin)
    sys.stdout.write(f"{READY}\n")
    for conversation in given["conversations"]:
        text = _text(given["template"], {**given["tokens"], **conversation})
        sys.stdout.write(f"{json.dumps(text)}\n")
        sys.stdout.flush()


def _text(template: str, variables: dict[str, Any]) -> str | None:
    try:
        return render(compile_template(template), variables)
    except Exception:  # noqa: BLE001 - a template can raise anything, and that it raised is all that counts
        return None


if __name__ == "__main__":
    main()
