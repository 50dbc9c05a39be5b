"""How one row reads: the turns of a conversation, or a prompt and two answers to it. Knows columns, not files or tokens."""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any, NamedTuple

from adreg.train.data.forms import PATH, Form
from adreg.train.data.names import REFUSED, SPEAKERS, TOOL_SPEAKERS

WITHOUT = "remove such rows; adreg trains on text"
TEXT = "text"


class RowFault(ValueError):
    """What is wrong with one row, and what would mend it; the reader adds file and line."""

    def __init__(self, why: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(why)


class Turn(NamedTuple):
    """One turn of a conversation; `role` is system, user or assistant, or `text` for a row of plain text."""

    role: str
    content: str


class Read(NamedTuple):
    """A row as one conversation, or as two for a pair; of each, what stands before turn `learn_from` is not learned."""

    talks: tuple[tuple[Turn, ...], ...]
    learn_from: int = 0


def read_row(form: Form, row: dict[str, Any]) -> Read:
    """The turns of `row`, checked. Raises `RowFault`."""
    for column in form.refused:
        if row.get(column):
            raise RowFault(f"it has {REFUSED[column]} ({column}), which adreg does not train on", WITHOUT)
    columns = form.columns
    if columns.text:
        return Read(((Turn(TEXT, _text(row, columns.text)),),))
    system = _optional(row, columns.system)
    opening = (Turn("system", system),) if system else ()
    if columns.chosen and columns.rejected:
        return _pair(form, row, opening)
    if columns.messages:
        return Read((_checked(opening + conversation(_column(row, columns.messages))),))
    if not columns.prompt or not columns.answer:
        raise RowFault("the map names only one of prompt and answer", "add --map prompt=COLUMN or --map answer=COLUMN")
    prompt = opening + _prompt(form, row)
    answer = _column(row, columns.answer)
    if isinstance(answer, list):
        return Read((_checked(prompt + conversation(answer)),), len(prompt))
    return Read((_checked((*prompt, Turn("assistant", _text(row, columns.answer)))),))


def conversation(value: Any) -> tuple[Turn, ...]:
    """The turns of a list of messages. Raises `RowFault`."""
    if not isinstance(value, list) or not value:
        raise RowFault(f"its conversation is {_kind(value)}, not a list of turns", 'write [{"role": ..., "content": ...}, ...]')
    return tuple([_turn(entry, number) for number, entry in enumerate(value, 1)])


def _prompt(form: Form, row: dict[str, Any]) -> tuple[Turn, ...]:
    """The turns before the answer: earlier ones of the history, then the question with its input."""
    columns = form.columns
    if columns.prompt is None:
        return ()
    earlier = _history(row.get("history")) if form.history else ()
    asked = _column(row, columns.prompt)
    if isinstance(asked, list):
        return earlier + conversation(asked)
    given = _optional(row, columns.input)
    question = _text(row, columns.prompt)
    return (*earlier, Turn("user", f"{question}\n{given}" if given and question else given or question))


def _history(value: Any) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for entry in value or ():
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not all(isinstance(words, str) for words in entry):
            raise RowFault("its history is not a list of [question, answer]", "write [[question, answer], ...]")
        turns += [Turn("user", entry[0]), Turn("assistant", entry[1])]
    return tuple(turns)


def _pair(form: Form, row: dict[str, Any], opening: tuple[Turn, ...]) -> Read:
    """The two conversations of a pair and the length of the prompt that they share."""
    prompt = opening + _prompt(form, row)
    talks = tuple(_answered(row, str(column), prompt) for column in (form.columns.chosen, form.columns.rejected))
    alike = [one == other for one, other in zip(*talks, strict=False)]
    shared = alike.index(False) if False in alike else min(map(len, talks)) - 1
    if shared == 0 or not any(turn.role == "user" for turn in talks[0][:shared]):
        raise RowFault("chosen and rejected share no prompt", "add a column prompt, or begin both with the same turns")
    for talk, name in zip(talks, ("chosen", "rejected"), strict=True):
        _checked(talk)
        if not any(turn.role == "assistant" for turn in talk[shared:]):
            raise RowFault(f"{name} has no answer of its own after the shared prompt", "end it with an assistant turn")
    return Read(talks, shared)


def _answered(row: dict[str, Any], column: str, prompt: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The prompt and the answer in `column`, which may repeat the prompt as a whole conversation."""
    value = _column(row, column)
    if not isinstance(value, list):
        return (*prompt, Turn("assistant", _text(row, column)))
    turns = conversation(value)
    if turns[0].role == "assistant":
        return prompt + turns
    asked = [turn.content.strip() for turn in prompt if turn.role == "user"]
    if asked and asked[-1] not in [turn.content.strip() for turn in turns]:
        raise RowFault(f"{column} is a conversation about another prompt", "let both say the same, or leave the prompt out")
    system = prompt[:1] if prompt and prompt[0].role == "system" and turns[0].role != "system" else ()
    return system + turns


def _checked(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    if not any(turn.role == "assistant" for turn in turns):
        why = "its conversation has no assistant turn, so there is nothing to learn"
        raise RowFault(why, "add the answer, or remove the row")
    if any(turn.role == "system" for turn in turns[1:]):
        raise RowFault("its system turn is not the first", "move it to the front, once")
    return turns


def _turn(entry: Any, number: int) -> Turn:
    if not isinstance(entry, dict):
        raise RowFault(f"turn {number} is {_kind(entry)}, not an object", 'write {"role": ..., "content": ...}')
    if entry.get("tool_calls") or entry.get("function_call"):
        raise RowFault(f"turn {number} calls a tool, which adreg does not train on", WITHOUT)
    role = entry.get("role", entry.get("from"))
    if role in TOOL_SPEAKERS:
        raise RowFault(f"turn {number} is a tool's (role {role!r}), which adreg does not train on", WITHOUT)
    if not isinstance(role, str) or role not in SPEAKERS:
        near = difflib.get_close_matches(str(role), SPEAKERS, 1)
        fix = f"did you mean {near[0]}?" if near else "rename the role"
        raise RowFault(f"turn {number} has the role {role!r}; known are {', '.join(SPEAKERS)}", fix)
    if entry.get("weight") == 0 or entry.get("train") is False:
        raise RowFault(
            f"turn {number} asks not to be learned, and adreg learns every answer", "split the conversation before it"
        )
    content = entry.get("content", entry.get("value"))
    return Turn(SPEAKERS[role], content if isinstance(content, str) else _parts(content, number))


def _parts(content: Any, number: int) -> str:
    """The text of a list of content parts, each of which must be text."""
    if not isinstance(content, list):
        raise RowFault(f"turn {number} has {_kind(content)} where its text belongs", "write its content as text")
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else _kind(part)
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RowFault(f"turn {number} holds a part of type {kind!r}, which adreg does not train on", WITHOUT)
    return "".join(part["text"] for part in content)


def _text(row: dict[str, Any], path: str) -> str:
    value = _column(row, path)
    if not isinstance(value, str):
        raise RowFault(f"{path} is {_kind(value)}, not text", "write it as text, or remove the row")
    return value


def _optional(row: dict[str, Any], path: str | None) -> str:
    if path is None or row.get(path, "") is None or (path not in row and "." not in path and "[" not in path):
        return ""
    return _text(row, path)


def _column(row: dict[str, Any], path: str) -> Any:
    """The value at `path`: names with dots between, and [number] for list entries."""
    if path in row:
        return row[path]
    value: Any = row
    for name, index in _steps(path):
        try:
            value = value[name] if name else value[int(index)]
        except (KeyError, IndexError, TypeError):
            near = difflib.get_close_matches(path, row, 1)
            fix = f"is its {near[0]} meant?" if near else "add it, or remove the row"
            raise RowFault(f"it has no {path}", fix) from None
    return value


@lru_cache
def _steps(path: str) -> list[tuple[str, str]]:
    return PATH.findall(path)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
