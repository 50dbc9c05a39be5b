"""Files as rows: turns that may be learned, each with its place, and a count of all that was odd. Knows no tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from adreg.errors import DataError, UsageError
from adreg.train.config import ColumnMap, DataSettings, Source
from adreg.train.data.files import Record, Records, file_bytes, read_records
from adreg.train.data.forms import Form, detect_form
from adreg.train.data.turns import TEXT, RowFault, Turn, read_row

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
EMPTY = {"assistant": "empty answer", "user": "empty prompt", TEXT: "empty text"}


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation (or one turn of the role `text`), where it was read, and the first turn that may be learned."""

    path: Path
    line: int
    turns: tuple[Turn, ...]
    learn_from: int = 0

    def fault(self, why: str, hint: str = "") -> DataError:
        return DataError(self.path, self.line, why, hint)


@dataclass(frozen=True)
class RowFile:
    """A file, read whole: the rows that say something, and what was counted on the way. Of `pairs`, the chosen and the
    rejected conversation follow each other in `rows`."""

    path: Path
    sha256: str
    kind: str
    form: Form
    rows: tuple[Row, ...]
    read: int
    dropped: dict[str, int]
    duplicates: int
    ignored: tuple[str, ...]
    notes: dict[str, int]


def read_rows(source: Source, settings: DataSettings, objective: str = "sft", content: bytes | None = None) -> RowFile:
    """Every row of `source`. Raises `DataError` at the first malformed row, `UsageError` for columns that are not clear or
    rows that do not fit the objective."""
    path = source.path
    records = read_records(path, file_bytes(path) if content is None else content)
    columns = list(dict.fromkeys(name for _, row in records.rows for name in row))
    form = _form(records, columns, source, settings, objective)
    rows, dropped, notes = _rows(records, form, settings)
    size = 2 if form.pairs else 1
    kept = len({rows[at].turns + rows[at + size - 1].turns for at in range(0, len(rows), size)})
    return RowFile(
        path=records.path,
        sha256=records.sha256,
        kind=records.kind,
        form=form,
        rows=tuple(rows),
        read=len(records.rows),
        dropped=dict(dropped),
        duplicates=len(rows) // size - kept,
        ignored=tuple(form.ignored(columns)),
        notes={name: count for name, count in notes.items() if count},
    )


def column_map(source: Source, settings: DataSettings) -> ColumnMap:
    """The map of all files with that of `source` over it; `auto` there forgets it."""
    merged: dict[str, str] = {}
    for one in (settings.map, source.map):
        if one == "auto":
            merged = {}
        elif one is not None:
            merged |= one.model_dump(exclude_none=True)
    return ColumnMap(**merged)


def _form(records: Records, columns: list[str], source: Source, settings: DataSettings, objective: str) -> Form:
    given = ColumnMap(text="text") if records.kind == "lines" else column_map(source, settings)
    try:
        form = detect_form(columns, given, records.rows[0][1])
    except UsageError as error:
        raise UsageError(f"{records.path}:{records.rows[0][0]}: {error}", error.hint) from None
    if form.pairs and objective != "dpo":
        why = f"{records.path}:{records.rows[0][0]}: its rows are preference pairs, and the objective is {objective}"
        raise UsageError(why, "--set objective=dpo learns from pairs; --map answer=chosen learns the chosen answers alone")
    if objective == "dpo" and not form.pairs:
        why = f"{records.path}:{records.rows[0][0]}: dpo needs pairs, and its rows have one answer each ({form.name})"
        raise UsageError(why, "--map chosen=COLUMN --map rejected=COLUMN, or --set objective=sft")
    return form


def _rows(records: Records, form: Form, settings: DataSettings) -> tuple[list[Row], Counter[str], Counter[str]]:
    rows, dropped, notes = list[Row](), Counter[str](), Counter[str]()
    for record in records.rows:
        found = _row(records.path, record, form, settings.system)
        _note(found, notes)
        why = _emptiness(found)
        if why:
            dropped[why] += 1
        else:
            rows += found
    return rows, dropped, notes


def _row(path: Path, record: Record, form: Form, system: str | None) -> list[Row]:
    line, columns = record
    try:
        talks, learn_from = read_row(form, columns)
    except RowFault as fault:
        raise DataError(path, line, str(fault), fault.hint) from None
    if system and talks[0][0].role in ("user", "assistant"):
        talks = tuple((Turn("system", system), *talk) for talk in talks)
        learn_from += 1 if learn_from else 0
    return [Row(path, line, talk, learn_from) for talk in talks]


def _emptiness(rows: list[Row]) -> str | None:
    """Why a row or pair says nothing, or None."""
    if len(rows) == 2 and rows[0].turns == rows[1].turns:
        return "chosen is rejected"
    for row in rows:
        for role, content in row.turns:
            if role in EMPTY and (not content or content.isspace()):
                return EMPTY[role]
    return None


def _note(rows: Iterable[Row], notes: Counter[str]) -> None:
    contents = "\n".join([turn.content for row in rows for turn in row.turns])
    if CONTROL.search(contents):
        notes["with control characters"] += 1
    if "\ufffd" in contents:
        notes["with broken characters (U+FFFD)"] += 1
    for row in rows:
        roles = [turn.role for turn in row.turns]
        if any(one == other for one, other in pairwise(roles)):
            notes["with two turns of one speaker in a row"] += 1
            break
