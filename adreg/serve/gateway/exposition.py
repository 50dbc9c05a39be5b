"""The gateway's metrics in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from adreg.serve.api.exposition import counter, gauge, histogram, written
from adreg.serve.gateway.gateway import Gateway


def exposition(gateway: Gateway) -> bytes:
    """What was counted, and how the upstreams are now."""
    return written([*_adapters(gateway), *_upstreams(gateway)])


def _adapters(gateway: Gateway) -> Iterator[Metric]:
    metrics = gateway.metrics
    requests = [((adapter, str(code)), float(n)) for (adapter, code), n in metrics.requests.items()]
    yield counter("adreg_requests", "Answered requests.", ("adapter", "code"), requests)
    yield counter("adreg_tokens", "Tokens, as answers tell them.", ("adapter", "kind"), list(metrics.tokens.items()))
    yield histogram("adreg_ttft_seconds", "Time to the first piece of a stream.", "adapter", list(metrics.ttft.items()))


def _upstreams(gateway: Gateway) -> Iterator[Metric]:
    upstreams = gateway.fleet.upstreams
    outcomes = [((one.name, outcome), float(n)) for one in upstreams for outcome, n in one.outcomes.items()]
    label = ("upstream",)
    yield counter("adreg_upstream_requests", "Requests by how they ended there.", ("upstream", "outcome"), outcomes)
    yield gauge("adreg_upstream_healthy", "1 where it takes requests.", label, [((one.name,), one.usable) for one in upstreams])
    yield gauge("adreg_upstream_running", "Requests under way.", label, [((one.name,), one.running) for one in upstreams])
    yield gauge("adreg_waiting", "Requests that wait for an upstream.", (), [((), gateway.admission.waiting)])
