"""From a client's body to what the engine is asked for; where the client says nothing, the base's own defaults hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adreg.errors import UsageError
from adreg.serve.api.errors import ApiError
from adreg.serve.api.schemas import Asking, ChatRequest, CompletionRequest, ResponseFormat, StructuredOutputs
from adreg.serve.engine.sequence import answer_budget
from adreg.serve.generation import Generation, Grammar, Limits, Sampling

# what JSON mode asks for: any object
ANY_OBJECT = "{}"
SEEDS = 1 << 63
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What one request wants of every generation that runs for it. `max_tokens` None: as many as fit."""

    max_tokens: int | None
    logprobs: int | None = None
    echo: bool = False


def chat_wanted(asked: ChatRequest) -> Wanted:
    """Raises `ApiError` for parameters that contradict each other."""
    limits = {limit for limit in (asked.max_tokens, asked.max_completion_tokens) if limit is not None}
    if len(limits) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens disagree; give one of them", "max_tokens", "invalid_value")
    if asked.top_logprobs and not asked.logprobs:
        raise ApiError(400, "top_logprobs is only allowed with logprobs=true", "top_logprobs", "invalid_value")
    return Wanted(limits.pop() if limits else None, asked.top_logprobs or 0 if asked.logprobs else None)


def completion_wanted(asked: CompletionRequest, default_max_tokens: int) -> Wanted:
    """Raises `ApiError` for parameters that contradict each other."""
    limit = default_max_tokens if asked.max_tokens is None else asked.max_tokens
    if limit == 0 and not asked.echo:
        raise ApiError(400, "max_tokens=0 is only allowed with echo=true", "max_tokens", "invalid_value")
    return Wanted(limit, asked.logprobs, bool(asked.echo))


def check_together(asked: Asking) -> None:
    """Raise an `ApiError` for parameters of `asked` that contradict each other, whatever is asked for."""
    if asked.stream_options and not asked.stream:
        raise ApiError(400, "stream_options is only allowed with stream=true", "stream_options", "invalid_value")
    if asked.best_of not in (None, asked.choices):
        raise ApiError(400, "best_of is only supported where it equals n", "best_of", "unsupported_parameter")


def generations(asked: Asking, wanted: Wanted, prompts: list[Ids], blank: Generation, limits: Limits) -> list[Generation]:
    """What runs for one request: `n` generations for each of `prompts`, one after the other.

    `blank` holds what does not depend on the body, the base's defaults among it. Raises `UsageError` and `ApiError`.
    """
    if len(prompts) * asked.choices > limits.running + limits.waiting:
        raise UsageError(f"{len(prompts) * asked.choices} answers in one request are more than this server takes")
    shared = replace(
        blank,
        sampling=sampling_of(asked, limits.vocabulary, blank.sampling),
        stop=tuple(asked.stop or ()),
        stop_ids=frozenset(check_ids(asked.stop_token_ids or (), limits.vocabulary, "stop_token_ids")),
        min_tokens=asked.min_tokens or 0,
        ignore_eos=bool(asked.ignore_eos),
        logprobs=wanted.logprobs,
        prompt_logprobs=wanted.echo and wanted.logprobs is not None,
        grammar=grammar_of(asked),
        salt=asked.cache_salt or "",
    )
    return [
        replace(one, sampling=_nth(shared.sampling, nth))
        for one in [_fitted(shared, prompt, wanted, limits) for prompt in prompts]
        for nth in range(asked.choices)
    ]


def _fitted(shared: Generation, prompt: Ids, wanted: Wanted, limits: Limits) -> Generation:
    """`shared` for `prompt`, within the context."""
    if not prompt:
        raise UsageError("the prompt is empty")
    check_ids(prompt, limits.vocabulary)
    most, least = answer_budget(limits.context, len(prompt), wanted.max_tokens), shared.min_tokens
    if least > most:
        raise ApiError(400, f"min_tokens {least} is more than the {most} tokens of the answer", "min_tokens", "invalid_value")
    return replace(shared, prompt=prompt, max_tokens=most)


def sampling_of(asked: Asking, vocabulary: int, defaults: Sampling) -> Sampling:
    """How `asked` is sampled: `defaults` where it says nothing. Raises an `ApiError` for biases that name no token."""
    top_k = 0 if asked.top_k == -1 else asked.top_k
    given: dict[str, Any] = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": top_k,
        "min_p": asked.min_p,
        "presence_penalty": asked.presence_penalty,
        "frequency_penalty": asked.frequency_penalty,
        "repetition_penalty": asked.repetition_penalty,
        "seed": asked.seed,
        "logit_bias": _bias(asked.logit_bias, vocabulary) if asked.logit_bias else None,
    }
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})


def _nth(sampling: Sampling, nth: int) -> Sampling:
    """That of choice `nth`: with a seed each choice has one of its own, or all would be the same."""
    if sampling.seed is None or nth == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + nth + SEEDS) % (2 * SEEDS) - SEEDS)


def _bias(biases: dict[str, float], vocabulary: int) -> tuple[tuple[int, float], ...]:
    if not all(re.fullmatch(r"[0-9]{1,9}", id_, re.ASCII) for id_ in biases):
        raise ApiError(400, "logit_bias: a key is a token id", "logit_bias", "invalid_value")
    found = {int(id_): float(bias) for id_, bias in biases.items()}
    check_ids(tuple(found), vocabulary, "logit_bias")
    return tuple(found.items())


def check_ids(ids: Sequence[int], vocabulary: int, param: str | None = None) -> Sequence[int]:
    """`ids`, if all of them are tokens. Raises `UsageError` for those of a prompt, else an `ApiError` that names `param`."""
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        message = f"token ids lie between 0 and {vocabulary - 1}"
        raise ApiError(400, message, param, "invalid_value") if param else UsageError(message)
    return ids


def grammar_of(asked: Asking) -> Grammar | None:
    """What the answer must match, by OpenAI's parameter or vLLM's. Raises an `ApiError` where they contradict each other."""
    ways = [way for way in (_of_format(asked.response_format), _of_vllm(asked.structured_outputs)) if way]
    if len(ways) > 1:
        message = "response_format and structured_outputs exclude each other"
        raise ApiError(400, message, "structured_outputs", "invalid_value")
    return ways[0] if ways else None


def _of_format(wanted: ResponseFormat | None) -> Grammar | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Grammar("json_schema", ANY_OBJECT)
    if wanted.json_schema is None:
        raise ApiError(400, "a schema is missing", "response_format.json_schema", "missing_required_parameter")
    return Grammar("json_schema", json.dumps(wanted.json_schema.schema_))


def _of_vllm(wanted: StructuredOutputs | None) -> Grammar | None:
    if wanted is None:
        return None
    ways: list[Grammar] = []
    if wanted.json_ is not None:
        ways.append(Grammar("json_schema", wanted.json_ if isinstance(wanted.json_, str) else json.dumps(wanted.json_)))
    if wanted.regex is not None:
        ways.append(Grammar("regex", wanted.regex))
    if wanted.choice:
        ways.append(Grammar("regex", "|".join(re.escape(choice) for choice in wanted.choice)))
    if wanted.json_object:
        ways.append(Grammar("json_schema", ANY_OBJECT))
    if len(ways) != 1:
        message = "structured_outputs needs exactly one of json, regex, choice and json_object"
        raise ApiError(400, message, "structured_outputs", "invalid_value")
    return ways[0]
