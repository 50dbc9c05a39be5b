"""The PARAMETERs that a Modelfile may set, and their types. Source: ollama 0.33, api/types.go (Options, FormatParams)."""

from __future__ import annotations

import math
import re

from adreg.errors import UsageError

Value = int | float | bool | list[str]
STOP = "stop"
WHOLE, REAL, SWITCH, TEXT = "a whole number", "a number", "true or false", "a text"
KINDS = {
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "num_predict"), WHOLE),
    **dict.fromkeys(("draft_num_predict", "seed", "top_k", "repeat_last_n"), WHOLE),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), REAL),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), REAL),
    "use_mmap": SWITCH,
    STOP: TEXT,
}
TRUE, FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


def parameter_value(name: str, text: str) -> Value:
    """The value that `text` is for the parameter `name`; a text to stop at is a list of one. Raises `UsageError`."""
    if name not in KINDS:
        raise UsageError(f"Ollama has no parameter {name!r}", f"it has {', '.join(sorted(KINDS))}")
    value = _value(KINDS[name], text)
    if value is None:
        raise UsageError(f"the parameter {name} cannot be {text!r}", f"{KINDS[name]} belongs there")
    return value


def merged(one: dict[str, Value], other: dict[str, Value]) -> dict[str, Value]:
    """Both, where `other` has the last word; texts to stop at are added up."""
    stops = [text for values in (one, other) for text in _texts(values.get(STOP))]
    both = {**one, **other}
    return {**both, STOP: list(dict.fromkeys(stops))} if stops else both


def _value(kind: str, text: str) -> Value | None:
    if kind == TEXT:
        return [text] if text else None
    if kind == SWITCH:
        return text in TRUE if text in TRUE + FALSE else None
    if kind == WHOLE:
        return int(text) if re.fullmatch("[+-]?[0-9]{1,18}", text) else None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _texts(value: Value | None) -> list[str]:
    return value if isinstance(value, list) else []
