"""What a run says: throughput, latencies, goodput and fairness. Knows neither engines nor HTTP."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.load.client import Reply, Run

TTFT_LIMIT, ITL_LIMIT = 2.0, 0.25


@dataclass(frozen=True)
class Figures:
    """Rates are per second, latencies in seconds, the rest are shares of 1.

    `prompt` is tokens of prompts, `goodput` the share of requests with TTFT <= 2 s and an ITL p95 <= 250 ms, `fairness`
    Jain's index of the rates at which adapters got their tokens, `client` of one processor.
    """

    output: float
    prompt: float
    requests: float
    ttft_p50: float
    ttft_p95: float
    itl_p50: float
    itl_p95: float
    goodput: float
    fairness: float
    client: float


def figures(run: Run) -> Figures:
    """Tokens count that came while the load was kept up; latencies are those of every request."""
    ttfts, gaps = [reply.ttft for reply in run.replies], [gap for reply in run.replies for gap in reply.gaps]
    return Figures(
        output=sum(_within(reply, run.seconds) for reply in run.replies) / run.seconds,
        prompt=sum(len(reply.request.prompt) for reply in run.replies if reply.seen[0] <= run.seconds) / run.seconds,
        requests=sum(reply.seen[-1] <= run.seconds for reply in run.replies) / run.seconds,
        ttft_p50=percentile(ttfts, 50),
        ttft_p95=percentile(ttfts, 95),
        itl_p50=percentile(gaps, 50),
        itl_p95=percentile(gaps, 95),
        goodput=statistics.fmean(_good(reply) for reply in run.replies),
        fairness=jain(_rates(run.replies)),
        client=run.client,
    )


def _within(reply: Reply, seconds: float) -> float:
    """The tokens of `reply` that came in time; a piece of text may hold more than one."""
    return reply.request.tokens * sum(at <= seconds for at in reply.seen) / len(reply.seen)


def _good(reply: Reply) -> bool:
    return reply.ttft <= TTFT_LIMIT and percentile(reply.gaps, 95) <= ITL_LIMIT


def _rates(replies: Iterable[Reply]) -> list[float]:
    rates = defaultdict(list)
    for reply in replies:
        rates[reply.request.adapter].append(reply.request.tokens / (reply.seen[-1] - reply.sent))
    return [statistics.fmean(of_one) for of_one in rates.values()]


def jain(shares: Sequence[float]) -> float:
    """1 where all have the same, 1/n where one has everything (Jain, Chiu and Hawe, 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank; 0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))] if values else 0.0


@dataclass(frozen=True)
class Isolation:
    """The share of requests answered as the same engine answers them alone: in every token, and in the first piece of text."""

    score: float
    first: float


def isolation(mixed: Iterable[Reply], alone: Iterable[Reply]) -> Isolation:
    """`mixed` ran together, `alone` one at a time."""
    reference = {reply.request: reply for reply in alone}
    pairs = [(reply, reference[reply.request]) for reply in mixed]
    return Isolation(
        statistics.fmean(reply.text == wanted.text for reply, wanted in pairs),
        statistics.fmean(reply.pieces[0] == wanted.pieces[0] for reply, wanted in pairs),
    )
