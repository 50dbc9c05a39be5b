"""The client: a trace against a server in a closed loop, in an open one, or one request after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.load.dialects import Dialect, encode
from bench.load.http import Arrivals, events, post
from bench.load.trace import Request


@dataclass(frozen=True)
class Reply:
    """What came back for `request`: pieces of text, and when each was `seen`, in seconds after the load began."""

    request: Request
    sent: float
    seen: tuple[float, ...]
    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def ttft(self) -> float:
        return self.seen[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Inter-token latencies."""
        return [later - earlier for earlier, later in zip(self.seen, self.seen[1:], strict=False)]


@dataclass(frozen=True)
class Run:
    """Every answer to a load that was kept up for `seconds`; `client` is the share of one processor that asking took."""

    replies: tuple[Reply, ...]
    seconds: float
    client: float


@dataclass(frozen=True)
class Target:
    port: int
    dialect: Dialect


def closed_loop(target: Target, trace: Iterable[Request], clients: int, seconds: float = 3600) -> Run:
    """`clients` ask without a pause, each the next request of `trace`, until `seconds` have passed or it ends.

    Requests that are under way then are awaited, for their first tokens count; a single client's count whole.
    """
    return asyncio.run(_closed(target, trace, clients, seconds))


def open_loop(target: Target, trace: Sequence[Request]) -> Run:
    """Every request is sent when its time has come, however many wait."""
    return asyncio.run(_open(target, trace))


def alone(target: Target, trace: Iterable[Request]) -> Run:
    """One at a time, each as if the server had never been asked anything."""
    return asyncio.run(_closed(target, trace, 1, 3600, alone=True))


Asked = tuple[Request, float, Arrivals]


async def _closed(target: Target, trace: Iterable[Request], clients: int, seconds: float, alone: bool = False) -> Run:
    waiting, answers = iter(trace), list[Asked]()
    began, spent = time.perf_counter(), time.process_time()

    async def client() -> None:
        while time.perf_counter() - began < seconds and (request := next(waiting, None)):
            answers.append(await _ask(target, request, alone))

    await asyncio.gather(*(client() for _ in range(clients)))
    wall, spent = time.perf_counter() - began, time.process_time() - spent
    return Run(_replies(target, answers, began), wall if clients == 1 else min(seconds, wall), spent / wall)


async def _open(target: Target, trace: Sequence[Request]) -> Run:
    began, spent = time.perf_counter(), time.process_time()

    async def later(request: Request) -> Asked:
        await asyncio.sleep(request.at - (time.perf_counter() - began))
        return await _ask(target, request, alone=False)

    answers = await asyncio.gather(*(later(request) for request in trace))
    wall, spent = time.perf_counter() - began, time.process_time() - spent
    return Run(_replies(target, answers, began), wall, spent / wall)


async def _ask(target: Target, request: Request, alone: bool) -> Asked:
    sent = time.perf_counter()
    return request, sent, await post(target.port, target.dialect.path, encode(target.dialect, request, alone))


def _replies(target: Target, answers: Iterable[Asked], began: float) -> tuple[Reply, ...]:
    return tuple(_reply(target.dialect, *answer, began) for answer in answers)


def _reply(dialect: Dialect, request: Request, sent: float, arrivals: Arrivals, began: float) -> Reply:
    """Raises `ValueError` for an answer of another length than was asked for: its speed would mean nothing."""
    told = [(at, dialect.text(event), dialect.count(event)) for at, event in events(arrivals)]
    count = next((count for *_, count in told if count is not None), None)
    if count != request.tokens:
        raise ValueError(f"{request.tokens} tokens were asked for, {count} came")
    pieces = [(at - began, text) for at, text, _ in told if text] or [(told[-1][0] - began, "")]
    seen, texts = zip(*pieces, strict=True)
    return Reply(request, sent - began, seen, texts)
