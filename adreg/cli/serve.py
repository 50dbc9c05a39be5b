"""`adreg serve`: a base and its adapters over one OpenAI-compatible port."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import typer

from adreg.cli.common import AllowOption, BaseOption, parse_size, registry, warn_yanked
from adreg.cli.merging import base_of
from adreg.cli.output import Output
from adreg.cli.progress import progress
from adreg.cli.serveoptions import (
    AccessLog,
    Context,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    EngineName,
    EngineOption,
    Executing,
    ExecutorName,
    Host,
    Invariant,
    Itl,
    KeyFile,
    KvMemory,
    LlamaServerOption,
    PinOption,
    Port,
    PrefixMemory,
    QuantOption,
    Refs,
    Running,
    Slots,
    Threads,
    Timeout,
    VllmArgs,
    VllmMetrics,
    VllmOption,
    Waiting,
)
from adreg.cli.serving import make_offer, open_engine
from adreg.errors import MissingExtra, UsageError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.registry.records import BaseRecord
    from adreg.registry.registry import Registry
    from adreg.serve.server.keys import Keyring
    from adreg.settings import Settings


def serve(
    words: typer.Context,
    refs: Refs = None,
    base: BaseOption = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: KeyFile = None,
    max_adapters: Slots = 16,
    pin: PinOption = [],  # noqa: B006 - typer copies it
    executor: Executing = ExecutorName.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    device: DeviceOption = Device.AUTO,
    context: Context = None,
    max_running: Running = 32,
    max_waiting: Waiting = 256,
    kv_memory: KvMemory = None,
    prefix_memory: PrefixMemory = None,
    itl_target: Itl = 50.0,
    batch_invariant: Invariant = False,
    threads: Threads = None,
    timeout: Timeout = None,
    access_log: AccessLog = False,
    vllm_metrics: VllmMetrics = False,
    allow: AllowOption = [],  # noqa: B006 - typer copies it
    engine: EngineOption = EngineName.ADREG,
    vllm: VllmOption = None,
    vllm_arg: VllmArgs = [],  # noqa: B006 - typer copies it
    llama_server: LlamaServerOption = None,
    quant: QuantOption = None,
) -> None:
    """Serve a base and its adapters to OpenAI clients: a model is a base, name, name:3, name:prod or name@sha256:…

    What is pushed or moved while it runs is served from the next request on. Once `adreg key create` made a key, one is needed.
    Example: adreg serve --base smollm2 --port 8000
    """
    settings = {
        "executor": executor.value, "dtype": dtype.value, "device": device.value, "threads": threads, "context": context,
        "batch_invariant": batch_invariant, "max_running": max_running, "max_waiting": max_waiting, "slots": max_adapters,
        "kv_bytes": kv_memory and parse_size(kv_memory), "prefix_bytes": prefix_memory and parse_size(prefix_memory),
        "itl_target_ms": itl_target,
    }  # fmt: skip
    from adreg.cli.engines import EngineWish, check_options, serve_on

    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise MissingExtra(package, "serve")
    choice = Choice(tuple(refs or ()), base, tuple(pin), tuple(allow), settings)
    door = Door(host, port, api_key_file, timeout, access_log, vllm_metrics)
    check_options(words, engine)
    if engine is EngineName.ADREG:
        _serve(choice, door)
    else:
        program = vllm if engine is EngineName.VLLM else llama_server
        serve_on(EngineWish(engine, program, tuple(vllm_arg), quant), choice, door)


@dataclass(frozen=True)
class Choice:
    """What is served: adapters by name (none: all of the base), those that stay resident, rules to allow, and how it runs."""

    refs: tuple[str, ...]
    base: str | None
    pins: tuple[str, ...]
    allow: tuple[str, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Door:
    """Where and to whom it is open, for how long at a time, and what is told of who came."""

    host: str
    port: int
    keys: Path | None
    seconds: float | None
    access_log: bool
    vllm_metrics: bool


def _serve(choice: Choice, door: Door) -> None:
    from adreg.serve.api.app import create_app
    from adreg.serve.api.service import Options
    from adreg.serve.loading import EngineSettings, why_general
    from adreg.serve.server.exposure import check_exposure
    from adreg.serve.server.metrics import Metrics
    from adreg.serve.server.presence import announced
    from adreg.serve.server.server import serve_forever

    out, found, metrics = Output(), registry(), Metrics()
    secret = token_hex(32)  # for `adreg ps` and `adreg chat` of the same user
    keys = door_keys(door, found.settings, secret)
    check_exposure(door.host, not keys.open)
    record = chosen_base(found, choice, out)
    offer = make_offer(found, record, choice.refs, choice.allow)
    checkpoint, settings = found.bases.current(record, progress(out.human)), EngineSettings(**choice.settings)
    engine = open_engine(offer, checkpoint, settings, choice.pins, metrics)
    general = why_general(checkpoint, settings)
    served = len({model.adapter for model in engine.catalog} - {None})

    def ready(url: str) -> None:
        out.note(
            f"base {record.name}, {record.card.digest}, on the {f'general engine: {general}' if general else 'native engine'}"
        )
        out.note(f"✓ serving {record.name} and {served} adapter versions at {url}/v1 (Ctrl-C stops)", "green")
        if keys.open:
            out.note("no API key was made (adreg key create NAME): every program on this machine may ask")

    options = Options(keys, metrics, door.vllm_metrics, sys.stderr if door.access_log else None, door.seconds)
    announce = partial(announced, found.settings.home, record.name, secret)
    serve_forever(create_app(engine, options), door.host, door.port, ready, announced=announce)


def door_keys(door: Door, settings: Settings, secret: str) -> Keyring:
    """The API keys that open it, and `secret`, which opens it for the same user's other commands."""
    from adreg.serve.server.keys import Key, key_file, registry_keys

    return (key_file(door.keys) if door.keys else registry_keys(settings)).and_also(secret, Key("@local"))


def chosen_base(found: Registry, choice: Choice, out: Output) -> BaseRecord:
    """The base that was named, or else that of the adapters."""
    versions = [found.adapters.resolve(parse_reference(ref)) for ref in choice.refs]
    warn_yanked(out, versions)
    if not versions and choice.base is None:
        raise UsageError("there is nothing to serve", "name a base with --base, or adapters")
    return found.bases.ensure(choice.base, progress(out.human)) if choice.base else base_of(found, versions)
