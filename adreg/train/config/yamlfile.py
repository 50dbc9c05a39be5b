"""A YAML file of settings, with the line of each. Knows YAML, not which settings there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from adreg.errors import UsageError

LIMIT = 1_000_000


def read_settings(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings in `file`, nested, and where each stands (file:line) by its dotted name.

    Raises `UsageError` for what is no YAML, holds no settings, or sets one twice.
    """
    text = _text(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        why = getattr(error, "problem", None) or str(error)
        raise UsageError(f"{place}: is not YAML: {why}", "indent with spaces, and quote texts that hold : or #") from error
    except RecursionError as error:
        raise UsageError(f"{file}: is nested too deeply", "settings are two levels deep") from error
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise UsageError(
            f"{file} holds no settings", "write sections such as lora, data and train: `adreg recipes show default`"
        )
    return values, dict(_places(file, node))


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
        if len(content) > LIMIT:
            raise UsageError(f"{file} is larger than {LIMIT} bytes", "is it the configuration, or the data?")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {file}: {error}") from error


def _places(file: Path, node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, str]]:
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in seen:
            why = f"{file}:{line}: {name} is set twice, first on line {seen[name]}"
            raise UsageError(why, "remove one of the two, or join their settings")
        seen[name] = line
        yield name, f"{file}:{line}"
        if isinstance(value, yaml.MappingNode):
            yield from _places(file, value, f"{name}.")
