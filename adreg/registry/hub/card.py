"""Two model cards into one: adreg owns the part between its two markers and a few front-matter keys, people the rest.

A card without the markers is a person's and is never touched.
"""

from __future__ import annotations

from typing import Any

import yaml

from adreg.formats.text.frontmatter import split_card

BEGIN, END = "<!-- adreg:begin -->", "<!-- adreg:end -->"
LISTS = ("tags", "datasets")


def compose_card(front: dict[str, Any], body: str) -> str:
    """A card of YAML front matter and a Markdown body."""
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n{body}"


def marked(section: str) -> str:
    """`section` between adreg's markers."""
    return f"{BEGIN}\n{section.strip()}\n{END}\n"


def merge_card(there: bytes, ours: str) -> str | None:
    """The card `there` with adreg's part and keys taken from `ours`; None when `there` has no such part to replace.

    Where both have a list of tags or datasets, the result has both; every other key of `ours` wins.
    """
    try:
        theirs = _split(there.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    mine = _split(ours)
    if theirs is None or mine is None:
        return None
    body, section = theirs[1], mine[1]
    if any(text.count(mark) != 1 for text in (body, section) for mark in (BEGIN, END)):
        return None
    before, _, rest = body.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        return None
    inner = section.partition(BEGIN)[2].partition(END)[0]
    return compose_card(_front(theirs[0], mine[0]), f"{before}{BEGIN}{inner}{END}{after}")


def _front(theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    both = {**theirs, **mine}
    for key in LISTS:
        if isinstance(theirs.get(key), list) and isinstance(mine.get(key), list):
            both[key] = mine[key] + [item for item in theirs[key] if item not in mine[key]]
    return both


def _split(text: str) -> tuple[dict[str, Any], str] | None:
    """Front matter and body, or None where the front matter is no YAML mapping."""
    found, body = split_card(text)
    try:
        front = yaml.safe_load(found or "{}")
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):  # a date or number that is none
        return None
    return (front, body) if isinstance(front, dict) else None
