"""Looks after the upstreams in the background: which answer, and what they serve. An upstream that fails is left out until it
answers again."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

from adreg.errors import AdregError
from adreg.serve.gateway.attempts import AGENT
from adreg.serve.gateway.connection import Asked
from adreg.serve.gateway.errors import Nonsense, Unreached, UpstreamError
from adreg.serve.gateway.gateway import Gateway
from adreg.serve.gateway.pool import Pool
from adreg.serve.gateway.upstream import Upstream
from adreg.serve.models.catalog import ServedModel

JsonObject = dict[str, Any]
HEALTH, MODELS = b"/health", b"/v1/models"
SECONDS = 5.0
MISSED = 2
"""So often in a row a connected upstream may fail to say that it is well."""
LARGEST = 4 << 20
LONGEST_NAME = 512
log = logging.getLogger("adreg.serve")


class Prober:
    """Asks every upstream of `gateway` for its health, every few seconds, and at once where there is doubt.

    `base` is the one that all of them must serve, where names come from a registry.
    """

    def __init__(self, gateway: Gateway, base: ServedModel | None) -> None:
        self._gateway, self._base = gateway, base

    async def run(self) -> None:
        """For ever."""
        fleet = self._gateway.fleet
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(fleet.doubtful.wait(), self._gateway.options.look_seconds)
            await self.look()
            # what fails again and again is not asked all the time
            await asyncio.sleep(min(0.2, self._gateway.options.look_seconds))

    async def look(self) -> None:
        """At all, once."""
        fleet = self._gateway.fleet
        fleet.doubtful.clear()
        await asyncio.gather(*(self._look_at(upstream) for upstream in fleet.upstreams))
        self._gateway.close_pools(fleet.upstreams)

    async def _look_at(self, upstream: Upstream) -> None:
        try:
            models = await _asked(self._gateway.pool(upstream), upstream)
            _check_base(upstream, models, self._base)
        except AdregError as error:
            upstream.missed += 1
            if isinstance(error, Unreached) or upstream.missed >= MISSED or not upstream.healthy:
                _leave_out(upstream, error)
            return
        if not upstream.healthy:
            log.warning("upstream %s takes requests", upstream.name)
        upstream.models, upstream.missed = models, 0
        upstream.bases = frozenset(id_ for id_, body in models.items() if body.get("parent") is None)
        upstream.healthy, upstream.why = True, ""


def _leave_out(upstream: Upstream, error: AdregError) -> None:
    why = error.why if isinstance(error, UpstreamError) else str(error)
    if upstream.healthy or upstream.why != why:
        log.warning("upstream %s is left out: %s", upstream.name, why)
    upstream.healthy, upstream.why = False, why


async def _asked(pool: Pool, upstream: Upstream) -> dict[str, JsonObject]:
    """The models that `upstream` lists, if it is well. On connections of its own: a listener that is gone is noticed."""
    status, _ = await _get(pool, upstream, HEALTH)
    if status not in (200, 404):
        raise Nonsense(upstream.name, f"answers {status} to {HEALTH.decode()}")
    status, text = await _get(pool, upstream, MODELS)
    if status != 200:
        raise Nonsense(upstream.name, f"answers {status} to {MODELS.decode()}")
    return _models(upstream, text)


async def _get(pool: Pool, upstream: Upstream, path: bytes) -> tuple[int, bytes]:
    answer = await pool.ask(Asked(b"GET", path, [AGENT], seconds=SECONDS), fresh=True)
    text = b""
    try:
        while not answer.whole:
            text += await answer.piece()
            if len(text) > LARGEST:
                raise Nonsense(upstream.name, f"answers more than {LARGEST} bytes to {path.decode()}")
    finally:
        answer.connection.close()
    return answer.status, text


def _models(upstream: Upstream, text: bytes) -> dict[str, JsonObject]:
    try:
        data = json.loads(text)["data"]
        return {str(body["id"]): dict(body) for body in data if 0 < len(body["id"]) <= LONGEST_NAME}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Nonsense(upstream.name, f"lists no models at {MODELS.decode()}") from error


def _check_base(upstream: Upstream, models: dict[str, JsonObject], base: ServedModel | None) -> None:
    """Refuse an upstream that does not serve `base`: by the name that its dialect gives it, and by its digest, if told."""
    if base is None:
        return
    name = upstream.dialect.address({}, base).get("model")
    if name is None:
        return
    if name not in models:
        bases = [id_ for id_, body in models.items() if body.get("parent") is None]
        raise Nonsense(upstream.name, f"does not serve {name!r} but {', '.join(bases[:3]) or 'nothing'}")
    root = models[name].get("root")
    if isinstance(root, str) and root.startswith("b3:") and root != base.base_digest:
        raise Nonsense(upstream.name, f"serves another base as {name!r}: {root}, not {base.base_digest}")
