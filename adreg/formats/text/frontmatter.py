"""The YAML front matter of a README.md: what a model, or an adapter, says of itself to hubs. All of it stays text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

CARD = "README.md"
LIMIT = 65_536
_PARTS = re.compile(r"\A(?:---\r?\n(?P<front>.*?)(?:^|\n)---[ \t]*(?:\r?\n|\Z))?(?P<body>.*)\Z", re.DOTALL | re.MULTILINE)


def split_card(text: str) -> tuple[str, str]:
    """Front matter, empty where there is none, and body."""
    found = _PARTS.match(text)
    return (found["front"] or "", found["body"]) if found else ("", text)


def front_matter(raw: bytes) -> dict[str, Any]:
    """The keys of the front matter of a card, of its first `LIMIT` bytes; empty where it is none. Every value is a text,
    or a list or an object of texts: no tag of YAML is followed."""
    import yaml

    text = raw[:LIMIT].decode("utf-8", "replace")
    try:
        found = yaml.load(split_card(text)[0], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def read_front_matter(path: Path) -> dict[str, Any]:
    """The same of the card at `path`; empty without one."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        return front_matter(file.read(LIMIT))
