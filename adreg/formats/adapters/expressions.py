"""How long a regular expression may take, from its text alone. It is parsed and weighed, never run.

PEFT matches the expressions of a configuration against every module's name with Python's backtracking `re`. The weight
is the logarithm of the paths that such a matcher may try on a name of 64 characters: a repetition adds 5 (6, but the
lengths of several in a row share the name), a choice between alternatives that begin alike adds its own, and a
repetition of what matches in several ways has no bound.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from importlib import import_module
from typing import Any

REPETITION = 5.0
TEXT_LIMIT = 2_000
FEW = 4
ENDLESS = math.inf


def weight_of(text: str) -> float:
    """log2 of the paths that a backtracking matcher may try with `text`; infinity where they have no bound.

    Raises `ValueError` for what is no expression, or is longer than `TEXT_LIMIT`.
    """
    if len(text) > TEXT_LIMIT:
        raise ValueError(f"it is longer than {TEXT_LIMIT} characters")
    parser = _parser()
    try:
        return _sequence(parser.parse(text))
    except (parser.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error) or "it is nested too deeply") from error


@cache
def _parser() -> Any:
    """The parser of `re` itself: what it accepts is what every loader will run."""
    return import_module("re._parser")


def _sequence(parsed: Any) -> float:
    return sum(_weight(str(operation), argument) for operation, argument in parsed)


def _weight(operation: str, argument: Any) -> float:
    if operation.endswith("_REPEAT"):
        return _repetition(*argument)
    if operation == "SUBPATTERN":
        return _sequence(argument[3])
    if operation == "BRANCH":
        return _choice(argument[1])
    if operation in ("ASSERT", "ASSERT_NOT"):
        return _sequence(argument[1])
    if operation == "ATOMIC_GROUP":
        return _sequence(argument)
    return ENDLESS if operation.startswith("GROUPREF") else 0.0


def _repetition(least: int, most: int, body: Any) -> float:
    """Of a body that matches in one way only, the ways are as many as the lengths; else they multiply."""
    inner, lengths = _sequence(body), int(most) - int(least) + 1
    if inner and most > FEW:
        return ENDLESS
    return (inner * int(most) if inner else 0.0) + min(math.log2(lengths), REPETITION)


def _choice(alternatives: Any) -> float:
    """Alternatives that begin with other characters exclude each other; any other one may match beside them."""
    begins = [parsed[0] if len(parsed) else ("EMPTY", None) for parsed in alternatives]
    literal = Counter(value for operation, value in begins if str(operation) == "LITERAL")
    alike = max(literal.values(), default=0) + len(begins) - literal.total()
    return max(_sequence(parsed) for parsed in alternatives) + math.log2(alike)
