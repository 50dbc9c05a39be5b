"""Which form the rows of a file have, told from their columns, and how one row of it reads. Knows no files or tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from adreg.errors import UnsupportedError, UsageError
from adreg.train.config import ColumnMap

CONVERSATIONS = ("messages", "conversations")
PROMPTS = ("instruction", "question", "query", "prompt", "problem", "title")
ANSWERS = ("output", "answer", "response", "completion")
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
KNOWN = "known are messages, instruction/input/output, question/answer, prompt/completion and text"


class RowFault(ValueError):
    """What is wrong with one row; the reader adds file and line."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Form:
    """The columns a row is read from. `joiner` stands between prompt and answer where the base has no chat template."""

    columns: ColumnMap
    joiner: str = "\n"

    @property
    def name(self) -> str:
        """The form in words: the columns that it takes."""
        return "/".join(value for value in self.columns.model_dump().values() if value)


def detect_form(columns: Iterable[str], given: ColumnMap) -> Form:
    """The form of rows with `columns`; what `given` names goes first.

    Raises `UsageError` where two columns could be meant or none is known, `UnsupportedError` for preference pairs.
    """
    found = list(columns)
    if given.messages or given.text:
        return Form(given)
    if {"chosen", "rejected"} <= set(found):
        raise UnsupportedError("training on preference pairs (chosen/rejected)", "write rows with one answer each")
    for column in CONVERSATIONS:
        if column in found and not (given.prompt or given.answer):
            return Form(_filled(given, found, messages=column))
    prompt = given.prompt or _candidate(found, PROMPTS, "prompt")
    answer = given.answer or _candidate(found, ANSWERS, "answer")
    if prompt and answer:
        takes_input = prompt.startswith("instruction") and "input" in found
        form = Form(_filled(given, found, prompt=prompt, answer=answer, input="input" if takes_input else None))
        return replace(form, joiner="") if (prompt, answer) == ("prompt", "completion") else form
    if "text" in found:
        return Form(ColumnMap(text="text"))
    raise UsageError(
        f"its columns are {', '.join(found) or 'none'}: {KNOWN}",
        "say which is which with --set data.map.prompt=... and data.map.answer=...",
    )


def read_turns(form: Form, row: dict[str, Any]) -> tuple[Turn, ...]:
    """The turns of `row`, checked; one of the role `text` for a row of plain text. Raises `RowFault`."""
    columns = form.columns
    if columns.text:
        return (Turn("text", _text(row, columns.text)),)
    system = _optional(row, columns.system)
    opening = (Turn("system", system),) if system else ()
    if columns.messages:
        return opening + _conversation(_column(row, columns.messages))
    if not columns.prompt or not columns.answer:
        raise RowFault("the map names only one of prompt and answer")
    if row.get("history"):
        raise RowFault("it has a history of earlier turns; write such rows as messages")
    parts = [_text(row, columns.prompt), _optional(row, columns.input)]
    question = Turn("user", "\n".join(part for part in parts if part))
    return (*opening, question, Turn("assistant", _text(row, columns.answer)))


def _filled(given: ColumnMap, found: list[str], **columns: str | None) -> ColumnMap:
    known = {"system": "system" if "system" in found else None, **columns}
    return ColumnMap(**{**known, **given.model_dump(exclude_none=True)})


def _candidate(found: list[str], names: tuple[str, ...], role: str) -> str | None:
    """The one column called like `names`, exactly or else with a language suffix such as answer_zh."""
    exact = [column for column in found if column in names]
    suffixed = [column for column in found if re.fullmatch(rf"({'|'.join(names)})_[a-z]{{2,3}}(_[a-z]{{2,4}})?", column, re.I)]
    candidates = exact or suffixed
    if len(candidates) > 1:
        choice = " or ".join(f"--set data.map.{role}={column}" for column in candidates)
        raise UsageError(f"columns {' and '.join(candidates)} could each be the {role}", f"choose with {choice}")
    return candidates[0] if candidates else None


def _conversation(value: Any) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise RowFault("its conversation is not a list of turns")
    turns = tuple(_turn(entry, number) for number, entry in enumerate(value, 1))
    if not any(turn.role == "assistant" for turn in turns):
        raise RowFault("its conversation has no assistant turn, so there is nothing to learn")
    if any(turn.role == "system" for turn in turns[1:]):
        raise RowFault("its system turn is not the first")
    return turns


def _turn(entry: Any, number: int) -> Turn:
    if not isinstance(entry, dict):
        raise RowFault(f"turn {number} is not an object")
    if entry.get("tool_calls") or entry.get("function_call"):
        raise RowFault(f"turn {number} calls a tool, which is not supported")
    role = entry.get("role", entry.get("from"))
    content = entry.get("content", entry.get("value"))
    if not isinstance(role, str) or role not in SPEAKERS:
        raise RowFault(f"turn {number} has the role {role!r}; known are {', '.join(SPEAKERS)}")
    if not isinstance(content, str):
        raise RowFault(f"turn {number} has {_kind(content)} where its text belongs")
    return Turn(SPEAKERS[role], content)


def _text(row: dict[str, Any], path: str) -> str:
    value = _column(row, path)
    if not isinstance(value, str):
        raise RowFault(f"{path} is {_kind(value)}, not text")
    return value


def _optional(row: dict[str, Any], path: str | None) -> str:
    if path is None or row.get(path) is None:
        return ""
    return _text(row, path)


def _column(row: dict[str, Any], path: str) -> Any:
    """The value at `path`: names with dots between, and [number] for list entries."""
    if path in row:
        return row[path]
    value: Any = row
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[name] if name else value[int(index)]
        except (KeyError, IndexError, TypeError):
            raise RowFault(f"it has no {path}") from None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing")
