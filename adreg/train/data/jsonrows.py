"""Rows of JSON: an object a line, or one array of them. Knows JSON and lines, not columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adreg.errors import DataError, FormatError
from adreg.formats.strictjson import parse_object
from adreg.train.data.names import CONVERSATIONS

SPACE = re.compile(r"\s*")
PLACE = re.compile(r": line \d+ column (\d+) \(char \d+\)")


def read_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of `text`, one a line; empty lines are passed over."""
    if text.lstrip()[:2] in ("[{", "[\n", "[ "):
        raise DataError(path, 1, "begins a JSON array, not an object a line", "call it .json")
    lines = text.split("\n")
    for line, words in enumerate(lines, 1):
        if words.strip():
            yield line, _object(path, line, words, last=line == len(lines))


def read_array(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON array, or of the only list of objects in an object such as {"data": [...]}, with their lines.

    An object a line, as some call .json too, is read as `read_lines` does.
    """
    start = _skip(text, 0)
    if text[start : start + 1] == "{":
        if _is_object(text[start:].partition("\n")[0]) and text[start:].strip().count("\n"):
            yield from read_lines(path, text)
            return
        start = _wrapped(path, text, start)
    if text[start : start + 1] != "[":
        raise DataError(path, 1, "is not a JSON array of rows", 'write [{...}, {...}], {"data": [...]}, or an object a line')
    yield from _entries(path, text, start)


def _entries(path: Path, text: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    decoder, line, counted = json.JSONDecoder(), 1, 0
    place = _skip(text, start + 1)
    while text[place : place + 1] != "]":
        line, counted = line + text.count("\n", counted, place), place
        try:
            end = decoder.raw_decode(text, place)[1]
        except (ValueError, RecursionError) as error:
            raise _broken(path, line, str(error), place >= len(text) or "Unterminated" in str(error)) from error
        yield line, _object(path, line, text[place:end])
        place = _skip(text, end)
        if text[place : place + 1] not in (",", "]"):
            found = text.count("\n", 0, min(place, len(text))) + 1
            fix = f"put it behind the row that began on line {line}"
            raise DataError(path, found, "a comma or ] is missing after a row", fix)
        place = _skip(text, place + 1) if text[place] == "," else place


def _wrapped(path: Path, text: str, start: int) -> int:
    """Where the only list of objects in the object at `start` begins."""
    found = _object(path, 1, text[start:], last=True)
    lists = [key for key, value in found.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    lists = [key for key in lists if key not in CONVERSATIONS]
    if len(lists) != 1:
        why = "is one object without a list of rows" if not lists else f"has several lists of objects: {', '.join(lists)}"
        raise DataError(path, 1, why, "write the rows as one array, [{...}, {...}]")
    key = re.compile(re.escape(json.dumps(lists[0], ensure_ascii=False)) + r"\s*:\s*\[")
    place = key.search(text, start)
    if place is None:
        raise DataError(path, 1, f"spells {lists[0]!r} with escapes", "write the rows as one array, [{...}, {...}]")
    return place.end() - 1


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _skip(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    return found.end() if found else place


def _object(path: Path, line: int, text: str, last: bool = False) -> dict[str, Any]:
    try:
        return parse_object(text.encode("utf-8", "surrogatepass"), path, "DATA")
    except FormatError as error:
        cut = last and not text.rstrip().endswith("}")
        raise _broken(path, line, error.why.removeprefix("is not strict JSON: "), cut) from error


def _broken(path: Path, line: int, why: str, cut: bool) -> DataError:
    if why == "holds no JSON object":
        fix = 'a row is an object with names, such as {"question": ..., "answer": ...}'
        return DataError(path, line, "is no JSON object", fix)
    fix = "the file seems cut off here: copy it again, or remove this row" if cut else "mend the line, or remove it"
    return DataError(path, line, "is not strict JSON: " + PLACE.sub(r" at character \1", why), fix)
