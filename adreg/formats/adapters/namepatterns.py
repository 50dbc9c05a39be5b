"""The values of `rank_pattern` and `alpha_pattern` by module, in a time that no configuration can stretch.

A key means the modules whose name ends in it, at a dot. Plain keys are looked up, expressions are few and short.
Source: peft/utils/other.py, get_pattern_key: the first key that matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from adreg.errors import FormatError
from adreg.formats.adapters.expressions import REPETITION, weight_of
from adreg.formats.adapters.values import PLAIN_NAME

EXPRESSION_LIMIT = 8
REPETITION_LIMIT = 2
NAME_LIMIT = 128


class NamePattern:
    """`values` by key, in the order of the file."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = dict(values)
        self.order = {key: place for place, key in enumerate(self.values)}
        self.expressions = tuple(key for key in self.values if not PLAIN_NAME.fullmatch(key))

    def value(self, module: str, default: float) -> float:
        """The value of the first key that matches `module`."""
        parts = module.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts)))
        found = [end for end in ends if end in self.order]
        if len(module) <= NAME_LIMIT:
            found += [key for key in self.expressions if _compiled(key).fullmatch(module)]
        return self.values[min(found, key=self.order.__getitem__)] if found else default


def check_expressions(path: Path, field: str, keys: Mapping[str, object]) -> None:
    """Raise `FormatError` for more or heavier expressions than adreg itself runs over an adapter's modules."""
    found = [key for key in keys if not PLAIN_NAME.fullmatch(key)]
    weights = [weight_of(key) for key in found]
    if len(found) > EXPRESSION_LIMIT or max(weights, default=0) > REPETITION or sum(weights) > REPETITION_LIMIT * REPETITION:
        why = f"{field} has more than {EXPRESSION_LIMIT} expressions, or too many repetitions; write plain module names"
        raise FormatError(path, why, "K-CFG-5")


@lru_cache(maxsize=64)
def _compiled(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})")
