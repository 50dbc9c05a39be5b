"""JSON that means one thing only: no duplicate keys, no NaN, a size limit. Knows text, not what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adreg.errors import FormatError

JsonObject = dict[str, Any]


class _Duplicate(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    found: JsonObject = {}
    for key, value in pairs:
        if key in found:
            raise _Duplicate(f"key {key!r} appears twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse_object(text: bytes, path: Path, rule: str) -> JsonObject:
    """The JSON object in `text`, or a `FormatError` of `rule` about `path`."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"is not strict JSON: {error}", rule) from error
    if not isinstance(value, dict):
        raise FormatError(path, "holds no JSON object", rule)
    return value


def read_object(path: Path, rule: str, limit: int = 1_000_000) -> JsonObject:
    """The JSON object in the file `path`, which may hold `limit` bytes at most."""
    with path.open("rb") as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise FormatError(path, f"is larger than {limit} bytes", rule)
    return parse_object(text, path, rule)
