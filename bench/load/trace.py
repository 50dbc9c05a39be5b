"""Traces: who asks what when, drawn from a seed and kept as JSON lines, so that every engine is asked the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Request:
    """`prompt` is token ids, `adapter` None the base; `at` is in seconds after the start, for open loops."""

    prompt: tuple[int, ...]
    adapter: str | None
    tokens: int
    at: float = 0.0


@dataclass(frozen=True)
class Workload:
    """`popularity` is Punica's and SGLang's: identical, uniform, distinct (each in turn), or zipf:ALPHA.

    `rate` is requests a second, Gamma-distributed with the coefficient of variation `cv` (1 is Poisson); None asks for
    a closed loop. A prompt has `words` (from, to), an answer `tokens`; with `prompts` there are only so many prompts.
    """

    requests: int
    popularity: str = "distinct"
    base_share: float = 0.0
    words: tuple[int, int] = (20, 60)
    tokens: int = 48
    prompts: int | None = None
    rate: float | None = None
    cv: float = 1.0


Tokenize = Callable[[str], list[int]]


def draw(workload: Workload, adapters: Sequence[str], tokenize: Tokenize, seed: int) -> list[Request]:
    """The requests of `workload`; without `adapters` all are for the base."""
    dice, words, at, trace = random.Random(seed), english(), 0.0, []
    pool = [excerpt(words, workload, tokenize, dice) for _ in range(workload.prompts or workload.requests)]
    for number in range(workload.requests):
        adapter = choose(workload.popularity, adapters, number, dice) if adapters else None
        if dice.random() < workload.base_share:
            adapter = None
        if workload.rate:
            at += dice.gammavariate(workload.cv**-2, workload.cv**2 / workload.rate)
        prompt = dice.choice(pool) if workload.prompts else pool[number]
        trace.append(Request(prompt, adapter, workload.tokens, at))
    return trace


def excerpt(words: Sequence[str], workload: Workload, tokenize: Tokenize, dice: random.Random) -> tuple[int, ...]:
    length = dice.randint(*workload.words)
    begin = dice.randrange(len(words) - length)
    return tuple(tokenize(" ".join(words[begin : begin + length])))


def choose(popularity: str, adapters: Sequence[str], number: int, dice: random.Random) -> str:
    """The adapter of the request `number`. Raises `ValueError` for an unknown distribution."""
    kind, _, alpha = popularity.partition(":")
    if kind == "identical":
        return adapters[0]
    if kind == "uniform":
        return dice.choice(adapters)
    if kind == "distinct":
        return adapters[number % len(adapters)]
    if kind == "zipf":
        return dice.choices(adapters, [rank ** -float(alpha) for rank in range(1, len(adapters) + 1)])[0]
    raise ValueError(f"{popularity!r} is none of identical, uniform, distinct, zipf:ALPHA")


def english() -> list[str]:
    """The words of the answers in the repository's own training data."""
    rows = map(json.loads, (EXAMPLES / "lighthouse.jsonl").read_text(encoding="utf-8").splitlines())
    return [word for row in rows for turn in row["messages"] for word in turn["content"].split()]


def write_trace(trace: Sequence[Request], file: Path) -> None:
    file.write_text("".join(json.dumps(asdict(request)) + "\n" for request in trace))


def read_trace(file: Path) -> list[Request]:
    rows = map(json.loads, file.read_text().splitlines())
    return [Request(**{**row, "prompt": tuple(row["prompt"])}) for row in rows]
