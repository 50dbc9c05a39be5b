"""What OASIS's sarif-schema-2.1.0.json (errata 01) asks of the objects that adreg writes, and a check of a log against it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LEVEL = ("none", "note", "warning", "error")
URI = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True)
class Shape:
    """An object that has no other properties than `kinds`, and at least those that it must have. A kind is a type, the
    texts that are allowed, a pattern, the name of a shape, or a list with the kind of its entries."""

    required: frozenset[str]
    kinds: dict[str, Any]


def shape(required: str, **kinds: Any) -> Shape:
    return Shape(frozenset(required.split()), kinds)


SHAPES = {
    "log": Shape(frozenset({"version", "runs"}), {"$schema": URI, "version": ("2.1.0",), "runs": ["run"]}),
    "run": shape(
        "tool", tool="tool", columnKind=("utf16CodeUnits", "unicodeCodePoints"), results=["result"], properties=dict
    ),
    "tool": shape("driver", driver="toolComponent"),
    "toolComponent": shape("name", name=str, version=str, rules=["reportingDescriptor"]),
    "reportingDescriptor": shape(
        "id", id=str, shortDescription="multiformat", fullDescription="multiformat", help="multiformat",
        defaultConfiguration="reportingConfiguration", properties=dict,
    ),
    "multiformat": shape("text", text=str, markdown=str),
    "reportingConfiguration": shape("", level=LEVEL),
    "result": shape(
        "message", ruleId=str, ruleIndex=int, level=LEVEL, message="message", locations=["location"],
        partialFingerprints=dict, suppressions=["suppression"], properties=dict,
    ),
    "message": shape("text", text=str),
    "location": shape("", physicalLocation="physicalLocation", logicalLocations=["logicalLocation"]),
    "physicalLocation": shape("artifactLocation", artifactLocation="artifactLocation"),
    "artifactLocation": shape("", uri=URI),
    "logicalLocation": shape("", fullyQualifiedName=str),
    "suppression": shape("kind", kind=("inSource", "external"), justification=str),
}  # fmt: skip


def faults(log: Any) -> list[str]:
    """What is wrong with `log`: its structure, and results whose rule is not the one that they point to."""
    found = list(_faults(log, "log", "$"))
    for run in [] if found else log["runs"]:
        rules = run["tool"]["driver"]["rules"]
        found += [one["ruleId"] for one in run["results"] if rules[one["ruleIndex"]]["id"] != one["ruleId"]]
    return found


def _faults(value: Any, kind: Any, path: str) -> Iterator[str]:
    if isinstance(kind, str):
        yield from _object_faults(value, SHAPES[kind], path)
    elif isinstance(kind, list):
        yield from [] if isinstance(value, list) else [f"{path} is no list"]
        for place, one in enumerate(value if isinstance(value, list) else ()):
            yield from _faults(one, kind[0], f"{path}[{place}]")
    elif isinstance(kind, tuple) and value not in kind:
        yield f"{path} is {value!r}"
    elif isinstance(kind, re.Pattern) and not (isinstance(value, str) and kind.fullmatch(value)):
        yield f"{path} is {value!r}, no address"
    elif isinstance(kind, type) and type(value) is not kind:
        yield f"{path} is {value!r}"


def _object_faults(value: Any, expected: Shape, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is no object"
        return
    yield from (f"{path} lacks {name}" for name in sorted(expected.required - set(value)))
    yield from (f"{path} has {name}" for name in sorted(set(value) - set(expected.kinds)))
    for name in sorted(set(value) & set(expected.kinds)):
        yield from _faults(value[name], expected.kinds[name], f"{path}.{name}")
