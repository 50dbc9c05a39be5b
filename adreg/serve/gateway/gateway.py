"""What every route of a gateway works with: the upstreams, the names, who may ask, what is counted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from time import time
from typing import TextIO

from starlette.requests import Request

from adreg.serve.api.account import Account
from adreg.serve.api.quota import Quotas
from adreg.serve.gateway.admission import Admission
from adreg.serve.gateway.names import Changes, Names
from adreg.serve.gateway.pool import Pool
from adreg.serve.gateway.upstream import Fleet, Upstream
from adreg.serve.models.catalog import ServedModel
from adreg.serve.server.keys import Keyring
from adreg.serve.server.metrics import Metrics


@dataclass(frozen=True)
class GatewayOptions:
    """How a gateway is run. Unless `keys` are open, or None, every request must bear one, but those that ask whether it lives.

    `per_upstream` requests run at a time on each; `waiting` wait, none for longer than `wait_seconds`. An upstream may be
    silent for `silent_seconds` within an answer. All are asked for their health every `look_seconds`. `changes` tells another
    number once names may mean something else, None where it does not know; it must not wait.
    """

    keys: Keyring | None = None
    access_log: TextIO | None = None
    per_upstream: int = 256
    waiting: int = 256
    wait_seconds: float = 30.0
    silent_seconds: float = 600.0
    look_seconds: float = 2.0
    changes: Changes = lambda: None


@dataclass
class Gateway:
    """One gateway."""

    fleet: Fleet
    names: Names
    options: GatewayOptions
    metrics: Metrics = field(default_factory=Metrics)
    quotas: Quotas = field(default_factory=Quotas)
    created: float = field(default_factory=time)

    def __post_init__(self) -> None:
        options = self.options
        self.admission = Admission(self.fleet, options.per_upstream, options.waiting, options.wait_seconds)
        self._pools: dict[Upstream, Pool] = {}

    def pool(self, upstream: Upstream) -> Pool:
        """The connections to `upstream`."""
        found = self._pools.get(upstream)
        if found is None:
            found = self._pools[upstream] = Pool(upstream.url, upstream.key)
        return found

    def close_pools(self, but: Collection[Upstream] = ()) -> None:
        """End the idle connections to upstreams that are gone."""
        for gone in self._pools.keys() - set(but):
            self._pools.pop(gone).close()

    async def model(self, account: Account, name: str) -> ServedModel:
        """What `name` means for the asking key. Raises what `Names.model` raises."""
        model = await self.names.model(account, name)
        if model.adapter and self.names.known(model):
            self.metrics.learn(model.adapter, model.id)
        return model


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway
