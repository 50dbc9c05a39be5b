"""How one llama.cpp process is asked: every request says which adapter, and in which slot. Knows bodies, no connection.

A body is read as adreg's own routes read it and written anew, so nothing goes through that nobody looked at: not `lora`,
`id_slot` or `cache_prompt`, which would undo the isolation, and no other parameter of llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from adreg.errors import AdregError, ConflictError, UsageError
from adreg.serve.api.asking import chat_wanted, check_together, completion_wanted, grammar_of, sampling_of
from adreg.serve.api.bodies import parse
from adreg.serve.api.completions import DEFAULT_MAX_TOKENS
from adreg.serve.api.errors import ApiError
from adreg.serve.api.messages import Message
from adreg.serve.api.schemas import Asking, ChatRequest, CompletionRequest
from adreg.serve.generation import Sampling
from adreg.serve.models.catalog import ServedModel

JsonObject = dict[str, Any]
# in vLLM's order, which is adreg's; llama.cpp's own ends with the temperature
SAMPLERS = ["penalties", "temperature", "min_p", "top_k", "top_p"]
SEEDS = (1 << 32) - 1
BEGINNING = 400


@dataclass(frozen=True)
class Place:
    """Where an adapter is in a process: `index` on its command line, and whether it has a chat template of its own."""

    index: int
    own_template: bool


@dataclass(frozen=True)
class LlamaCppDialect:
    """That of a process with the adapters of `places` by digest, each with `each` slots of its own, the base's the first.

    A slot holds `context` tokens. `absent` says what to answer for an adapter that is not there, `used` hears of the others.
    """

    alias: str
    places: Mapping[str, Place]
    each: int
    context: int
    defaults: Sampling
    vocabulary: int
    absent: Callable[[ServedModel], AdregError]
    used: Callable[[str], None]

    def address(self, body: JsonObject, model: ServedModel) -> JsonObject:
        """An empty body asks for no more than the name.

        Raises `ApiError` for what llama.cpp cannot do as adreg does, `ConflictError` for a chat with an adapter that has a
        chat template of its own, and what `absent` makes of one that is not loaded.
        """
        if not body:
            return {"model": self.alias}
        place = self._place(model)
        said = json.dumps(body).encode()
        if "messages" in body:
            if place is not None and place.own_template:
                why = f"{model.reference} has a chat template of its own, and llama.cpp writes conversations with the base's"
                raise ConflictError(why, "/v1/completions takes its prompts; adreg's own engine its conversations")
            chat = parse(ChatRequest, said)
            return self._asked(chat, _chat(chat), model, place)
        completion = parse(CompletionRequest, said)
        return self._asked(completion, _completion(completion), model, place)

    def _place(self, model: ServedModel) -> Place | None:
        if model.adapter is None:
            return None
        place = self.places.get(model.adapter)
        if place is None:
            raise self.absent(model)
        self.used(model.adapter)
        return place

    def _asked(self, asked: Asking, own: JsonObject, model: ServedModel, place: Place | None) -> JsonObject:
        check_together(asked)
        _refuse(asked)
        chosen = None if place is None else place.index
        lora = [{"id": index, "scale": float(index == chosen)} for index in range(len(self.places))]
        first = 0 if chosen is None else (chosen + 1) * self.each
        return {
            "model": self.alias, "lora": lora, "id_slot": first + _turn(own, self.each), "cache_prompt": True, "n": 1,
            **_sampled(sampling_of(asked, self.vocabulary, self.defaults)), "repeat_last_n": self.context,
            **_limited(asked), **own,
        }  # fmt: skip


def _turn(own: JsonObject, each: int) -> int:
    """Which of `each` slots: the same for all turns of a conversation, which begin alike, so that it finds them cached."""
    messages = own.get("messages", ())
    said = [nth for nth, message in enumerate(messages) if message["role"] == "user"]
    head = messages[: said[0] + 1] if said else str(own.get("prompt", messages))[:BEGINNING]
    return int.from_bytes(blake2b(json.dumps(head).encode(), digest_size=8).digest()) % each


def _chat(asked: ChatRequest) -> JsonObject:
    wanted = chat_wanted(asked)
    tools = {"tools": [tool.for_template() for tool in asked.tools]} if asked.tools and asked.tool_choice != "none" else {}
    told = {} if wanted.logprobs is None else {"logprobs": True, "top_logprobs": max(1, wanted.logprobs)}
    limit = -1 if wanted.max_tokens is None else wanted.max_tokens
    return {"messages": [_message(message) for message in asked.messages], "max_tokens": limit, **tools, **told}


def _message(message: Message) -> JsonObject:
    """As llama.cpp takes it: templates say `system` for `developer`, and arguments of calls stay text."""
    role = "system" if message.role == "developer" else message.role
    calls = {"tool_calls": [call.model_dump(exclude_none=True) for call in message.tool_calls]} if message.tool_calls else {}
    answers = {"tool_call_id": message.tool_call_id} if message.tool_call_id is not None else {}
    return {"role": role, "content": message.content or "", **calls, **answers}


def _completion(asked: CompletionRequest) -> JsonObject:
    wanted = completion_wanted(asked, DEFAULT_MAX_TOKENS)
    if wanted.echo:
        raise _unsupported("echo")
    if wanted.logprobs is not None:
        raise _unsupported("logprobs", "in /v1/chat/completions it is")
    texts = [part for part in asked.prompt if not isinstance(part, int)]
    if texts and len(asked.prompt) > 1:
        raise _unsupported("prompt", "several prompts are several requests: llama.cpp counts the tokens of the first alone")
    if not all(texts):
        raise UsageError("the prompt is empty")
    prompt = texts[0] if texts else asked.prompt
    return {"prompt": prompt, "max_tokens": wanted.max_tokens}


def _refuse(asked: Asking) -> None:
    """What of adreg's own routes llama.cpp does not do."""
    if asked.choices != 1:
        raise _unsupported("n", "ask n times")
    for name in ("min_tokens", "stop_token_ids"):
        if getattr(asked, name):
            raise _unsupported(name)
    if asked.continuous_usage:
        raise _unsupported("stream_options.continuous_usage_stats")


def _limited(asked: Asking) -> JsonObject:
    """What ends an answer, what it must match, and how it is sent."""
    stream = {"stream_options": {"include_usage": True}} if asked.include_usage else {}
    grammar = grammar_of(asked)
    if grammar is not None and grammar.kind != "json_schema":
        raise _unsupported("structured_outputs", "a JSON schema is")
    schema = {} if grammar is None else {"json_schema": json.loads(grammar.source)}
    return {
        "stop": asked.stop or [], "ignore_eos": bool(asked.ignore_eos), "stream": bool(asked.stream), **stream, **schema
    }  # fmt: skip


def _sampled(sampling: Sampling) -> JsonObject:
    """Every setting, for llama.cpp's own defaults are others: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05."""
    seed = {} if sampling.seed is None else {"seed": sampling.seed % SEEDS}
    bias = {"logit_bias": [list(pair) for pair in sampling.logit_bias]} if sampling.logit_bias else {}
    return {
        "samplers": SAMPLERS, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
        "min_p": sampling.min_p, "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty, "frequency_penalty": sampling.frequency_penalty, **seed, **bias,
    }  # fmt: skip


def _unsupported(name: str, instead: str = "adreg's own engine does") -> ApiError:
    return ApiError(400, f"{name} is not supported where llama.cpp answers; {instead}", name, "unsupported_parameter")
