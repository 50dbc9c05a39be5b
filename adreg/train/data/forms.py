"""Which form the rows of a file have, told from the names of their columns. Knows no files, rows or tokens."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from adreg.errors import UsageError
from adreg.train.config import ColumnMap
from adreg.train.data.names import ANSWERS, CONVERSATIONS, PAIRS, PROMPTS, REFUSED

KNOWN = "known are messages, instruction/input/output, question/answer, prompt/completion, prompt/chosen/rejected and text"
PATH = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True)
class Form:
    """The columns a row is read from. `raw` says that prompt and answer follow each other without anything between them
    where the base has no template of its own; `refused` are columns that hold what adreg does not train on."""

    columns: ColumnMap
    raw: bool = False
    history: bool = False
    refused: tuple[str, ...] = ()

    @property
    def pairs(self) -> bool:
        """Whether its rows have a chosen and a rejected answer."""
        return self.columns.chosen is not None

    @property
    def mapping(self) -> dict[str, str]:
        """What is read from which column."""
        history = {"history": "history"} if self.history else {}
        return {**self.columns.model_dump(exclude_none=True), **history}

    @property
    def name(self) -> str:
        """The form in words: the columns that it takes."""
        return "/".join(self.mapping.values())

    def ignored(self, columns: Collection[str]) -> list[str]:
        """Which of `columns` nobody reads."""
        used = {name for value in self.mapping.values() for name in (value, *(part for part, _ in PATH.findall(value)[:1]))}
        return [column for column in columns if column not in used]


def detect_form(columns: Sequence[str], given: ColumnMap, example: dict[str, Any] | None = None) -> Form:
    """The form of rows with `columns`; what `given` names goes first.

    Conversations go before pairs, these before questions with answers, and text comes last. Raises `UsageError` where two
    columns could be meant, one that `given` names is not there, or none is known.
    """
    _check_given(columns, given)
    form = _detected(columns, given, example or {})
    return Form(
        columns=form.columns,
        raw=form.raw,
        history="history" in columns and form.columns.prompt is not None,
        refused=tuple(column for column in columns if column in REFUSED and column not in form.mapping.values()),
    )


def _detected(found: Sequence[str], given: ColumnMap, example: dict[str, Any]) -> Form:
    if given.messages or given.text:
        return Form(_filled(given, found))
    conversation = _candidate(found, CONVERSATIONS, "messages", suffixes=False)
    if conversation and not any((given.prompt, given.answer, given.chosen, given.rejected)):
        return Form(_filled(given, found, messages=conversation))
    if (given.chosen and given.rejected) or (set(PAIRS) <= set(found) and not given.answer):
        prompt = given.prompt or _candidate(found, PROMPTS, "prompt")
        return Form(_filled(given, found, prompt=prompt, chosen="chosen", rejected="rejected"))
    prompt = given.prompt or _candidate(found, PROMPTS, "prompt")
    answer = given.answer or _candidate(found, ANSWERS, "answer")
    if prompt and answer:
        takes_input = "instruction" in prompt and "input" in found
        columns = _filled(given, found, prompt=prompt, answer=answer, input="input" if takes_input else None)
        return Form(columns, raw=(prompt, answer) == ("prompt", "completion"))
    if "text" in found:
        return Form(ColumnMap(text="text"))
    raise UsageError(f"its columns are {', '.join(found) or 'none'}: {KNOWN}", _advice(prompt, answer, example))


def _check_given(columns: Sequence[str], given: ColumnMap) -> None:
    if bool(given.chosen) != bool(given.rejected):
        missing = "rejected" if given.chosen else "chosen"
        raise UsageError("the map names only one of chosen and rejected", f"add --map {missing}=COLUMN")
    for role, path in given.model_dump(exclude_none=True).items():
        name = path if path in columns else PATH.findall(path)[0][0] if PATH.match(path) else path
        if name not in columns:
            near = difflib.get_close_matches(name, columns, 1)
            fix = f"did you mean --map {role}={near[0]}?" if near else f"its columns are {', '.join(columns)}"
            raise UsageError(f"there is no column {path!r}, which the map names as {role}", fix)


def _filled(given: ColumnMap, found: Collection[str], **columns: str | None) -> ColumnMap:
    known = {"system": "system" if "system" in found else None, **columns}
    return ColumnMap(**{**known, **given.model_dump(exclude_none=True)})


def _candidate(found: Sequence[str], names: tuple[str, ...], role: str, suffixes: bool = True) -> str | None:
    """The one column called like `names`, exactly or else with a language suffix such as answer_zh."""
    exact = [column for column in found if column in names]
    pattern = re.compile(rf"({'|'.join(names)})_[a-z]{{2,3}}(_[a-z]{{2,4}})?", re.IGNORECASE)
    candidates = exact or ([column for column in found if pattern.fullmatch(column)] if suffixes else [])
    if len(candidates) > 1:
        choice = " or ".join(f"--map {role}={column}" for column in candidates)
        shown = ", ".join(candidates[:-1]) + f" and {candidates[-1]}"
        raise UsageError(f"columns {shown} could each be the {role}", f"choose with {choice}")
    return candidates[0] if candidates else None


def _advice(prompt: str | None, answer: str | None, example: dict[str, Any]) -> str:
    """The line to add, with paths to texts inside nested columns where there are such."""
    paths = [path for path in _texts(example) if path not in (prompt, answer)]
    wanted = [role for role, found in (("prompt", prompt), ("answer", answer)) if not found]
    nested = [path for path in paths if "." in path or "[" in path]
    if wanted == ["answer"] and nested:
        return f"say which is the answer, such as --map answer={nested[0]}"
    return "say which is which with " + " and ".join(f"--map {role}=COLUMN" for role in wanted)


def _texts(value: Any, path: str = "") -> list[str]:
    if isinstance(value, str):
        return [path]
    if isinstance(value, list) and value:
        return _texts(value[0], f"{path}[0]")
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in _texts(inner, f"{path}.{key}" if path else str(key))]
    return []
