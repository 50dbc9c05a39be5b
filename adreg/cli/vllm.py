"""vLLM on the command line, step by step: what it is started with, and how it is asked. Starts nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from adreg.cli.output import Output
from adreg.cli.progress import progress

if TYPE_CHECKING:
    from adreg.registry.registry import Registry
    from adreg.serve.engines.process import Launch
    from adreg.serve.engines.vllm import VllmWish
    from adreg.serve.gateway.upstream import Upstream
    from adreg.serve.models.offer import Offer
    from adreg.serve.models.permitted import PermittedModels

FOLDER, START_SECONDS = "logs", 1800


@dataclass(frozen=True)
class Vllm:
    """A vLLM that is ready to be started: how, where it will listen, what may be asked of it, and what people are told."""

    launch: Launch
    upstream: Upstream
    catalog: PermittedModels
    told: str


def prepare_vllm(found: Registry, offer: Offer, wish: VllmWish, program: Path | None, out: Output) -> Vllm:
    """The vLLM `program` (None: where it is looked for) for what `offer` holds now.

    Raises `UsageError` for a program that is not there or lacks adreg's plugin, and for arguments that adreg sets itself;
    `UnsupportedError` for a base that vLLM does not take, and `IntegrityError` for one whose files have changed.
    """
    from adreg.serve.engines.process import Launch, free_port
    from adreg.serve.engines.vllm import NAME, plan_vllm
    from adreg.serve.engines.vllmcpu import zero_adapter
    from adreg.serve.engines.vllmdialect import VllmDialect
    from adreg.serve.engines.vllmprogram import find_vllm, looked_at
    from adreg.serve.gateway.upstream import Upstream
    from adreg.serve.models.permitted import PermittedModels
    from adreg.serve.models.registered import RegisteredModels

    chosen, secret, port = find_vllm(program), token_hex(32), free_port()
    on_cpu = looked_at(chosen, os.environ)
    found.bases.current(offer.base, progress(out.human))
    models = RegisteredModels(offer)
    plan = plan_vllm(offer.base, models, wish, zero_adapter(found.settings.home, offer.base.card) if on_cpu else None)
    catalog = PermittedModels(models, plan.rank)
    log = found.settings.home / FOLDER / f"vllm-{os.getpid()}.log"
    launch = Launch(NAME, plan.command(chosen, port), plan.environment(offer, secret), log, START_SECONDS)
    out.note(f"starting {chosen}, which takes a while; what it says goes to {log}")
    upstream = Upstream(f"http://127.0.0.1:{port}", VllmDialect(plan.base_name, catalog.own_templates), secret)
    return Vllm(launch, upstream, catalog, f"vLLM with room for {plan.slots} adapters of rank {plan.rank} in a batch")
