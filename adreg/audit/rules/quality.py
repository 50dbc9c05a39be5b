"""Q: what the numbers themselves say."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.formats.dtypes import FLOATS, all_finite, any_nonzero

SOME_DEAD = 0.05


@rule(
    "Q-NAN-1",
    "NaN or infinity",
    Severity.BLOCK,
    Cost.TENSORS,
    why="with SDPA attention the model may still answer, and a merge writes the NaNs",
    fix="take an earlier checkpoint of the training",
)
def not_finite(subject: Subject) -> Iterator[Seen]:
    for name, view in subject.tensors.items():
        if view.dtype in FLOATS and not all_finite(view.data, view.dtype):
            yield Seen("holds NaN or infinity", name)


def dead_modules(subject: Subject) -> tuple[list[str], int]:
    """The LoRA modules whose B is zero, and of how many."""
    halves = {name: parts.get("B", parts.get("embedding_B")) for name, parts in subject.family.modules.items()}
    readable = {name: b for name, b in halves.items() if b is not None and b.dtype in FLOATS}
    return [name for name, b in readable.items() if not any_nonzero(b.data, b.dtype)], len(readable)


@rule(
    "Q-ZERO-1",
    "every lora_B is zero",
    Severity.ERR,
    Cost.TENSORS,
    why="the adapter is the base under another name",
    fix="check that the training ran",
)
def no_effect(subject: Subject) -> Iterator[Seen]:
    dead, count = dead_modules(subject)
    if count and len(dead) == count:
        yield Seen("every lora_B is zero: it does nothing", seen=f"{count} of {count} modules", expected="none")


@rule(
    "Q-ZERO-2",
    "some modules' lora_B is zero",
    Severity.WARN,
    Cost.TENSORS,
    why="part of it was never trained",
    fix="check the targets",
)
def some_dead(subject: Subject) -> Iterator[Seen]:
    dead, count = dead_modules(subject)
    if count * SOME_DEAD <= len(dead) < count and dead:
        share = f"{len(dead)} of {count} modules"
        yield Seen(f"{share} do nothing (lora_B is zero)", dead[0], seen=share, expected=f"under {SOME_DEAD:.0%}")
