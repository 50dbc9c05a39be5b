"""What every route works with: the engine, who may ask, what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import TextIO

from starlette.requests import Request

from adreg.serve.api.account import Account, account_of
from adreg.serve.api.mail import Mailroom
from adreg.serve.api.naming import named
from adreg.serve.api.quota import Quotas
from adreg.serve.engine.engine import Engine
from adreg.serve.generation import Generation
from adreg.serve.models.catalog import ServedModel
from adreg.serve.pool.entry import State
from adreg.serve.server.keys import Keyring
from adreg.serve.server.metrics import Metrics
from adreg.serve.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Options:
    """How a server is run. Unless `keys` are open, or None, every request must bear one, but those that ask whether it lives.

    `access_log` gets a line of JSON for every request; `metrics` watches the engine. A request may take `seconds` in all.
    """

    keys: Keyring | None = None
    metrics: Metrics | None = None
    vllm_names: bool = False
    access_log: TextIO | None = None
    seconds: float | None = None


class Service:
    """One server: its engine, and what requests have in common."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine, self.options = engine, options
        self._quotas = Quotas()

    @cached_property
    def mailroom(self) -> Mailroom:
        """That of the event loop in which requests are answered; there is one."""
        return Mailroom()

    @contextmanager
    def running(self, account: Account) -> Iterator[None]:
        """Within: one request of the asking key, whose quota pays for it. Raises an `ApiError` 429."""
        with self._quotas.running(account.key, account.usage):
            yield

    def blank(self, model: ServedModel, account: Account) -> Generation:
        """What every generation of a request has, before its body is looked at."""
        seconds = self.options.seconds
        deadline = None if seconds is None else monotonic() + seconds
        return Generation((), model.adapter, 0, self.engine.defaults, tenant=account.tenant, deadline=deadline)

    def tokenizer(self, model: ServedModel) -> Tokenizer:
        """The adapter's own, or the base's. May read files."""
        return self.engine.tokenizers.of(model.adapter)

    def states(self) -> Callable[[ServedModel], State]:
        """Where each model is now; the base always is where it runs."""
        adapters = self.engine.stats().adapters
        return lambda model: adapters.get(model.adapter, State.REGISTERED) if model.adapter else State.RESIDENT

    async def model(self, request: Request, name: str) -> ServedModel:
        """The model called `name`. Raises what `named` raises."""
        account = account_of(request.scope)
        model = await named(account, self.engine.catalog, name)
        if self.options.metrics and model.adapter:
            self.options.metrics.learn(model.adapter, model.id)
        return model


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
