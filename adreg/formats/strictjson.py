"""JSON that means one thing only: no duplicate keys, no NaN, a size limit. Knows text, not what it says."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from adreg.errors import FormatError

JsonObject = dict[str, Any]
LARGE = 1 << 20
HALF_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Duplicate(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _Duplicate(f"key {twice!r} appears twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is too large for a number")
    return value


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)


def parse_object(text: bytes, path: Path, rule: str) -> JsonObject:
    """The JSON object in `text`, or a `FormatError` of `rule` about `path`."""
    try:
        escaped = HALF_ESCAPE.search(text) is not None
        decoded = text.decode("utf-8")
        del text  # a tokenizer's is large, and its characters may take four bytes each
        value = _STRICT.decode(decoded)
        if escaped:
            _refuse_halves(value)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"is not strict JSON: {error}", rule) from error
    if not isinstance(value, dict):
        raise FormatError(path, "holds no JSON object", rule)
    return value


def parse_reporting(text: bytes, path: Path, rule: str, report: Callable[[FormatError], None]) -> JsonObject:
    """As `parse_object`, but what is only not strict (a key twice, NaN) goes to `report`, and the last value stands.

    Where nothing at all can be read, the `FormatError` is raised.
    """
    try:
        return parse_object(text, path, rule)
    except FormatError as error:
        try:
            value = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError):
            raise error from None
        if not isinstance(value, dict):
            raise
        report(error)
        return value


def _refuse_halves(value: Any) -> None:
    """Raise `ValueError` for half a surrogate pair, which no UTF-8 can hold."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for key, inner in value.items():
            key.encode()
            _refuse_halves(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_halves(inner)


def read_object(path: Path, rule: str, limit: int = 1_000_000) -> JsonObject:
    """The JSON object in the file `path`, which may hold `limit` bytes at most."""
    return parse_object(read_text(path, rule, limit), path, rule)


def read_text(path: Path, rule: str, limit: int = 1_000_000) -> bytes:
    """The bytes of the JSON file `path`, or a `FormatError` of `rule` where there are more than `limit`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise FormatError(path, f"is larger than {limit} bytes", rule)
        return _unindented(file) if size > LARGE else file.read(limit)


def _unindented(file: BinaryIO) -> bytes:
    """The text without the white space that begins its lines: in a tokenizer's it can be most of a lot."""
    return b"".join(b"".join([line.lstrip(b" \t") for line in lines]) for lines in iter(lambda: file.readlines(LARGE), []))
