"""How long steps and sequences take, learned from those before, and how much prompt a step may therefore hold."""

from __future__ import annotations

from adreg.serve.executor import BLOCK

MAX_CHUNK = 2048
FIRST_CHUNK = 64
UNWATCHED = 2
"""A step in which nobody waits for a next token may take this many times the target."""
WEIGHT = 0.2


class Pace:
    """Running estimates of a decode step and of a prompt token against a target for the time between two tokens."""

    def __init__(self, target: float) -> None:
        """`target` is the inter-token latency to keep, in seconds."""
        self.target = target
        self.decode: float | None = None
        self.prefill: float | None = None
        """Seconds of a step that only decodes, and of one prompt token; None until there was one."""
        self.run: float | None = None
        """Seconds from the admission of a sequence to its end."""

    def chunk(self, decoding: bool) -> int:
        """How many prompt tokens the next step may read; never fewer than a block, so that prompts get on."""
        if self.prefill is None:
            return BLOCK if decoding else FIRST_CHUNK
        spare = self.target - (self.decode or 0.0) if decoding else self.target * UNWATCHED
        return max(BLOCK, min(MAX_CHUNK, int(spare / self.prefill)))

    def learn(self, seconds: float, prefill_tokens: int, decode_tokens: int) -> None:
        """Take in what one step took."""
        if not prefill_tokens:
            self.decode = _mean(self.decode, seconds)
            return
        own = seconds - (self.decode or 0.0) if decode_tokens else seconds
        # a step is never free, whatever the clock and the estimates say
        self.prefill = _mean(self.prefill, max(own / prefill_tokens, 1e-7))

    def finished(self, seconds: float) -> None:
        """A sequence has run for `seconds`."""
        self.run = _mean(self.run, seconds)


def _mean(before: float | None, value: float) -> float:
    return value if before is None else before + WEIGHT * (value - before)
