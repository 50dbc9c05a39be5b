"""What the plugin is told, by environment variables: whoever starts vLLM sets them. Knows no vLLM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from adreg.errors import UsageError
from adreg.references import Reference, parse_reference

REGISTRY, BASE, ADAPTERS = "ADREG_VLLM_REGISTRY", "ADREG_VLLM_BASE", "ADREG_VLLM_ADAPTERS"
ALLOW, MUTABLE, MAX_RANK = "ADREG_VLLM_ALLOW", "ADREG_VLLM_MUTABLE", "ADREG_VLLM_MAX_LORA_RANK"
LOCAL = "local"


@dataclass(frozen=True)
class PluginSettings:
    """`remote` is the URL of a registry to fetch from, None for the local one alone; `base` the folder of the model that is
    served, where its name does not tell; `refs` the adapters that may be asked for (none: all of the base) and `allow` the
    audit rules that somebody takes upon himself for them; `mutable` lets names be resolved that may mean something else
    tomorrow; `max_rank` is the engine's, where it is known."""

    remote: str | None = None
    base: str | None = None
    refs: tuple[Reference, ...] = ()
    allow: frozenset[str] = frozenset()
    mutable: bool = False
    max_rank: int | None = None

    @classmethod
    def from_environment(cls, said: Mapping[str, str] = os.environ) -> PluginSettings | None:
        """None where `ADREG_VLLM_REGISTRY` is not set. Raises `UsageError`, naming the variable that cannot be meant."""
        registry = said.get(REGISTRY, "").strip()
        if not registry:
            return None
        from adreg.audit.policy import check_ids
        from adreg.registry.remotes.catalog import check_url

        allow = frozenset(said.get(ALLOW, "").replace(",", " ").split())
        refs = tuple(parse_reference(text) for text in said.get(ADAPTERS, "").split())
        if allow and not refs:
            raise UsageError(f"{ALLOW} is about adapters that {ADAPTERS} names")
        if registry != LOCAL and (odd := next((ref for ref in refs if ref.version or ref.alias), None)):
            raise UsageError(f"{ADAPTERS} names {odd}: numbers and aliases are the remote's own", "write name or name@sha256:…")
        return cls(
            remote=None if registry == LOCAL else check_url(registry),
            base=said.get(BASE) or None,
            refs=refs,
            allow=check_ids(allow),
            mutable=_flag(said.get(MUTABLE, "0")),
            max_rank=_rank(said.get(MAX_RANK)),
        )


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise UsageError(f"{MUTABLE} is {text!r}", "set it to 1, or not at all")
    return text == "1"


def _rank(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) < 10**6):
        raise UsageError(f"{MAX_RANK} is {text[:40]!r}", "set it to what vLLM gets as --max-lora-rank")
    return int(text)
