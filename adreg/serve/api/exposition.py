"""The metrics in Prometheus' text format, as serving dashboards and the Kubernetes gateway read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from adreg.serve.engine.engine import Engine
from adreg.serve.server.metrics import Histogram, Metrics

Rows = Iterable[tuple[tuple[str, ...], float]]


def exposition(metrics: Metrics, engine: Engine, vllm_names: bool = False) -> bytes:
    """Everything that is counted and the engine's present state; `vllm_names` adds the names that vLLM gives to some."""
    return written([*_counted(metrics), *_present(engine), *(_as_vllm(engine) if vllm_names else ())])


def written(families: list[Metric]) -> bytes:
    """`families` as text."""
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    return generate_latest(registry)


class _Collected(Collector):
    """Hands metrics on to prometheus_client, which writes them down."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _counted(metrics: Metrics) -> Iterator[Metric]:
    requests = [((adapter, str(code)), float(n)) for (adapter, code), n in list(metrics.requests.items())]
    yield counter("adreg_requests", "Answered requests.", ("adapter", "code"), requests)
    yield counter("adreg_tokens", "Tokens read and generated.", ("adapter", "kind"), list(metrics.tokens.items()))
    yield counter("adreg_generations", "Generations by how they ended.", ("adapter", "outcome"), list(metrics.outcomes.items()))
    loads = [((result,), float(n)) for result, n in list(metrics.loads.items())]
    yield counter("adreg_adapter_loads", "Adapters read and checked.", ("result",), loads)
    yield counter("adreg_adapter_evictions", "Adapters that left their slot.", (), [((), metrics.evictions)])
    yield counter("adreg_prefix_hit_tokens", "Prompt tokens from the prefix cache.", (), [((), metrics.prefix_hit_tokens)])
    yield histogram("adreg_ttft_seconds", "Time to the first token.", "adapter", list(metrics.ttft.items()))
    yield histogram("adreg_itl_seconds", "Time between two tokens.", "adapter", list(metrics.itl.items()))
    yield histogram("adreg_step_seconds", "Time of one step of the model.", "phase", list(metrics.steps.items()))
    yield histogram("adreg_queue_seconds", "Time before a request ran.", None, [("", metrics.queue)])
    yield histogram("adreg_adapter_load_seconds", "Time to read and check an adapter.", None, [("", metrics.load_seconds)])


def counter(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def gauge(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def histogram(name: str, text: str, label: str | None, rows: Iterable[tuple[str, Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=(label,) if label else ())
    for value, histogram in rows:
        family.add_metric((value,) if label else (), histogram.buckets(), histogram.sum)
    return family


def _present(engine: Engine) -> Iterator[Metric]:
    stats = engine.stats()
    yield gauge("adreg_running", "Sequences that run.", (), [((), stats.running)])
    yield gauge("adreg_waiting", "Sequences that wait.", (), [((), stats.waiting)])
    states = Counter(state.value for state in stats.adapters.values())
    yield gauge("adreg_adapters", "Adapters by where they are.", ("state",), [((s,), n) for s, n in states.items()])
    yield gauge("adreg_slots_used", "Slots that hold an adapter.", (), [((), stats.slots_used)])
    yield gauge("adreg_slots_total", "Slots for adapters.", (), [((), stats.slots_total)])
    yield gauge("adreg_kv_bytes_used", "Keys and values, reserved.", (), [((), stats.kv_used)])
    yield gauge("adreg_kv_bytes_total", "Keys and values, at most.", (), [((), stats.kv_total)])
    yield gauge("adreg_prefix_bytes_used", "Prefix cache.", (), [((), stats.prefix_used)])
    yield gauge("adreg_prefix_bytes_total", "Prefix cache, at most.", (), [((), stats.prefix_total)])


def _as_vllm(engine: Engine) -> Iterator[Metric]:
    stats = engine.stats()
    yield gauge("vllm:num_requests_running", "Sequences that run.", (), [((), stats.running)])
    yield gauge("vllm:num_requests_waiting", "Sequences that wait.", (), [((), stats.waiting)])
    share = stats.kv_used / stats.kv_total if stats.kv_total else 0.0
    yield gauge("vllm:kv_cache_usage_perc", "Share of keys and values in use, 0 to 1.", (), [((), share)])
