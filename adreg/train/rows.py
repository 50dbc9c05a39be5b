"""Reads training files row by row: .jsonl, .json and .txt, each row with its line. Knows no tokens."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adreg.errors import DataError, FormatError, NotFoundError, UnsupportedError, UsageError
from adreg.formats.strictjson import parse_object
from adreg.train.config import ColumnMap, DataSettings
from adreg.train.forms import Form, RowFault, Turn, detect_form, read_turns

SUFFIXES = (".jsonl", ".json", ".txt")


@dataclass(frozen=True)
class Row:
    """One row: its turns (one of role `text` for plain text) and where it was read."""

    path: Path
    line: int
    turns: tuple[Turn, ...]
    joiner: str

    def fault(self, why: str) -> DataError:
        return DataError(self.path, self.line, why)


@dataclass(frozen=True)
class RowFile:
    """A file, read whole: the rows that say something, and what was counted on the way."""

    path: Path
    sha256: str
    form: str
    rows: tuple[Row, ...]
    dropped: dict[str, int]
    duplicates: int


def read_rows(path: Path, settings: DataSettings) -> RowFile:
    """Every row of `path`. Raises `DataError` at the first malformed row, `UsageError` for columns nobody knows."""
    if path.suffix not in SUFFIXES:
        raise UnsupportedError(f"training file {path.name}", f"the formats are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise NotFoundError("training file", str(path))
    content = path.read_bytes()
    form, rows = _read(path, _decode(path, content), settings)
    kept, dropped = [], Counter[str]()
    for row in rows:
        empty = _emptiness(row)
        if empty:
            dropped[empty] += 1
        else:
            kept.append(row)
    duplicates = len(kept) - len({row.turns for row in kept})
    return RowFile(path, hashlib.sha256(content).hexdigest(), form, tuple(kept), dict(dropped), duplicates)


def _read(path: Path, text: str, settings: DataSettings) -> tuple[str, list[Row]]:
    if path.suffix == ".txt":
        lines = enumerate(text.split("\n"), 1)
        return "lines", [Row(path, line, (Turn("text", words.strip()),), "") for line, words in lines if words.strip()]
    records = list(_array(path, text) if path.suffix == ".json" else _lines(path, text))
    if not records:
        return "empty", []
    form = _form(path, records[0][1], settings)
    return form.name, [_row(path, line, record, form, settings.system) for line, record in records]


def _form(path: Path, first: dict[str, Any], settings: DataSettings) -> Form:
    try:
        return detect_form(first, ColumnMap() if settings.map == "auto" else settings.map)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", error.hint) from None


def _row(path: Path, line: int, record: dict[str, Any], form: Form, system: str | None) -> Row:
    try:
        turns = read_turns(form, record)
    except RowFault as fault:
        raise DataError(path, line, str(fault)) from None
    if system and turns[0].role == "user":
        turns = (Turn("system", system), *turns)
    return Row(path, line, turns, form.joiner)


def _emptiness(row: Row) -> str | None:
    """Why a row says nothing, or None."""
    names = {"assistant": "empty answer", "user": "empty prompt", "text": "empty text"}
    return next((names[turn.role] for turn in row.turns if turn.role in names and not turn.content.strip()), None)


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(path, content[: error.start].count(b"\n") + 1, f"is not UTF-8 ({error.reason})") from error


def _lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, words in enumerate(text.split("\n"), 1):
        if words.strip():
            yield line, _object(path, line, words)


def _array(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON array with the line that each starts on."""
    decoder, place, line, counted = json.JSONDecoder(), _skip(text, 0), 1, 0
    if text[place : place + 1] != "[":
        raise DataError(path, 1, "is not a JSON array of rows; one object a line belongs in a .jsonl file")
    place = _skip(text, place + 1)
    while text[place : place + 1] != "]":
        line, counted = line + text.count("\n", counted, place), place
        try:
            end = decoder.raw_decode(text, place)[1]
        except (ValueError, RecursionError) as error:
            raise DataError(path, line, f"is not JSON: {error}") from error
        yield line, _object(path, line, text[place:end])
        place = _skip(text, end)
        if text[place : place + 1] not in (",", "]"):
            raise DataError(path, text.count("\n", 0, place) + 1, "a comma or ] is missing after a row")
        place = _skip(text, place + 1) if text[place] == "," else place


def _skip(text: str, place: int) -> int:
    while text[place : place + 1].isspace():
        place += 1
    return place


def _object(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        return parse_object(text.encode(), path, "DATA")
    except FormatError as error:
        raise DataError(path, line, error.why) from error
