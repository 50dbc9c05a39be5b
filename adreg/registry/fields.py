"""Records side by side, field by field. Knows plain mappings only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Pair = tuple[Any, Any]
Section = dict[str, Pair]


def pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Section:
    """Each field of either, with its value in `a` and in `b`, None where it has none; in the order of `a`, then of `b`."""
    return {key: (a.get(key), b.get(key)) for key in (*a, *(key for key in b if key not in a))}


def differing(sections: Mapping[str, Section]) -> dict[str, Section]:
    """The fields that differ, in the sections that have any."""
    changed = {name: {key: pair for key, pair in section.items() if pair[0] != pair[1]} for name, section in sections.items()}
    return {name: section for name, section in changed.items() if section}


def flat(config: Mapping[str, Any], front: str = "") -> Iterable[tuple[str, Any]]:
    """The values of nested mappings by their dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{front}{key}.")
        else:
            yield f"{front}{key}", value
