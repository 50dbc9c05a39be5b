"""Which model a request's name means for the key that asks. Knows names and keys, no engine."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from adreg.errors import BadReference, NotFoundError, YankedError
from adreg.serve.api.account import Account, account_of
from adreg.serve.api.errors import ApiError
from adreg.serve.models.catalog import Catalog, ServedModel
from adreg.serve.server.keys import Key


def sees(key: Key | None, model: str) -> bool:
    return key is None or key.sees(model)


def check_sees_all(request: Request) -> None:
    """Refuse (`ApiError` 403) what names all adapters to a key that sees only some."""
    key = account_of(request.scope).key
    if key is not None and not key.sees_all:
        raise ApiError(403, f"{request.url.path} is only for keys that see all models", code="key_not_allowed")


async def named(account: Account, catalog: Catalog, name: str) -> ServedModel:
    """The model called `name`, as far as the asking key can see; `account` keeps it. Raises `NotFoundError` for one that it
    cannot, exactly as for one that does not exist, and what the catalog raises."""
    key = account.key
    try:
        if not sees(key, name):
            raise NotFoundError("model", name)
        account.model = await asyncio.to_thread(catalog.resolve, name)
    except YankedError:
        raise
    except BadReference as error:
        raise NotFoundError("model", name) from error
    except NotFoundError as error:
        near = [close for close in error.close if sees(key, close)]
        raise NotFoundError("model", name, near) from error
    return account.model
