"""What the engine tells about itself while it works; a watcher overrides what it wants to count. Called on the engine's
thread, so a watcher neither blocks nor raises."""

from __future__ import annotations

from adreg.serve.generation import Generation


class Watch:
    """Watches nothing; the base of those that do. Times are in seconds."""

    def queued(self, asked: Generation) -> None:
        """A generation has come."""

    def admitted(self, asked: Generation, waited: float, cached_tokens: int) -> None:
        """It runs from now on; `cached_tokens` of its prompt were found in the prefix cache."""

    def token(self, asked: Generation, first: bool, seconds: float) -> None:
        """It has its next token, `seconds` after the one before; its first, `seconds` after it came."""

    def ended(self, asked: Generation, outcome: str, prompt_tokens: int, completion_tokens: int) -> None:
        """It is over: `stop`, `length`, `cancelled`, `deadline` or `failed`."""

    def stepped(self, seconds: float, prefill_tokens: int, decode_tokens: int) -> None:
        """One step of the model took `seconds`."""

    def loaded(self, digest: str, seconds: float, error: Exception | None) -> None:
        """An adapter was read and checked, or refused with `error`."""

    def evicted(self, digest: str) -> None:
        """An adapter has left its slot for another one."""
