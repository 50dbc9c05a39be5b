"""Which adapters llama.cpp holds. It takes them only when it starts, so another set means another process, put in the old
one's place without a request lost. Knows when and which, not how a process is started."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from adreg.errors import AdregError, EngineFailed, NotFoundError
from adreg.serve.api.errors import ApiError
from adreg.serve.engines.llamacpp.files import LoraFile, LoraFiles
from adreg.serve.engines.llamacpp.process import Listener, Loaded
from adreg.serve.gateway.upstream import Fleet
from adreg.serve.models.catalog import ServedModel

REMEMBERED_SECONDS = 60
LONGEST_WAIT = 30
log = logging.getLogger("adreg.serve")
Start = Callable[[Sequence[LoraFile], Listener, Callable[[], bool]], Loaded]


@dataclass(frozen=True)
class Pauses:
    """Seconds: how long requests for new adapters are gathered, how long one process is left alone before the next takes
    its place, and how long the old one may finish what it began."""

    gather: float = 0.5
    between: float = 10
    drain: float = 600


class Roster:
    """Keeps one process in `fleet`, with at most `limit` adapters; those that nobody asked for longest make room.

    One that dies is started again; where that fails, `failure` says why, and `over` is called from another thread.
    """

    def __init__(self, start: Start, files: LoraFiles, limit: int, over: Callable[[], None], pauses: Pauses = Pauses()) -> None:
        self.fleet = Fleet()
        self.failure: AdregError | None = None
        self._start, self._files, self._limit, self._over, self._pauses = start, files, limit, over, pauses
        self._listener = Listener(self.absent, self._note_use)
        self._wanted: dict[str, None] = {}
        self._used: dict[str, float] = {}
        self._refused: dict[str, tuple[AdregError, float]] = {}
        self._loaded: Loaded | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work, self._stop = threading.Event(), threading.Event()
        self._took = 1.0
        self._thread = threading.Thread(target=self._run, name="adreg-llamacpp", daemon=True)

    def begin(self, loras: Sequence[LoraFile]) -> None:
        """Start the first process with `loras`. Raises `EngineFailed`."""
        self._loaded = self._started(loras)
        self.fleet.add(self._loaded.upstream)
        self._thread.start()

    @property
    def told(self) -> str:
        """What runs, in words."""
        held = self._loaded
        return "llama.cpp" if held is None else f"llama.cpp ({held.process.launch.name}) with {len(held.loras)} adapters loaded"

    def close(self) -> None:
        """End the process, and one that was about to take its place."""
        self._stop.set()
        self._work.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._loaded is not None:
            self._loaded.end()

    def absent(self, model: ServedModel) -> AdregError:
        """Why a request for `model`, which is not loaded, gets no answer now: it will be loaded (503), or it cannot be."""
        self._loop = asyncio.get_running_loop()
        digest = model.adapter or ""
        error, at = self._refused.get(digest, (None, 0.0))
        if error is not None and time.monotonic() - at < REMEMBERED_SECONDS:
            return error.with_traceback(None)
        self._wanted[digest] = None
        self._work.set()
        seconds = min(LONGEST_WAIT, max(1, math.ceil(self._pauses.gather + self._took)))
        message = f"{model.reference or model.id} is being loaded, for which llama.cpp starts anew: ask again in {seconds} s"
        return ApiError(503, message, "model", "model_loading", {"Retry-After": str(seconds)})

    def _note_use(self, digest: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._used[digest] = time.monotonic()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._work.wait()
            self._stop.wait(self._pauses.gather)
            self._work.clear()
            try:
                if not self._stop.is_set() and self._changed():
                    self._stop.wait(self._pauses.between)
            except Exception:
                log.exception("the adapters of llama.cpp could not be changed")

    def _changed(self) -> bool:
        """Put a process in place that holds what is wanted, or that lives where the old one died; whether one was started."""
        wanted, held = list(self._wanted), self._loaded
        assert held is not None
        new = [lora for digest in wanted if (lora := self._prepared(digest))]
        for digest in wanted:
            self._wanted.pop(digest, None)
        missing = [lora for lora in new if lora not in held.loras]
        if not missing and held.process.alive:
            return False
        kept = sorted(filter(self._is_offered, held.loras), key=lambda lora: -self._used.get(lora.digest, 0))
        try:
            fresh = self._started([*missing, *kept][: self._limit])
        except AdregError as error:
            self._failed(held, missing, error)
        else:
            self._replace(held, fresh)
        return True

    def _failed(self, held: Loaded, missing: Sequence[LoraFile], error: AdregError) -> None:
        """The new adapters are refused, and the old process goes on, unless there is none."""
        for lora in missing:
            self._refuse(lora.digest, error)
        if held.process.alive or self._stop.is_set():
            return
        if missing:
            self._work.set()
        else:
            self.failure = error
            self._over()

    def _prepared(self, digest: str) -> LoraFile | None:
        try:
            return self._files.get(digest)
        except AdregError as error:
            self._refuse(digest, error)
            return None

    def _refuse(self, digest: str, error: AdregError) -> None:
        log.error("llama.cpp does not get %s: %s", digest, error)
        self._refused[digest] = error.with_traceback(None), time.monotonic()

    def _is_offered(self, lora: LoraFile) -> bool:
        with suppress(NotFoundError):
            self._files.adapters.offer.by_digest(lora.digest)
            return True
        return False

    def _started(self, loras: Sequence[LoraFile]) -> Loaded:
        began = time.monotonic()
        loaded = self._start(loras, self._listener, self._stop.is_set)
        self._took = time.monotonic() - began
        loaded.process.watch(self._died)
        return loaded

    def _died(self, error: EngineFailed) -> None:
        log.error("%s; it is started again", error)
        self._work.set()

    def _replace(self, old: Loaded, fresh: Loaded) -> None:
        """New requests go to `fresh`, and `old` ends when the last of its own has."""
        self._loaded = fresh
        try:
            if not self._waited(self._exchanged(old, fresh), self._pauses.drain):
                log.error("requests to the old llama.cpp are cut off: they were not over after %s s", self._pauses.drain)
        finally:
            old.end()

    async def _exchanged(self, old: Loaded, fresh: Loaded) -> None:
        self.fleet.add(fresh.upstream)
        await self.fleet.remove(old.upstream)

    def _waited(self, work: Coroutine[Any, Any, None], seconds: float) -> bool:
        """Whether `work`, in the loop of the requests, came to its end within `seconds`; given up when the server stops."""
        if self._loop is None:  # nobody has asked yet
            asyncio.run(work)
            return True
        future, until = asyncio.run_coroutine_threadsafe(work, self._loop), time.monotonic() + seconds
        while time.monotonic() < until and not self._stop.is_set():
            with suppress(TimeoutError):
                future.result(0.1)
                return True
        future.cancel()
        return self._stop.is_set()
