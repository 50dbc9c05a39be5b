"""Rows of tables: CSV and TSV with a header, and Parquet. Knows cells and lines, not what columns mean."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adreg.errors import DataError, MissingExtra

CELL_LIMIT = 1 << 24


def read_table(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of `text` by the names in its header, with the line on which each begins.

    Raises `DataError` for a row with more or fewer cells than the header.
    """
    csv.field_size_limit(CELL_LIMIT)
    head = text.partition("\n")[0]
    if delimiter not in head and ";" in head:
        delimiter = ";"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begun, header = 1, list[str]()
    while True:
        begun = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            fix = 'close the quote that is open, and write a quote inside a cell as ""'
            raise DataError(path, begun, f"is no table row: {error}", fix) from error
        if cells is None:
            return
        if not cells:
            continue
        if not header:
            header = _header(path, begun, cells)
            continue
        if len(cells) != len(header):
            fix = f"quote the cells that hold {'a tab' if delimiter == chr(9) else delimiter} or a line break"
            raise DataError(path, begun, f"has {len(cells)} cells where the header has {len(header)}", fix)
        yield begun, dict(zip(header, cells, strict=True))


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, numbered from 1. Raises `MissingExtra` without pyarrow."""
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise MissingExtra("pyarrow", "parquet") from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(path, 1, f"is no Parquet file: {error}", "write it again, or as .jsonl") from error
    yield from enumerate(table.to_pylist(), 1)


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    twice = [name for name, count in Counter(cells).items() if count > 1]
    if twice:
        raise DataError(path, line, f"names the column {twice[0]!r} twice", "give each column a name of its own")
    return [cell or "(unnamed)" for cell in cells]
