"""All rules for adapters and for GGUF files, collected from `rules/`. Knows which there are, not what they look for."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from adreg.audit.gguf import GgufSubject
from adreg.audit.rule import Rule
from adreg.audit.rules import (
    backdoor,
    base,
    config,
    duplicates,
    file,
    folder,
    gguf,
    ggufidentity,
    gguflora,
    gguftemplate,
    keys,
    provenance,
    quality,
    readiness,
    shapes,
    spectral,
    supply,
    targeting,
    template,
    tokenizer,
    unchanged,
    vllm,
)
from adreg.audit.subject import Subject


def rules_of(module: ModuleType) -> Iterator[Rule[Any]]:
    """The rules that `module` defines, in its order."""
    yield from (value for value in vars(module).values() if isinstance(value, Rule))


MODULES = (
    file, folder, keys, targeting, config, base, shapes, tokenizer, template, quality, spectral, backdoor, duplicates, supply,
    provenance, readiness, vllm, unchanged,
)  # fmt: skip
RULES: tuple[Rule[Subject], ...] = tuple(
    found for module in MODULES for found in sorted(rules_of(module), key=lambda found: found.id)
)
BY_ID = {found.id: found for found in RULES}
GGUF_RULES: tuple[Rule[GgufSubject], ...] = tuple(
    found
    for module in (gguf, gguftemplate, ggufidentity, gguflora)
    for found in sorted(rules_of(module), key=lambda found: found.id)
)
EVERY_RULE: tuple[Rule[Any], ...] = (*RULES, *GGUF_RULES)
