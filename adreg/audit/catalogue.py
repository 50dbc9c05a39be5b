"""All rules for adapters and for GGUF files, collected from `rules/`. Knows which there are, not what they look for."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from adreg.audit.gguf import GgufSubject
from adreg.audit.rule import Rule
from adreg.audit.rules import (
    base,
    config,
    duplicates,
    file,
    folder,
    gguf,
    ggufidentity,
    gguflora,
    keys,
    quality,
    readiness,
    shapes,
    spectral,
    supply,
    template,
    tokenizer,
)
from adreg.audit.subject import Subject


def rules_of(module: ModuleType) -> Iterator[Rule[Any]]:
    """The rules that `module` defines, in its order."""
    yield from (value for value in vars(module).values() if isinstance(value, Rule))


MODULES = (file, folder, keys, config, base, shapes, tokenizer, template, quality, spectral, duplicates, supply, readiness)
RULES: tuple[Rule[Subject], ...] = tuple(
    found for module in MODULES for found in sorted(rules_of(module), key=lambda found: found.id)
)
BY_ID = {found.id: found for found in RULES}
GGUF_RULES: tuple[Rule[GgufSubject], ...] = tuple(
    found for module in (gguf, ggufidentity, gguflora) for found in sorted(rules_of(module), key=lambda found: found.id)
)
EVERY_RULE: tuple[Rule[Any], ...] = (*RULES, *GGUF_RULES)
