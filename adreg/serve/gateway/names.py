"""What can be asked for by which name: what a registry says, or, without one, whatever the upstreams take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time
from typing import Any, Protocol

from adreg.errors import NotFoundError
from adreg.serve.api.account import Account
from adreg.serve.api.naming import named, sees
from adreg.serve.gateway.upstream import Fleet
from adreg.serve.models.catalog import Catalog, ServedModel
from adreg.serve.server.keys import Key

JsonObject = dict[str, Any]
Changes = Callable[[], int | None]
REMEMBERED = 4096


class Names(Protocol):
    """The models of a gateway, as far as a key sees them."""

    async def model(self, account: Account, name: str) -> ServedModel:
        """What `name` means now; `account` keeps it. Raises `NotFoundError`, and `ConflictError` with the reason."""
        ...

    async def listed(self, key: Key | None) -> list[JsonObject]:
        """All, as `/v1/models` tells them."""
        ...

    async def told(self, account: Account, name: str) -> JsonObject:
        """One of them. Raises what `model` raises."""
        ...

    def known(self, model: ServedModel) -> bool:
        """Whether `model` is more than what a client has written."""
        ...

    @property
    def salted(self) -> bool:
        """Whether the engines behind are known to take `cache_salt`."""
        ...


class RegistryNames:
    """Each name is a version of `catalog` at the moment when it is asked for.

    A name that was asked for before is looked up again only once `changes` tells another number, or none.
    """

    salted = True

    def __init__(self, catalog: Catalog, changes: Changes = lambda: None) -> None:
        self._catalog, self._changes, self._created = catalog, changes, int(time())
        self._found: dict[str, ServedModel] = {}
        self._as_of: int | None = None

    async def model(self, account: Account, name: str) -> ServedModel:
        as_of = self._changes()
        if as_of is None or as_of != self._as_of or len(self._found) > REMEMBERED:
            self._found, self._as_of = {}, as_of
        known = self._found.get(name)
        if known is not None and sees(account.key, name):
            account.model = known
            return known
        model = await named(account, self._catalog, name)
        if as_of is not None and as_of == self._as_of == self._changes():
            self._found[name] = model
        return model

    async def listed(self, key: Key | None) -> list[JsonObject]:
        models = await asyncio.to_thread(list, self._catalog)
        return [self._body(model) for model in models if sees(key, model.id)]

    async def told(self, account: Account, name: str) -> JsonObject:
        return self._body(await self.model(account, name))

    def known(self, model: ServedModel) -> bool:
        return True

    def _body(self, model: ServedModel) -> JsonObject:
        kind = {"id": model.id, "object": "model", "created": self._created, "owned_by": "adreg"}
        return {**kind, "root": model.root, "parent": model.parent, "reference": model.reference, "rank": model.rank}


class PassedNames:
    """Each name goes to the upstreams of `fleet` as it is; what they list is what can be asked for at least."""

    salted = False

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def model(self, account: Account, name: str) -> ServedModel:
        if not sees(account.key, name):
            raise NotFoundError("model", name)
        is_base = any(name in upstream.bases for upstream in self._fleet.upstreams)
        account.model = ServedModel(name, name, "", None if is_base else name)
        return account.model

    async def listed(self, key: Key | None) -> list[JsonObject]:
        found = {id_: body for upstream in self._fleet.upstreams for id_, body in upstream.models.items()}
        return [body for id_, body in found.items() if sees(key, id_)]

    async def told(self, account: Account, name: str) -> JsonObject:
        await self.model(account, name)
        found = next((upstream.models[name] for upstream in self._fleet.upstreams if name in upstream.models), None)
        if found is None:
            raise NotFoundError("model", name)
        return found

    def known(self, model: ServedModel) -> bool:
        return any(model.id in upstream.models for upstream in self._fleet.upstreams)
