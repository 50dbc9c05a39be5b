"""`adreg gateway`: one port in front of several engines that serve the same base."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.client import Client
from adreg.cli.common import complete_base, registry
from adreg.cli.output import Output
from adreg.cli.serveoptions import AccessLog, Host, KeyFile, Port
from adreg.errors import MissingExtra, RemoteError, UsageError
from adreg.settings import Settings

if TYPE_CHECKING:
    from adreg.registry.records import BaseRecord
    from adreg.registry.registry import Registry
    from adreg.serve.gateway.upstream import Upstream
    from adreg.serve.models.catalog import Catalog


class DialectName(StrEnum):
    """How the upstreams want to be asked."""

    OPENAI = "openai"
    SGLANG = "sglang"
    RAY = "ray"


Urls = Annotated[list[str], typer.Option("--upstream", "-u", metavar="URL", help="An engine to ask; once for each.")]
DialectOption = Annotated[DialectName, typer.Option("--dialect", help="openai: adreg and vLLM; sglang, ray: base:adapter.")]
BaseOption = Annotated[
    str | None, typer.Option("--base", "-b", help="The registered base that they serve.", autocompletion=complete_base)
]
UpstreamBase = Annotated[str | None, typer.Option("--upstream-base", metavar="NAME", help="What they call it, if not so.")]
NoRegistry = Annotated[bool, typer.Option("--no-registry", help="Let names pass as they are: no aliases, no digests.")]
UpstreamKey = Annotated[
    Path | None, typer.Option("--upstream-key-file", help="The key that opens them. Default: ADREG_UPSTREAM_KEY, or none.")
]
Running = Annotated[int, typer.Option("--max-running", help="Requests at a time for each upstream.", min=1)]
Waiting = Annotated[int, typer.Option("--max-waiting", help="Requests that queue; more are told to come back.", min=0)]
Spill = Annotated[int, typer.Option("--spill", help="Requests more than elsewhere until an adapter goes elsewhere.", min=0)]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that an upstream may be silent.", min=0.1)]


def gateway(
    upstream: Urls,
    dialect: DialectOption = DialectName.OPENAI,
    base: BaseOption = None,
    upstream_base: UpstreamBase = None,
    no_registry: NoRegistry = False,
    upstream_key_file: UpstreamKey = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: KeyFile = None,
    max_running: Running = 256,
    max_waiting: Waiting = 256,
    spill: Spill = 4,
    timeout: Timeout = 600.0,
    access_log: AccessLog = False,
) -> None:
    """Put one port in front of several engines with the same base: adreg serve, vLLM or SGLang, here or on other machines.

    Names mean what they mean to adreg serve; each adapter stays with one engine while that is not busier than the others.
    Example: adreg gateway --upstream http://10.0.0.7:8000 --upstream http://10.0.0.8:8000 --base smollm2
    """
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise MissingExtra(package, "server")
    if no_registry and (base or upstream_base):
        raise UsageError("--no-registry lets names pass, so there is no base to name", "leave out one of them")
    limits = Limits(max_running, max_waiting, spill, timeout)
    behind = Behind(tuple(upstream), dialect, base, upstream_base, not no_registry, upstream_key_file)
    _run(behind, Front(host, port, api_key_file, access_log), limits)


@dataclass(frozen=True)
class Behind:
    """The engines: where, how they are asked, with which key; and the base, by its registered name and by theirs."""

    urls: tuple[str, ...]
    dialect: DialectName
    base: str | None
    called: str | None
    registered: bool
    key: Path | None


@dataclass(frozen=True)
class Front:
    """Where and to whom the gateway is open."""

    host: str
    port: int
    keys: Path | None
    access_log: bool


@dataclass(frozen=True)
class Limits:
    """How much at a time, for each upstream and in the queue; when an adapter leaves home; seconds of silence."""

    running: int
    waiting: int
    spill: int
    seconds: float


def _run(behind: Behind, front: Front, limits: Limits) -> None:
    from adreg.registry.store.changes import Changes
    from adreg.serve.gateway.app import create_gateway
    from adreg.serve.gateway.gateway import GatewayOptions
    from adreg.serve.gateway.upstream import Fleet
    from adreg.serve.server.exposure import check_exposure
    from adreg.serve.server.keys import Key, key_file, registry_keys
    from adreg.serve.server.presence import announced
    from adreg.serve.server.server import serve_forever

    out, settings, secret = Output(), Settings.from_environment(), token_hex(32)
    keys = (key_file(front.keys) if front.keys else registry_keys(settings)).and_also(secret, Key("@local"))
    check_exposure(front.host, not keys.open)
    engines = _upstreams(behind)
    record, catalog = _catalog(behind, engines) if behind.registered else (None, None)
    name = record.name if record else "any"

    def ready(url: str) -> None:
        what = f"{name} and its adapters" if record else "every name"
        where = ", ".join(engine.name for engine in engines)
        out.note(f"✓ passing requests for {what} to {where} at {url}/v1 (Ctrl-C stops)", "green")
        if keys.open:
            out.note("no API key was made (adreg key create NAME): every program on this machine may ask")

    log = sys.stderr if front.access_log else None
    room = {"per_upstream": limits.running, "waiting": limits.waiting}
    changes = Changes(settings.database).count
    options = GatewayOptions(keys, log, **room, silent_seconds=limits.seconds, changes=changes)
    app = create_gateway(Fleet(engines, limits.spill), catalog, options)
    serve_forever(app, front.host, front.port, ready, announced=partial(announced, settings.home, name, secret))


def _upstreams(behind: Behind) -> list[Upstream]:
    from adreg.serve.gateway.addresses import upstream_key, upstreams
    from adreg.serve.gateway.dialects import NamesDialect, OpenAIDialect, RayDialect, SglangDialect

    key = upstream_key(behind.key, os.environ)
    if not behind.registered:
        return upstreams(behind.urls, NamesDialect(), key)
    kinds: dict[DialectName, type[OpenAIDialect | SglangDialect | RayDialect]] = {
        DialectName.OPENAI: OpenAIDialect, DialectName.SGLANG: SglangDialect, DialectName.RAY: RayDialect,
    }  # fmt: skip
    return upstreams(behind.urls, kinds[behind.dialect](behind.called), key)


def _catalog(behind: Behind, engines: list[Upstream]) -> tuple[BaseRecord, Catalog]:
    from adreg.registry.perthread import PerThread
    from adreg.serve.models.offer import Offer
    from adreg.serve.models.registered import RegisteredModels

    found = registry()
    record = found.bases.get(behind.base or _only_base(found, engines))
    return record, RegisteredModels(Offer(PerThread(found.settings), record))


def _only_base(found: Registry, engines: list[Upstream]) -> str:
    """The name of the only base there is, or else of the only one that the upstreams list."""
    known = {base.name for base in found.bases.all()}
    if len(known) == 1:
        return known.pop()
    named = known & {name for engine in engines for name in _listed(engine)}
    if len(named) == 1:
        return named.pop()
    why = f"{len(known)} bases are registered, and the upstreams name {' and '.join(sorted(named)) or 'none of them'}"
    hint = "say which one they serve with --base, or let names pass with --no-registry"
    raise UsageError(why if known else "no base is registered, so no name means anything", hint)


def _listed(engine: Upstream) -> list[str]:
    """The names that an upstream tells of; none, where it does not answer now."""
    try:
        data = Client(engine.url, engine.key).get("/v1/models")["data"]
        return [str(model["id"]) for model in data]
    except (RemoteError, KeyError, TypeError):
        return []
