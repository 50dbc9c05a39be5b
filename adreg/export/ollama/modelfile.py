"""A Modelfile: what it says, read strictly and written so that Ollama reads the same. Knows its grammar, opens no model.

Format: https://docs.ollama.com/modelfile; ollama 0.33, parser/parser.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adreg.errors import NotFoundError, UnsupportedError, UsageError
from adreg.export.ollama.parameters import Value, merged, parameter_value

FORMAT, QUOTES = "utf-8-sig", '"""'
ROLES = ("system", "user", "assistant")
ONCE = ("FROM", "ADAPTER", "TEMPLATE", "SYSTEM")
KEYED = ("PARAMETER", "MESSAGE")
NOT_TAKEN = ("DRAFT", "RENDERER", "PARSER", "REQUIRES")
INSTRUCTION = re.compile(r"[ \t]*(?P<name>[A-Za-z]+)[ \t]+(?P<rest>.*)")
KEY = re.compile(r"(\S*)(.*)")


@dataclass(frozen=True)
class Modelfile:
    """`model` and `adapter` are what FROM and ADAPTER name; `messages` are pairs of a role and a text."""

    model: str
    adapter: str | None = None
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Value] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    licenses: tuple[str, ...] = ()
    comment: str = field(default="", compare=False)

    def text(self) -> str:
        """The file. Raises `UsageError` for a text that Ollama would not read back as it is."""
        lines = [f"FROM {_word(self.model)}"]
        lines += [f"ADAPTER {_word(self.adapter)}"] if self.adapter else []
        lines += [f"PARAMETER {name} {text}" for name, value in self.parameters.items() for text in _values(value)]
        lines += [f"# {self.comment}"] if self.comment else []
        lines += [f"TEMPLATE {_block(self.template)}"] if self.template else []
        lines += [f"SYSTEM {_block(self.system)}"] if self.system else []
        lines += [f"MESSAGE {role} {_block(text)}" for role, text in self.messages]
        lines += [f"LICENSE {_block(text)}" for text in self.licenses]
        return "\n".join(lines) + "\n"


def can_hold(text: str) -> bool:
    """Whether Ollama reads `text` back from a Modelfile as it is."""
    return QUOTES not in text and not _dropped(text)


@dataclass(frozen=True)
class _Instruction:
    """One instruction: its name in capitals, the key that a parameter or message begins with, and its value."""

    name: str
    key: str
    value: str


def read_modelfile(path: Path) -> Modelfile:
    """What the file at `path` says. Raises `NotFoundError`, `UnsupportedError`, `UsageError` with the line that is wrong."""
    if not path.is_file():
        raise NotFoundError("Modelfile", str(path))
    try:
        return parse_modelfile(path.read_text(encoding=FORMAT), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", "save it as UTF-8 text") from error


def parse_modelfile(text: str, source: str) -> Modelfile:
    """As `read_modelfile`, for the text of the file that errors call `source`."""
    said: dict[str, str] = {}
    parameters: dict[str, Value] = {}
    messages, licenses = [], []
    for instruction in _instructions(text, source):
        match instruction:
            case _Instruction("PARAMETER", name, value):
                parameters = _with_parameter(parameters, name, value, source)
            case _Instruction("MESSAGE", role, value):
                messages.append((role, value))
            case _Instruction("LICENSE", _, value):
                licenses.append(value)
            case _Instruction(name, _, value):
                if name in said or not value:
                    raise UsageError(f"{source}: {name} {'appears twice' if value else 'says nothing'}")
                said[name] = value
    if "FROM" not in said:
        raise UsageError(f"{source} has no FROM", "its first line is FROM and the path of a GGUF file")
    adapter, template, system = (said.get(name) for name in ONCE[1:])
    return Modelfile(said["FROM"], adapter, template, system, parameters, tuple(messages), tuple(licenses))


def _with_parameter(known: dict[str, Value], name: str, text: str, source: str) -> dict[str, Value]:
    value = parameter_value(name, text)
    if name in known and not isinstance(value, list):
        raise UsageError(f"{source}: PARAMETER {name} appears twice")
    return merged(known, {name: value})


def _instructions(text: str, source: str) -> Iterator[_Instruction]:
    lines = iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip(" \t").startswith("#"):
            continue
        where = f"{source}, line {number}"
        found = INSTRUCTION.fullmatch(line)
        name = found["name"].upper() if found else ""
        if found is None or name not in (*ONCE, *KEYED, *NOT_TAKEN, "LICENSE"):
            hint = f"instructions are {', '.join((*ONCE, *KEYED))} and LICENSE"
            raise UsageError(f"{where}: {line.split()[0][:40]!r} is no instruction", hint)
        if name in NOT_TAKEN:
            raise UnsupportedError(f"{where}: {name}", "create this model with `ollama create`")
        key, rest = _key(name, found["rest"], where)
        yield _Instruction(name, key, _value(rest, lines, where))


def _key(name: str, rest: str, where: str) -> tuple[str, str]:
    """The key at the beginning of `rest`, where an instruction called `name` has one, and what follows it."""
    if name not in KEYED:
        return "", rest
    key, value = KEY.fullmatch(rest).groups()  # type: ignore[union-attr]  # it takes any text
    if name == "MESSAGE" and key not in ROLES:
        raise UsageError(f"{where}: {key!r} is no role", f"a message is from {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    return key, value


def _value(rest: str, lines: Iterator[tuple[int, str]], where: str) -> str:
    """The text that begins with `rest` and goes on over `lines` until its quotes are closed."""
    while (value := _unquoted(rest.strip())) is None:
        _, more = next(lines, (0, None))
        if more is None:
            raise UsageError(f"{where}: its quotes are never closed")
        rest += f"\n{more}"
    return value


def _unquoted(text: str) -> str | None:
    """`text` without its quotes; None while they are open."""
    for quotes in (QUOTES, '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def _values(value: Value) -> list[str]:
    """How the values of one parameter are written."""
    if isinstance(value, list):
        return [f'"{text}"' if not set(text) & {'"', "\n"} else _block(text) for text in map(_readable, value)]
    return [str(value).lower()]


def _word(text: str) -> str:
    """A path, in quotes only where it needs them."""
    plain = text and text == text.strip() and "\n" not in text and not text.startswith('"')
    return _readable(text) if plain else _block(text)


def _block(text: str) -> str:
    """`text` between triple quotes, which keep line ends and blanks."""
    if QUOTES in text:
        raise UsageError("a Modelfile cannot hold a text with triple quotes", "reword it")
    return f"{QUOTES}{_readable(text)}{QUOTES}"


def _readable(text: str) -> str:
    """`text`, if Ollama reads all of it."""
    dropped = _dropped(text)
    if dropped:
        raise UsageError(f"Ollama would drop the character U+{ord(dropped):04X} from a Modelfile", "reword the text")
    return text


def _dropped(text: str) -> str:
    """The first character of `text` that Ollama drops: what is neither printable nor a blank, a tab or the end of a line."""
    return next((character for character in text if not (character.isprintable() or character in "\n\t")), "")
