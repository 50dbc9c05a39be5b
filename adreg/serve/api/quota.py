"""How much a key may ask for: requests and tokens a minute, requests at once. Plain arithmetic, for one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from adreg.serve.api.account import Usage
from adreg.serve.api.errors import too_many
from adreg.serve.server.keys import Key

MINUTE = 60.0
CONCURRENT_RETRY_SECONDS = 1


class Bucket:
    """Fills at `per_minute`, up to a minute's worth. It may fall below zero; whoever asks next waits that out."""

    def __init__(self, per_minute: int) -> None:
        self._rate, self._most = per_minute / MINUTE, float(per_minute)
        self._level, self._at = self._most, monotonic()

    def missing(self, wanted: float) -> float:
        """Seconds until `wanted` are there; 0 now."""
        now = monotonic()
        self._level, self._at = min(self._most, self._level + (now - self._at) * self._rate), now
        return max(0.0, (wanted - self._level) / self._rate)

    def take(self, amount: float) -> None:
        self._level -= amount


class Quota:
    """What one key has used of its limits."""

    def __init__(self, key: Key) -> None:
        self._concurrent = key.concurrent
        self._requests = Bucket(key.requests_per_minute) if key.requests_per_minute else None
        self._tokens = Bucket(key.tokens_per_minute) if key.tokens_per_minute else None
        self._running = 0

    @contextmanager
    def running(self, usage: Usage) -> Iterator[None]:
        """Within: one request, which costs the tokens of `usage`, those of its prompt at once. Raises an `ApiError` 429."""
        self._check()
        prompt = usage.prompt
        self._pay(1, prompt)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._pay(0, usage.prompt + usage.completion - prompt)

    def _check(self) -> None:
        if self._concurrent and self._running >= self._concurrent:
            message = f"this key's limit is {self._concurrent} requests at once"
            raise too_many(message, "concurrent_requests_exceeded", CONCURRENT_RETRY_SECONDS)
        if self._requests and (seconds := self._requests.missing(1)):
            raise too_many("this key has used up its requests a minute", "requests_per_minute_exceeded", seconds)
        if self._tokens and (seconds := self._tokens.missing(1)):
            raise too_many("this key has used up its tokens a minute", "tokens_per_minute_exceeded", seconds)

    def _pay(self, requests: int, tokens: int) -> None:
        if self._requests:
            self._requests.take(requests)
        if self._tokens:
            self._tokens.take(tokens)


class Quotas:
    """The quotas of all keys that have asked, by id and limits: a key whose limits change starts with new ones."""

    def __init__(self) -> None:
        self._quotas: dict[Key, Quota] = {}

    @contextmanager
    def running(self, key: Key | None, usage: Usage) -> Iterator[None]:
        """Within: one request of `key`, which costs the tokens of `usage`; nobody pays where none is needed.

        Raises an `ApiError` 429.
        """
        if key is None:
            yield
        else:
            with self._quotas.setdefault(key, Quota(key)).running(usage):
                yield
