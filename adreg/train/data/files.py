"""Reads files of training rows to records, columns by name with the line that each stands on. Knows formats, not meaning."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adreg.errors import DataError, NotFoundError, UnsupportedError
from adreg.train.data.jsonrows import read_array, read_lines
from adreg.train.data.names import COLUMNS
from adreg.train.data.tables import read_parquet, read_table

Record = tuple[int, dict[str, Any]]
KINDS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "lines",
    ".parquet": "parquet",
}  # fmt: skip
STDIN = Path("-")
WIDE = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Records:
    """The rows of a file with their lines, and what it was: `kind` is one of the values of `KINDS`."""

    path: Path
    sha256: str
    kind: str
    rows: list[Record]


def file_bytes(path: Path) -> bytes:
    """The content of the file `path`; of standard input for `-`, which is read once. Raises `NotFoundError`."""
    if path == STDIN:
        return _standard_input()
    if not path.is_file():
        near = [found.name for found in path.parent.glob(f"{path.stem}.*")] if path.parent.is_dir() else []
        raise NotFoundError("training file", str(path), near[:3])
    return path.read_bytes()


def shown_path(path: Path) -> Path:
    """What a file is called in messages."""
    return Path("stdin") if path == STDIN else path


def read_records(path: Path, content: bytes) -> Records:
    """The records of `content`, that of `path`. Raises `DataError` at the first that is broken, or where there is none."""
    if path == STDIN:
        path = shown_path(path)
        kind = _sniffed(_decode(path, content))
    elif path.suffix.lower() in KINDS:
        kind = KINDS[path.suffix.lower()]
    else:
        raise UnsupportedError(f"training file {path.name}", f"the formats are {', '.join(KINDS)}, and - for standard input")
    rows = list(_read(kind, path, content))
    if not rows:
        raise DataError(path, 1, "holds no rows", "is it the right file? an earlier step may have written nothing")
    return Records(path, hashlib.sha256(content).hexdigest(), kind, rows)


def _read(kind: str, path: Path, content: bytes) -> Iterable[Record]:
    if kind == "parquet":
        return read_parquet(path)
    readers: dict[str, Callable[[Path, str], Iterable[Record]]] = {
        "jsonl": read_lines,
        "json": read_array,
        "csv": lambda path, text: read_table(path, text, ","),
        "tsv": lambda path, text: read_table(path, text, "\t"),
        "lines": _plain_lines,
    }
    return readers[kind](path, _decode(path, content))


def _plain_lines(_: Path, text: str) -> Iterable[Record]:
    return ((line, {"text": words.strip()}) for line, words in enumerate(text.split("\n"), 1) if words.strip())


def _decode(path: Path, content: bytes) -> str:
    if content.startswith(WIDE):
        raise DataError(path, 1, "is UTF-16, not UTF-8", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 OLD > NEW")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        fix = "save it as UTF-8: iconv -f LATIN1 -t UTF-8 OLD > NEW, if it is Latin-1"
        raise DataError(path, line, f"is not UTF-8 ({error.reason})", fix) from error


def _sniffed(text: str) -> str:
    """The format of a stream without a name."""
    start, first = text.lstrip()[:1], text.lstrip().partition("\n")[0]
    if start == "[":
        return "json"
    if start == "{":
        return "jsonl" if first.rstrip().endswith("}") else "json"
    for kind, delimiter in (("tsv", "\t"), ("csv", ",")):
        cells = [cell.strip(' "').lower() for cell in first.split(delimiter)]
        if len(cells) > 1 and COLUMNS & set(cells):
            return kind
    return "lines"


@cache
def _standard_input() -> bytes:
    return sys.stdin.buffer.read()
