"""What the engine is asked for and what it tells: plain frozen data, shared by every part of `serve/`. Knows nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults change nothing. Greedy at `temperature` 0.

    `seed` None is a new one each time. Penalties are OpenAI's (`presence`, `frequency`: additive, on generated tokens)
    and the CTRL paper's (`repetition`: multiplicative, on prompt and generated tokens).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Grammar:
    """What the text must match: a JSON schema (JSON text; `{}` is any JSON object) or a regular expression."""

    kind: Literal["json_schema", "regex"]
    source: str


@dataclass(frozen=True)
class Generation:
    """Continue `prompt` (token ids) with the adapter of digest `adapter`, or with the base alone.

    `tenant` and `adapter` share the engine fairly; `tenant` and `salt` also salt the prefix cache. `logprobs` is how many
    alternatives each token tells, None for no log-probabilities; `prompt_logprobs` tells those of the prompt first.
    `deadline` is in `time.monotonic` seconds.
    """

    prompt: tuple[int, ...]
    adapter: str | None
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    grammar: Grammar | None = None
    tenant: str = ""
    salt: str = ""
    deadline: float | None = None


@dataclass(frozen=True)
class Logprob:
    """log p of a token before any sampling setting, natural, and of the likeliest ones, best first."""

    value: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Prompt:
    """Told before the first token where `prompt_logprobs` was asked: None for the first token, which nothing precedes."""

    logprobs: tuple[Logprob | None, ...]


@dataclass(frozen=True)
class Token:
    """One generated token and the text that it completes, which may be empty."""

    id: int
    text: str
    logprob: Logprob | None = None


@dataclass(frozen=True)
class Ended:
    """The last event of a sequence that went well. `cached_tokens` of the prompt came from the prefix cache."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    """The last event of a sequence that did not."""

    error: Exception


Event = Prompt | Token | Ended | Failed
Deliver = Callable[[Event], None]


@dataclass(frozen=True)
class Limits:
    """What the engine takes on: sequences that run at once, sequences that wait, tokens of context and of vocabulary."""

    running: int
    waiting: int
    context: int
    vocabulary: int = field(default=0)
