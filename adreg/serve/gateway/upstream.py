"""The engines behind a gateway: which there are, how busy each is, and which one is asked for what. Opens no connection.

For one thread, that of the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from urllib.parse import urlsplit

from adreg.serve.gateway.dialects import Dialect, JsonObject, NamesDialect, OpenAIDialect, SglangDialect

__all__ = ["Dialect", "Fleet", "NamesDialect", "OpenAIDialect", "SglangDialect", "Upstream"]

SPILL = 4


@dataclass(eq=False)
class Upstream:
    """One engine: `url` is where it listens, such as `http://10.0.0.7:8000`, `key` the bearer's secret that opens it.

    The rest is what the gateway keeps of it: whether it can be asked and, if not, `why`; the models that it lists, by id, and
    which of them are bases; how many requests are under way there, and how the others ended.
    """

    url: str
    dialect: Dialect
    key: str | None = field(default=None, repr=False)
    healthy: bool = False
    why: str = "it has not been asked yet"
    missed: int = 0
    running: int = 0
    leaving: bool = False
    models: dict[str, JsonObject] = field(default_factory=dict, repr=False)
    bases: frozenset[str] = frozenset()
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Host and port, for headers, metrics and messages."""
        return urlsplit(self.url).netloc

    @property
    def usable(self) -> bool:
        return self.healthy and not self.leaving

    def weight(self, adapter: str) -> bytes:
        """Rendezvous hashing: an adapter is at home where this is greatest, so a new upstream moves few of them."""
        return blake2b(f"{adapter}\0{self.url}".encode(), digest_size=8).digest()


class Fleet:
    """The upstreams of a gateway; they may come and go while it runs.

    An adapter stays at home while its upstream has at most `spill` requests more under way than the least busy one.
    """

    def __init__(self, upstreams: Iterable[Upstream] = (), spill: int = SPILL) -> None:
        self.upstreams, self.spill = tuple(upstreams), spill
        self.doubtful = asyncio.Event()
        """Set where an upstream's health should be looked at now, not at the next round."""
        self._turn = 0

    def add(self, upstream: Upstream) -> None:
        """Let it take requests as soon as it answers."""
        self.upstreams = (*self.upstreams, upstream)
        self.doubtful.set()

    async def remove(self, upstream: Upstream) -> None:
        """Let it take no more requests; returns when those under way are over."""
        upstream.leaving = True
        self.upstreams = tuple(one for one in self.upstreams if one is not upstream)
        while upstream.running:
            await asyncio.sleep(0.05)

    def ranked(self, adapter: str | None) -> list[Upstream]:
        """The usable upstreams in the order in which to try them for the digest of an adapter, or for the base."""
        usable = [upstream for upstream in self.upstreams if upstream.usable]
        if len(usable) < 2:
            return usable
        if adapter is None:
            self._turn += 1
            at = self._turn % len(usable)
            return sorted(usable[at:] + usable[:at], key=lambda upstream: upstream.running)
        most = min(upstream.running for upstream in usable) + self.spill
        by_weight = sorted(usable, key=lambda upstream: upstream.weight(adapter), reverse=True)
        return sorted(by_weight, key=lambda upstream: upstream.running > most)
