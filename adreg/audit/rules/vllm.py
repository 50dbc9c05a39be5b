"""X-VLLM: what vLLM would apply of an adapter, and what it would refuse or leave out (`audit/vllmmodel.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.audit.targets import PEFT_MERGE
from adreg.audit.vllmmodel import simulate
from adreg.formats.adapters.familykeys import Kind

SHOWN = 8


@rule(
    "X-VLLM-1",
    "an adapter of which vLLM would apply nothing",
    Severity.ERR,
    Cost.BASE,
    why="vLLM looks weights up by the full path of a module: it loads the adapter, finds none, and answers as the base does",
    fix="train it on the class that vLLM runs (AutoModelForCausalLM), or merge it with PEFT",
)
def nothing_applied(subject: Subject) -> Iterator[Seen]:
    if not _is_for_vllm(subject):
        return
    found = simulate(subject.family.modules, subject.card)
    if not found.applied and subject.family.modules:
        first, why = next(iter(found.refused.items()), (next(iter(subject.family.modules)), "it has no module of this path"))
        message = f"vLLM would apply none of its {len(subject.family.modules)} modules: {why}"
        yield Seen(message, first, seen=0, expected=len(subject.family.modules))


@rule(
    "X-VLLM-2",
    "modules that vLLM refuses or leaves out",
    Severity.ERR,
    Cost.HEADER,
    why="one module with an unknown name, and vLLM refuses the adapter; one with an unknown path, and it answers without it",
    fix=PEFT_MERGE,
)
def some_left_out(subject: Subject) -> Iterator[Seen]:
    if not _is_for_vllm(subject):
        return
    found = simulate(subject.family.modules, subject.base)
    if not found.applied and subject.base is not None:
        return
    for why in sorted(set(found.refused.values())):
        yield _listed(f"vLLM refuses it: {why}", [name for name, told in found.refused.items() if told == why])
    if found.ignored:
        yield _listed(f"vLLM has no module of {len(found.ignored)} paths, and ignores them", list(found.ignored))


def _listed(message: str, modules: list[str]) -> Seen:
    more = f" and {len(modules) - SHOWN} more" if len(modules) > SHOWN else ""
    return Seen(message, modules[0], seen=", ".join(modules[:SHOWN]) + more, expected="modules of the model")


def _is_for_vllm(subject: Subject) -> bool:
    return subject.target == "vllm" and subject.family.kind is Kind.LORA
