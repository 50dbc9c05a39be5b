"""`adreg serve --engine`: another engine in a process of its own, and adreg's gateway in front of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import typer

from adreg.cli.common import registry
from adreg.cli.output import Output
from adreg.cli.serve import Choice, Door, chosen_base, door_keys
from adreg.cli.serveoptions import EngineName
from adreg.cli.serving import make_offer
from adreg.errors import AdregError, EngineFailed, UsageError

if TYPE_CHECKING:
    from adreg.registry.registry import Registry
    from adreg.serve.gateway.upstream import Fleet
    from adreg.serve.models.catalog import Catalog
    from adreg.serve.models.offer import Offer

LOGS = "logs"
COMMON = frozenset(
    ("refs", "base", "host", "port", "api_key_file", "max_adapters", "context", "max_running", "max_waiting", "access_log",
     "allow", "engine")
)  # fmt: skip
OWN = {
    "vllm": frozenset(("dtype", "kv_memory", "vllm", "vllm_arg")),
    "llama.cpp": frozenset(("threads", "batch_invariant", "llama_server", "quant")),
}
FOREIGN = frozenset(("vllm", "vllm_arg", "llama_server", "quant"))
"""Options that are about another engine than adreg's own."""
AUDITED_FOR = {EngineName.VLLM: "vllm", EngineName.LLAMACPP: "adreg"}
"""The audit's target llama.cpp is about its own converter. adreg's does more, and its files are audited for that target."""


@dataclass(frozen=True)
class EngineWish:
    """Which engine, where its program is (None: where it is looked for), flags of its own, and a type of weights."""

    name: EngineName
    program: Path | None = None
    arguments: tuple[str, ...] = ()
    quant: str | None = None


@dataclass(frozen=True)
class Running:
    """A started engine behind a fleet: what may be asked of it, what people are told of it, and why it died, if it did.

    `paths` are the routes that it answers as adreg does; None: all of the gateway's.
    """

    fleet: Fleet
    catalog: Catalog
    told: str
    failure: Callable[[], AdregError | None]
    paths: tuple[str, ...] | None = None


def check_options(context: typer.Context, engine: EngineName) -> None:
    """Raises `UsageError` naming an option that was given and that `engine` cannot honour."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and not _takes(engine, name):
            raise UsageError(f"{parameter.opts[0]} is not for --engine {engine.value}", "leave it out")


def _takes(engine: EngineName, option: str) -> bool:
    if engine is EngineName.ADREG:
        return option not in FOREIGN
    return option in COMMON | OWN[engine.value]


def serve_on(wish: EngineWish, choice: Choice, door: Door) -> None:
    """Start the engine, serve it behind a gateway until a signal comes, and stop it. Raises `EngineFailed` when it dies."""
    from adreg.serve.gateway.app import create_gateway
    from adreg.serve.gateway.gateway import GatewayOptions
    from adreg.serve.server.exposure import check_exposure
    from adreg.serve.server.presence import announced
    from adreg.serve.server.server import serve_forever

    out, found, secret = Output(), registry(), token_hex(32)
    keys = door_keys(door, found.settings, secret)
    check_exposure(door.host, not keys.open)
    record = chosen_base(found, choice, out)
    offer = make_offer(found, record, choice.refs, choice.allow, AUDITED_FOR[wish.name])
    with ENGINES[wish.name](found, offer, choice.settings, wish, out) as engine:

        def ready(url: str) -> None:
            out.note(f"base {record.name}, {record.card.digest}, on {engine.told}")
            out.note(f"✓ serving {record.name} and its adapters at {url}/v1 (Ctrl-C stops)", "green")
            if keys.open:
                out.note("no API key was made (adreg key create NAME): every program on this machine may ask")

        log = sys.stderr if door.access_log else None
        room = {"per_upstream": choice.settings["max_running"], "waiting": choice.settings["max_waiting"]}
        app = create_gateway(engine.fleet, engine.catalog, GatewayOptions(keys, log, **room), engine.paths)
        announce = partial(announced, found.settings.home, record.name, secret)
        try:
            serve_forever(app, door.host, door.port, ready, announced=announce)
        except SystemExit:
            if failure := engine.failure():
                raise failure from None
            raise


@contextmanager
def _vllm(found: Registry, offer: Offer, settings: Mapping[str, Any], wish: EngineWish, out: Output) -> Iterator[Running]:
    from adreg.cli.vllm import prepare_vllm
    from adreg.serve.engines.process import EngineProcess, answers
    from adreg.serve.engines.vllm import VllmWish
    from adreg.serve.gateway.upstream import Fleet

    names = {"dtype": "dtype", "slots": "slots", "running": "max_running", "context": "context", "kv_bytes": "kv_bytes"}
    wanted = VllmWish(**{field: settings[name] for field, name in names.items()}, arguments=wish.arguments)
    vllm = prepare_vllm(found, offer, wanted, wish.program, out)
    with _log_of_failures(vllm.launch.log), EngineProcess(vllm.launch) as process:
        process.wait_ready(lambda: answers(vllm.upstream.url))
        process.watch(_end_this_process)
        yield Running(Fleet([vllm.upstream]), vllm.catalog, vllm.told, lambda: process.failure)


@contextmanager
def _llamacpp(found: Registry, offer: Offer, settings: Mapping[str, Any], wish: EngineWish, out: Output) -> Iterator[Running]:
    from adreg.cli.llamacpp import LlamaWish, open_llamacpp
    from adreg.serve.models.permitted import PermittedModels
    from adreg.serve.models.registered import RegisteredModels

    names = {
        "context": "context",
        "threads": "threads",
        "running": "max_running",
        "limit": "slots",
        "invariant": "batch_invariant",
    }
    wanted = LlamaWish(wish.program, wish.quant, **{field: settings[name] for field, name in names.items()})
    roster = open_llamacpp(found, offer, wanted, out, _end_this_process)
    try:
        catalog = PermittedModels(RegisteredModels(offer))
        yield Running(roster.fleet, catalog, roster.told, lambda: roster.failure, ("/v1/chat/completions", "/v1/completions"))
    finally:
        roster.close()


@contextmanager
def _log_of_failures(log: Path) -> Iterator[None]:
    """Keep `log` where the engine failed, and only there."""
    try:
        yield
    except EngineFailed:
        raise
    except BaseException:
        log.unlink(missing_ok=True)
        raise
    log.unlink(missing_ok=True)


def _end_this_process(_failure: EngineFailed | None = None) -> None:
    """As a signal from outside would: what runs is unwound, and the failure is told at the end."""
    os.kill(os.getpid(), signal.SIGTERM)


Starter = Callable[["Registry", "Offer", Mapping[str, Any], EngineWish, Output], AbstractContextManager[Running]]
ENGINES: Mapping[EngineName, Starter] = {EngineName.VLLM: _vllm, EngineName.LLAMACPP: _llamacpp}
