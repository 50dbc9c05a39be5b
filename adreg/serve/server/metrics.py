"""What happens in the engine and at the door, counted. Knows nothing of how it is told.

The engine's thread only adds to plain numbers, without a lock. Each number has one writer, so a scrape from
another thread reads it a moment old at worst.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from functools import partial
from itertools import accumulate

from adreg.serve.generation import Generation
from adreg.serve.watch import Watch

BASE, OTHER = "base", "other"
LABELLED = 50
FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SLOW = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts of values in seconds, by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Prometheus' form: bound and how many lie at or below it."""
        names = [*(str(bound) for bound in self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


Histograms = defaultdict[str, Histogram]
"""By adapter, or by kind of step."""


class Metrics(Watch):
    """Watches one engine. Adapters are told apart by name: the first `labelled` of them, all later ones are "other"."""

    def __init__(self, labelled: int = LABELLED) -> None:
        self._labelled = labelled
        self._names: dict[str, str] = {}
        self._labels: set[str] = set()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.loads: Counter[str] = Counter()
        self.evictions = self.prefix_hit_tokens = 0
        self.queue, self.load_seconds = Histogram(SLOW), Histogram(SLOW)
        self.ttft: Histograms = defaultdict(partial(Histogram, SLOW))
        self.itl: Histograms = defaultdict(partial(Histogram, FAST))
        self.steps: Histograms = defaultdict(partial(Histogram, FAST))

    def learn(self, digest: str, model: str) -> None:
        """The adapter `digest` is called `model`, with or without a tag."""
        if digest not in self._names:
            name = model.partition("@")[0].partition(":")[0]
            if len(self._labels) < self._labelled:
                self._labels.add(name)
            self._names[digest] = name if name in self._labels else OTHER

    def label(self, digest: str | None) -> str:
        return BASE if digest is None else self._names.get(digest, OTHER)

    def admitted(self, asked: Generation, waited: float, cached_tokens: int) -> None:
        self.queue.add(waited)
        self.prefix_hit_tokens += cached_tokens

    def token(self, asked: Generation, first: bool, seconds: float) -> None:
        (self.ttft if first else self.itl)[self.label(asked.adapter)].add(seconds)

    def ended(self, asked: Generation, outcome: str, prompt_tokens: int, completion_tokens: int) -> None:
        label = self.label(asked.adapter)
        self.outcomes[label, outcome] += 1
        self.tokens[label, "prompt"] += prompt_tokens
        self.tokens[label, "completion"] += completion_tokens

    def stepped(self, seconds: float, prefill_tokens: int, decode_tokens: int) -> None:
        self.steps["prefill" if prefill_tokens else "decode"].add(seconds)

    def loaded(self, digest: str, seconds: float, error: Exception | None) -> None:
        self.loads["failed" if error else "loaded"] += 1
        self.load_seconds.add(seconds)

    def evicted(self, digest: str) -> None:
        self.evictions += 1
