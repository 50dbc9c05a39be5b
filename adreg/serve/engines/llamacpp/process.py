"""One running llama.cpp: started with a set of adapters that it keeps for its life. Knows how, not which or when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from adreg.errors import AdregError
from adreg.serve.engines.llamacpp.dialect import LlamaCppDialect, Place
from adreg.serve.engines.llamacpp.files import LoraFile
from adreg.serve.engines.llamacpp.recipe import LlamaServer, Served, environment
from adreg.serve.engines.process import EngineProcess, Launch, answers, free_port
from adreg.serve.gateway.upstream import Upstream
from adreg.serve.generation import Sampling
from adreg.serve.models.catalog import ServedModel

EACH = 2
"""Slots for each adapter, and for the base: as many requests for it run at once, in one batch."""


@dataclass(frozen=True)
class Listener:
    """Who hears what a process is asked for: `absent` answers for adapters that it lacks, `used` hears of the others."""

    absent: Callable[[ServedModel], AdregError]
    used: Callable[[str], None]


@dataclass(frozen=True)
class Loaded:
    """A process that takes requests, and what it holds."""

    process: EngineProcess
    upstream: Upstream
    loras: tuple[LoraFile, ...]

    def end(self) -> None:
        """Stop it; what it said is kept where it had died by itself."""
        died = self.process.failure
        self.process.stop()
        if died is None:
            self.process.launch.log.unlink(missing_ok=True)


@dataclass(frozen=True)
class LlamaCpp:
    """How every process of one server is started: `model` is a GGUF file, `context` the tokens of prompt and answer.

    At most `running` requests run at a time, or one for each adapter where that is more; `log` takes what it says.
    """

    server: LlamaServer
    model: Path
    alias: str
    context: int
    running: int
    threads: int
    invariant: bool
    log: Path
    defaults: Sampling
    vocabulary: int

    def start(self, loras: Sequence[LoraFile], listener: Listener, stopped: Callable[[], bool] = lambda: False) -> Loaded:
        """Start a process with `loras` and wait until it takes requests. Raises `EngineFailed`, also once it is `stopped`."""
        each = max(1, min(EACH, self.running // (len(loras) + 1)))
        port, secret = free_port(), token_hex(32)
        paths = tuple(str(lora.path) for lora in loras)
        slots = each * (len(loras) + 1)
        served = Served(str(self.model), self.alias, paths, slots, self.context, self.threads, port, self.invariant)
        log = self.log.with_name(f"{self.log.stem}-{port}{self.log.suffix}")
        url = f"http://127.0.0.1:{port}"
        process = EngineProcess(Launch(self.server.name, self.server.command(served), environment(secret), log))
        try:
            process.wait_ready(lambda: answers(url) or stopped())
        except BaseException:
            process.stop()
            raise
        places = {lora.digest: Place(index, lora.own_template) for index, lora in enumerate(loras)}
        dialect = LlamaCppDialect(
            self.alias, places, each, self.context, self.defaults, self.vocabulary, listener.absent, listener.used
        )  # fmt: skip
        return Loaded(process, Upstream(url, dialect, secret, healthy=True, why=""), tuple(loras))
